//! What a run tells its host: events as they happen, a status at any time, and a summary at the end.

use std::time::{Duration, SystemTime};

use futures::stream::{self, Stream, StreamExt};
use tokio::sync::broadcast;

use crate::compare::difference::Difference;
use crate::model::{Namespace, Position, Side, TransactionFacts};
use crate::report::{LateWrites, Phase};

/// Events kept for a reader that is behind; older ones are lost to it.
const KEPT: usize = 1024;

/// Something that happened in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The run went on to another phase.
    PhaseChanged {
        /// The new phase.
        phase: Phase,
    },
    /// The run began, from nothing or from a checkpoint.
    Started {
        /// Whether it goes on from a checkpoint.
        resumed: bool,
        /// Everything up to here was durable on the target already.
        position: Position,
    },
    /// The source's history no longer held the position to go on from. The run follows it from a new position on, and compares everything
    /// with the source: only what differs is written.
    Resync {
        /// Everything up to here was durable on the target.
        lost: Position,
        /// Where the history is followed from now on.
        position: Position,
        /// How much of the source's time lies between the two.
        gap: Duration,
        /// What was found.
        reason: String,
    },
    /// For half a minute the source has written faster than the target could take it, so that the lag has grown beyond the one that a
    /// cutover needs. It is said again each minute while it lasts.
    FallingBehind {
        /// Operations that the source writes each second.
        source_rate: f64,
        /// Operations that are applied, or dropped since a copy has them, each second.
        applied_rate: f64,
        /// How far the target is behind.
        lag: Duration,
    },
    /// Less than a quarter of the oplog is left between its oldest entry and the position to go on from. When that is gone, everything has
    /// to be compared with the source again; a larger oplog (`replSetResizeOplog`), a lower load or a resumed run prevent it.
    OplogWindowShort {
        /// The position that the run has to go on from.
        position: Position,
        /// The oldest position that the oplog still holds.
        oldest: Position,
        /// The time that the oplog spans.
        window: Duration,
        /// How long the position will still be there at the present speed; `None` when not known.
        time_left: Option<Duration>,
    },
    /// The cutover window runs out: 24 hours, 4 hours, 1 hour or 10 minutes before its end, and once more by a process that goes on from a
    /// checkpoint. [`extend`](crate::MigrationHandle::extend) makes it longer; at its end the run stops, with its checkpoint kept.
    CutoverWindowShort {
        /// When it ends.
        deadline: SystemTime,
        /// How much is left.
        left: Duration,
    },
    /// All documents of a collection are on the target.
    CollectionCopied {
        /// The collection's name on the source.
        namespace: Namespace,
    },
    /// An index was built on the target.
    IndexBuilt {
        /// The collection's name on the source.
        namespace: Namespace,
        /// The index's name.
        name: String,
    },
    /// An index could not be built yet or at all.
    IndexFailed {
        /// The collection's name on the source.
        namespace: Namespace,
        /// The index's name.
        name: String,
        /// The target's reason.
        reason: String,
    },
    /// A change to the source's catalogue was carried over.
    CatalogChanged {
        /// Where in the source's history.
        position: Position,
        /// What was done, in words.
        description: String,
    },
    /// The catalogue of the source was changed in what is selected, and the host [wants to be warned](crate::DdlPolicy::Warn). The change is
    /// carried over next. A run that goes back to its checkpoint may tell it again.
    CatalogChangeMet {
        /// Where in the source's history.
        position: Position,
        /// The collection or view, or `database.*`.
        namespace: String,
        /// The command, such as `collMod`.
        change: &'static str,
    },
    /// A collection was renamed on the source to a name that is not selected. It is dropped on the target; the summary names it too.
    LeftSelection {
        /// Its name on the source before.
        from: Namespace,
        /// Its name on the source now.
        to: Namespace,
        /// Where in the source's history.
        position: Position,
    },
    /// The target refused a document for good. The summary names it too.
    DocumentRefused {
        /// The collection's name on the source.
        namespace: Namespace,
        /// The document's `_id` in extended JSON.
        id: String,
        /// The target's reason.
        reason: String,
    },
    /// A server has kept the run waiting for some seconds: an election, a restart or a lost connection is being sat out. It is told again
    /// as long as it lasts.
    Waiting {
        /// Whose server.
        side: Side,
        /// What was asked of it, such as `flush the target`.
        operation: &'static str,
        /// For how long there has been no answer.
        elapsed: Duration,
        /// For how long it is waited for at most, from the beginning; then the run goes back to its checkpoint and tries again. `None` where
        /// that depends on the amount of data.
        limit: Option<Duration>,
    },
    /// A cutover waits some seconds for transactions that are open on the source, of which a commit afterwards would be lost.
    OpenTransactions {
        /// The transactions.
        transactions: Vec<TransactionFacts>,
    },
    /// Something failed that will be tried again from the last checkpoint.
    Retrying {
        /// The error.
        cause: String,
        /// The pause before the next attempt.
        delay: Duration,
    },
    /// A checkpoint was saved.
    CheckpointSaved {
        /// Everything up to here is durable on the target.
        watermark: Position,
    },
    /// The source was written to after the host had said that nothing writes to it any more.
    WritesAfterStop {
        /// These.
        writes: LateWrites,
        /// Whether the cutover goes on all the same, since the host accepts them.
        accepted: bool,
    },
    /// Writes of clients on the source are blocked from now on, for the cutover.
    SourceWritesBlocked,
    /// Clients may write to the source again, since the cutover did not come to its end.
    SourceWritesUnblocked,
    /// The block of writes on the source could not be lifted. It is tried again each moment while the run goes on, and by the next start;
    /// `db.adminCommand({ setUserWriteBlockMode: 1, global: false })` on the source does it by hand.
    SourceWriteBlockStays {
        /// Why.
        reason: String,
    },
    /// A collection was verified at cutover.
    Verified {
        /// The collection's name on the source.
        namespace: Namespace,
        /// Whether both sides are identical.
        identical: bool,
    },
    /// A document was found to be different on both sides, at a position at which it should not be.
    DocumentDiffers {
        /// The collection's name on the source.
        namespace: Namespace,
        /// Which document, and in what.
        difference: Difference,
    },
    /// Another program writes to a collection of the target that is migrated. It is told at once, and then every 10 seconds at most. The
    /// comparison at cutover says whether it does harm.
    ForeignWrite {
        /// The collection's name on the target.
        namespace: Namespace,
        /// How many writes were seen since this process began.
        writes: u64,
    },
    /// Writes of others to the target cannot be watched: reading its oplog needs the privilege `find` on `local.oplog.rs`. Or some may have
    /// been missed, as when it rolled over while it could not be read. The next run watches again.
    ForeignWritesNotWatched {
        /// The target's reason.
        reason: String,
    },
    /// Members were added to a replica set or taken out of it.
    MembersChanged {
        /// Which one's.
        side: Side,
        /// The addresses of the new ones.
        added: Vec<String>,
        /// The addresses of those that are gone.
        removed: Vec<String>,
    },
    /// The feature compatibility version of a side was changed, by which the run ends.
    FeatureCompatibilityChanged {
        /// Which one's.
        side: Side,
        /// The version before, such as `[5, 0]`.
        from: [u32; 2],
        /// The version now.
        to: [u32; 2],
    },
    /// A hook of the host failed, which changes nothing for the run. Those whose errors keep something from being done are not told here.
    HookFailed {
        /// The hook's name, such as `after_cutover`.
        hook: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The reader was too slow, and this many events were lost to it.
    Missed {
        /// How many.
        events: u64,
    },
}

/// The sending side of the event stream. Sending never waits.
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

    pub fn send(&self, event: Event) {
        // An error means that nobody listens, which is the host's choice.
        let _ = self.sender.send(event);
    }

    /// The events from now on. The stream ends with the run, which is when its last phase was told; `ended` says that it was already.
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
        // A host that selects over several things asks again after the end.
        Box::pin(events.fuse())
    }
}
