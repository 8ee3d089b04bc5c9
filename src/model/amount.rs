//! Counts of documents and bytes.

use serde::Serialize;

/// An amount of data: documents and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Number of documents.
    pub documents: u64,
    /// Number of bytes of uncompressed BSON.
    pub bytes: u64,
}
