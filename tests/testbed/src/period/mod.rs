//! Servers of earlier times, for tests of sources that cannot be had any more.
//!
//! A [`PeriodServer`] stands in front of a real 4.2 and makes it look like a 2.6, 3.0, 3.2, 3.4, 3.6 or 4.0. Clients
//! speak the wire protocol of the time to it: what has not changed passes, what the time did not know is refused
//! with its own errors, and what it did otherwise is rewritten: `isMaster`, the listings, the state of the set, and above
//! all the oplog.
//!
//! | file | what it does |
//! |---|---|
//! | `connection` | takes the messages of a client, and answers or passes each |
//! | `message` | the wire protocol |
//! | `commands` | what a version knows, and how it refuses the rest |
//! | `reply`, `catalog` | what a version answers, and its `system.namespaces` and `system.indexes` |
//! | `oplog`, `cursor` | a member's oplog as the version would have written it, and queries of it |
//! | `sequence`, `entry` | entries that became one, and the form of each entry |
//! | `login` | MONGODB-CR |
//! | `upstream` | the connection to the real server |
//! | `client` | a client of the time, for tests |
//! | `old_set` | a real set of the time, or one that looks like it |
//!
//! Each fake says where its form is from: *seen* means on a real 2.6.12 or 3.0.15, whose answers and entries are in
//! `tests/samples/oplog`; *read* means in the source code or the manual of the version.
//!
//! # What it cannot show
//! - The storage engine MMAPv1: documents that move, and queries that see one twice.
//! - Elections and rollbacks of protocol version 0, and timing.
//! - Updates without `$v` whose fields are not in the order of their names, since 4.2 sorts them.
//! - The command as the user sent it, where 4.2 keeps only its meaning: number types, aliases, options that it does not know.
//! - Options of a collection that 4.2 refuses (`autoIndexId: false`, `flags`), and its index keys and options.
//! - The entries of users' writes that 4.2 has not: transactions are shown to versions before 4.0 as an `applyOps`.
//! - The `drop` that 3.2 and 3.4 log before a `renameCollection` with `dropTarget`, since each time stamp has one entry.

mod catalog;
mod client;
mod commands;
mod connection;
mod cursor;
mod entry;
mod login;
mod message;
mod old_set;
mod oplog;
mod reply;
mod sequence;
mod server;
mod upstream;

use std::fmt;

pub use client::{OldClient, OldQuery, OldReply};
pub use old_set::OldSet;
pub use server::PeriodServer;

use crate::Version;

/// A version before those whose binaries can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// MongoDB 2.6.12.
    V2_6,
    /// MongoDB 3.0.15 with WiredTiger.
    V3_0,
    /// MongoDB 3.2.22.
    V3_2,
    /// MongoDB 3.4.21.
    V3_4,
    /// MongoDB 3.6.13 with its own feature compatibility version.
    V3_6,
    /// MongoDB 4.0.10 with its own feature compatibility version.
    V4_0,
}

impl Period {
    /// Every version, oldest first.
    pub const ALL: [Period; 6] = [
        Period::V2_6,
        Period::V3_0,
        Period::V3_2,
        Period::V3_4,
        Period::V3_6,
        Period::V4_0,
    ];

    /// The exact release, such as `2.6.12`.
    pub fn release(self) -> &'static str {
        self.version().release()
    }

    /// The release series, such as `2.6`.
    pub fn series(self) -> &'static str {
        self.version().series()
    }

    /// The version of a real server.
    pub fn version(self) -> Version {
        match self {
            Period::V2_6 => Version::V2_6,
            Period::V3_0 => Version::V3_0,
            Period::V3_2 => Version::V3_2,
            Period::V3_4 => Version::V3_4,
            Period::V3_6 => Version::V3_6,
            Period::V4_0 => Version::V4_0,
        }
    }

    /// The newest wire protocol that the version speaks. Seen: 2 and 3. Read: the others.
    pub fn wire_version(self) -> i32 {
        match self {
            Period::V2_6 => 2,
            Period::V3_0 => 3,
            Period::V3_2 => 4,
            Period::V3_4 => 5,
            Period::V3_6 => 6,
            Period::V4_0 => 7,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.release())
    }
}
