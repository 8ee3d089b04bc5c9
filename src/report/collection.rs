//! Status of each collection.

use std::fmt;

use bson::Uuid;
use serde::{Serialize, Serializer};

use crate::model::{Amount, Namespace, format};
use crate::report::IndexCounts;

/// Status of one collection at one moment; see [`MigrationHandle::collections`](crate::MigrationHandle::collections).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename = "collection")]
#[non_exhaustive]
pub struct CollectionStatus {
    /// The collection's uuid on the source. It stays the same when the collection is renamed.
    #[serde(serialize_with = "uuid")]
    pub id: Uuid,
    /// The collection's name on the source.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// The collection's name on the target.
    #[serde(serialize_with = "format::name")]
    pub target: Namespace,
    /// Current phase of the collection.
    pub phase: CollectionPhase,
    /// Documents and bytes copied since the migration began. A collection that is copied again begins at 0.
    pub copied: Amount,
    /// Documents and bytes that the collection had when it was listed.
    pub total: Amount,
    /// Documents and bytes that were compared with the target and still count as compared, or have changed since.
    pub compared: Amount,
    /// Whether every range was compared. Documents that have changed since are compared again later.
    pub all_compared: bool,
    /// Number of documents that differed when they were last compared.
    pub differences: u64,
    /// Changes sent to the target since this process began. Those of the last moments may still be on their way.
    pub applied: u64,
    /// Indexes built, being built, and in total.
    pub indexes: IndexCounts,
    /// The last error of this process that concerns the collection alone: a refused document, an index that could not be built, or a
    /// comparison that failed. It may have been resolved since.
    pub last_error: Option<String>,
}

/// Phase of one collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CollectionPhase {
    /// Nothing of it is copied yet. Its changes are dropped, because the copy will contain them.
    #[default]
    Waiting,
    /// Some of it is copied, or is being copied.
    Copying,
    /// All of it is copied and its changes are applied. Its indexes wait to be built.
    Copied,
    /// Its indexes are being built.
    Indexing,
    /// Everything is copied and indexed, except for indexes that could not be built. Its changes are applied.
    Following,
}

impl CollectionPhase {
    /// The phase's name in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Copied => "copied",
            Self::Indexing => "indexing",
            Self::Following => "following",
        }
    }
}

impl fmt::Display for CollectionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A uuid as text.
fn uuid<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}
