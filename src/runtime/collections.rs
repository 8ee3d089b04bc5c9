//! The status of each collection, from the router to the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bson::Uuid;

use crate::model::{Namespace, SharedSlots};
use crate::report::CollectionStatus;

/// Maximum number of collections whose last error is kept.
const MOST_ERRORS: usize = 1000;

/// Maximum length of an error in bytes. Longer ones are truncated.
const LONGEST_ERROR: usize = 1000;

/// The status of each collection as the router last knew it. It stays when a run ends, until the next one begins to route.
#[derive(Debug, Default)]
pub(crate) struct CollectionStatuses {
    current: Mutex<SharedSlots<CollectionStatus>>,
    /// Last error of each collection, by its name on the source.
    errors: Mutex<HashMap<Namespace, String>>,
}

impl CollectionStatuses {
    /// Replaces the status of all collections.
    pub fn set(&self, statuses: SharedSlots<CollectionStatus>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = statuses;
    }

    /// Notes an error of a collection.
    pub fn note_error(&self, namespace: &Namespace, mut error: String) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < MOST_ERRORS || errors.contains_key(namespace) {
            let end = (0..=LONGEST_ERROR).rev().find(|end| error.is_char_boundary(*end));
            error.truncate(end.unwrap_or_default());
            errors.insert(namespace.clone(), error);
        }
    }

    /// Returns the status of all collections.
    pub fn all(&self) -> Vec<Arc<CollectionStatus>> {
        let statuses = self.current();
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let with_error = |status: &Arc<CollectionStatus>| {
            let mut status = Arc::clone(status);
            if !errors.is_empty()
                && let Some(error) = errors.get(&status.namespace)
            {
                Arc::make_mut(&mut status).last_error = Some(error.clone());
            }
            status
        };
        statuses.iter().map(with_error).collect()
    }

    /// Returns how many changes of each collection were applied so far, for the next run to count on.
    pub fn applied(&self) -> HashMap<Uuid, u64> {
        let statuses = self.current();
        let counted = statuses.iter().filter(|status| status.applied > 0);
        counted.map(|status| (status.id, status.applied)).collect()
    }

    fn current(&self) -> SharedSlots<CollectionStatus> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_bounded() {
        let statuses = CollectionStatuses::default();
        let orders = Namespace::new("shop", "orders");
        statuses.note_error(&orders, "é".repeat(LONGEST_ERROR));
        for number in 0..2 * MOST_ERRORS {
            statuses.note_error(&Namespace::new("shop", &format!("c{number}")), "refused".to_owned());
        }
        let of_orders = || statuses.errors.lock().unwrap()[&orders].clone();
        assert_eq!(statuses.errors.lock().unwrap().len(), MOST_ERRORS);
        assert_eq!(of_orders().len(), LONGEST_ERROR);
        statuses.note_error(&orders, "the last one".to_owned());
        assert_eq!(of_orders(), "the last one");
    }
}
