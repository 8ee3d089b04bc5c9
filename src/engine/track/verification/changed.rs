//! The set of documents to compare again.

use std::collections::HashSet;

use crate::order::Key;

/// Documents that have changed since they were compared.
///
/// They are compared again a few at a time. Documents that are added in the meantime wait until all earlier ones have had their turn. So
/// documents that change all the time do not starve the others.
#[derive(Debug, Default)]
pub(crate) struct ChangedDocuments {
    /// Documents whose turn it is.
    turn: HashSet<Key>,
    waiting: HashSet<Key>,
    bytes: usize,
}

impl ChangedDocuments {
    /// Adds a document. Returns the additional memory in bytes.
    pub fn insert(&mut self, key: &Key) -> usize {
        if self.turn.contains(key) || self.waiting.contains(key) {
            return 0;
        }
        self.waiting.insert(key.clone());
        let bytes = bytes_of(key);
        self.bytes += bytes;
        bytes
    }

    /// Removes up to `most` documents, which are compared next.
    pub fn take(&mut self, most: usize) -> Vec<Key> {
        if self.turn.is_empty() {
            std::mem::swap(&mut self.turn, &mut self.waiting);
        }
        let taken: Vec<Key> = if self.turn.len() <= most {
            std::mem::take(&mut self.turn).into_iter().collect()
        } else {
            self.turn.iter().take(most).cloned().collect()
        };
        for key in &taken {
            self.turn.remove(key);
            self.bytes -= bytes_of(key);
        }
        taken
    }

    /// Gives back documents that were taken and not compared.
    pub fn give_back(&mut self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if !self.waiting.contains(&key) {
                let bytes = bytes_of(&key);
                if self.turn.insert(key) {
                    self.bytes += bytes;
                }
            }
        }
    }

    /// Whether any documents of the current turn are left.
    pub fn is_in_turn(&self) -> bool {
        !self.turn.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.turn.iter().chain(&self.waiting)
    }

    /// Memory taken by the `_id`s, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Memory taken by one `_id`, in bytes.
pub(super) fn bytes_of(key: &Key) -> usize {
    // A hash set needs about as much room again.
    key.size_in_bytes() * 2
}

#[cfg(test)]
mod tests {
    use bson::RawBsonRef;

    use super::*;

    fn key(id: i32) -> Key {
        Key::from(RawBsonRef::Int32(id))
    }

    fn sorted(keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
        let mut keys: Vec<Key> = keys.into_iter().collect();
        keys.sort();
        keys
    }

    #[test]
    fn what_changes_all_the_time_keeps_nothing_else_from_its_turn() {
        let mut changed = ChangedDocuments::default();
        let all: Vec<Key> = (0..100).map(key).collect();
        for key in &all {
            changed.insert(key);
        }
        let mut seen = Vec::new();
        for _ in 0..10 {
            let taken = changed.take(10);
            for key in &taken {
                changed.insert(key);
            }
            seen.extend(taken);
        }
        assert_eq!(sorted(seen), all);
        assert_eq!(sorted(changed.iter().cloned()), all);
    }

    #[test]
    fn its_bytes_are_those_of_what_it_has() {
        let mut changed = ChangedDocuments::default();
        let each = changed.insert(&key(0));
        assert!(each > 0);
        assert_eq!(changed.insert(&key(0)), 0);
        for id in 1..10 {
            changed.insert(&key(id));
        }
        let taken = changed.take(4);
        assert!(changed.is_in_turn());
        assert_eq!((taken.len(), changed.bytes()), (4, 6 * each));
        // One of them has changed again in the meantime.
        changed.insert(&taken[0]);
        changed.give_back(taken);
        assert_eq!((changed.iter().count(), changed.bytes()), (10, 10 * each));
        while !changed.take(3).is_empty() {}
        assert_eq!(changed.bytes(), 0);
    }
}
