//! A comparison in flight, and the changes held for it.

use std::collections::HashSet;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changed::bytes_of;
use crate::engine::track::ranges::ChunkId;
use crate::model::{Change, Position, Write};
use crate::order::Key;

/// A comparison in flight.
#[derive(Debug)]
pub(crate) struct VerificationInFlight {
    pub id: ChunkId,
    pub what: Portion,
    /// The position at which both sides are compared, and the position from which the oplog would have to be read to resume there.
    pub low: Position,
    pub resume: Position,
    pub since: Instant,
    /// Held changes after `low`, in order.
    held: Vec<(Position, Write)>,
    held_bytes: usize,
    /// Stops the walker. Its result is discarded.
    pub cancel: CancellationToken,
    /// Asks the walker to finish with what it has compared so far.
    pub hurry: CancellationToken,
    /// The barrier behind everything up to `low`, and the channel that signals that all appliers have reached it.
    pub barrier: u64,
    pub applied: Option<oneshot::Sender<()>>,
}

/// A part of a collection to be compared.
#[derive(Clone, Debug)]
pub(crate) enum Portion {
    /// All documents above this `_id`, or all documents. There is no upper end, because the walker reports how far it got.
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
        since: Instant,
    ) -> Self {
        Self {
            id,
            what,
            low,
            resume,
            since,
            held: Vec::new(),
            held_bytes: 0,
            cancel,
            hurry,
            barrier,
            applied: Some(applied),
        }
    }

    /// Whether a change must be held until its document is compared.
    pub fn must_hold(&self, key: &Key, position: Position) -> bool {
        position > self.low && self.what.contains(key)
    }

    /// Holds a change. Returns its size in bytes.
    pub fn hold(&mut self, change: Change) -> usize {
        let bytes = size_of::<Position>() + change.write.size_in_bytes();
        self.held.push((change.position, change.write));
        self.held_bytes += bytes;
        bytes
    }

    /// Size of the held changes in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The documents of the held changes.
    pub fn held_keys(&self) -> impl Iterator<Item = &Key> {
        self.held.iter().map(|(_, write)| &write.key)
    }

    /// Returns the held changes.
    pub fn into_held(self) -> Vec<(Position, Write)> {
        self.held
    }
}

impl Portion {
    /// Memory taken by the `_id`s of changed documents, in bytes.
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
