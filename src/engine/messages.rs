//! What the other tasks of a run say to the router, and what it answers.

use std::sync::Arc;

use bson::Uuid;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::States;
use crate::engine::copy::verify_chunk::Check;
use crate::engine::track::ranges::ChunkId;
use crate::engine::track::verification::{CollectionProof, Compared};
use crate::error::Result;
use crate::model::mapping::CollectionMapping;
use crate::model::namespace::Namespace;
use crate::model::position::Position;
use crate::model::range::Range;
use crate::oplog::Entry;
use crate::order::Key;
use crate::runtime::limits::memory::Taken;
use crate::source::ReadMode;

/// Entries that were read and not routed yet.
pub(crate) struct ReadAhead {
    pub entries: Vec<Entry>,
    /// The memory they take.
    pub taken: Taken,
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
    /// What is asked of a proof.
    Prove(ProofRequest),
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
pub(crate) enum ProofRequest {
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
        reply: oneshot::Sender<Vec<CollectionProof>>,
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
