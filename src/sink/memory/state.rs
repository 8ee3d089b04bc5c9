//! State of the in-memory sink, with an undo log for what is not durable yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};

use super::super::{CatalogCommand, Refusal, RefusalReason};
use super::JournalEntry;
use super::unique::Index;
use crate::catalog::kind::kind_of;
use crate::catalog::{is_same_index, to_create};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Account, Accounts, Batch, Collection, CollectionKind, Namespace, Operation, Range, Write};
use crate::oplog::delta;
use crate::order::Key;
use crate::test_util::{Random, modified_options, modify_index};

pub(super) struct State {
    pub(super) random: Random,
    pub(super) collections: BTreeMap<Namespace, Table>,
    pub(super) records: BTreeMap<String, RawDocumentBuf>,
    /// Changes of these are durable at once.
    pub(super) accounts: Accounts,
    pub(super) journal: Vec<JournalEntry>,
    /// Undo log of everything since the last flush, in the order it was done.
    undo: Vec<Undo>,
    pub(super) primary_changed: bool,
    /// Number of flushes that have found a loss.
    pub(super) losses: u64,
    pub(super) batch_documents: usize,
}

pub(super) struct Table {
    id: Uuid,
    kind: CollectionKind,
    options: RawDocumentBuf,
    indexes: Vec<Index>,
    documents: BTreeMap<Key, Stored>,
    next_record: u64,
}

#[derive(Clone)]
struct Stored {
    /// Place in natural order.
    record: u64,
    document: RawDocumentBuf,
}

enum Undo {
    Document {
        namespace: Namespace,
        key: Key,
        before: Option<Stored>,
    },
    Collection {
        namespace: Namespace,
        before: Option<Table>,
    },
    /// To undo, the collection named `to` gets its old name `from` again.
    Rename { from: Namespace, to: Namespace },
    Settings {
        namespace: Namespace,
        options: RawDocumentBuf,
        indexes: Vec<RawDocumentBuf>,
    },
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            random: Random::new(0x51_4B),
            collections: BTreeMap::new(),
            records: BTreeMap::new(),
            accounts: Accounts::default(),
            journal: Vec::new(),
            undo: Vec::new(),
            primary_changed: false,
            losses: 0,
            batch_documents: usize::MAX,
        }
    }

    pub(super) fn put_account(&mut self, account: Account) {
        let accounts = &mut self.accounts.accounts;
        accounts.retain(|other| other.name() != account.name());
        accounts.push(account);
    }

    /// Makes everything done so far durable.
    pub(super) fn flush(&mut self) {
        self.undo.clear();
        self.journal.push(JournalEntry::Flushed);
    }

    /// Undoes everything that is not durable.
    pub(super) fn crash(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Document { namespace, key, before } => {
                    if let Some(table) = self.collections.get_mut(&namespace) {
                        table.swap(key, before);
                    }
                }
                Undo::Collection { namespace, before } => {
                    self.collections.remove(&namespace);
                    if let Some(table) = before {
                        self.collections.insert(namespace, table);
                    }
                }
                Undo::Rename { from, to } => {
                    if let Some(table) = self.collections.remove(&to) {
                        self.collections.insert(from, table);
                    }
                }
                Undo::Settings {
                    namespace,
                    options,
                    indexes,
                } => {
                    if let Some(table) = self.collections.get_mut(&namespace) {
                        table.options = options;
                        table.set_indexes(indexes);
                    }
                }
            }
        }
        self.primary_changed = true;
        self.journal.push(JournalEntry::Crashed);
    }

    /// Applies one write to one document, or returns why it cannot.
    pub(super) fn write(&mut self, namespace: &Namespace, write: &Write) -> Result<(), RefusalReason> {
        self.ensure(namespace);
        let Some(table) = self.collections.get_mut(namespace) else {
            return Ok(());
        };
        let before = table.documents.get(&write.key);
        let after = match (&write.operation, before) {
            (Operation::Insert(document) | Operation::Replace(document), _) => Some(document.clone()),
            (Operation::Delete, _) => None,
            (Operation::Delta(delta), Some(before)) => {
                Some(delta::apply(&before.document, delta).map_err(RefusalReason::from)?)
            }
            (Operation::Delta(_), None) => {
                return Err(RefusalReason::NoDocument("there is no such document".to_owned()));
            }
        };
        if let Some(document) = &after
            && let Some(index) = table.indexes.iter().find(|index| index.conflicts(&write.key, document))
        {
            return Err(RefusalReason::DuplicateKey(format!(
                "another document holds the key in the unique index {}",
                index.name()
            )));
        }
        let record = match before {
            Some(before) => before.record,
            None => {
                table.next_record += 1;
                table.next_record
            }
        };
        let before = table.swap(write.key.clone(), after.map(|document| Stored { record, document }));
        self.undo.push(Undo::Document {
            namespace: namespace.clone(),
            key: write.key.clone(),
            before,
        });
        Ok(())
    }

    /// Records in the journal that a write was refused.
    pub(super) fn refuse(&mut self, namespace: &Namespace, key: Key, index: usize, reason: RefusalReason) -> Refusal {
        self.journal.push(JournalEntry::Refused {
            namespace: namespace.clone(),
            key,
            reason: reason.clone(),
        });
        Refusal { index, reason }
    }

    pub(super) fn save_record(&mut self, name: &str, record: &RawDocumentBuf, expected: i64) -> bool {
        let fence_of = |record: &RawDocumentBuf| record.get_i64("fence").unwrap_or_default();
        let stored = self.records.get(name).map_or(0, fence_of);
        if stored != expected {
            return false;
        }
        self.records.insert(name.to_owned(), record.clone());
        self.journal.push(JournalEntry::RecordSaved {
            name: name.to_owned(),
            fence: fence_of(record),
        });
        true
    }

    pub(super) fn delete_record(&mut self, name: &str) {
        if self.records.remove(name).is_some() {
            self.journal.push(JournalEntry::RecordDeleted { name: name.to_owned() });
        }
    }

    pub(super) fn execute(&mut self, command: &CatalogCommand) {
        match command {
            CatalogCommand::Create {
                namespace,
                kind,
                options,
            } => self.create(namespace, *kind, options.clone()),
            CatalogCommand::Drop { namespace } => self.remove(namespace),
            CatalogCommand::DropDatabase { database } => {
                if database == crate::METADATA_DATABASE {
                    // As on a server, where the records are in that database.
                    self.records.clear();
                }
                let names: Vec<_> = self
                    .collections
                    .keys()
                    .filter(|name| name.database() == database)
                    .cloned()
                    .collect();
                for name in names {
                    self.remove(&name);
                }
            }
            CatalogCommand::Rename { from, to } => {
                if from != to && self.collections.contains_key(from) {
                    self.remove(to);
                    if let Some(table) = self.collections.remove(from) {
                        self.collections.insert(to.clone(), table);
                        self.undo.push(Undo::Rename {
                            from: from.clone(),
                            to: to.clone(),
                        });
                    }
                }
            }
            CatalogCommand::Modify { namespace, arguments } => {
                let before = self.settings(namespace);
                if let Some(table) = self.collections.get_mut(namespace) {
                    let mut indexes = table.specifications();
                    if modify_index(&mut indexes, arguments) {
                        table.options = modified_options(&table.options, arguments);
                        table.set_indexes(indexes);
                        self.undo.extend(before);
                    }
                }
            }
            CatalogCommand::DropIndex { namespace, name } => {
                let before = self.settings(namespace);
                if let Some(table) = self.collections.get_mut(namespace) {
                    table.indexes.retain(|index| index.name() != name);
                    self.undo.extend(before);
                }
            }
        }
        self.journal.push(JournalEntry::Executed(command.clone()));
    }

    pub(super) fn create_index(&mut self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        const OPERATION: &str = "build an index";
        let before = self.settings(namespace);
        let Some(table) = self.collections.get_mut(namespace) else {
            return Err(refused(OPERATION, namespace, "there is no such collection"));
        };
        let mut index = Index::new(specification.clone());
        if let Some(known) = table.indexes.iter().find(|known| known.name() == index.name()) {
            if is_same(&known.specification, specification) {
                return Ok(());
            }
            return Err(
                refused(OPERATION, namespace, "an index of this name has another specification")
                    .with_context("index", known.name()),
            );
        }
        for (key, stored) in &table.documents {
            if index.conflicts(key, &stored.document) {
                return Err(refused(OPERATION, namespace, "two documents have the same key")
                    .with_context("index", index.name())
                    .with_context("document", format!("{key:?}")));
            }
            index.add(key, &stored.document);
        }
        let name = index.name().to_owned();
        table.indexes.push(index);
        self.undo.extend(before);
        self.journal.push(JournalEntry::IndexBuilt {
            namespace: namespace.clone(),
            name,
        });
        Ok(())
    }

    pub(super) fn listed(&self) -> Vec<Collection> {
        self.collections
            .iter()
            .map(|(namespace, table)| Collection {
                id: table.id,
                namespace: namespace.clone(),
                kind: table.kind,
                options: table.options.clone(),
                indexes: table.specifications(),
                documents: table.documents.len() as u64,
                bytes: table
                    .documents
                    .values()
                    .map(|stored| stored.document.as_bytes().len() as u64)
                    .sum(),
            })
            .collect()
    }

    pub(super) fn identities(&self, names: &BTreeSet<Namespace>) -> BTreeMap<Namespace, Uuid> {
        let standing = names
            .iter()
            .filter_map(|name| Some((name, self.collections.get(name)?)));
        standing.map(|(name, table)| (name.clone(), table.id)).collect()
    }

    /// The documents after `after` in `_id` order, up to the limits, and the last key. The batch is empty at the end.
    pub(super) fn read_range(
        &self,
        namespace: &Namespace,
        range: &Range,
        after: Option<&Key>,
        batch_bytes: usize,
    ) -> (Batch, Option<Key>) {
        let mut batch = Batch::new();
        let mut last = None;
        let lower = after.or(range.lower.as_ref());
        let Some(table) = self.collections.get(namespace) else {
            return (batch, last);
        };
        if let (Some(lower), Some(upper)) = (lower, range.upper.as_ref())
            && lower >= upper
        {
            return (batch, last);
        }
        let bounds = (
            lower.map_or(Bound::Unbounded, Bound::Excluded),
            range.upper.as_ref().map_or(Bound::Unbounded, Bound::Included),
        );
        for (key, stored) in table.documents.range::<Key, _>(bounds) {
            if batch.len() >= self.batch_documents.max(1) || (!batch.is_empty() && batch.size_in_bytes() >= batch_bytes)
            {
                break;
            }
            last = Some(key.clone());
            batch.push(&stored.document);
        }
        (batch, last)
    }

    /// The documents in natural order.
    pub(super) fn natural(&self, namespace: &Namespace) -> Vec<RawDocumentBuf> {
        let Some(table) = self.collections.get(namespace) else {
            return Vec::new();
        };
        let mut found: Vec<_> = table.documents.values().collect();
        found.sort_by_key(|stored| stored.record);
        found.into_iter().map(|stored| stored.document.clone()).collect()
    }

    pub(super) fn documents(&self, namespace: &Namespace) -> Vec<RawDocumentBuf> {
        match self.collections.get(namespace) {
            Some(table) if table.kind == CollectionKind::Capped => self.natural(namespace),
            Some(table) => table.documents.values().map(|stored| stored.document.clone()).collect(),
            None => Vec::new(),
        }
    }

    pub(super) fn document(&self, namespace: &Namespace, key: &Key) -> Option<RawDocumentBuf> {
        let stored = self.collections.get(namespace)?.documents.get(key)?;
        Some(stored.document.clone())
    }

    /// Creates the collection if it does not exist, as a server does at the first write.
    fn ensure(&mut self, namespace: &Namespace) {
        if !self.collections.contains_key(namespace) {
            self.create(
                namespace,
                kind_of(namespace, &RawDocumentBuf::new()),
                RawDocumentBuf::new(),
            );
            self.journal.push(JournalEntry::ImplicitlyCreated {
                namespace: namespace.clone(),
            });
        }
    }

    fn create(&mut self, namespace: &Namespace, kind: CollectionKind, options: RawDocumentBuf) {
        if self.collections.contains_key(namespace) {
            return;
        }
        let has_id_index = matches!(
            kind,
            CollectionKind::Plain | CollectionKind::Capped | CollectionKind::Unordered
        );
        let given = options.get_document("idIndex").map(ToOwned::to_owned).ok();
        let by_default = || bson::rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
        let id_index = has_id_index.then(|| Index::new(given.unwrap_or_else(by_default)));
        let options = to_create(&options, &[]);
        let id = match kind {
            CollectionKind::View => Uuid::from_bytes([0; 16]),
            _ => self.random.uuid(),
        };
        let table = Table {
            id,
            kind,
            options,
            indexes: id_index.into_iter().collect(),
            documents: BTreeMap::new(),
            next_record: 0,
        };
        self.collections.insert(namespace.clone(), table);
        self.undo.push(Undo::Collection {
            namespace: namespace.clone(),
            before: None,
        });
    }

    fn remove(&mut self, namespace: &Namespace) {
        if let Some(table) = self.collections.remove(namespace) {
            self.undo.push(Undo::Collection {
                namespace: namespace.clone(),
                before: Some(table),
            });
        }
    }

    fn settings(&self, namespace: &Namespace) -> Option<Undo> {
        let table = self.collections.get(namespace)?;
        Some(Undo::Settings {
            namespace: namespace.clone(),
            options: table.options.clone(),
            indexes: table.specifications(),
        })
    }
}

impl Table {
    pub(super) fn kind(&self) -> CollectionKind {
        self.kind
    }

    /// Replaces the stored document, in the indexes too, and returns the old one.
    fn swap(&mut self, key: Key, after: Option<Stored>) -> Option<Stored> {
        let before = self.documents.remove(&key);
        for index in &mut self.indexes {
            if let Some(stored) = &before {
                index.remove(&stored.document);
            }
            if let Some(stored) = &after {
                index.add(&key, &stored.document);
            }
        }
        if let Some(stored) = after {
            self.documents.insert(key, stored);
        }
        before
    }

    fn specifications(&self) -> Vec<RawDocumentBuf> {
        self.indexes.iter().map(|index| index.specification.clone()).collect()
    }

    fn set_indexes(&mut self, specifications: Vec<RawDocumentBuf>) {
        self.indexes = specifications.into_iter().map(Index::new).collect();
        for index in &mut self.indexes {
            for (key, stored) in &self.documents {
                index.add(key, &stored.document);
            }
        }
    }
}

fn refused(operation: &'static str, namespace: &Namespace, message: &'static str) -> Error {
    Error::new(ErrorKind::TargetRefused, operation, message).with_context("namespace", namespace)
}

/// Whether a server treats the two specifications as the same index. It ignores whether an index is hidden.
fn is_same(one: &RawDocument, other: &RawDocument) -> bool {
    let unhidden = |index: &RawDocument| {
        let mut kept = RawDocumentBuf::new();
        let fields = index.iter().filter_map(std::result::Result::ok);
        for (name, value) in fields.filter(|(name, _)| *name != "hidden") {
            kept.append(name, value);
        }
        kept
    };
    is_same_index(&unhidden(one), &unhidden(other))
}
