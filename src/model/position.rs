//! Positions in the history of a source.

use std::fmt;

use bson::Timestamp;
use serde::{Deserialize, Serialize};

/// A position in the source's history: the `ts` and the term `t` of an oplog entry. Positions are totally ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Seconds since the Unix epoch.
    pub time: u32,
    /// Number of the entry within its second, starting at 1.
    pub increment: u32,
    /// The election term in which the entry was written.
    pub term: i64,
}

impl Position {
    /// The position before every entry.
    pub const ZERO: Position = Position {
        time: 0,
        increment: 0,
        term: -1,
    };

    /// Creates a position from the fields `ts` and `t` of an entry or optime.
    pub fn new(timestamp: Timestamp, term: i64) -> Self {
        Self {
            time: timestamp.time,
            increment: timestamp.increment,
            term,
        }
    }

    /// The `ts` part.
    pub fn timestamp(self) -> Timestamp {
        Timestamp {
            time: self.time,
            increment: self.increment,
        }
    }
}

impl Position {
    /// A position directly before this one: no entry lies between the two.
    pub(crate) fn predecessor(self) -> Position {
        let (time, increment) = match self.increment.checked_sub(1) {
            Some(increment) => (self.time, increment),
            None => (self.time.saturating_sub(1), u32::MAX),
        };
        Position {
            time,
            increment,
            term: self.term,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.time, self.increment, self.term)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
