//! Comparison of documents on both sides.

pub(crate) mod by_id;
pub(crate) mod difference;
pub(crate) mod merge;
