//! An amount of data.

/// An amount of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Documents.
    pub documents: u64,
    /// Bytes of uncompressed BSON.
    pub bytes: u64,
}
