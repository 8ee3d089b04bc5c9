//! Reads the oplog of a server.

pub(crate) mod cursor;
pub(crate) mod position;
pub(crate) mod tail;
