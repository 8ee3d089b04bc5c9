//! Messages between the router and the other tasks of a run.

use std::collections::HashSet;
use std::sync::Arc;

use bson::Uuid;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{PendingCheckpoint, States};
use crate::engine::track::ranges::ChunkId;
use crate::engine::track::verification::{CollectionVerification, Compared, Portion};
use crate::error::Result;
use crate::model::{Amount, CollectionMapping, Namespace, Position, Range, Write};
use crate::oplog::Entry;
use crate::order::Key;
use crate::runtime::limits::memory::MemoryPermit;
use crate::sink::RefusalReason;
use crate::source::ReadMode;

/// Entries that were read but not routed yet.
pub(crate) struct ReadAhead {
    pub entries: Vec<Entry>,
    /// Permit for the memory that the entries take.
    pub taken: MemoryPermit,
}

/// Requests to the router from walkers and other tasks.
pub(crate) enum Request {
    /// A walker asks for work. `majority` is the source's newest position, read just before the request.
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
    /// Copy a collection again from the beginning. What exists on the sink is repaired or replaced.
    CopyAgain {
        collection: Uuid,
        reply: oneshot::Sender<()>,
    },
    /// Start watching for late writes at a position after everything written before the request. The reply is that position.
    WatchForLateWrites { reply: oneshot::Sender<Result<Position>> },
    /// A range was compared, or the comparison failed.
    Checked {
        collection: Uuid,
        chunk: ChunkId,
        result: Result<Compared>,
    },
    /// A request about verification.
    Verify(VerificationRequest),
    /// Reply once everything is copied and indexed, and every change up to a position at or after `at` is applied and durable.
    Report {
        at: Position,
        reply: oneshot::Sender<Report>,
    },
    /// Apply everything routed so far and save a checkpoint of it.
    Save { reply: oneshot::Sender<()> },
    /// Get the state of all collections.
    States { reply: oneshot::Sender<States> },
    /// Save the checkpoint that marks the migration as complete, as it was [offered](crate::runtime::completion::Completion::offer).
    /// Nothing is saved if there were more late writes than `late_writes`, the number that the cutover knows of. The router drops `reply`
    /// when it is done, whether it saved the checkpoint or not.
    Complete {
        late_writes: u64,
        reply: oneshot::Sender<()>,
    },
}

/// Requests about the verification of collections. An empty list means all collections.
pub(crate) enum VerificationRequest {
    /// Start verification from the beginning.
    Begin {
        collections: Vec<Namespace>,
        reply: oneshot::Sender<()>,
    },
    /// Stop verification.
    End {
        collections: Vec<Namespace>,
        reply: oneshot::Sender<()>,
    },
    /// Get the verification state.
    State {
        collections: Vec<Namespace>,
        reply: oneshot::Sender<Vec<CollectionVerification>>,
    },
    /// Get the documents of a collection that may differ. `None` if other documents may differ as well.
    Open {
        collection: Uuid,
        reply: oneshot::Sender<Option<Vec<Key>>>,
    },
    /// Read documents from the source and write them to the sink as they are there.
    Repair {
        namespace: Namespace,
        keys: Vec<Key>,
        reply: oneshot::Sender<()>,
    },
}

/// State of the migration at a position up to which everything is applied and durable. No document is stuck.
#[derive(Debug)]
pub(crate) struct Report {
    pub position: Position,
    pub collections: States,
}

/// Work for a walker.
#[derive(Debug)]
pub(crate) enum Work {
    Chunk(Assignment),
    Check(Check),
}

/// A range to copy.
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

/// A walker's report on a chunk whose documents are durable.
#[derive(Debug)]
pub(crate) struct Finished {
    pub collection: Uuid,
    pub chunk: ChunkId,
    /// Uuid of the collection on the target, if it was created again for the copy.
    pub made: Option<Uuid>,
    /// Documents and bytes that were read.
    pub copied: Amount,
    /// Last `_id` that was read. `None` if the whole range was read.
    pub last: Option<Key>,
    /// Whether the sink may hold documents above `last`.
    pub repair: bool,
    /// A position at or after the opening of the read. A rename or drop up to here may have misled the read.
    pub opened: Position,
    /// For an interval read: a position at or after its end.
    pub high: Option<Position>,
    /// Documents that the sink refused while the chunk was written.
    pub refused: Vec<Key>,
}

/// A part of a collection to compare.
#[derive(Debug)]
pub(crate) struct Check {
    pub chunk: ChunkId,
    pub target: Arc<CollectionMapping>,
    pub what: Portion,
    pub at: Position,
    pub chunk_bytes: u64,
    pub document_bytes: usize,
    /// Resolves when the target is at position `at`. Closed if the part is not to be compared after all.
    pub applied: oneshot::Receiver<()>,
    pub cancel: CancellationToken,
    pub hurry: CancellationToken,
}

/// A checkpoint to save. Every applier has applied its changes.
pub(crate) struct SaveRequest {
    pub checkpoint: PendingCheckpoint,
    /// Whether it must be saved, however recent the last save is.
    pub now: bool,
    /// Answered once everything in the checkpoint is durable: `true` if the checkpoint was saved too, `false` if that is left to a later
    /// one.
    pub done: oneshot::Sender<bool>,
}

/// A change on its way to the sink.
#[derive(Debug)]
pub(crate) struct Routed {
    pub target: Arc<CollectionMapping>,
    pub position: Position,
    pub write: Write,
}

/// Messages from the router to an applier, which handles them strictly in order.
pub(crate) enum ApplierMessage {
    /// Changes to apply. The permit is their share of the byte budget.
    Changes {
        changes: Vec<Routed>,
        bytes: usize,
        permit: MemoryPermit,
    },
    /// Read these documents from the source again and write them as they are there. Their changes up to the position of that read are
    /// dropped. The permit is the share of their `_id`s in the byte budget.
    Refetch {
        target: Arc<CollectionMapping>,
        keys: Vec<Key>,
        permit: MemoryPermit,
    },
    /// Refetch again, under this name, the documents that were refetched by a read that may have come after the rename.
    Renamed { target: Arc<CollectionMapping> },
    /// The collection was dropped: forget its documents.
    Dropped { collection: Uuid },
    /// Everything up to `routed` has been sent: acknowledge that it is applied.
    Barrier {
        id: u64,
        routed: Position,
        /// Limit in bytes for the names of unsettled documents. If they take more, only their collections are named.
        unsettled_bytes: usize,
    },
    /// Take one step to resolve a document whose changes were refused. The reply is `true` if the document is no longer stuck.
    Resolve {
        stuck: Stuck,
        step: ResolveStep,
        reply: oneshot::Sender<bool>,
    },
}

/// How to treat a stuck document. The router tries `Retry`, `Clear`, `Retry`, `Refetch` and finally `Forget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResolveStep {
    /// Apply its changes again, in order.
    Retry,
    /// Write the document as the source has it now.
    Refetch,
    /// Combine its changes into one image, and delete the document from the sink, so that it no longer blocks the unique keys of others. It
    /// stays stuck until the image is written.
    Clear,
    /// Abandon the document. It no longer counts as stuck.
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

/// Acknowledgement of a barrier, with the documents that are stuck.
#[derive(Debug)]
pub(crate) struct BarrierReached {
    pub id: u64,
    /// Stuck documents. `more_stuck` is `true` if there are others.
    pub stuck: Vec<Stuck>,
    pub more_stuck: bool,
    pub unsettled: Unsettled,
    /// A position at or after the newest document state that this applier has read from the source and written to the sink.
    pub ahead: Position,
}

/// Documents that are stuck, and documents that were refetched at a position beyond what has been routed. An entry in between may say that
/// the collection's name already belonged to another collection.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    pub documents: Vec<(Uuid, Key)>,
    /// Collections with too many such documents to name each one.
    pub collections: HashSet<Uuid>,
}

/// Sender of requests to the router. `None` while no run is active.
pub(crate) type Requests = tokio::sync::watch::Sender<Option<mpsc::Sender<Request>>>;
