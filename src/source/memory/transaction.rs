//! Transactions of the in-memory replica set: writes that become visible at one position.

use bson::raw::{RawBson, RawDocumentBuf};

use super::MemorySource;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Operation, Position, Write};
use crate::order::Key;

/// Collects the writes of a transaction. The commit finds out whether they can be made.
#[derive(Debug, Default)]
pub struct Transaction {
    writes: Vec<(Namespace, Write)>,
}

impl Transaction {
    /// Inserts a document.
    ///
    /// # Errors
    /// The name is malformed, or the document has no `_id`.
    pub fn insert(&mut self, namespace: &str, document: RawDocumentBuf) -> Result<()> {
        let key = key_of(&document)?;
        self.push(namespace, key, Operation::Insert(document))
    }

    /// Replaces the document with the same `_id`.
    ///
    /// # Errors
    /// The name is malformed, or the document has no `_id`.
    pub fn replace(&mut self, namespace: &str, document: RawDocumentBuf) -> Result<()> {
        let key = key_of(&document)?;
        self.push(namespace, key, Operation::Replace(document))
    }

    /// Applies a delta: the `o` of an update entry in the format `$v: 1` or `$v: 2`.
    ///
    /// # Errors
    /// The name is malformed.
    pub fn update(&mut self, namespace: &str, id: impl Into<RawBson>, delta: RawDocumentBuf) -> Result<()> {
        self.push(
            namespace,
            Key::from(id.into().as_raw_bson_ref()),
            Operation::Delta(delta),
        )
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// The name is malformed.
    pub fn delete(&mut self, namespace: &str, id: impl Into<RawBson>) -> Result<()> {
        self.push(namespace, Key::from(id.into().as_raw_bson_ref()), Operation::Delete)
    }

    pub(super) fn into_writes(self) -> Vec<(Namespace, Write)> {
        self.writes
    }

    fn push(&mut self, namespace: &str, key: Key, operation: Operation) -> Result<()> {
        self.writes.push((namespace.parse()?, Write { key, operation }));
        Ok(())
    }
}

/// A transaction whose first entry is in the history already. Its writes become visible when it commits. Dropping it aborts it.
#[derive(Debug)]
pub struct OpenTransaction {
    source: MemorySource,
    number: u64,
    first: Position,
    ended: bool,
}

impl OpenTransaction {
    pub(super) fn new(source: MemorySource, number: u64, first: Position) -> Self {
        Self {
            source,
            number,
            first,
            ended: false,
        }
    }

    /// Returns the position of its first entry.
    pub fn first_position(&self) -> Position {
        self.first
    }

    /// Makes the writes at one position and returns that position.
    ///
    /// # Errors
    /// The error of the closure, or of the first write that fails. The transaction is aborted in both cases.
    pub fn commit(mut self, write: impl FnOnce(&mut Transaction) -> Result<()>) -> Result<Position> {
        let mut transaction = Transaction::default();
        write(&mut transaction)?;
        let position = self
            .source
            .change(|state| state.write(transaction.into_writes(), Some(self.number)))?;
        self.ended = true;
        Ok(position)
    }

    /// Ends the transaction without effect.
    pub fn abort(self) {}
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if !self.ended {
            self.source.change(|state| state.abort(self.number));
        }
    }
}

fn key_of(document: &RawDocumentBuf) -> Result<Key> {
    Key::of_document(document).ok_or_else(|| Error::new(ErrorKind::Server, "write", "the document has no `_id`"))
}
