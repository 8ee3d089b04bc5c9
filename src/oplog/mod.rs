//! The oplog of the source: typed entries, delta updates, and a resumable cursor.
#![doc = include_str!("entries.md")]

pub(crate) mod assembler;
mod command;
pub mod delta;
mod display;
pub(crate) mod entry;
pub(crate) mod filter;
#[cfg(feature = "legacy")]
#[allow(dead_code, reason = "only the source for such servers reads their oplog")]
pub(crate) mod legacy;
mod parse;
mod raw_entry;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod table;

pub use crate::mongo::oplog::cursor::{OplogCursor, OplogCursorBuilder};
#[cfg(any(feature = "legacy", feature = "test-util"))]
pub(crate) use assembler::{Assembler, Taken};
#[cfg(feature = "legacy")]
pub(crate) use raw_entry::without_field;
pub use entry::{Command, CommandOperation, Entry, Item};
