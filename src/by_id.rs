//! Compares documents of both sides that are read by their `_id`s, some at a time.

use std::collections::HashMap;

use bson::raw::RawDocumentBuf;

use crate::order::Key;

/// So many documents are read at once at most.
const MOST_KEYS: usize = 500;

/// So many are read first, since nobody knows yet how large they are.
const FIRST_KEYS: usize = 8;

/// Documents to be read, as many at a time as take about so many bytes.
pub(crate) struct Portions<'a> {
    rest: &'a [Key],
    bytes: usize,
    size: usize,
}

impl<'a> Portions<'a> {
    pub fn of(keys: &'a [Key], bytes: usize) -> Self {
        Self {
            rest: keys,
            bytes,
            size: FIRST_KEYS,
        }
    }

    /// The next ones; `None` at the end.
    pub fn next(&mut self) -> Option<&'a [Key]> {
        let most = &self.rest[..self.size.min(self.rest.len())];
        let mut bytes = 0;
        let fits = |key: &&Key| {
            bytes += key.size_in_bytes();
            bytes <= self.bytes
        };
        // One fits into a command whatever its size.
        let count = most.iter().take_while(fits).count().max(1);
        let (keys, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(keys)
    }

    /// So many documents have taken so many bytes, which says how many are read next.
    pub fn took(&mut self, documents: usize, bytes: usize) {
        self.size = (self.bytes * documents / bytes.max(1)).clamp(1, MOST_KEYS);
    }

    /// Those that have not been read.
    pub fn rest(&self) -> &'a [Key] {
        self.rest
    }
}

/// A document that is not the same on both sides, as the source and the target have it.
pub(crate) type Pair = (Key, Option<RawDocumentBuf>, Option<RawDocumentBuf>);

/// The documents that are not the same, byte for byte.
pub(crate) fn differing(ours: Vec<RawDocumentBuf>, theirs: Vec<RawDocumentBuf>) -> Vec<Pair> {
    let keyed = |document: RawDocumentBuf| Some((Key::of_document(&document)?, document));
    let mut theirs: HashMap<Key, RawDocumentBuf> = theirs.into_iter().filter_map(keyed).collect();
    let mut found = Vec::new();
    for (key, ours) in ours.into_iter().filter_map(keyed) {
        match theirs.remove(&key) {
            Some(theirs) if theirs.as_bytes() == ours.as_bytes() => {}
            theirs => found.push((key, Some(ours), theirs)),
        }
    }
    found.extend(theirs.into_iter().map(|(key, theirs)| (key, None, Some(theirs))));
    found
}

/// The bytes of these documents.
pub(crate) fn bytes_of(documents: &[RawDocumentBuf]) -> usize {
    documents.iter().map(|document| document.as_bytes().len()).sum()
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};

    use super::*;

    fn key(id: i32) -> Key {
        Key::from(RawBsonRef::Int32(id))
    }

    #[test]
    fn portions_follow_the_size_of_what_was_read() {
        let keys: Vec<Key> = (0..2000).map(key).collect();
        let mut portions = Portions::of(&keys, 100_000);
        assert_eq!(portions.next().unwrap().len(), FIRST_KEYS);
        for (bytes_each, expected) in [(1_000, 100), (10, MOST_KEYS), (1_000_000, 1), (2_000, 50)] {
            portions.took(10, 10 * bytes_each);
            assert_eq!(portions.next().unwrap().len(), expected);
        }
        // None of them was there.
        portions.took(50, 0);
        let mut read = FIRST_KEYS + 100 + MOST_KEYS + 1 + 50;
        while let Some(keys) = portions.next() {
            read += keys.len();
        }
        assert_eq!((read, portions.rest().len()), (keys.len(), 0));
    }

    #[test]
    fn no_more_are_read_at_once_than_fit_into_a_command() {
        let first_of = |bytes: usize| {
            let id = "x".repeat(bytes);
            let keys = vec![Key::from(RawBsonRef::String(&id)); 20];
            Portions::of(&keys, 100_000).next().unwrap().len()
        };
        assert_eq!(first_of(10), FIRST_KEYS);
        assert_eq!(first_of(25_000), 3);
        assert_eq!(first_of(200_000), 1);
    }

    #[test]
    fn what_one_side_alone_has_differs_too() {
        let document = |id: i32, n: i32| rawdoc! { "_id": id, "n": n };
        let found = differing(
            vec![document(1, 1), document(2, 1), document(3, 1)],
            vec![document(4, 1), document(3, 1), document(2, 2)],
        );
        let expected = [
            (key(1), Some(document(1, 1)), None),
            (key(2), Some(document(2, 1)), Some(document(2, 2))),
            (key(4), None, Some(document(4, 1))),
        ];
        assert_eq!(found, expected);
    }
}
