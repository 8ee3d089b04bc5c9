//! The router's books: what is known of each collection, its chunks, its indexes and its verification. Pure: no server, no clock.

pub(crate) mod collection;
pub(crate) mod collections;
pub(crate) mod held_changes;
pub(crate) mod index_work;
pub(crate) mod ranges;
pub(crate) mod verification;
