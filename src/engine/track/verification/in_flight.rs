//! What is being compared, and the changes that wait for it.

use std::collections::HashSet;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changed::bytes_of;
use crate::engine::track::ranges::ChunkId;
use crate::model::{Change, Position, Write};
use crate::order::Key;

/// Documents that are being compared.
#[derive(Debug)]
pub(crate) struct VerificationInFlight {
    pub id: ChunkId,
    pub what: Portion,
    /// The position at which both sides are compared, and where the history would have to be read from to go on there.
    pub low: Position,
    pub resume: Position,
    pub since: Instant,
    /// Changes after `low`, in order.
    held: Vec<(Position, Write)>,
    held_bytes: usize,
    /// Stops the walker; what it has found does not count.
    pub cancel: CancellationToken,
    /// Asks the walker to finish with what it has compared so far.
    pub hurry: CancellationToken,
    /// The barrier behind everything up to `low`, and whom to tell when all appliers have applied it.
    pub barrier: u64,
    pub applied: Option<oneshot::Sender<()>>,
}

/// A part of a collection.
#[derive(Clone, Debug)]
pub(crate) enum Portion {
    /// Every document above this one, of all where there is none. It has no end, since the walker says how far it has come.
    Above(Option<Key>),
    /// These documents, which have changed since they were compared.
    Documents(HashSet<Key>),
}

impl VerificationInFlight {
    pub fn new(
        id: ChunkId,
        what: Portion,
        (low, resume): (Position, Position),
        (cancel, hurry): (CancellationToken, CancellationToken),
        (barrier, applied): (u64, oneshot::Sender<()>),
    ) -> Self {
        Self {
            id,
            what,
            low,
            resume,
            since: Instant::now(),
            held: Vec::new(),
            held_bytes: 0,
            cancel,
            hurry,
            barrier,
            applied: Some(applied),
        }
    }

    /// Whether a change has to wait until its document is compared.
    pub fn must_hold(&self, key: &Key, position: Position) -> bool {
        position > self.low && self.what.contains(key)
    }

    /// Keeps a change; answers its bytes.
    pub fn hold(&mut self, change: Change) -> usize {
        let bytes = size_of::<Position>() + change.write.size_in_bytes();
        self.held.push((change.position, change.write));
        self.held_bytes += bytes;
        bytes
    }

    /// The changes that waited, and their bytes.
    pub fn into_held(self) -> (Vec<(Position, Write)>, usize) {
        (self.held, self.held_bytes)
    }
}

impl Portion {
    /// The memory that `_id`s of changed documents take, in bytes.
    pub fn changed_bytes(&self) -> usize {
        match self {
            Self::Above(_) => 0,
            Self::Documents(documents) => documents.iter().map(bytes_of).sum(),
        }
    }

    fn contains(&self, key: &Key) -> bool {
        match self {
            Self::Above(lower) => lower.as_ref().is_none_or(|lower| key > lower),
            Self::Documents(documents) => documents.contains(key),
        }
    }
}
