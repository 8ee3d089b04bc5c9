//! Documents that the target refused for good.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use crate::model::Namespace;

/// Maximum number of refused documents named in the summary.
pub(crate) const MOST_NAMED: usize = 1000;

/// Number of all refused documents, and the first of them.
#[derive(Debug, Default)]
pub(crate) struct RefusedDocuments {
    count: AtomicU64,
    /// The namespace, and a text that says which document and why.
    named: Mutex<Vec<(Namespace, String)>>,
}

impl RefusedDocuments {
    /// Counts a document, and keeps the text unless too many are kept already.
    pub fn add(&self, namespace: Namespace, text: String) {
        self.count.fetch_add(1, Relaxed);
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < MOST_NAMED {
            named.push((namespace, text));
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Returns the texts about documents of a collection.
    pub fn of(&self, namespace: &Namespace) -> Vec<String> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named
            .iter()
            .filter(|(of, _)| of == namespace)
            .map(|(_, text)| text.clone())
            .collect()
    }
}
