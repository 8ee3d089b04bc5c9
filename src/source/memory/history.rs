//! What a test lets happen on the replica set in memory: each method appends to its history, or cuts it short.

use bson::raw::{RawBson, RawDocumentBuf};

use super::MemorySource;
use super::state::State;
use super::transaction::{OpenTransaction, Transaction};
use crate::error::Result;
use crate::model::Position;
use crate::oplog::CommandOperation;
use crate::test_util::lock;

impl MemorySource {
    /// Makes a collection, or a view when the options have `viewOn`.
    ///
    /// # Errors
    /// A malformed name, or one that is taken.
    pub fn create_collection(&self, namespace: &str, options: RawDocumentBuf) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.create(&namespace, options))
    }

    /// Makes an index.
    ///
    /// # Errors
    /// A missing collection, or a name that is taken.
    pub fn create_index(&self, namespace: &str, specification: RawDocumentBuf) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.create_index(&namespace, specification))
    }

    /// Drops an index.
    ///
    /// # Errors
    /// A missing collection or index.
    pub fn drop_index(&self, namespace: &str, name: &str) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.drop_index(&namespace, name))
    }

    /// Changes options by the fields of `collMod`.
    ///
    /// # Errors
    /// A missing collection or index.
    pub fn modify(&self, namespace: &str, arguments: RawDocumentBuf) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.modify(&namespace, arguments))
    }

    /// Drops a collection or view.
    ///
    /// # Errors
    /// A missing collection.
    pub fn drop_collection(&self, namespace: &str) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.drop(&namespace))
    }

    /// Drops a database: each collection by an entry of its own, then the database.
    ///
    /// # Errors
    /// None at present.
    pub fn drop_database(&self, database: &str) -> Result<Position> {
        self.change(|state| state.drop_database(database))
    }

    /// Renames a collection; one that has the new name is dropped in the same step.
    ///
    /// # Errors
    /// A missing collection, or a view that has the new name.
    pub fn rename(&self, from: &str, to: &str) -> Result<Position> {
        let (from, to) = (from.parse()?, to.parse()?);
        self.change(|state| state.rename(&from, &to))
    }

    /// Appends an entry that cannot be applied.
    pub fn unsupported(&self, namespace: &str, reason: &str) -> Position {
        let operation = CommandOperation::Unsupported {
            namespace: namespace.to_owned(),
            reason: reason.to_owned(),
        };
        self.change(|state| state.command(None, operation, RawDocumentBuf::new()))
    }

    /// Inserts a document. A missing collection is made first, by an entry of its own.
    ///
    /// # Errors
    /// An `_id` that is missing or exists.
    pub fn insert(&self, namespace: &str, document: RawDocumentBuf) -> Result<Position> {
        self.transaction(|transaction| transaction.insert(namespace, document))
    }

    /// Inserts documents by one entry each, and gives the position of the last.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); the documents before are inserted.
    pub fn insert_many(
        &self,
        namespace: &str,
        documents: impl IntoIterator<Item = RawDocumentBuf>,
    ) -> Result<Position> {
        let mut position = lock(&self.shared.state).newest();
        for document in documents {
            position = self.insert(namespace, document)?;
        }
        Ok(position)
    }

    /// Replaces the document that has the new one's `_id`.
    ///
    /// # Errors
    /// A missing document or collection.
    pub fn replace(&self, namespace: &str, document: RawDocumentBuf) -> Result<Position> {
        self.transaction(|transaction| transaction.replace(namespace, document))
    }

    /// Applies a delta, the `o` of an update entry in the format `$v: 1` or `$v: 2`.
    ///
    /// # Errors
    /// A missing document, or a delta that does not apply to it.
    pub fn update(&self, namespace: &str, id: impl Into<RawBson>, delta: RawDocumentBuf) -> Result<Position> {
        self.transaction(|transaction| transaction.update(namespace, id, delta))
    }

    /// Applies the delta `{$v: 2, diff: <diff>}`.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_v2(&self, namespace: &str, id: impl Into<RawBson>, diff: RawDocumentBuf) -> Result<Position> {
        self.update(namespace, id, bson::rawdoc! { "$v": 2, "diff": diff })
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// A missing document or collection.
    pub fn delete(&self, namespace: &str, id: impl Into<RawBson>) -> Result<Position> {
        self.transaction(|transaction| transaction.delete(namespace, id))
    }

    /// Writes at one position, by one entry, all or nothing.
    ///
    /// # Errors
    /// The closure's, or that of the first write that cannot be made.
    pub fn transaction(&self, write: impl FnOnce(&mut Transaction) -> Result<()>) -> Result<Position> {
        let mut transaction = Transaction::default();
        write(&mut transaction)?;
        self.change(|state| state.write(transaction.into_writes(), None))
    }

    /// Begins a transaction whose first entry is in the history before its commit, such as a prepared one. Until it ends, the resume
    /// position of every entry stays before its first.
    pub fn open_transaction(&self) -> OpenTransaction {
        let (number, first) = self.change(State::begin);
        OpenTransaction::new(self.clone(), number, first)
    }

    /// Appends an entry without effect.
    pub fn noop(&self) -> Position {
        self.change(|state| {
            let position = state.next_position();
            state.record(position, Vec::new());
            position
        })
    }

    /// Begins a new term, as an election does, by an entry without effect.
    pub fn elect(&self) -> Position {
        self.change(|state| {
            state.term += 1;
            let position = state.next_position();
            state.record(position, Vec::new());
            position
        })
    }

    /// Goes back to what it was at a position of its history and into a new term, as when a backup is restored: everything after it never
    /// happened. Options, indexes and views stay as they are.
    pub fn restore(&self, at: Position) {
        self.change(|state| state.restore(at));
    }
}
