//! The messages of the wire protocol as bytes: requests that old servers understand, and their replies. Pure.

mod reply;
mod request;

pub(super) use self::reply::{Prefix, Reply};
pub(super) use self::request::{Query, QueryFlags, get_more, kill_cursors, query};

use crate::error::{Error, ErrorKind};

const OPERATION: &str = "read a reply of the server";

/// Size of a message's header in bytes: its length, its id, the id that it answers, and what it is.
const HEADER: usize = 16;

/// Maximum size of a message in bytes. Servers send and take 48,000,000; the rest is room for what surrounds a document of maximum size.
const MAX_MESSAGE: usize = 48_000_000 + 64 * 1024;

/// The error for bytes that no server sends.
fn malformed(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, what)
}
