//! Detects documents whose updates can reach the other members as a different change than the primary made: those with a name that occurs
//! twice, and those with an empty timestamp.
//!
//! Servers store such documents and never complain about them. From 5.0 on, however, they log an update as a diff of names. A change of a
//! repeated name then reaches the other members as a different change than the primary made. If a server has to compute the diff itself,
//! after an update with a pipeline, it aborts (5.0.4, 6.0.5).
//!
//! Members put the current time in place of empty timestamps (`Timestamp(0, 0)`) in a replacement that they read in the oplog. The server
//! logs one for an update with a pipeline unless the difference is smaller than the document.
//!
//! Where a document may be like that, it is examined before a delta is sent.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::raw::RawDocument;

use crate::model::Namespace;
use crate::order::{Element, Elements, RawValue, element_type};

/// Number of fields up to which each name is compared with each other name.
const MOST_COMPARED: usize = 24;

/// Collections that this process created and to which it has written only documents without repeated names and empty timestamps. Their
/// documents need not be examined before an update: a delta adds no repeated name to a document without one.
#[derive(Debug, Default)]
pub(super) struct UniqueNames(Mutex<HashSet<Namespace>>);

impl UniqueNames {
    pub fn hold_for(&self, namespace: &Namespace) -> bool {
        self.lock().contains(namespace)
    }

    /// Records that a collection was created and is empty.
    pub fn created(&self, namespace: &Namespace) {
        self.lock().insert(namespace.clone());
    }

    /// Forgets a collection. Returns `true` if none of its documents needed care.
    pub fn forget(&self, namespace: &Namespace) -> bool {
        self.lock().remove(namespace)
    }

    pub fn forget_database(&self, database: &str) {
        self.lock().retain(|namespace| namespace.database() != database);
    }

    /// Examines documents that are about to be written. This happens before the write, so that an update that follows sees the result.
    pub fn write<'a>(&self, namespace: &Namespace, documents: impl IntoIterator<Item = &'a RawDocument>) {
        if self.hold_for(namespace) && documents.into_iter().any(needs_care) {
            self.forget(namespace);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Namespace>> {
        // Each change is one call, so the set is consistent even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an update with a pipeline may reach the other members as another one: a name occurs twice in the document, or one of its
/// timestamps is empty.
pub(super) fn needs_care(document: &RawDocument) -> bool {
    let bytes = document.as_bytes();
    has_empty_timestamp(bytes) || has_repeated_names(bytes)
}

/// Whether a delta may leave a document that needs care.
pub(super) fn makes_care(delta: &RawDocument) -> bool {
    let bytes = delta.as_bytes();
    has_empty_timestamp_inside(bytes) || has_repeated_names(bytes)
}

/// Whether a top-level field is an empty timestamp. The server leaves those inside embedded documents, and an `_id`, as they are.
fn has_empty_timestamp(document: &[u8]) -> bool {
    Elements::of(document)
        .any(|element| matches!(element, Element::Field { name, value } if name != b"_id" && is_empty_timestamp(value)))
}

fn has_empty_timestamp_inside(document: &[u8]) -> bool {
    Elements::of(document).any(|element| match element {
        Element::Field { value, .. } => match value.element_type() {
            element_type::DOCUMENT | element_type::ARRAY => has_empty_timestamp_inside(value.bytes()),
            _ => is_empty_timestamp(value),
        },
        Element::Malformed(_) => false,
    })
}

pub(super) fn is_empty_timestamp(value: RawValue<'_>) -> bool {
    value.element_type() == element_type::TIMESTAMP && value.bytes() == [0; 8]
}

/// Whether a name occurs twice in the document or in one inside it.
pub(super) fn has_repeated_names(document: &[u8]) -> bool {
    let mut few: [&[u8]; MOST_COMPARED] = [&[]; MOST_COMPARED];
    let mut many: HashSet<&[u8]> = HashSet::new();
    for (count, element) in Elements::of(document).enumerate() {
        let Element::Field { name, value } = element else {
            return false;
        };
        let is_new = match few.get_mut(count) {
            Some(free) => {
                *free = name;
                !few.iter().take(count).any(|known| *known == name)
            }
            None => {
                if many.is_empty() {
                    many.extend(few);
                }
                many.insert(name)
            }
        };
        if !is_new || value_has_repeated_names(value.element_type(), value.bytes()) {
            return true;
        }
    }
    false
}

fn value_has_repeated_names(kind: u8, value: &[u8]) -> bool {
    match kind {
        element_type::DOCUMENT => has_repeated_names(value),
        element_type::ARRAY => Elements::of(value).any(|element| match element {
            Element::Field { value, .. } => value_has_repeated_names(value.element_type(), value.bytes()),
            Element::Malformed(_) => false,
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bson::raw::{CString, RawDocumentBuf};
    use bson::rawdoc;

    use super::*;

    fn named(names: impl IntoIterator<Item = String>) -> RawDocumentBuf {
        let names = names.into_iter().map(|name| CString::try_from(name).unwrap());
        names.map(|name| (name, 1)).collect()
    }

    #[test]
    fn repeated_names_are_found_at_any_depth_and_width() {
        let unique = |count: usize| (0..count).map(|number| format!("name{number}"));
        for count in [1, MOST_COMPARED - 1, MOST_COMPARED, MOST_COMPARED + 1, 500] {
            let plain = named(unique(count));
            assert!(!has_repeated_names(plain.as_bytes()), "{count}");
            for again in [0, count / 2, count - 1] {
                let twice = named(unique(count).chain([format!("name{again}")]));
                assert!(has_repeated_names(twice.as_bytes()), "{count}, {again}");
                let deep = rawdoc! { "a": [1, { "b": [[twice]] }] };
                assert!(has_repeated_names(deep.as_bytes()), "{count}, {again}");
            }
            let both = rawdoc! { "a": plain.clone(), "b": [plain.clone(), plain] };
            assert!(!has_repeated_names(both.as_bytes()), "{count}");
        }
    }

    #[test]
    fn empty_timestamps_at_the_top_need_care() {
        let empty = bson::Timestamp { time: 0, increment: 0 };
        for (document, expected) in [
            (rawdoc! { "_id": 1, "t": empty }, true),
            (rawdoc! { "_id": empty, "a": { "t": empty } }, false),
            (
                rawdoc! { "_id": 1, "t": bson::Timestamp { time: 0, increment: 1 }, "n": 0_i64 },
                false,
            ),
        ] {
            assert_eq!(needs_care(&document), expected, "{document:?}");
        }
        assert!(makes_care(&rawdoc! { "$v": 2, "diff": { "i": { "t": empty } } }));
        assert!(!makes_care(&rawdoc! { "$v": 2, "diff": { "i": { "t": 0 } } }));
    }

    #[test]
    fn names_are_unique_until_a_document_says_otherwise() {
        let names = UniqueNames::default();
        let (one, other) = (Namespace::new("d", "one"), Namespace::new("d", "other"));
        assert!(!names.hold_for(&one));
        names.created(&one);
        names.created(&other);
        names.write(&one, [&*rawdoc! { "a": 1 }]);
        assert!(names.hold_for(&one));
        names.write(&one, [&*rawdoc! { "a": 1, "b": { "c": 1, "c": 2 } }]);
        assert!(!names.hold_for(&one) && names.hold_for(&other));
        names.forget_database("d");
        assert!(!names.hold_for(&other));
    }
}
