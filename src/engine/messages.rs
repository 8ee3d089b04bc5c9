//! What the other tasks of a run say to the router, and what it answers.

use std::collections::HashSet;
use std::sync::Arc;

use bson::Uuid;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{PendingCheckpoint, States};
use crate::engine::track::ranges::ChunkId;
use crate::engine::track::verification::{CollectionVerification, Compared, Portion};
use crate::error::Result;
use crate::model::{CollectionMapping, Namespace, Position, Range, Write};
use crate::oplog::Entry;
use crate::order::Key;
use crate::runtime::limits::memory::MemoryPermit;
use crate::sink::RefusalReason;
use crate::source::ReadMode;

/// Entries that were read and not routed yet.
pub(crate) struct ReadAhead {
    pub entries: Vec<Entry>,
    /// The memory they take.
    pub taken: MemoryPermit,
}

/// What walkers and the engine ask of the router.
pub(crate) enum Request {
    /// A walker wants work. `majority` is the source's newest position, asked for just now.
    Take {
        majority: Position,
        reply: oneshot::Sender<Work>,
    },
    /// The documents of a chunk are durable on the sink.
    Finish {
        finished: Finished,
        reply: oneshot::Sender<()>,
    },
    /// A chunk could not be finished. Its range has to be read again.
    Release {
        collection: Uuid,
        chunk: ChunkId,
        snapshot_refused: bool,
    },
    /// Copy a collection again from the beginning: what the sink has of it is repaired or replaced.
    CopyAgain {
        collection: Uuid,
        reply: oneshot::Sender<()>,
    },
    /// Watch for writes from a position on that is after everything that was written before the request, and answer with that position.
    WatchForLateWrites { reply: oneshot::Sender<Result<Position>> },
    /// A range was compared, or could not be.
    Checked {
        collection: Uuid,
        chunk: ChunkId,
        result: Result<Compared>,
    },
    /// What is asked of a verification.
    Verify(VerificationRequest),
    /// Answer once everything is copied and indexed, and every change up to a position at or after this one is applied and durable.
    Report {
        at: Position,
        reply: oneshot::Sender<Report>,
    },
    /// Apply everything up to now, and save a checkpoint of it.
    Save { reply: oneshot::Sender<()> },
    /// Which collections are there now?
    States { reply: oneshot::Sender<States> },
    /// Save the checkpoint that says that the migration is complete, as it was [offered](crate::runtime::completion::Completion::offer), unless more
    /// writes came late than the cutover knows of. Dropping the reply says that it was done, or not.
    Complete {
        late_writes: u64,
        reply: oneshot::Sender<()>,
    },
}

/// What is asked of the comparison of collections. Where collections are named these are meant, else all.
pub(crate) enum VerificationRequest {
    /// Begin to compare them anew.
    Begin {
        collections: Vec<Namespace>,
        reply: oneshot::Sender<()>,
    },
    /// Compare them no longer.
    End {
        collections: Vec<Namespace>,
        reply: oneshot::Sender<()>,
    },
    /// How far is it?
    State {
        collections: Vec<Namespace>,
        reply: oneshot::Sender<Vec<CollectionVerification>>,
    },
    /// The documents that alone may differ in this collection; `None` when others may, too.
    Open {
        collection: Uuid,
        reply: oneshot::Sender<Option<Vec<Key>>>,
    },
    /// Read documents from the source and write them as they are there.
    Repair {
        namespace: Namespace,
        keys: Vec<Key>,
        reply: oneshot::Sender<()>,
    },
}

/// The state of the migration at a position up to which everything has been applied and is durable. No document is stuck.
#[derive(Debug)]
pub(crate) struct Report {
    pub position: Position,
    pub collections: States,
}

/// What a walker is given to do.
#[derive(Debug)]
pub(crate) enum Work {
    Chunk(Assignment),
    Check(Check),
}

/// A range to be copied.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub chunk: ChunkId,
    pub target: Arc<CollectionMapping>,
    /// As [`CollectionState::made`].
    pub made: Option<Uuid>,
    pub options: bson::RawDocumentBuf,
    pub range: Range,
    pub repair: bool,
    pub at: Position,
    pub mode: ReadMode,
    pub chunk_bytes: u64,
    pub document_bytes: usize,
    pub cancel: CancellationToken,
    pub hurry: CancellationToken,
}

/// What a walker says of a chunk whose documents are durable.
#[derive(Debug)]
pub(crate) struct Finished {
    pub collection: Uuid,
    pub chunk: ChunkId,
    /// The uuid of the collection on the target, where it was made anew for the copy.
    pub made: Option<Uuid>,
    /// The last `_id` that was read; `None` when the whole range was.
    pub last: Option<Key>,
    /// Whether the sink may hold documents above `last`.
    pub repair: bool,
    /// A position at or after the opening of the read: a rename or drop up to here may have misled it.
    pub opened: Position,
    /// For an interval read, a position at or after its end.
    pub high: Option<Position>,
    /// Documents that the sink refused while the chunk was written.
    pub refused: Vec<Key>,
}

/// A part of a collection to be compared.
#[derive(Debug)]
pub(crate) struct Check {
    pub chunk: ChunkId,
    pub target: Arc<CollectionMapping>,
    pub what: Portion,
    pub at: Position,
    pub chunk_bytes: u64,
    pub document_bytes: usize,
    /// Told when the target stands at the position; closed when it is not to be compared after all.
    pub applied: oneshot::Receiver<()>,
    pub cancel: CancellationToken,
    pub hurry: CancellationToken,
}

/// A checkpoint whose changes every applier has applied.
pub(crate) struct SaveRequest {
    pub checkpoint: PendingCheckpoint,
    /// Whether it has to be saved, however shortly after the last one that is.
    pub now: bool,
    /// Answered once everything in the checkpoint is durable: whether it was saved too, or is left to a later one.
    pub done: oneshot::Sender<bool>,
}

/// A change on its way to the sink.
#[derive(Debug)]
pub(crate) struct Routed {
    pub target: Arc<CollectionMapping>,
    pub position: Position,
    pub write: Write,
}

/// What the router sends to an applier. An applier handles its messages strictly in order.
pub(crate) enum ApplierMessage {
    /// Changes to apply; the permit is their share of the byte budget.
    Changes {
        changes: Vec<Routed>,
        bytes: usize,
        permit: OwnedSemaphorePermit,
    },
    /// Re-read these documents from the source and write them as they are there; drop their changes up to that position. The permit is
    /// the share of their `_id`s of the byte budget.
    Refetch {
        target: Arc<CollectionMapping>,
        keys: Vec<Key>,
        permit: OwnedSemaphorePermit,
    },
    /// Refetch again, under this name, what was refetched by a read that may have come after the rename.
    Renamed { target: Arc<CollectionMapping> },
    /// The collection is gone: forget its documents.
    Dropped { collection: Uuid },
    /// Everything up to `routed` has been sent: acknowledge that it has been applied.
    Barrier {
        id: u64,
        routed: Position,
        /// With more documents that are not refetched than this none need be named.
        unsettled_bytes: usize,
    },
    /// Do something about a document whose changes were refused; answers whether the document is no longer stuck.
    Resolve {
        stuck: Stuck,
        step: ResolveStep,
        reply: oneshot::Sender<bool>,
    },
}

/// How a stuck document is treated, in the order in which the router tries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResolveStep {
    /// Apply its changes again, in order.
    Retry,
    /// Write the source's present document.
    Refetch,
    /// Put its changes together into one image, and delete it from the sink, so that it no longer blocks the unique keys of others; it
    /// stays stuck until that image is written.
    Clear,
    /// Give it up and answer that it is no longer stuck.
    Forget,
}

/// A document whose changes the sink refused.
#[derive(Clone, Debug)]
pub(crate) struct Stuck {
    pub applier: usize,
    pub target: Arc<CollectionMapping>,
    pub key: Key,
    pub position: Position,
    pub reason: RefusalReason,
}

/// The acknowledgement of a barrier, with everything that is stuck.
#[derive(Debug)]
pub(crate) struct BarrierReached {
    pub id: u64,
    /// Documents that are stuck, and whether there are others.
    pub stuck: Vec<Stuck>,
    pub more_stuck: bool,
    pub unsettled: Unsettled,
    /// A position at or after the newest state of a document on the sink, as far as this applier has read documents.
    pub ahead: Position,
}

/// The documents that are stuck, and those that were read by name from a source that is further than what has been routed: an entry in
/// between may say that the name was another collection's by then.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    pub documents: Vec<(Uuid, Key)>,
    /// Collections of which there are too many to be named.
    pub collections: HashSet<Uuid>,
}

/// The router's queue of requests; each walker has one under way at a time.
pub(crate) type Requests = tokio::sync::watch::Sender<Option<mpsc::Sender<Request>>>;
