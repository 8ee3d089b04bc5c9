//! Writes that other programs made to the target's collections during a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Namespace, Position};
use crate::report::ForeignWrites;

/// Maximum number of collections with writes of other programs that are named.
const MOST_NAMED: usize = 1000;

/// Number of such writes in each collection, and how much of the target's history they were looked for in.
#[derive(Debug, Default)]
pub(crate) struct ForeignWriteCounts {
    writes: Mutex<BTreeMap<Namespace, u64>>,
    /// Position in the target's history up to which all such writes are known, as far as they can be detected at all.
    known_until: Mutex<Option<Position>>,
    /// Position up to which such writes were counted by this run, or an earlier one of this process.
    counted_until: Mutex<Option<Position>>,
}

impl ForeignWriteCounts {
    /// Counts a write. Returns the number of such writes to this collection, or `None` if too many collections are recorded already.
    pub fn count(&self, namespace: &Namespace) -> Option<u64> {
        let mut known = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_NAMED && !known.contains_key(namespace) {
            return None;
        }
        let writes = known.entry(namespace.clone()).or_default();
        *writes += 1;
        Some(*writes)
    }

    /// Number of writes to all recorded collections.
    pub fn total(&self) -> u64 {
        self.writes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }

    /// Collections that other programs wrote to.
    pub fn all(&self) -> Vec<ForeignWrites> {
        let known = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(namespace, writes)| ForeignWrites {
                namespace: namespace.clone(),
                writes: *writes,
            })
            .collect()
    }

    /// Sets the position up to which the target's history was watched. `None` means that some writes may have been missed.
    pub fn set_known_until(&self, until: Option<Position>) {
        *self.known_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub fn known_until(&self) -> Option<Position> {
        *self.known_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the position up to which writes were counted.
    pub fn set_counted_until(&self, until: Position) {
        *self.counted_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub fn counted_until(&self) -> Option<Position> {
        *self.counted_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
