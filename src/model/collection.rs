//! Collections and views, as a deployment lists them.

use std::fmt;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::model::Namespace;

/// A collection or view, as listed on one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Collection {
    /// The UUID that the server assigned to the collection. It does not change when the collection is renamed. Views have none; theirs is
    /// the nil UUID.
    pub id: Uuid,
    /// The name. A time-series collection is listed under the name of its buckets, `db.system.buckets.name`.
    pub namespace: Namespace,
    /// How the collection stores its documents, which decides how they can be read and written.
    pub kind: CollectionKind,
    /// The `options` of `listCollections`, unchanged.
    pub options: RawDocumentBuf,
    /// The specifications from `listIndexes`, unchanged, including the index on `_id`.
    pub indexes: Vec<RawDocumentBuf>,
    /// Number of documents according to the server's metadata. An estimate after an unclean shutdown.
    pub documents: u64,
    /// Bytes of uncompressed BSON according to the server's metadata.
    pub bytes: u64,
}

impl Collection {
    /// Creates an empty collection without options and indexes. The fields can be set afterwards.
    pub fn new(id: Uuid, namespace: Namespace, kind: CollectionKind) -> Self {
        Self {
            id,
            namespace,
            kind,
            options: RawDocumentBuf::new(),
            indexes: Vec::new(),
            documents: 0,
            bytes: 0,
        }
    }
}

/// How a collection stores its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CollectionKind {
    /// An ordinary index on `_id` in simple binary order. Any range of `_id` can be read on its own.
    Plain,
    /// A capped collection: insertion order is part of the data. It is one range, read in natural order.
    Capped,
    /// The index on `_id` is not in simple binary order, because the collection has a default collation, or does not exist. The collection
    /// is one range.
    Unordered,
    /// The documents are stored in `_id` order (`clusteredIndex`, 6.0), without a separate index on `_id`.
    Clustered,
    /// The buckets of a time-series collection, stored in `_id` order (5.0 and newer).
    TimeSeriesBuckets,
    /// Listed as a time-series collection, but without buckets. With a non-nil `id`, a time-series collection of 9.0 or newer, which cannot
    /// be migrated. With a nil `id`, a user-made view over the buckets of another collection, which is left out.
    TimeSeries,
    /// A view, which has no documents.
    View,
}

impl CollectionKind {
    /// The kind's name in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Capped => "capped",
            Self::Unordered => "unordered",
            Self::Clustered => "clustered",
            Self::TimeSeriesBuckets => "time_series_buckets",
            Self::TimeSeries => "time_series",
            Self::View => "view",
        }
    }

    /// Whether ranges of `_id` can be read, so that the collection can be copied in several chunks.
    pub fn has_ranges(self) -> bool {
        matches!(self, Self::Plain | Self::Clustered | Self::TimeSeriesBuckets)
    }
}

impl fmt::Display for CollectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether an existing collection on the target prevents a migrated one from using its name. An empty `system.js` does not: servers cannot
/// drop it, so dropping it only empties it.
pub(crate) fn takes_name(standing: &Collection) -> bool {
    standing.namespace.collection() != "system.js" || standing.documents > 0
}
