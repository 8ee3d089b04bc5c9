//! Puts transactions together that the source logged in several entries.
//!
//! A transaction of more than 16 MB is logged in parts, and a prepared one is logged before it is known whether it commits. The parts
//! have no effect of their own: they are kept as they came and become one entry at the position of the commit.

use std::collections::HashMap;
use std::mem::take;

use bson::DateTime;
use bson::raw::{RawDocument, RawDocumentBuf};

use crate::document::Position;
use crate::error::{Error, ErrorKind, Result};
use crate::oplog::entry::Entry;
use crate::oplog::parse::Parser;
use crate::oplog::raw::{OPERATION, RawEntry};

/// Turns raw oplog entries, given in order and without a gap, into committed steps of the history.
#[derive(Debug)]
pub(crate) struct Assembler {
    parser: Parser,
    /// The transactions that have begun and neither committed nor aborted, by the bytes of their session's id. A session has one
    /// transaction at a time.
    open: HashMap<Vec<u8>, Open>,
    /// Bytes of all parts kept.
    bytes: usize,
    /// How many bytes may be kept.
    limit: usize,
    /// The position of the entry that was taken last.
    last: Position,
}

/// A transaction that is neither committed nor aborted.
#[derive(Debug)]
struct Open {
    /// Its number within the session.
    number: Option<i64>,
    /// The position of the entry just before its first one: a tail that starts after it meets the whole transaction.
    before: Position,
    /// The position of its newest entry.
    last: Position,
    /// Where the part before the first one kept is, if there is one.
    previous: Option<Position>,
    /// Its entries, in order.
    parts: Vec<RawDocumentBuf>,
}

/// What taking an entry gave.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A step of the history.
    Entry(Entry),
    /// The entry ends a transaction of which an earlier part, at this position, was never seen, because the tail started after it. It must be
    /// [supplied](Assembler::supply), and then the same entry be given again.
    Missing(Position),
}

/// What an entry means for transactions.
enum Role {
    /// It stands for itself.
    Alone,
    /// It is a part that has no effect yet.
    Part,
    /// It is the last part, and commits.
    Last,
    /// It commits what was prepared.
    Commit,
    /// It undoes what was prepared, or the parts that a failed primary left.
    Abort,
}

impl Assembler {
    /// Starts after the entry at `after`, keeping at most `limit` bytes of parts.
    pub fn new(after: Position, limit: usize) -> Self {
        Self {
            parser: Parser::default(),
            open: HashMap::new(),
            bytes: 0,
            limit,
            last: after,
        }
    }

    /// The position of the entry that was taken last, or where it started.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Bytes of all parts kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The position to start after so that nothing that is not yielded yet is missed.
    pub fn resume(&self) -> Position {
        self.open
            .values()
            .map(|open| open.before)
            .fold(self.last, Position::min)
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) for bytes that no server writes, [`UnsupportedEntry`](ErrorKind::UnsupportedEntry) when open
    /// transactions take more memory than allowed.
    pub fn take(&mut self, raw: &RawDocument) -> Result<Taken> {
        let entry = RawEntry::read(raw)?;
        let position = entry.position()?;
        let mut items = Vec::new();
        let mut bytes = raw.as_bytes().len();
        let session = || entry.lsid.map(|lsid| lsid.as_bytes().to_vec()).unwrap_or_default();
        match role(&entry) {
            Role::Alone => self.parser.items(&entry, position, &mut items)?,
            Role::Part => {
                self.keep(session(), &entry, raw)?;
                // They are counted when the transaction commits.
                bytes = 0;
            }
            Role::Abort => self.forget(&session()),
            role @ (Role::Last | Role::Commit) => {
                let session = session();
                let open = self.continued(&session, &entry)?;
                if let Some(previous) = open.map_or(entry.previous, |open| open.previous) {
                    return Ok(Taken::Missing(previous));
                }
                let parts = self.close(&session);
                if parts.is_empty() {
                    return Err(inconsistent(position, "a transaction commits that never began"));
                }
                bytes += parts.iter().map(|part| part.as_bytes().len()).sum::<usize>();
                // Each part is freed as soon as it is read, so that a large transaction is not held twice.
                for part in parts {
                    self.parser.items(&RawEntry::read(&part)?, position, &mut items)?;
                }
                if let Role::Last = role {
                    self.parser.items(&entry, position, &mut items)?;
                }
            }
        }
        self.last = position;
        Ok(Taken::Entry(Entry {
            position,
            resume: self.resume(),
            wall: entry
                .wall
                .unwrap_or_else(|| DateTime::from_millis(i64::from(position.time) * 1000)),
            items,
            bytes,
        }))
    }

    /// Takes the part that [`Taken::Missing`] asked for, read from the oplog at that position.
    ///
    /// # Errors
    /// As [`take`](Self::take), and [`Protocol`](ErrorKind::Protocol) when it is no part of a transaction.
    pub fn supply(&mut self, raw: &RawDocument) -> Result<()> {
        let entry = RawEntry::read(raw)?;
        if !matches!(role(&entry), Role::Part) {
            return Err(inconsistent(
                entry.position()?,
                "a transaction names an entry as its part that is none",
            ));
        }
        let session = entry.lsid.map(|lsid| lsid.as_bytes().to_vec()).unwrap_or_default();
        self.make_room(&entry, raw)?;
        let (before, last) = (self.last, entry.position()?);
        let open = self.open.entry(session).or_insert_with(|| Open {
            number: entry.txn_number,
            before,
            last,
            previous: None,
            parts: Vec::new(),
        });
        open.parts.insert(0, raw.to_owned());
        open.previous = entry.previous;
        Ok(())
    }

    /// Keeps a part of a transaction, the first or a further one.
    fn keep(&mut self, session: Vec<u8>, entry: &RawEntry<'_>, raw: &RawDocument) -> Result<()> {
        let position = entry.position()?;
        self.continued(&session, entry)?;
        self.make_room(entry, raw)?;
        let before = self.last;
        let open = self.open.entry(session).or_insert_with(|| Open {
            number: entry.txn_number,
            before,
            last: position,
            previous: entry.previous,
            parts: Vec::new(),
        });
        open.last = position;
        open.parts.push(raw.to_owned());
        Ok(())
    }

    /// The open transaction that the entry goes on with, if parts of it were seen. One that the session left unfinished is forgotten.
    fn continued(&mut self, session: &[u8], entry: &RawEntry<'_>) -> Result<Option<&Open>> {
        if self
            .open
            .get(session)
            .is_some_and(|open| open.number != entry.txn_number)
        {
            self.forget(session);
        }
        let open = self.open.get(session);
        if let Some(open) = open.filter(|open| entry.previous != Some(open.last)) {
            return Err(inconsistent(
                entry.position()?,
                &format!("a part of a transaction does not follow the one at {}", open.last),
            ));
        }
        Ok(open)
    }

    fn make_room(&mut self, entry: &RawEntry<'_>, raw: &RawDocument) -> Result<()> {
        let bytes = self.bytes + raw.as_bytes().len();
        if bytes > self.limit {
            return Err(Error::new(
                ErrorKind::UnsupportedEntry,
                OPERATION,
                format!(
                    "the transactions open at this point need more than the {} bytes that may be kept; allow more with \
                     `transaction_bytes`",
                    self.limit
                ),
            )
            .with_context("position", entry.position()?));
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Ends a transaction and gives its parts.
    fn close(&mut self, session: &[u8]) -> Vec<RawDocumentBuf> {
        let mut open = self.open.remove(session);
        let parts = open.as_mut().map(|open| take(&mut open.parts)).unwrap_or_default();
        self.bytes -= parts.iter().map(|part| part.as_bytes().len()).sum::<usize>();
        parts
    }

    fn forget(&mut self, session: &[u8]) {
        drop(self.close(session));
    }
}

fn inconsistent(position: Position, message: &str) -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, message).with_context("position", position)
}

fn role(entry: &RawEntry<'_>) -> Role {
    if entry.op != "c" {
        return Role::Alone;
    }
    let is_set = |name: &str| entry.o.get_bool(name).is_ok_and(|set| set);
    match entry.first_name() {
        "applyOps" if is_set("partialTxn") || is_set("prepare") => Role::Part,
        "applyOps" if entry.previous.is_some() && !entry.groups_retryable_writes => Role::Last,
        "commitTransaction" => Role::Commit,
        "abortTransaction" => Role::Abort,
        _ => Role::Alone,
    }
}

#[cfg(test)]
mod tests;
