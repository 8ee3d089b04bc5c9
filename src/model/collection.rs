//! A collection or view as a deployment lists it.

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::model::Namespace;

/// A collection or view as it stood on one side when it was listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    /// The server's identity of the collection: it stays through renames. Views have none; they carry a nil UUID.
    pub id: Uuid,
    /// Its name. A time-series collection is known by its buckets, `db.system.buckets.name`.
    pub namespace: Namespace,
    /// How its documents are kept, which decides how they can be read and written.
    pub kind: CollectionKind,
    /// The `options` of `listCollections`, unchanged.
    pub options: RawDocumentBuf,
    /// The specifications of `listIndexes`, the one on `_id` included, unchanged.
    pub indexes: Vec<RawDocumentBuf>,
    /// Documents, as the server's metadata counts them: an estimate after an unclean shutdown.
    pub documents: u64,
    /// Bytes of uncompressed BSON, as the server's metadata counts them.
    pub bytes: u64,
}

/// How the documents of a collection are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectionKind {
    /// Documents with an ordinary index on `_id` in simple binary order: any range can be read on its own.
    Plain,
    /// Insertion order is part of the data. One range, read in natural order.
    Capped,
    /// `_id` order is not the simple binary one, because the default collation is not. One range.
    Unordered,
    /// The collection is stored by `_id` itself (6.0 `clusteredIndex`), without an index on it.
    Clustered,
    /// The buckets of a time-series collection, stored by `_id` (5.0 and newer).
    TimeSeriesBuckets,
    /// What is listed as a time-series collection without buckets beside it: such a collection of 9.0 and newer, which cannot be
    /// migrated, or, with a nil `id`, a view that somebody made over the buckets of another one, which is left out.
    TimeSeries,
    /// A view: a definition without documents.
    View,
}

impl CollectionKind {
    /// Whether ranges of `_id` can be read, so that the collection can be copied in several chunks.
    pub fn has_ranges(self) -> bool {
        matches!(self, Self::Plain | Self::Clustered | Self::TimeSeriesBuckets)
    }
}

/// Whether a collection on the target holds its name against a migrated one. Stored functions cannot be dropped, so that those that were
/// leave an empty collection.
pub(crate) fn takes_name(standing: &Collection) -> bool {
    standing.namespace.collection() != "system.js" || standing.documents > 0
}
