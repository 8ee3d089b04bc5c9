//! What decisions ask the router's task to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::Uuid;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::replay::Replay;
use crate::checkpoint::PendingCheckpoint;
use crate::engine::messages::Routed;
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::ranges::ChunkId;
use crate::engine::track::verification::{CollectionVerification, VerificationInFlight};
use crate::model::CollectionMapping;
use crate::order::Key;
use crate::report::{Event, IndexCounts};
use crate::runtime::cutover_estimate::CutoverWork;

/// What is done with one change. Returned by value: a change that is sent costs no allocation.
#[derive(Debug)]
#[must_use]
pub(crate) enum Routing {
    /// Not the migration's concern: its collection is not selected, or a later entry says what became of it.
    Ignored,
    /// Dropped: a copy has it or will have it.
    Dropped,
    /// Held: for a chunk until its documents are durable, for a comparison until it ends, or for a refused index until it is built again.
    Held,
    /// To be sent to the applier with this number.
    Send(usize, Routed),
}

/// Something to do, in the order in which it was decided.
#[derive(Debug)]
pub(crate) enum Action {
    /// Stop a chunk's walker. The range is read again.
    Cancel(CancellationToken),
    /// Ask a walker to finish with what it has so far.
    Hurry(CancellationToken),
    /// Allow a walker to read the target.
    AllowComparison(oneshot::Sender<()>),
    /// Stop the walker of a comparison, if it has not ended by itself, and send the changes that were held for it.
    EndComparison {
        target: Arc<CollectionMapping>,
        running: Box<VerificationInFlight>,
    },
    /// Send the changes that were held for a durable chunk, and refetch documents that its read may have missed.
    Replay(Box<Replay>),
    /// Send changes that were held back for an index build.
    SendHeldBack {
        collection: Uuid,
        held: HeldChanges,
    },
    /// Move held changes to a file.
    Spill(Holder),
    /// Read documents from the source again and write them to the sink.
    Refetch {
        target: Arc<CollectionMapping>,
        keys: BTreeSet<Key>,
    },
    /// Send a barrier to every applier, behind everything sent before.
    SendBarrier {
        id: u64,
        unsettled_bytes: usize,
    },
    /// Have a checkpoint saved. The answer goes to [`RoutingState::saved`](super::RoutingState::saved).
    Save(Box<PendingCheckpoint>),
    Reply(Reply),
    Report(Event),
    /// Show this error of a collection.
    NoteError {
        target: Arc<CollectionMapping>,
        error: String,
    },
    /// Show what remains to be done.
    ShowProgress(CopyProgress),
    /// Show how many indexes are built.
    ShowIndexes(IndexCounts),
    /// Count what was compared.
    CountVerified {
        documents: u64,
        bytes: u64,
        differences: u64,
    },
}

/// Who holds changes that may be moved to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A chunk of a collection.
    Chunk(Uuid, ChunkId),
    /// The index builds of a collection.
    IndexBuild(Uuid),
}

/// An answer to a request. The requester may have stopped waiting.
#[derive(Debug)]
pub(crate) enum Reply {
    Done(oneshot::Sender<()>),
    Verification(
        oneshot::Sender<Vec<CollectionVerification>>,
        Vec<CollectionVerification>,
    ),
    Open(oneshot::Sender<Option<Vec<Key>>>, Option<Vec<Key>>),
}

/// What remains to be done, for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyProgress {
    pub is_copied: bool,
    pub is_indexed: bool,
    pub all_compared: bool,
    pub cutover: CutoverWork,
}
