//! A range of documents in `_id` order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::order::Key;

/// The documents whose `_id` is greater than `lower` and at most `upper`, in the server's comparison order.
///
/// `None` leaves that side open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The greatest `_id` that is not in the range.
    pub lower: Option<Key>,
    /// The greatest `_id` that is in the range.
    pub upper: Option<Key>,
}

impl Range {
    /// Every document.
    pub const FULL: Range = Range {
        lower: None,
        upper: None,
    };

    /// Whether `key` lies in the range.
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
