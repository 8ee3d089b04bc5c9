//! Puts transactions together that the source logged in several entries.
//!
//! A transaction of more than 16 MB is logged in parts, and a prepared one is logged before it is known whether it commits. The parts
//! have no effect of their own: they are kept as they came and become one entry at the position of the commit. From 7.0 on servers log
//! large batches of writes in the same way without a session: each part names the one before it, and that alone says what belongs
//! together.

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
    /// The transactions that have begun and neither committed nor aborted.
    open: HashMap<Owner, Open>,
    /// Bytes of all parts kept.
    bytes: usize,
    /// How many bytes may be kept.
    limit: usize,
    /// The position of the entry that was taken last.
    last: Position,
}

/// What the entries of one transaction have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// The bytes of its session's id. A session has one transaction at a time.
    Session(Vec<u8>),
    /// The position of its newest part, where there is no session.
    Chain(Position),
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
        if position.term > self.last.term {
            self.forget_chains();
        }
        match role(&entry) {
            Role::Alone => self.parser.items(&entry, position, &mut items)?,
            Role::Part => {
                self.keep(&entry, raw)?;
                // They are counted when the transaction commits.
                bytes = 0;
            }
            Role::Abort => self.forget(&owner(&entry)?),
            role @ (Role::Last | Role::Commit) => {
                let owner = owner(&entry)?;
                let open = self.continued(&owner, &entry)?;
                if let Some(previous) = open.map_or(entry.previous, |open| open.previous) {
                    return Ok(Taken::Missing(previous));
                }
                let parts = self.close(&owner);
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
        let (before, position) = (self.last, entry.position()?);
        self.make_room(&entry, raw)?;
        let owner = match entry.lsid {
            Some(_) => owner(&entry)?,
            // It is the part before the first one of what is kept, or the newest of which anything is known.
            None => self
                .open
                .iter()
                .find(|(_, open)| open.previous == Some(position))
                .map_or(Owner::Chain(position), |(owner, _)| owner.clone()),
        };
        let open = self.open.entry(owner).or_insert_with(|| Open {
            number: entry.txn_number,
            before,
            last: position,
            previous: None,
            parts: Vec::new(),
        });
        open.parts.insert(0, raw.to_owned());
        open.previous = entry.previous;
        Ok(())
    }

    /// Keeps a part of a transaction, the first or a further one.
    fn keep(&mut self, entry: &RawEntry<'_>, raw: &RawDocument) -> Result<()> {
        let position = entry.position()?;
        let mut owner = owner(entry)?;
        self.continued(&owner, entry)?;
        self.make_room(entry, raw)?;
        let mut open = self.open.remove(&owner).unwrap_or_else(|| Open {
            number: entry.txn_number,
            before: self.last,
            last: position,
            previous: entry.previous,
            parts: Vec::new(),
        });
        open.last = position;
        open.parts.push(raw.to_owned());
        if let Owner::Chain(newest) = &mut owner {
            *newest = position;
        }
        self.open.insert(owner, open);
        Ok(())
    }

    /// The open transaction that the entry goes on with, if parts of it were seen. One that the session left unfinished is forgotten.
    fn continued(&mut self, owner: &Owner, entry: &RawEntry<'_>) -> Result<Option<&Open>> {
        if self.open.get(owner).is_some_and(|open| open.number != entry.txn_number) {
            self.forget(owner);
        }
        let open = self.open.get(owner);
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
    fn close(&mut self, owner: &Owner) -> Vec<RawDocumentBuf> {
        let mut open = self.open.remove(owner);
        let parts = open.as_mut().map(|open| take(&mut open.parts)).unwrap_or_default();
        self.bytes -= parts.iter().map(|part| part.as_bytes().len()).sum::<usize>();
        parts
    }

    fn forget(&mut self, owner: &Owner) {
        drop(self.close(owner));
    }

    /// Forgets what has no session and was not finished by the primary that began it: no other primary goes on with it or aborts it.
    fn forget_chains(&mut self) {
        let unfinished = |owner: &&Owner| matches!(owner, Owner::Chain(_));
        let chains: Vec<Owner> = self.open.keys().filter(unfinished).cloned().collect();
        for chain in chains {
            self.forget(&chain);
        }
    }
}

/// What the entry, which belongs to a transaction, is kept under. The first part of a chain has none yet but itself.
fn owner(entry: &RawEntry<'_>) -> Result<Owner> {
    Ok(match (entry.lsid, entry.previous) {
        (Some(lsid), _) => Owner::Session(lsid.as_bytes().to_vec()),
        (None, Some(previous)) => Owner::Chain(previous),
        (None, None) => Owner::Chain(entry.position()?),
    })
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
        // Each has its effect at once; a `prevOpTime` leads to what the session wrote before.
        "applyOps" if entry.groups_retryable_writes => Role::Alone,
        "applyOps" if is_set("partialTxn") || is_set("prepare") => Role::Part,
        "applyOps" if entry.previous.is_some() => Role::Last,
        "commitTransaction" => Role::Commit,
        "abortTransaction" => Role::Abort,
        _ => Role::Alone,
    }
}

#[cfg(test)]
mod tests;
