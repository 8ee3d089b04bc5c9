//! The documents that are missing on the target because a rule failed.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::order::Key;

/// Maximum number of documents. Each takes 8 bytes, and as much again in a map.
const MOST: usize = 1_000_000;

/// Hashes of the `_id`s, by namespace.
#[derive(Debug, Default)]
pub(super) struct FailedDocuments(Mutex<BTreeMap<Namespace, HashSet<u64>>>);

/// Documents of one namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedRecord {
    pub namespace: Namespace,
    /// Hashes of their `_id`s.
    pub documents: Vec<i64>,
}

impl FailedDocuments {
    /// Notes a document. Returns `true` if it was not noted before.
    ///
    /// # Errors
    /// [`Rule`](ErrorKind::Rule) if there are too many.
    pub fn note(&self, namespace: &Namespace, key: &Key) -> Result<bool> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().map(HashSet::len).sum::<usize>() >= MOST {
            return Err(Error::new(
                ErrorKind::Rule,
                "apply the rules",
                format!("they failed for {MOST} documents, the most that a run leaves out; correct them, and start again"),
            )
            .with_context("namespace", namespace));
        }
        Ok(all.entry(namespace.clone()).or_default().insert(key.stable_hash()))
    }

    /// Forgets a document. Returns `true` if it was noted.
    pub fn remove(&self, namespace: &Namespace, key: &Key) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_it) = all.get_mut(namespace) else {
            return false;
        };
        let was_noted = of_it.remove(&key.stable_hash());
        if of_it.is_empty() {
            all.remove(namespace);
        }
        was_noted
    }

    pub fn any_of(&self, namespace: &Namespace) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(namespace)
    }

    pub fn count_of(&self, namespace: &Namespace) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(namespace).map_or(0, |of_it| of_it.len() as u64)
    }

    pub fn count(&self) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|of_it| of_it.len() as u64).sum()
    }

    pub fn forget(&self, namespace: &Namespace) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
    }

    pub fn records(&self) -> Vec<FailedRecord> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let record = |(namespace, documents): (&Namespace, &HashSet<u64>)| FailedRecord {
            namespace: namespace.clone(),
            documents: documents.iter().map(|hash| hash.cast_signed()).collect(),
        };
        all.iter().map(record).collect()
    }

    pub fn restore(&self, records: &[FailedRecord]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            let hashes = record.documents.iter().map(|hash| hash.cast_unsigned());
            all.entry(record.namespace.clone()).or_default().extend(hashes);
        }
    }
}
