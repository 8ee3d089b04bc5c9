//! Reads and writes BSON bytes in place.

pub(crate) mod batch_cursor;
pub(crate) mod record;
pub(crate) mod writer;
