//! What a checkpoint says about one collection.

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::model::{CollectionKind, Namespace, Position};
use crate::order::Key;

/// The progress of one collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CollectionState {
    /// The collection's uuid on the source.
    pub id: Uuid,
    /// Its name on the source.
    pub namespace: Namespace,
    /// Its name on the sink.
    pub target: Namespace,
    /// The sink's own uuid of the collection that this migration created. It tells that collection from one of the same name that another
    /// program created. `None` if it is not known yet.
    #[serde(default)]
    pub made: Option<Uuid>,
    /// The collection's kind.
    pub kind: CollectionKind,
    /// The source's options.
    pub options: RawDocumentBuf,
    /// The specifications of the source's indexes.
    pub indexes: Vec<RawDocumentBuf>,
    /// Whether the indexes have been built on the sink.
    pub indexed: bool,
    /// Number of documents on the source when the collection was listed.
    pub documents: u64,
    /// Number of bytes on the source when the collection was listed.
    pub bytes: u64,
    /// Number of documents copied so far.
    #[serde(default)]
    pub copied_documents: u64,
    /// Number of bytes copied so far.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Which ranges have been copied, in ascending order. The last range has no upper end.
    pub ranges: Vec<RangeState>,
    /// How far the collection has been verified; `None` if its verification starts over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<ComparedState>,
}

/// Verification state of one collection. It holds once everything up to the watermark is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComparedState {
    /// Every document up to this `_id` was compared and was the same on both sides. `None` if that is true of all documents.
    pub upper: Option<Key>,
    /// The compared documents that may have changed since.
    pub changed: Vec<Key>,
    /// The position of the range that was compared last; `None` if the collection was created during the migration.
    pub position: Option<Position>,
    /// Number of documents of the source that were compared.
    pub documents: u64,
    /// Number of bytes of these documents.
    pub bytes: u64,
}

/// A range that ends at `upper` and begins where the previous one ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RangeState {
    /// The greatest `_id` in the range; `None` if it has no upper end.
    pub upper: Option<Key>,
    /// The position that the range was read at; `None` if it has not been read yet.
    pub done: Option<Position>,
}
