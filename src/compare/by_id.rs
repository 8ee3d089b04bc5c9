//! Compares documents that are read by `_id`, in portions.

use std::collections::HashMap;

use bson::raw::RawDocumentBuf;

use crate::order::Key;

/// Maximum number of documents in a portion.
const MOST_KEYS: usize = 500;

/// Size of the first portion, read before anything is known about the size of the documents.
const FIRST_KEYS: usize = 8;

/// Limits a portion to this many times what the expected document size allows, and to this many times the previous portion.
const MARGIN: usize = 4;

/// Splits documents to read into portions of about `bytes` bytes each.
pub(crate) struct Portions<'a> {
    rest: &'a [Key],
    bytes: usize,
    size: usize,
    most: usize,
}

impl<'a> Portions<'a> {
    /// Splits `keys` into portions. `document_bytes` is the approximate size of a document, or 0 if unknown.
    pub fn of(keys: &'a [Key], bytes: usize, document_bytes: usize) -> Self {
        // Do not rely on the portions read so far alone: their documents may be small or deleted, and the next ones large.
        let most = (MARGIN * bytes / document_bytes.max(1)).clamp(1, MOST_KEYS);
        Self {
            rest: keys,
            bytes,
            size: FIRST_KEYS.min(most),
            most,
        }
    }

    /// Limits portions to `documents` documents.
    pub fn at_most(mut self, documents: usize) -> Self {
        self.most = self.most.min(documents);
        self.size = self.size.min(self.most);
        self
    }

    /// Begins with a portion of `documents` documents, if it may be that large.
    pub fn begin_with(mut self, documents: usize) -> Self {
        self.size = documents.clamp(1, self.most);
        self
    }

    /// The next portion; `None` at the end.
    pub fn next(&mut self) -> Option<&'a [Key]> {
        let most = &self.rest[..self.size.min(self.rest.len())];
        let mut bytes = 0;
        let fits = |key: &&Key| {
            bytes += key.size_in_bytes();
            bytes <= self.bytes
        };
        // A single `_id` fits into a command whatever its size.
        let count = most.iter().take_while(fits).count().max(1);
        let (keys, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(keys)
    }

    /// Adjusts the size of the next portion: the last `documents` documents had `bytes` bytes.
    pub fn took(&mut self, documents: usize, bytes: usize) {
        let fitting = self.bytes * documents / bytes.max(1);
        self.size = fitting.clamp(1, self.most.min(MARGIN * self.size));
    }

    /// The documents that have not been read yet.
    pub fn rest(&self) -> &'a [Key] {
        self.rest
    }
}

/// A document that differs: its `_id`, and the document on the source and on the target.
pub(crate) type Pair = (Key, Option<RawDocumentBuf>, Option<RawDocumentBuf>);

/// Returns the documents that are not the same on both sides, byte for byte.
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

/// Total size of the documents in bytes.
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
        let mut portions = Portions::of(&keys, 100_000, 0);
        assert_eq!(portions.next().unwrap().len(), FIRST_KEYS);
        let mut read = FIRST_KEYS;
        for (bytes_each, expected) in [
            (10, 32),
            (10, 128),
            (1_000, 100),
            (10, 400),
            (10, MOST_KEYS),
            (1_000_000, 1),
        ] {
            portions.took(10, 10 * bytes_each);
            assert_eq!(portions.next().unwrap().len(), expected);
            read += expected;
        }
        // None of the documents exists.
        portions.took(1, 0);
        assert_eq!(portions.next().unwrap().len(), 4);
        while let Some(keys) = portions.next() {
            read += keys.len();
        }
        assert_eq!((read + 4, portions.rest().len()), (keys.len(), 0));
    }

    #[test]
    fn few_large_documents_are_read_at_once() {
        let keys: Vec<Key> = (0..100).map(key).collect();
        for (document_bytes, first, next) in [(1_000, FIRST_KEYS, 32), (50_000, FIRST_KEYS, 8), (200_000, 2, 2)] {
            let mut portions = Portions::of(&keys, 100_000, document_bytes);
            assert_eq!(portions.next().unwrap().len(), first);
            portions.took(first, 0);
            assert_eq!(portions.next().unwrap().len(), next);
        }
        let mut portions = Portions::of(&keys, 100_000, 0).at_most(20);
        for expected in [FIRST_KEYS, 20, 20] {
            assert_eq!(portions.next().unwrap().len(), expected);
            portions.took(expected, 0);
        }
    }

    #[test]
    fn no_more_are_read_at_once_than_fit_into_a_command() {
        let first_of = |bytes: usize| {
            let id = "x".repeat(bytes);
            let keys = vec![Key::from(RawBsonRef::String(&id)); 20];
            Portions::of(&keys, 100_000, 0).next().unwrap().len()
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
