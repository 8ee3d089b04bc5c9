//! The newest position that a source has returned.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Position;

/// A position that does not go back, unless a run begins anew.
pub(in crate::mongo) struct Newest(Mutex<Position>);

impl Newest {
    pub fn new() -> Self {
        Self(Mutex::new(Position::ZERO))
    }

    pub fn get(&self) -> Position {
        *self.lock()
    }

    /// Remembers a position, and returns the newest one so far. A new primary may learn later than the old one what a majority has. A
    /// position that was committed once stays committed.
    pub fn note(&self, position: Position) -> Position {
        let mut known = self.lock();
        *known = position.max(*known);
        *known
    }

    /// Begins anew. The source may have been restored from a backup, so the position known before may belong to a history that no longer
    /// exists.
    pub fn begin(&self, position: Position) {
        *self.lock() = position;
    }

    fn lock(&self) -> MutexGuard<'_, Position> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
