//! Positions in the history of a source.

use std::fmt;

use bson::Timestamp;
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

/// A position in the source's history: the `ts` and the term `t` of an oplog entry. Positions are totally ordered.
///
/// `Serialize` writes `{"t": <time>, "i": <increment>, "term": <term>}` into formats that people can read, and the names of the fields into
/// others, such as checkpoints. `Deserialize` reads both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Position {
    /// Seconds since the Unix epoch.
    #[serde(alias = "t")]
    pub time: u32,
    /// Number of the entry within its second, starting at 1.
    #[serde(alias = "i")]
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

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (time, increment) = match serializer.is_human_readable() {
            true => ("t", "i"),
            false => ("time", "increment"),
        };
        let mut fields = serializer.serialize_struct("Position", 3)?;
        fields.serialize_field(time, &self.time)?;
        fields.serialize_field(increment, &self.increment)?;
        fields.serialize_field("term", &self.term)?;
        fields.end()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_short_for_people_and_unchanged_in_checkpoints() {
        let position = Position {
            time: 7,
            increment: 2,
            term: -1,
        };
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(json, r#"{"t":7,"i":2,"term":-1}"#);
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
        let kept = bson::serialize_to_raw_document_buf(&position).unwrap();
        assert_eq!(
            kept,
            bson::rawdoc! { "time": 7_i64, "increment": 2_i64, "term": -1_i64 }
        );
        assert_eq!(
            bson::deserialize_from_slice::<Position>(kept.as_bytes()).unwrap(),
            position
        );
    }
}
