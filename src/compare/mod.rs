//! Comparing the documents of two sides.

pub(crate) mod by_id;
pub(crate) mod difference;
pub(crate) mod merge;
