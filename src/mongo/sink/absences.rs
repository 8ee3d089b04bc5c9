//! Collections in which most updates find no document, because a filter leaves most of the source's documents out.
//!
//! The target takes several times longer for an update that finds nothing than for one more `_id` in a read. In these collections, the
//! documents of updates are therefore looked for before the updates are sent.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Namespace;

/// Maximum number of collections. Beyond it, updates are sent without a look.
const MOST: usize = 10_000;

/// The collections, by what their last updates have found.
#[derive(Debug, Default)]
pub(super) struct Absences(Mutex<HashSet<Namespace>>);

impl Absences {
    /// Whether most documents are missing.
    pub fn are_usual_in(&self, namespace: &Namespace) -> bool {
        self.lock().contains(namespace)
    }

    /// Notes how many of the documents of some updates were missing.
    pub fn note(&self, namespace: &Namespace, missing: usize, updates: usize) {
        let are_usual = missing > updates / 2;
        let mut usual = self.lock();
        if !are_usual {
            usual.remove(namespace);
        } else if usual.len() < MOST {
            usual.insert(namespace.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Namespace>> {
        // Each change is one call, so the set is consistent even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_updates_say_whether_documents_are_usually_missing() {
        let (absences, namespace) = (Absences::default(), Namespace::new("shop", "orders"));
        assert!(!absences.are_usual_in(&namespace));
        absences.note(&namespace, 6, 10);
        assert!(absences.are_usual_in(&namespace));
        absences.note(&namespace, 5, 10);
        assert!(!absences.are_usual_in(&namespace));
        absences.note(&namespace, 1, 1);
        assert!(absences.are_usual_in(&namespace));
    }
}
