//! Detects names that occur twice in one document.
//!
//! Servers store such documents and never complain about them. From 5.0 on, however, they log an update as a diff of names. A change of a
//! repeated name then reaches the other members as a different change than the primary made. If a server has to compute the diff itself,
//! after an update with a pipeline, it aborts (5.0.4, 6.0.5). Where a document may contain such names, it is examined before a delta is
//! sent.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::raw::RawDocument;

use crate::model::Namespace;
use crate::order::{Element, Elements, element_type};

/// Number of fields up to which each name is compared with each other name.
const MOST_COMPARED: usize = 24;

/// Collections that this process created and to which it has written only documents without repeated names. Their documents need not be
/// examined before an update: a delta adds no repeated name to a document without one.
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

    /// Forgets a collection. Returns `true` if names were unique in it.
    pub fn forget(&self, namespace: &Namespace) -> bool {
        self.lock().remove(namespace)
    }

    pub fn forget_database(&self, database: &str) {
        self.lock().retain(|namespace| namespace.database() != database);
    }

    /// Examines documents that are about to be written. This happens before the write, so that an update that follows sees the result.
    pub fn write<'a>(&self, namespace: &Namespace, documents: impl IntoIterator<Item = &'a RawDocument>) {
        if self.hold_for(namespace)
            && documents
                .into_iter()
                .any(|document| has_repeated_names(document.as_bytes()))
        {
            self.forget(namespace);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Namespace>> {
        // Each change is one call, so the set is consistent even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
