//! How the changes held for a durable chunk are sent on.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::messages::Finished;
use crate::engine::track::held_changes::HeldChanges;
use crate::model::{CollectionKind, CollectionMapping, Position, Write};
use crate::order::Key;

/// Limit in bytes for the `_id`s that are sent to the appliers for one refetch.
const REFETCH_BYTES: usize = 256 << 10;

/// The changes held for a durable chunk, and the rules by which they are sent on.
#[derive(Debug)]
pub(crate) struct Replay {
    pub target: Arc<CollectionMapping>,
    pub held: HeldChanges,
    pub rules: ReplayRules,
}

/// Decides about each held change of a chunk, in order.
#[derive(Debug)]
pub(crate) struct ReplayRules {
    /// Last `_id` that was read; `None` if the whole range was.
    last: Option<Key>,
    /// An interval read may or may not have seen changes up to here.
    refetch_until: Position,
    /// Documents to refetch before the next change is sent.
    refetch: BTreeSet<Key>,
    refetch_bytes: usize,
}

/// What is done with a held change.
#[derive(Debug)]
#[must_use]
pub(crate) enum ReplayStep {
    /// Nothing for now.
    Nothing,
    /// Refetch these documents.
    Refetch(BTreeSet<Key>),
    /// Refetch these documents, if there are any, and send the change behind that.
    Send { refetch: BTreeSet<Key>, write: Write },
}

impl ReplayRules {
    /// Returns the rules for a chunk of a collection of this kind.
    pub fn new(finished: Finished, kind: CollectionKind) -> Self {
        Self {
            last: finished.last,
            // The changed documents are read again. In a capped collection only inserts matter, and sending all changes again in order
            // gives the same result.
            refetch_until: finished
                .high
                .filter(|_| kind != CollectionKind::Capped)
                .unwrap_or(Position::ZERO),
            refetch: finished.refused.into_iter().collect(),
            refetch_bytes: 0,
        }
    }

    /// Decides about the next held change.
    pub fn step(&mut self, position: Position, write: Write) -> ReplayStep {
        // Documents above the last one that was read are in a later chunk's snapshot.
        if self.last.as_ref().is_some_and(|last| write.key > *last) {
            return ReplayStep::Nothing;
        }
        if position > self.refetch_until {
            let refetch = std::mem::take(&mut self.refetch);
            return ReplayStep::Send { refetch, write };
        }
        self.refetch_bytes += write.key.size_in_bytes();
        self.refetch.insert(write.key);
        if self.refetch_bytes < REFETCH_BYTES {
            return ReplayStep::Nothing;
        }
        self.refetch_bytes = 0;
        // A document that changes once more is refetched once more.
        ReplayStep::Refetch(std::mem::take(&mut self.refetch))
    }

    /// Returns the documents that remain to be refetched after the last change.
    pub fn end(self) -> BTreeSet<Key> {
        self.refetch
    }
}
