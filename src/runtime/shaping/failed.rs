//! The documents that are missing on the target because a rule failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::checkpoint::FailedDocuments;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::order::Key;

/// Maximum number of documents. Their `_id`s are in memory and in each checkpoint.
pub(super) const MOST: usize = 100_000;

/// The `_id`s, by namespace.
#[derive(Debug, Default)]
pub(super) struct Failed(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    documents: BTreeMap<Namespace, BTreeSet<Key>>,
    count: usize,
}

impl Failed {
    /// Notes a document. Returns `true` if it was not noted before.
    ///
    /// # Errors
    /// [`Rule`](ErrorKind::Rule) if there are too many.
    pub fn note(&self, namespace: &Namespace, key: &Key) -> Result<bool> {
        let mut known = self.lock();
        if known.count >= MOST {
            return Err(Error::new(
                ErrorKind::Rule,
                "apply the rules",
                format!(
                    "they failed for {MOST} documents, the most that a run leaves out; correct them, and start again"
                ),
            )
            .with_context("namespace", namespace));
        }
        let is_new = known
            .documents
            .entry(namespace.clone())
            .or_default()
            .insert(key.clone());
        known.count += usize::from(is_new);
        Ok(is_new)
    }

    /// Forgets a document. Returns `true` if it was noted.
    pub fn remove(&self, namespace: &Namespace, key: &Key) -> bool {
        let mut known = self.lock();
        let Some(of_it) = known.documents.get_mut(namespace) else {
            return false;
        };
        let was_noted = of_it.remove(key);
        if of_it.is_empty() {
            known.documents.remove(namespace);
        }
        known.count -= usize::from(was_noted);
        was_noted
    }

    /// Forgets the documents of a namespace.
    pub fn forget(&self, namespace: &Namespace) {
        let mut known = self.lock();
        let forgotten = known.documents.remove(namespace).unwrap_or_default();
        known.count -= forgotten.len();
    }

    pub fn count_of(&self, namespace: &Namespace) -> usize {
        self.lock().documents.get(namespace).map_or(0, BTreeSet::len)
    }

    pub fn count(&self) -> usize {
        self.lock().count
    }

    pub fn records(&self) -> Vec<FailedDocuments> {
        let record = |(namespace, ids): (&Namespace, &BTreeSet<Key>)| FailedDocuments {
            namespace: namespace.clone(),
            ids: ids.iter().cloned().collect(),
        };
        self.lock().documents.iter().map(record).collect()
    }

    pub fn restore(&self, records: &[FailedDocuments]) {
        let mut known = self.lock();
        for record in records {
            let of_it = known.documents.entry(record.namespace.clone()).or_default();
            let before = of_it.len();
            of_it.extend(record.ids.iter().cloned());
            known.count += known.documents.get(&record.namespace).map_or(0, BTreeSet::len) - before;
        }
    }

    /// Those of the documents that are not noted here.
    pub fn others_of(&self, records: &[FailedDocuments]) -> Vec<FailedDocuments> {
        let known = self.lock();
        let others = |record: &FailedDocuments| {
            let noted = known.documents.get(&record.namespace);
            let is_other = |id: &&Key| noted.is_none_or(|noted| !noted.contains(*id));
            FailedDocuments {
                namespace: record.namespace.clone(),
                ids: record.ids.iter().filter(is_other).cloned().collect(),
            }
        };
        let others = records.iter().map(others);
        others.filter(|record| !record.ids.is_empty()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
