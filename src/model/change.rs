//! Changes of documents.

use std::sync::Arc;

use bson::Uuid;
use bson::raw::RawDocumentBuf;

use crate::model::{Namespace, Position};
use crate::order::Key;

/// One logical operation on one document, at a position. Transactions are flattened into these at their commit position.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where in the source's history.
    pub position: Position,
    /// The collection's identity.
    pub collection: Uuid,
    /// The collection's name when the entry was written.
    pub namespace: Arc<Namespace>,
    /// What is done, to which document.
    pub write: Write,
}

impl Change {
    /// Bytes this change holds in memory, roughly.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Change>() + self.write.size_in_bytes()
    }
}

/// What is done to one document.
#[derive(Clone, Debug)]
pub struct Write {
    /// The document's `_id`.
    pub key: Key,
    /// What is done.
    pub operation: Operation,
}

impl Write {
    /// Bytes this write holds in memory, roughly.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Write>() + self.key.size_in_bytes() + self.operation.size_in_bytes()
    }
}

/// The kinds of write.
#[derive(Clone, Debug)]
pub enum Operation {
    /// The document was inserted. Where one with its `_id` exists it is replaced.
    Insert(RawDocumentBuf),
    /// The document was replaced as a whole. Where none with its `_id` exists it is inserted.
    Replace(RawDocumentBuf),
    /// Parts were changed: the `o` of an update entry, in the format `$v: 1` or `$v: 2`, unchanged.
    Delta(RawDocumentBuf),
    /// The document was deleted. Where there is none nothing happens.
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
