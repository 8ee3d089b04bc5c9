//! Status of a run at one moment.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::config::Throttle;
use crate::error::Error;
use crate::model::{Amount, Position, format};
use crate::report::{IndexCounts, LagSample, Phase, UsersStatus};

/// Status of a run at one moment.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(tag = "type", rename = "status")]
#[non_exhaustive]
pub struct Status {
    /// Current phase of the run.
    pub phase: Phase,
    /// The error that ended the run; `None` while it runs, and if it ended without one.
    pub failure: Option<Error>,
    /// Position up to which everything is durable on the target; `None` before the first checkpoint.
    pub position: Option<Position>,
    /// Newest known majority-committed position of the source; `None` before the source was first asked.
    pub source_position: Option<Position>,
    /// How far `position` is behind `source_position`.
    #[serde(rename = "lag_ms", serialize_with = "format::optional_milliseconds")]
    pub lag: Option<Duration>,
    /// Whether every collection has been copied.
    pub copy_complete: bool,
    /// Whether the lag is small and everything is copied and indexed, so that
    /// [`cutover_now`](crate::MigrationHandle::cutover_now) would go ahead. The run is [`Ready`](Phase::Ready) once everything is compared,
    /// too, that can be compared before the applications are stopped.
    pub can_cut_over: bool,
    /// Documents and bytes copied since the migration began.
    pub copied: Amount,
    /// Documents and bytes that the source had when it was listed.
    pub total: Amount,
    /// Changes on the source since this process began.
    pub changes: ChangeCounts,
    /// Documents and bytes of the source that the run has compared with the target since this process began.
    pub compared: Amount,
    /// Whether everything has been compared that can be compared during the run, with
    /// [`Verification::Continuous`](crate::Verification::Continuous). An earlier cutover compares the rest while the applications are
    /// stopped, which takes as long as reading it: see `cutover_estimate`.
    pub all_compared: bool,
    /// Number of documents that differed in comparisons during the run, since this process began.
    pub differences: u64,
    /// Estimated time left for the copy at its current speed; `None` if not known.
    #[serde(rename = "time_left_ms", serialize_with = "format::optional_milliseconds")]
    pub time_left: Option<Duration>,
    /// Time that the source's oplog spans; `None` if not known. It is measured every 10 seconds, also while the run is paused.
    #[serde(rename = "oplog_window_ms", serialize_with = "format::optional_milliseconds")]
    pub oplog_window: Option<Duration>,
    /// How long the oplog will still contain the position to resume from, at the speed at which the oplog rolled over in the last 10
    /// minutes. `None` if it has not rolled over, which is safe as long as the run keeps up, and if nothing was measured yet:
    /// `oplog_window` is then `None`, too. In a run that keeps up, this is always about the whole window.
    #[serde(rename = "oplog_time_left_ms", serialize_with = "format::optional_milliseconds")]
    pub oplog_time_left: Option<Duration>,
    /// Estimate of how long the applications would stand still if the cutover began now, from their last write to the end of the cutover;
    /// `None` until everything is copied. It is the lag, the time to list both sides, and the time to compare at the measured speed of the
    /// copy what a cutover would have to compare now. Usually it takes less.
    #[serde(rename = "cutover_estimate_ms", serialize_with = "format::optional_milliseconds")]
    pub cutover_estimate: Option<Duration>,
    /// When the cutover window and thus the run ends; `None` before the run was first ready, and for a window without an end.
    #[serde(serialize_with = "format::optional_time")]
    pub cutover_deadline: Option<SystemTime>,
    /// Current rate limits of the run.
    pub throttle: Throttle,
    /// Current maximum number of ranges copied or compared concurrently: the number of [walkers](crate::MigrationBuilder::walkers), or
    /// fewer while [the number adapts to the source's writes](crate::MigrationBuilder::adaptive_walkers).
    pub walkers: usize,
    /// Lag during the last 10 minutes of this process, oldest first, about every 5 seconds. It grows while the run is paused.
    pub lag_history: Vec<LagSample>,
    /// Changes applied to the target per second, averaged over the last half minute; `None` if not known.
    #[serde(serialize_with = "format::optional_finite")]
    pub applied_per_second: Option<f64>,
    /// Number of times that the run went back to its checkpoint after an error, since this process began.
    pub retries: u64,
    /// Number of documents that the target refused for good, since this process began. The summary names them.
    pub refused_documents: u64,
    /// Number of documents that are left out on the target because a filter or transform failed for them; see
    /// [`OnRuleError`](crate::OnRuleError).
    pub rule_failures: u64,
    /// Number of writes of other programs to migrated collections on the target, since this process began, as far as they were seen.
    pub foreign_writes: u64,
    /// Indexes built so far, being built, and those that could not be built.
    pub indexes: IndexCounts,
    /// Users and roles; `None` if they are not carried, or were not compared since this process began.
    pub users: Option<UsersStatus>,
}

/// Counts of what happened to the source's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChangeCounts {
    /// Changes applied to the target.
    pub applied: u64,
    /// Changes dropped because a copy contains them or will contain them.
    pub dropped: u64,
    /// Bytes of held changes, which wait for chunks that are being read.
    pub held_bytes: u64,
}
