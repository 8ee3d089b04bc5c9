//! The router's state of each collection: chunks, indexes and verification. No server access.

pub(crate) mod collection;
pub(crate) mod collections;
pub(crate) mod held_changes;
pub(crate) mod index_work;
pub(crate) mod ranges;
pub(crate) mod verification;
