//! Totals of a collection's comparisons.

use std::collections::HashSet;

use super::Compared;
use crate::compare::difference::Difference;
use crate::model::{Amount, Position};
use crate::order::Key;

/// Maximum number of differences named per collection.
const NAMED: usize = 1000;

/// Totals of what was compared and what differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VerifiedTotals {
    pub documents: u64,
    pub bytes: u64,
    /// The position of the range that was compared last.
    pub position: Option<Position>,
    /// The documents that differ, up to a maximum number.
    pub differences: Vec<Difference>,
    /// Total number of documents that differ.
    pub count: u64,
}

impl VerifiedTotals {
    /// Documents and bytes that were compared for the first time.
    pub fn amount(&self) -> Amount {
        Amount {
            documents: self.documents,
            bytes: self.bytes,
        }
    }

    /// Takes out the differences of documents that were compared again: they still exist, or were repaired. Returns those documents.
    pub fn take_out(&mut self, compared_again: &HashSet<Key>) -> HashSet<Key> {
        let mut known = HashSet::new();
        self.differences.retain(|difference| {
            let is_compared = compared_again.contains(&difference.key);
            if is_compared {
                known.insert(difference.key.clone());
            }
            !is_compared
        });
        self.count -= known.len() as u64;
        known
    }

    /// Adds the result of a comparison.
    pub fn add(&mut self, compared: &Compared) {
        self.documents += compared.documents;
        self.bytes += compared.bytes;
        self.count += compared.count;
        let room = NAMED.saturating_sub(self.differences.len());
        self.differences.extend(compared.differences.iter().take(room).cloned());
    }
}
