//! The router's state of one collection.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::CollectionState;
use crate::config::CollectionRule;
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::ranges::{ChunkId, RangeStatus, Ranges};
use crate::engine::track::verification::RangeVerification;
use crate::model::{Amount, Change, Collection, CollectionKind, CollectionMapping, Namespace, Position};
use crate::order::Key;

/// A collection that is migrated, and its progress.
#[derive(Debug)]
pub(crate) struct CollectionProgress {
    pub target: Arc<CollectionMapping>,
    /// See [`CollectionState::made`].
    pub made: Option<Uuid>,
    /// The host's settings for it.
    pub rule: CollectionRule,
    pub options: RawDocumentBuf,
    pub indexes: Vec<RawDocumentBuf>,
    pub documents: u64,
    pub bytes: u64,
    /// Documents and bytes copied so far.
    pub copied: Amount,
    /// Number of changes to the collection that this run has seen.
    pub changes: u64,
    /// Number of changes sent to the sink since this process began.
    pub applied: u64,
    pub ranges: Ranges,
    pub chunks: HashMap<ChunkId, Chunk>,
    pub index_work: IndexWork,
    /// Indexes that were abandoned with an event. A run that resumes from the checkpoint tries all of them again.
    pub failed_indexes: BTreeSet<String>,
    /// Number of consecutive refusals of a snapshot. After a few, the next chunk is an interval read.
    pub snapshots_refused: u32,
    /// Divisor of the chunk size. It doubles when a chunk is abandoned, and halves when one is finished.
    pub chunk_divisor: u64,
    /// State of the comparison with the source.
    pub verification: RangeVerification,
}

/// State of a collection's index builds.
#[derive(Debug)]
pub(crate) enum IndexWork {
    /// Not all documents are copied yet.
    NotBegun,
    /// Indexes are waiting to be built, or are being built. They are listed by name.
    Building {
        waiting: VecDeque<String>,
        running: Vec<String>,
        /// No build starts before this position is routed. Until then, documents on the sink may be newer than the routed changes.
        not_before: Position,
    },
    /// All are built, or were abandoned with an event.
    Done,
}

/// A range that is being read.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The position of its snapshot. For an interval read, a position before the read began.
    pub low: Position,
    /// Held changes after `low`, in order.
    pub held: HeldChanges,
    /// Stops the walker. The range is read again.
    pub cancel: CancellationToken,
    /// Asks the walker to finish with what it has read so far.
    pub hurry: CancellationToken,
    /// Whether the walker was told to stop. Nothing is held for the chunk any more.
    pub is_given_up: bool,
}

/// What the router does with a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Drop it: a copy has it or will have it.
    Drop,
    /// Hold it until this chunk is durable.
    Hold(ChunkId),
    /// Hold it until its range has been compared.
    HoldCheck,
    /// Send it to its applier.
    Send,
}

impl CollectionProgress {
    /// Tracks a collection of which nothing has been copied.
    pub fn unread(collection: &Collection, target: Namespace, cuts: Vec<Key>) -> Self {
        Self {
            target: Arc::new(CollectionMapping {
                id: collection.id,
                namespace: collection.namespace.clone(),
                target,
                kind: collection.kind,
            }),
            made: None,
            rule: CollectionRule::default(),
            options: collection.options.clone(),
            indexes: collection.indexes.clone(),
            documents: collection.documents,
            bytes: collection.bytes,
            copied: Amount::default(),
            changes: 0,
            applied: 0,
            ranges: Ranges::unread(cuts),
            chunks: HashMap::new(),
            index_work: IndexWork::NotBegun,
            failed_indexes: BTreeSet::new(),
            snapshots_refused: 0,
            chunk_divisor: 1,
            verification: RangeVerification::default(),
        }
    }

    /// Restores a collection from a checkpoint.
    pub fn from_checkpoint(state: &CollectionState) -> Self {
        let collection = Collection {
            id: state.id,
            namespace: state.namespace.clone(),
            kind: state.kind,
            options: state.options.clone(),
            indexes: state.indexes.clone(),
            documents: state.documents,
            bytes: state.bytes,
        };
        Self {
            made: state.made,
            // A resync begins the copy anew.
            copied: match state.ranges.iter().any(|range| range.done.is_some()) {
                true => Amount {
                    documents: state.copied_documents,
                    bytes: state.copied_bytes,
                },
                false => Amount::default(),
            },
            ranges: Ranges::from_checkpoint(&state.ranges),
            index_work: if state.indexed {
                IndexWork::Done
            } else {
                IndexWork::NotBegun
            },
            verification: state
                .compared
                .clone()
                .map(RangeVerification::from_checkpoint)
                .unwrap_or_default(),
            ..Self::unread(&collection, state.target.clone(), Vec::new())
        }
    }

    /// Number of changes relative to the collection's size.
    pub fn heat(&self) -> f64 {
        self.changes as f64 / self.bytes.max(1) as f64
    }

    /// Returns the state for a checkpoint, without the verification state: see [`RangeVerification::to_checkpoint`].
    pub fn to_checkpoint(&self) -> CollectionState {
        CollectionState {
            id: self.target.id,
            namespace: self.target.namespace.clone(),
            target: self.target.target.clone(),
            made: self.made,
            kind: self.target.kind,
            options: self.options.clone(),
            indexes: self.indexes.clone(),
            // A later run may have another setting.
            indexed: self.is_indexed() && self.failed_indexes.is_empty() && !self.rule.leaves_indexes_out(),
            documents: self.documents,
            bytes: self.bytes,
            copied_documents: self.copied.documents,
            copied_bytes: self.copied.bytes,
            ranges: self.ranges.to_checkpoint(),
            compared: None,
        }
    }

    /// Tracks a view: a definition that is created at once and has nothing to copy.
    pub fn view(namespace: Namespace, target: Namespace, options: RawDocumentBuf) -> Self {
        let id = Uuid::from_bytes([0; 16]);
        let view = Collection {
            id,
            namespace,
            kind: CollectionKind::View,
            options,
            indexes: Vec::new(),
            documents: 0,
            bytes: 0,
        };
        let ranges = Ranges::done(Position::ZERO);
        Self {
            ranges,
            index_work: IndexWork::Done,
            ..Self::unread(&view, target, Vec::new())
        }
    }

    /// Resets the collection, so that it is copied again and compared afterwards.
    pub fn copy_again(&mut self) {
        if self.rule.is_continuous() {
            self.verification.begin();
        }
        self.ranges = Ranges::unread_again();
        self.copied = Amount::default();
        self.index_work = IndexWork::NotBegun;
        self.failed_indexes.clear();
    }

    pub fn is_indexed(&self) -> bool {
        matches!(self.index_work, IndexWork::Done)
    }

    /// Decides what to do with a change of the document `key` at `position`.
    pub fn route(&self, key: &Key, position: Position) -> Route {
        match self.ranges.status(key) {
            RangeStatus::Unread { .. } => Route::Drop,
            RangeStatus::Done(at) if position <= at => Route::Drop,
            RangeStatus::Done(_) if self.verification.must_hold(key, position) => Route::HoldCheck,
            RangeStatus::Done(_) => Route::Send,
            RangeStatus::InFlight(id) => match self.chunks.get(&id) {
                // An abandoned chunk is read again at a position at or after this change.
                None => Route::Drop,
                Some(chunk) if chunk.is_given_up || position <= chunk.low => Route::Drop,
                Some(_) => Route::Hold(id),
            },
        }
    }

    /// Holds a change until its chunk is durable. Returns the memory it takes in bytes.
    pub fn hold(&mut self, id: ChunkId, change: Change) -> usize {
        let Some(chunk) = self.chunks.get_mut(&id) else {
            return 0;
        };
        chunk.held.push(change.position, change.write)
    }

    /// Average size of a document in bytes; 0 if unknown.
    pub fn document_bytes(&self) -> usize {
        usize::try_from(self.bytes / self.documents.max(1)).unwrap_or_default()
    }
}
