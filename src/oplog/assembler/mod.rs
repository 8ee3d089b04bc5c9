//! Puts transactions together that the source logged in several entries.
//!
//! A transaction of more than 16 MB is logged in parts, and a prepared one is logged before it is known whether it commits. The parts
//! have no effect of their own: they are kept as they came and become one entry at the position of the commit. Those that there is no room
//! for in memory go to a temporary file, and the transaction becomes several entries, one for each part. From 7.0 on servers log large batches
//! of writes in the same way without a session: each part names the one before it, and that alone says what belongs together.

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

/// Turns raw oplog entries, given in order and without a gap, into committed steps of the history.
#[derive(Debug)]
pub(crate) struct Assembler {
    parser: Parser,
    /// The transactions that have begun and neither committed nor aborted.
    open: HashMap<Owner, Open>,
    /// The committed transaction whose parts are given one by one.
    closing: Option<Closing>,
    /// How many bytes of parts may be kept in memory.
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
    parts: Parts,
}

/// A transaction that has committed and is too large for memory.
#[derive(Debug)]
struct Closing {
    position: Position,
    wall: DateTime,
    /// The position to start after so that all of it is met.
    before: Position,
    parts: Parts,
}

/// What taking an entry gave.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A step of the history.
    Entry(Entry),
    /// The entry commits a transaction that is too large for memory: [`next_part`](Assembler::next_part) gives it part by part.
    Large,
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
    /// Starts after the entry at `after`, keeping about `limit` bytes of parts in memory.
    pub fn new(after: Position, limit: usize) -> Self {
        Self {
            parser: Parser::default(),
            open: HashMap::new(),
            closing: None,
            limit,
            last: after,
        }
    }

    /// The position of the entry that was taken last, or where it started.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Bytes of the parts kept in memory of transactions that have neither committed nor aborted.
    pub fn bytes(&self) -> usize {
        self.open.values().map(|open| open.parts.bytes()).sum()
    }

    /// The position to start after so that nothing that is not yielded yet is missed.
    pub fn resume(&self) -> Position {
        let closing = self.closing.iter().map(|closing| closing.before);
        let open = self.open.values().map(|open| open.before);
        closing.chain(open).fold(self.last, Position::min)
    }

    /// Takes the next entry. Afterwards [room](Self::make_room) has to be made.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) for bytes that no server writes.
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
                let Some(mut open) = self.open.remove(&owner) else {
                    return Err(inconsistent(position, "a transaction commits that never began"));
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
                // Each part is freed as soon as it is read, so that a large transaction is not held twice.
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
        }))
    }

    /// The next part of a transaction that was [too large](Taken::Large) for memory; `None` when there is none.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) for bytes that no server writes, [`Io`](ErrorKind::Io) when the temporary file cannot be read.
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
        }))
    }

    /// Moves parts to a temporary file until those in memory take no more than allowed.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) when the file cannot be written.
    ///
    /// # Cancellation
    /// Dropping the future loses what was being moved: the assembler must not be used any more.
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
            parts: Parts::default(),
        });
        open.parts.push_front(raw);
        open.previous = entry.previous;
        Ok(())
    }

    /// Keeps a part of a transaction, the first or a further one.
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

    fn forget(&mut self, owner: &Owner) {
        self.open.remove(owner);
    }

    /// Forgets what has no session and was not finished by the primary that began it: no other primary goes on with it or aborts it.
    fn forget_chains(&mut self) {
        self.open.retain(|owner, _| !matches!(owner, Owner::Chain(_)));
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
