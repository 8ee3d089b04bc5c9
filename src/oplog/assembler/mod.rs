//! Assembles transactions that the source logged in several entries.
//!
//! A transaction of more than 16 MB is logged in parts. A prepared transaction is logged before it is known whether it commits. The parts
//! have no effect on their own: they are kept unchanged, and become one entry at the position of the commit. Parts that do not fit into
//! memory are written to a temporary file. Their transaction then becomes several entries, one for each part. From 7.0 on, servers log
//! large batches of writes in the same way, but without a session. Each part refers to the one before it, and only that links them.

mod parts;

use std::collections::HashMap;

use bson::DateTime;
use bson::raw::RawDocument;

use self::parts::Parts;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::oplog::entry::Entry;
use crate::oplog::parse::Parser;
use crate::oplog::raw_entry::{OPERATION, RawEntry};

/// Turns raw oplog entries, given in order and without gaps, into committed steps of the history.
#[derive(Debug)]
pub(crate) struct Assembler {
    parser: Parser,
    /// Transactions that have neither committed nor aborted.
    open: HashMap<Owner, Open>,
    /// The committed transaction that is being returned part by part.
    closing: Option<Closing>,
    /// Limit in bytes for parts in memory.
    limit: usize,
    /// The position of the last entry taken.
    last: Position,
}

/// Identifies the entries of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// The bytes of the session's id. A session has one transaction at a time.
    Session(Vec<u8>),
    /// The position of the newest part, if there is no session.
    Chain(Position),
}

/// A transaction that is neither committed nor aborted.
#[derive(Debug)]
struct Open {
    /// The number of the transaction within the session.
    number: Option<i64>,
    /// The position of the entry just before the first one. A tail that starts after it sees the whole transaction.
    before: Position,
    /// The position of the newest entry.
    last: Position,
    /// The position of the part before the first one in `parts`, if there is one.
    previous: Option<Position>,
    /// The entries, in order.
    parts: Parts,
}

/// A committed transaction that is too large for memory.
#[derive(Debug)]
struct Closing {
    position: Position,
    wall: DateTime,
    /// The position to start after to see the whole transaction.
    before: Position,
    parts: Parts,
}

/// The result of taking an entry.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A step of the history.
    Entry(Entry),
    /// The entry commits a transaction that is too large for memory. [`next_part`](Assembler::next_part) returns its parts.
    Large,
    /// The entry ends a transaction, but an earlier part at this position was never seen, because the tail started after it. The caller
    /// must [supply](Assembler::supply) that part, and then take the same entry again.
    Missing(Position),
}

/// The role of an entry in a transaction.
enum Role {
    /// Not part of a transaction.
    Alone,
    /// A part without effect until the commit.
    Part,
    /// The last part, which also commits.
    Last,
    /// Commits a prepared transaction.
    Commit,
    /// Aborts a prepared transaction, or one that a failed primary left unfinished.
    Abort,
}

impl Assembler {
    /// Creates an assembler that starts after the entry at `after`, and keeps about `limit` bytes of parts in memory.
    pub fn new(after: Position, limit: usize) -> Self {
        Self {
            parser: Parser::default(),
            open: HashMap::new(),
            closing: None,
            limit,
            last: after,
        }
    }

    /// The position of the last entry taken, or the position to start after.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Size in bytes of the parts in memory of open transactions.
    pub fn bytes(&self) -> usize {
        self.open.values().map(|open| open.parts.bytes()).sum()
    }

    /// The position to resume after, so that nothing is missed that has not been yielded yet.
    pub fn resume(&self) -> Position {
        let closing = self.closing.iter().map(|closing| closing.before);
        let open = self.open.values().map(|open| open.before);
        closing.chain(open).fold(self.last, Position::min)
    }

    /// Takes the next entry. Call [`make_room`](Self::make_room) afterwards.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not what a server writes.
    pub fn take(&mut self, raw: &RawDocument) -> Result<Taken> {
        let entry = RawEntry::read(raw)?;
        let position = entry.position()?;
        let wall = entry
            .wall
            .unwrap_or_else(|| DateTime::from_millis(i64::from(position.time) * 1000));
        let mut items = Vec::new();
        let mut bytes = raw.as_bytes().len();
        if position.term > self.last.term {
            self.forget_chains();
        }
        match role(&entry) {
            Role::Alone => self.parser.items(&entry, position, &mut items)?,
            Role::Part => {
                self.keep(&entry, raw)?;
                // The bytes are counted when the transaction commits.
                bytes = 0;
            }
            Role::Abort => self.forget(&owner(&entry)?),
            role @ (Role::Last | Role::Commit) => {
                let owner = owner(&entry)?;
                let open = self.continued(&owner, &entry)?;
                if let Some(previous) = open.map_or(entry.previous, |open| open.previous) {
                    return Ok(Taken::Missing(previous));
                }
                let Some(mut open) = self.open.remove(&owner) else {
                    return Err(inconsistent(position, "a transaction commits that has never begun"));
                };
                if open.parts.are_in_file() {
                    if let Role::Last = role {
                        open.parts.push_back(raw);
                    }
                    self.last = position;
                    self.closing = Some(Closing {
                        position,
                        wall,
                        before: open.before,
                        parts: open.parts,
                    });
                    return Ok(Taken::Large);
                }
                bytes += open.parts.bytes();
                // Frees each part as soon as it is parsed, so that a large transaction is not in memory twice.
                for part in open.parts.into_memory() {
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
            wall,
            items,
            bytes,
            continues: false,
            users_changed: self.parser.take_users_changed(),
        }))
    }

    /// The next part of a transaction that is [too large](Taken::Large) for memory; `None` at the end.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not what a server writes, [`Io`](ErrorKind::Io) if the temporary file cannot be
    /// read.
    pub async fn next_part(&mut self) -> Result<Option<Entry>> {
        let Some(closing) = &mut self.closing else {
            return Ok(None);
        };
        let Some(part) = closing.parts.pop_front().await? else {
            self.closing = None;
            return Ok(None);
        };
        let (position, wall, continues) = (closing.position, closing.wall, !closing.parts.is_empty());
        let mut items = Vec::new();
        self.parser.items(&RawEntry::read(&part)?, position, &mut items)?;
        if !continues {
            self.closing = None;
        }
        Ok(Some(Entry {
            position,
            resume: self.resume(),
            wall,
            items,
            bytes: part.as_bytes().len(),
            continues,
            users_changed: self.parser.take_users_changed(),
        }))
    }

    /// Moves parts to a temporary file until those in memory are within the limit.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be written.
    ///
    /// # Cancellation
    /// Not cancel safe. Dropping the future loses the parts that are being moved, and the assembler must not be used any more.
    pub async fn make_room(&mut self) -> Result<()> {
        while self.bytes() > self.limit {
            let largest = self.open.values_mut().max_by_key(|open| open.parts.bytes());
            match largest {
                Some(open) if open.parts.bytes() > 0 => open.parts.spill().await?,
                _ => break,
            }
        }
        Ok(())
    }

    /// Takes the part that [`Taken::Missing`] asked for. The caller reads it from the oplog at that position.
    ///
    /// # Errors
    /// As [`take`](Self::take), and [`Protocol`](ErrorKind::Protocol) if the entry is not part of a transaction.
    pub fn supply(&mut self, raw: &RawDocument) -> Result<()> {
        let entry = RawEntry::read(raw)?;
        if !matches!(role(&entry), Role::Part) {
            return Err(inconsistent(
                entry.position()?,
                "a transaction refers to an entry that is not one of its parts",
            ));
        }
        let (before, position) = (self.last, entry.position()?);
        let owner = match entry.lsid {
            Some(_) => owner(&entry)?,
            // Either the part before the oldest part of an open transaction, or the newest part of a transaction that is not known yet.
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
            parts: Parts::default(),
        });
        open.parts.push_front(raw);
        open.previous = entry.previous;
        Ok(())
    }

    /// Keeps a part of a transaction.
    fn keep(&mut self, entry: &RawEntry<'_>, raw: &RawDocument) -> Result<()> {
        let position = entry.position()?;
        let mut owner = owner(entry)?;
        self.continued(&owner, entry)?;
        let mut open = self.open.remove(&owner).unwrap_or_else(|| Open {
            number: entry.txn_number,
            before: self.last,
            last: position,
            previous: entry.previous,
            parts: Parts::default(),
        });
        open.last = position;
        open.parts.push_back(raw);
        if let Owner::Chain(newest) = &mut owner {
            *newest = position;
        }
        self.open.insert(owner, open);
        Ok(())
    }

    /// Returns the open transaction that the entry continues, if parts of it were seen. Drops one that the session left unfinished.
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

    fn forget(&mut self, owner: &Owner) {
        self.open.remove(owner);
    }

    /// Drops transactions without a session that an earlier primary began and did not finish. No other primary continues or aborts them.
    fn forget_chains(&mut self) {
        self.open.retain(|owner, _| !matches!(owner, Owner::Chain(_)));
    }
}

/// The key of the transaction that the entry belongs to. The first part of a chain has only its own position.
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
        // Each takes effect immediately. Their `prevOpTime` refers to an earlier write of the session.
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
