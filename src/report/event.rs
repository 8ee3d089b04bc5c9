//! Event stream of a run.

use std::time::{Duration, SystemTime};

use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::compare::difference::Difference;
use crate::error::Error;
use crate::model::{Namespace, Position, Side, TransactionFacts, format};
use crate::report::trace::trace;
use crate::report::{LateWrites, Phase};

/// Number of events kept for a slow reader. Older events are lost to it.
const KEPT: usize = 1024;

/// Something that happened in a run.
///
/// `Display` writes one line for people. `Serialize` writes an object whose `type` is the variant; see
/// [`docs::format`](crate::docs::format#events).
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run entered another phase.
    PhaseChanged {
        /// The new phase.
        phase: Phase,
    },
    /// The start failed, or an error ended the run. The checkpoint is kept, and the migration can be started again.
    Failed {
        /// The error, which [`Status::failure`](crate::Status::failure) and [`wait`](crate::MigrationHandle::wait) have as well.
        error: Error,
    },
    /// The run began, from nothing or from a checkpoint.
    Started {
        /// Whether the run resumed from a checkpoint.
        resumed: bool,
        /// Position up to which everything was already durable on the target.
        position: Position,
    },
    /// The source's oplog no longer contained the position to resume from. The run follows the oplog from a new position, compares
    /// everything with the source, and writes only what differs.
    Resync {
        /// Position up to which everything was durable on the target.
        lost: Position,
        /// Position from which the oplog is followed now.
        position: Position,
        /// Source time between the two positions.
        #[serde(rename = "gap_ms", serialize_with = "format::milliseconds")]
        gap: Duration,
        /// Why the position is lost.
        reason: String,
    },
    /// The source has written faster than the target could apply for half a minute, and the lag has grown beyond the one that a cutover
    /// needs. The event repeats every minute while this lasts.
    FallingBehind {
        /// Operations per second that the source writes.
        #[serde(serialize_with = "format::finite")]
        source_rate: f64,
        /// Operations per second that are applied, or dropped because a copy contains them.
        #[serde(serialize_with = "format::finite")]
        applied_rate: f64,
        /// How far the target is behind.
        #[serde(rename = "lag_ms", serialize_with = "format::milliseconds")]
        lag: Duration,
    },
    /// Less than a quarter of the oplog is left between its oldest entry and the position to resume from.
    ///
    /// Once that part is gone, everything has to be compared with the source again. A larger oplog (`replSetResizeOplog`), a lower load, or
    /// resuming the run prevents this.
    OplogWindowShort {
        /// Position that the run has to resume from.
        position: Position,
        /// Oldest position that the oplog still contains.
        oldest: Position,
        /// Time that the oplog spans.
        #[serde(rename = "window_ms", serialize_with = "format::milliseconds")]
        window: Duration,
        /// How long the oplog will still contain the position at the current speed; `None` if not known.
        #[serde(rename = "time_left_ms", serialize_with = "format::optional_milliseconds")]
        time_left: Option<Duration>,
    },
    /// The cutover window is about to end. The event is sent 24 hours, 4 hours, 1 hour and 10 minutes before the end, and once more by a
    /// process that resumes from a checkpoint.
    ///
    /// [`extend`](crate::MigrationHandle::extend) extends the window. At its end the run stops and keeps its checkpoint.
    CutoverWindowShort {
        /// End of the window.
        #[serde(serialize_with = "format::time")]
        deadline: SystemTime,
        /// Time left.
        #[serde(rename = "left_ms", serialize_with = "format::milliseconds")]
        left: Duration,
    },
    /// All documents of a collection are on the target.
    CollectionCopied {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
    },
    /// An index was built on the target.
    IndexBuilt {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// The index's name.
        name: String,
    },
    /// An index could not be built yet, or not at all.
    IndexFailed {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// The index's name.
        name: String,
        /// Reason given by the target.
        reason: String,
    },
    /// A change to the source's catalog was applied to the target.
    CatalogChanged {
        /// Position in the source's oplog.
        position: Position,
        /// What was done, as text.
        description: String,
    },
    /// The catalog of selected namespaces was changed on the source, and the host [wants a warning](crate::DdlPolicy::Warn). The change
    /// is applied next. A run that goes back to its checkpoint may emit the event again.
    CatalogChangeMet {
        /// Position in the source's oplog.
        position: Position,
        /// The collection or view, or `database.*`.
        namespace: String,
        /// The command, such as `collMod`.
        change: &'static str,
    },
    /// A collection was renamed on the source to a name that is not selected. It is dropped on the target. The summary lists it too.
    LeftSelection {
        /// The collection's old name on the source.
        #[serde(serialize_with = "format::name")]
        from: Namespace,
        /// The collection's new name on the source.
        #[serde(serialize_with = "format::name")]
        to: Namespace,
        /// Position in the source's oplog.
        position: Position,
    },
    /// The target refused a document permanently. The summary lists it too.
    DocumentRefused {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// The document's `_id` in extended JSON.
        id: String,
        /// Reason given by the target.
        reason: String,
    },
    /// A filter or transform failed for a document, which is left out on the target; see [`OnRuleError`](crate::OnRuleError). The event comes
    /// once for each document, and again if it fails after it had succeeded.
    RuleFailed {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// The document's `_id` in extended JSON.
        id: String,
        /// The rule and its reason.
        reason: String,
    },
    /// A server has kept the run waiting for some seconds, because of an election, a restart or a lost connection. The run keeps trying,
    /// and the event repeats while the wait lasts.
    Waiting {
        /// The side that the server belongs to.
        side: Side,
        /// What the server was asked to do, such as `flush the target`.
        operation: &'static str,
        /// Time without an answer so far.
        #[serde(rename = "elapsed_ms", serialize_with = "format::milliseconds")]
        elapsed: Duration,
        /// Maximum wait, counted from the beginning. After that the run goes back to its checkpoint and tries again. `None` if the limit
        /// depends on the amount of data.
        #[serde(rename = "limit_ms", serialize_with = "format::optional_milliseconds")]
        limit: Option<Duration>,
    },
    /// A cutover has been waiting for some seconds for transactions that are open on the source. If they committed later, they would be
    /// lost.
    OpenTransactions {
        /// The open transactions.
        transactions: Vec<TransactionFacts>,
    },
    /// Something failed, and the run will try again from the last checkpoint.
    Retrying {
        /// The error.
        cause: String,
        /// The pause before the next attempt.
        #[serde(rename = "delay_ms", serialize_with = "format::milliseconds")]
        delay: Duration,
    },
    /// A checkpoint was saved.
    CheckpointSaved {
        /// Position up to which everything is durable on the target.
        #[serde(rename = "position")]
        watermark: Position,
    },
    /// The source was written to after the host had reported that its writers are stopped.
    WritesAfterStop {
        /// The late writes.
        #[serde(flatten)]
        writes: LateWrites,
        /// Whether the cutover continues, because the host accepts such writes.
        accepted: bool,
    },
    /// Client writes on the source are blocked from now on, for the cutover.
    SourceWritesBlocked,
    /// Clients may write to the source again, because the cutover did not complete.
    SourceWritesUnblocked,
    /// The block of writes on the source could not be lifted. The run keeps trying, and so does the next start.
    /// `db.adminCommand({ setUserWriteBlockMode: 1, global: false })` on the source lifts it manually.
    SourceWriteBlockStays {
        /// Why the block could not be lifted.
        reason: String,
    },
    /// A cutover has begun a step. Late writes that the host accepts make it go back to an earlier one. The cutover's result says whether
    /// the last step has succeeded.
    CutoverStep {
        /// The step.
        step: CutoverStep,
    },
    /// A collection was verified at cutover.
    Verified {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// Whether both sides are identical.
        identical: bool,
    },
    /// A document differs between both sides at a position at which it should not.
    DocumentDiffers {
        /// The collection's name on the source.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// The document, and how it differs.
        #[serde(flatten)]
        difference: Difference,
    },
    /// Another program writes to a migrated collection on the target. The event is sent at once, and then every 10 seconds at most. The
    /// comparison at cutover finds out whether the writes do harm.
    ForeignWrite {
        /// The collection's name on the target.
        #[serde(serialize_with = "format::name")]
        namespace: Namespace,
        /// Number of writes seen since this process began.
        writes: u64,
    },
    /// Writes of other programs to the target cannot be watched, or some may have been missed.
    ///
    /// Watching needs the privilege `find` on `local.oplog.rs`, to read the target's oplog. Writes may be missed if the oplog rolled over
    /// while it could not be read. The next run watches again.
    ForeignWritesNotWatched {
        /// Reason given by the target.
        reason: String,
    },
    /// Users and roles of the target were made, changed or dropped, so that they are those of the source; see
    /// [`MigrationBuilder::users`](crate::MigrationBuilder::users).
    UsersCarried {
        /// Number of users and roles that were made or changed.
        put: u64,
        /// Number of those that were dropped.
        dropped: u64,
        /// Number of those that have the same content on both sides now.
        carried: u64,
        /// Number of those that the target keeps with other content.
        kept: u64,
        /// Number of those of the selected databases that are not carried.
        left_out: u64,
    },
    /// Users and roles could not be carried or compared. The run tries again, and the cutover does not complete before it succeeds.
    UsersNotCarried {
        /// What went wrong.
        reason: String,
    },
    /// Members were added to or removed from a replica set.
    MembersChanged {
        /// The side that the replica set belongs to.
        side: Side,
        /// Addresses of the added members.
        added: Vec<String>,
        /// Addresses of the removed members.
        removed: Vec<String>,
    },
    /// The feature compatibility version of a side was changed, which ends the run.
    FeatureCompatibilityChanged {
        /// The side whose version changed.
        side: Side,
        /// The old version, such as `[5, 0]`.
        from: [u32; 2],
        /// The new version.
        to: [u32; 2],
    },
    /// A hook of the host failed, without any effect on the run. Failures of hooks that prevent what follows them are not reported here.
    HookFailed {
        /// The hook's name, such as `after_cutover`.
        hook: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The file of the [recording](crate::docs::format#recordings) cannot be written, without any effect on the run. What happens
    /// is recorded again once it can be written.
    RecordingFailed {
        /// The file, and what went wrong.
        reason: String,
    },
    /// The reader was too slow and has lost events.
    Missed {
        /// Number of lost events.
        events: u64,
    },
}

/// A step of a [`cutover`](crate::MigrationHandle::cutover).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CutoverStep {
    /// The programs that write to the source are being stopped.
    StopWrites,
    /// Open transactions end, and the last changes are applied.
    Drain,
    /// Both sides are compared.
    Compare,
    /// The checkpoint that marks the migration as complete is saved.
    Finish,
}

impl CutoverStep {
    /// All steps in their order.
    pub const ALL: [Self; 4] = [Self::StopWrites, Self::Drain, Self::Compare, Self::Finish];

    /// The step's name in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopWrites => "stop_writes",
            Self::Drain => "drain",
            Self::Compare => "compare",
            Self::Finish => "finish",
        }
    }
}

/// Sender of the event stream. Sending never waits.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
}

impl Events {
    pub fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(KEPT),
        }
    }

    /// Sends an event to the subscribers, and to the subscriber of `tracing`.
    pub fn send(&self, event: Event) {
        trace(&event);
        // Sending fails only if nobody listens, which is the host's choice.
        let _ = self.sender.send(event);
    }

    /// Returns the events from now on. The stream ends with the run, after the event for its last phase. `ended` tells whether that event
    /// was already sent.
    pub fn subscribe(&self, ended: bool) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        let receiver = (!ended).then(|| self.sender.subscribe());
        let events = stream::unfold(receiver, |receiver| async {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event) => {
                    let is_last = matches!(&event, Event::PhaseChanged { phase } if phase.is_last());
                    Some((event, (!is_last).then_some(receiver)))
                }
                Err(broadcast::error::RecvError::Lagged(events)) => Some((Event::Missed { events }, Some(receiver))),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        // A host that uses `select!` may poll the stream again after its end.
        Box::pin(events.fuse())
    }
}
