//! What the suite needs to write on a source.

use async_trait::async_trait;
use bson::raw::{RawBson, RawDocumentBuf};

use crate::error::Result;
use crate::model::Namespace;
use crate::source::Source;

/// A source, and a way to write on its side, such as a client of the same replica set.
///
/// Every method returns once what it did is majority-committed, so that the source must see it.
#[async_trait]
pub trait SourceFixture: Send + Sync {
    /// The source to check.
    fn source(&self) -> &dyn Source;

    /// Whether a snapshot at a position of seconds ago can be relied on. Default: it can.
    fn has_snapshots(&self) -> bool {
        true
    }

    /// Makes a collection or, with `viewOn`, a view.
    ///
    /// # Errors
    /// The implementation's own.
    async fn create_collection(&self, namespace: &Namespace, options: RawDocumentBuf) -> Result<()>;

    /// Builds an index.
    ///
    /// # Errors
    /// The implementation's own.
    async fn create_index(&self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<()>;

    /// Renames a collection within its database. The new name is free.
    ///
    /// # Errors
    /// The implementation's own.
    async fn rename_collection(&self, from: &Namespace, to: &Namespace) -> Result<()>;

    /// Drops a collection.
    ///
    /// # Errors
    /// The implementation's own.
    async fn drop_collection(&self, namespace: &Namespace) -> Result<()>;

    /// Makes the writes one by one. The collection exists.
    ///
    /// # Errors
    /// The implementation's own.
    async fn write(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()>;

    /// Makes the writes in one transaction. The collection exists.
    ///
    /// # Errors
    /// The implementation's own.
    async fn transaction(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()>;
}

/// One write on one document.
#[derive(Clone, Debug)]
pub enum FixtureWrite {
    /// Inserts a document, byte for byte. Its `_id` is new and comes first.
    Insert(RawDocumentBuf),
    /// Replaces the document that has the same `_id`.
    Replace(RawDocumentBuf),
    /// Sets a top-level field by an update, not by a replacement.
    Set {
        /// The document, which exists.
        id: RawBson,
        /// The field's name.
        field: &'static str,
        /// Its new value.
        value: i32,
    },
    /// Deletes a document.
    Delete {
        /// The document, which exists.
        id: RawBson,
    },
}
