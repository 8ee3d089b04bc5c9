//! The state of a run at one moment.

use std::time::{Duration, SystemTime};

use crate::config::Throttle;
use crate::model::{Amount, Position};
use crate::report::{IndexCounts, LagSample, Phase};

/// The state of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// How far the run is.
    pub phase: Phase,
    /// Everything up to here is durable on the target; `None` before the first checkpoint.
    pub position: Option<Position>,
    /// The newest majority-committed position of the source that is known; `None` before it was first asked.
    pub source_position: Option<Position>,
    /// How far `position` is behind `source_position`.
    pub lag: Option<Duration>,
    /// Whether every collection has been copied.
    pub copy_complete: bool,
    /// Whether the lag is small and everything copied and indexed, so that `cutover` would succeed; within seconds when it has little left to
    /// compare (see `all_compared`).
    pub can_cut_over: bool,
    /// Documents and bytes copied since the migration began.
    pub copied: Amount,
    /// Documents and bytes that the source had when it was listed.
    pub total: Amount,
    /// The source's changes since this process began.
    pub changes: ChangeCounts,
    /// Documents and bytes of the source that were compared with the target while the run went on, since this process began.
    pub compared: Amount,
    /// Whether everything has been compared that can be while the run goes on, with
    /// [`Verification::Continuous`](crate::Verification::Continuous). A cutover that comes earlier compares the rest while the applications
    /// stand still, which takes as long as reading it.
    pub all_compared: bool,
    /// How many of the documents that were compared while the run went on differed, since this process began.
    pub differences: u64,
    /// How long the copy will still take at its present speed; `None` when not known.
    pub time_left: Option<Duration>,
    /// The time that the source's oplog spans, measured each 10 seconds, also while the run is paused; `None` when not known.
    pub oplog_window: Option<Duration>,
    /// How long the oplog will still hold the position to go on from, at the speed at which it rolled off in the last 10 minutes; `None`
    /// when it did not, or is not known. A run that keeps up has always about the whole window.
    pub oplog_time_left: Option<Duration>,
    /// When the cutover window ends, and with it the run; `None` before the run was first ready, and for a window without end.
    pub cutover_deadline: Option<SystemTime>,
    /// How fast the run may go.
    pub throttle: Throttle,
    /// How many ranges may be copied or compared at the same time just now: the number of [walkers](crate::MigrationBuilder::walkers), or
    /// fewer while [the source's writes are spared](crate::MigrationBuilder::yield_to_source_writes).
    pub walkers: usize,
    /// The lag in the last 10 minutes of this process, oldest first, about each 5 seconds. While the run is paused it grows.
    pub lag_history: Vec<LagSample>,
    /// Changes applied to the target each second, over the last half minute; `None` when not known.
    pub applied_per_second: Option<f64>,
    /// Indexes built so far. One that could not be built counts in the total alone.
    pub indexes: IndexCounts,
}

/// What became of the source's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeCounts {
    /// Applied to the target.
    pub applied: u64,
    /// Dropped, since a copy has them or will have them.
    pub dropped: u64,
    /// Bytes of changes held back for chunks that are being read.
    pub held_bytes: u64,
}
