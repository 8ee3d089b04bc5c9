//! The source's oplog: typed entries, delta updates, and a cursor that resumes.
#![doc = include_str!("entries.md")]

mod command;
mod cursor;
pub mod delta;
pub(crate) mod entry;
mod parse;
pub(crate) mod position;
mod raw_entry;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod table;
mod tail;
pub(crate) mod assembler;

#[cfg(feature = "test-util")]
pub(crate) use assembler::{Assembler, Taken};
pub use cursor::{OplogCursor, OplogCursorBuilder};

pub use entry::{Command, CommandOperation, Entry, Item};
