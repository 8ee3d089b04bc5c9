//! Ranges of documents in `_id` order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::order::Key;

/// The documents whose `_id` is greater than `lower` and not greater than `upper`, in the server's comparison order.
///
/// A bound of `None` leaves its side open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Exclusive lower bound.
    pub lower: Option<Key>,
    /// Inclusive upper bound.
    pub upper: Option<Key>,
}

impl Range {
    /// The range of all documents.
    pub const FULL: Range = Range {
        lower: None,
        upper: None,
    };

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &Key) -> bool {
        self.lower.as_ref().is_none_or(|lower| key > lower) && self.upper.as_ref().is_none_or(|upper| key <= upper)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lower {
            Some(key) => write!(f, "({key:?}, ")?,
            None => f.write_str("(.., ")?,
        }
        match &self.upper {
            Some(key) => write!(f, "{key:?}]"),
            None => f.write_str("..)"),
        }
    }
}
