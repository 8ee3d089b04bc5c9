//! The source's oplog: typed entries, delta updates, and a cursor that resumes.
#![doc = include_str!("entries.md")]

mod command;
mod cursor;
pub mod delta;
mod entry;
mod parse;
pub(crate) mod position;
mod raw;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod table;
mod tail;
mod transaction;

pub use cursor::{OplogCursor, OplogCursorBuilder};
#[cfg(feature = "test-util")]
pub(crate) use transaction::{Assembler, Taken};

pub use entry::{Command, CommandOperation, Entry, Item};
