//! Changes to documents.

use std::sync::Arc;

use bson::Uuid;
use bson::raw::RawDocumentBuf;

use crate::model::{Namespace, Position};
use crate::order::Key;

/// One logical operation on one document, at a position. The operations of a transaction become separate changes at its commit position.
#[derive(Clone, Debug)]
pub struct Change {
    /// The position in the source's history.
    pub position: Position,
    /// The UUID of the collection.
    pub collection: Uuid,
    /// The collection's name when the entry was written.
    pub namespace: Arc<Namespace>,
    /// The operation and the document it applies to.
    pub write: Write,
}

impl Change {
    /// Approximate memory used by this change, in bytes.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Change>() + self.write.size_in_bytes()
    }
}

/// A write to one document.
#[derive(Clone, Debug)]
pub struct Write {
    /// The document's `_id`.
    pub key: Key,
    /// The operation.
    pub operation: Operation,
}

impl Write {
    /// Approximate memory used by this write, in bytes.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Write>() + self.key.size_in_bytes() + self.operation.size_in_bytes()
    }
}

/// The kinds of writes.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Inserts the document, or replaces the one with the same `_id` if it exists.
    Insert(RawDocumentBuf),
    /// Replaces the document, or inserts it if none with its `_id` exists.
    Replace(RawDocumentBuf),
    /// Changes parts of the document: the `o` of an update entry in the format `$v: 1` or `$v: 2`, unchanged.
    Delta(RawDocumentBuf),
    /// Deletes the document. Does nothing if it does not exist.
    Delete,
}

impl Operation {
    fn size_in_bytes(&self) -> usize {
        match self {
            Self::Insert(document) | Self::Replace(document) | Self::Delta(document) => document.as_bytes().len(),
            Self::Delete => 0,
        }
    }
}
