//! The `SourceFixture` trait: how the suite writes to a source.

use async_trait::async_trait;
use bson::raw::{RawBson, RawDocumentBuf};

use crate::error::Result;
use crate::model::Namespace;
use crate::source::Source;

/// A source, together with a way to write to its deployment, such as a client of the same replica set.
///
/// Every method returns only once its effect is majority-committed, so the source must see it.
#[async_trait]
pub trait SourceFixture: Send + Sync {
    /// Returns the source to check.
    fn source(&self) -> &dyn Source;

    /// Whether the source can always read a snapshot at a position that is a few seconds old. Default: `true`.
    fn has_snapshots(&self) -> bool {
        true
    }

    /// Creates a collection, or a view if the options contain `viewOn`.
    ///
    /// # Errors
    /// An error of the implementation.
    async fn create_collection(&self, namespace: &Namespace, options: RawDocumentBuf) -> Result<()>;

    /// Builds an index.
    ///
    /// # Errors
    /// An error of the implementation.
    async fn create_index(&self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<()>;

    /// Renames a collection within its database. The new name is free.
    ///
    /// # Errors
    /// An error of the implementation.
    async fn rename_collection(&self, from: &Namespace, to: &Namespace) -> Result<()>;

    /// Drops a collection.
    ///
    /// # Errors
    /// An error of the implementation.
    async fn drop_collection(&self, namespace: &Namespace) -> Result<()>;

    /// Makes the writes one by one. The collection exists.
    ///
    /// # Errors
    /// An error of the implementation.
    async fn write(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()>;

    /// Makes the writes in one transaction. The collection exists.
    ///
    /// # Errors
    /// An error of the implementation.
    async fn transaction(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()>;
}

/// One write to one document.
#[derive(Clone, Debug)]
pub enum FixtureWrite {
    /// Inserts a document, byte for byte. Its `_id` is new and comes first.
    Insert(RawDocumentBuf),
    /// Replaces the document with the same `_id`.
    Replace(RawDocumentBuf),
    /// Sets a top-level field with an update, not with a replacement.
    Set {
        /// The `_id` of the document, which exists.
        id: RawBson,
        /// The field's name.
        field: &'static str,
        /// Its new value.
        value: i32,
    },
    /// Deletes a document.
    Delete {
        /// The `_id` of the document, which exists.
        id: RawBson,
    },
}
