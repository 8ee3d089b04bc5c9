//! The oplog of the source: typed entries, delta updates, and a resumable cursor.
#![doc = include_str!("entries.md")]

pub(crate) mod assembler;
mod command;
pub mod delta;
mod display;
pub(crate) mod entry;
pub(crate) mod filter;
#[cfg(feature = "legacy")]
pub(crate) mod legacy;
mod namespaces;
mod parse;
mod raw_entry;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod table;

pub use crate::mongo::oplog::cursor::{OplogCursor, OplogCursorBuilder};
#[cfg(any(feature = "legacy", feature = "test-util"))]
pub(crate) use assembler::{Assembler, Taken};
pub use entry::{Command, CommandOperation, Entry, Item};
