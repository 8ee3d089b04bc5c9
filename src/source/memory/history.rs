//! Methods of the in-memory replica set that write to, or shorten, its history.

use bson::raw::{RawBson, RawDocumentBuf};

use super::MemorySource;
use super::state::State;
use super::transaction::{OpenTransaction, Transaction};
use crate::error::Result;
use crate::model::{Account, AccountName, Position};
use crate::oplog::CommandOperation;
use crate::test_util::lock;

impl MemorySource {
    /// Creates a collection, or a view if the options contain `viewOn`.
    ///
    /// # Errors
    /// The name is malformed or taken.
    pub fn create_collection(&self, namespace: &str, options: RawDocumentBuf) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.create(&namespace, options))
    }

    /// Creates a user or role, or replaces the one of the same name.
    pub fn put_account(&self, account: Account) -> Position {
        self.change(|state| {
            let accounts = &mut state.accounts.accounts;
            accounts.retain(|other| other.name() != account.name());
            accounts.push(account);
            state.record_change_of_users()
        })
    }

    /// Drops a user or role.
    pub fn drop_account(&self, name: &AccountName) -> Position {
        self.change(|state| {
            state.accounts.accounts.retain(|other| other.name() != name);
            state.record_change_of_users()
        })
    }

    /// Sets the user that the source is connected as.
    pub fn connect_as(&self, name: AccountName) {
        self.change(|state| state.accounts.own.insert(name));
    }

    /// Creates an index.
    ///
    /// # Errors
    /// The collection does not exist, or the index name is taken.
    pub fn create_index(&self, namespace: &str, specification: RawDocumentBuf) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.create_index(&namespace, specification))
    }

    /// Drops an index.
    ///
    /// # Errors
    /// The collection or index does not exist.
    pub fn drop_index(&self, namespace: &str, name: &str) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.drop_index(&namespace, name))
    }

    /// Changes options of a collection or index. `arguments` holds the fields of `collMod`.
    ///
    /// # Errors
    /// The collection or index does not exist.
    pub fn modify(&self, namespace: &str, arguments: RawDocumentBuf) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.modify(&namespace, arguments))
    }

    /// Drops a collection or view.
    ///
    /// # Errors
    /// The collection does not exist.
    pub fn drop_collection(&self, namespace: &str) -> Result<Position> {
        let namespace = namespace.parse()?;
        self.change(|state| state.drop(&namespace))
    }

    /// Drops a database. The history gets one entry for each collection and then one for the database.
    ///
    /// # Errors
    /// None at present.
    pub fn drop_database(&self, database: &str) -> Result<Position> {
        self.change(|state| state.drop_database(database))
    }

    /// Renames a collection. A collection that already has the new name is dropped in the same step.
    ///
    /// # Errors
    /// The collection does not exist, or a view has the new name.
    pub fn rename(&self, from: &str, to: &str) -> Result<Position> {
        let (from, to) = (from.parse()?, to.parse()?);
        self.change(|state| state.rename(&from, &to))
    }

    /// Appends an entry that a migration cannot apply.
    pub fn unsupported(&self, namespace: &str, reason: &str) -> Position {
        let operation = CommandOperation::Unsupported {
            namespace: namespace.to_owned(),
            reason: reason.to_owned(),
        };
        self.change(|state| state.command(None, operation, RawDocumentBuf::new()))
    }

    /// Inserts a document. A missing collection is created first, with a separate entry.
    ///
    /// # Errors
    /// The document has no `_id`, or the `_id` exists already.
    pub fn insert(&self, namespace: &str, document: RawDocumentBuf) -> Result<Position> {
        self.transaction(|transaction| transaction.insert(namespace, document))
    }

    /// Inserts documents with one entry each, and returns the position of the last entry.
    ///
    /// # Errors
    /// Same as [`insert`](Self::insert). Documents before the failing one stay inserted.
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

    /// Replaces the document with the same `_id`.
    ///
    /// # Errors
    /// The document or collection does not exist.
    pub fn replace(&self, namespace: &str, document: RawDocumentBuf) -> Result<Position> {
        self.transaction(|transaction| transaction.replace(namespace, document))
    }

    /// Applies a delta: the `o` of an update entry in the format `$v: 1` or `$v: 2`.
    ///
    /// # Errors
    /// The document does not exist, or the delta does not apply to it.
    pub fn update(&self, namespace: &str, id: impl Into<RawBson>, delta: RawDocumentBuf) -> Result<Position> {
        self.transaction(|transaction| transaction.update(namespace, id, delta))
    }

    /// Applies the delta `{$v: 2, diff: <diff>}`.
    ///
    /// # Errors
    /// Same as [`update`](Self::update).
    pub fn update_v2(&self, namespace: &str, id: impl Into<RawBson>, diff: RawDocumentBuf) -> Result<Position> {
        self.update(namespace, id, bson::rawdoc! { "$v": 2, "diff": diff })
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// The document or collection does not exist.
    pub fn delete(&self, namespace: &str, id: impl Into<RawBson>) -> Result<Position> {
        self.transaction(|transaction| transaction.delete(namespace, id))
    }

    /// Makes all writes at one position and in one entry, or none of them.
    ///
    /// # Errors
    /// The error of the closure, or of the first write that fails.
    pub fn transaction(&self, write: impl FnOnce(&mut Transaction) -> Result<()>) -> Result<Position> {
        let mut transaction = Transaction::default();
        write(&mut transaction)?;
        self.change(|state| state.write(transaction.into_writes(), None))
    }

    /// Begins a transaction whose first entry precedes its commit in the history, such as a prepared one. Until the transaction ends, the
    /// resume position of every entry stays before its first entry.
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

    /// Begins a new term with an entry without effect, as an election does.
    pub fn elect(&self) -> Position {
        self.change(|state| {
            state.term += 1;
            let position = state.next_position();
            state.record(position, Vec::new());
            position
        })
    }

    /// Restores the state at a position of its history and begins a new term, like restoring a backup. Everything after the position never
    /// happened. Options, indexes and views keep their current state.
    pub fn restore(&self, at: Position) {
        self.change(|state| state.restore(at));
    }
}
