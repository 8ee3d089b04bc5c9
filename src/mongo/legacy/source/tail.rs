//! Follows the oplog of an old server: opens a cursor, finds the position, yields what is committed, and reopens after errors.
//!
//! The cursor reads what the primary has, whether or not a majority has it. Entries wait here until a majority has them, so that nothing is
//! yielded that may be rolled back. Meanwhile nothing more is read than one batch ahead, so what waits is bounded. Both the cursor and the
//! committed position belong to one election. After another one, a new cursor has to find the entry that was yielded last. Documents may have
//! been read as of later entries, which the new primary has to have as well. That is looked up once, before the tail goes past their time.

use std::sync::Arc;
use std::time::Duration;

use bson::Timestamp;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};

use super::committed::FOLLOWED;
use super::decoder::Decoder;
use super::server::{Elected, Server, from, oplog, position_of};
use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::batch_cursor::Documents;
use crate::model::{Batch, Position};
use crate::mongo::legacy::FindMode;
use crate::mongo::oplog::lost::{self, part_lost};
use crate::mongo::oplog::majority::until_majority;
use crate::mongo::oplog::position::oldest_of;
use crate::mongo::oplog::read_ahead::ReadAhead;
use crate::mongo::oplog::{AWAIT, BATCH, FUTURE, OPERATION, in_time};
use crate::mongo::retry::{Attempts, RetryPolicy};
use crate::oplog::{Entry, Taken};

/// Time without new entries after which the primary is asked whether it still is one. Before 3.4 an idle set writes nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// Streams the history after a position.
pub(super) fn follow(server: Arc<Server>, after: Position) -> BoxStream<'static, Result<Vec<Entry>>> {
    stream::try_unfold(Tail::new(server, after), |mut tail| async move {
        let entries = tail.next().await?;
        Ok(Some((entries, tail)))
    })
    .boxed()
}

struct Tail {
    server: Arc<Server>,
    decoder: Decoder,
    /// The last entry that was taken.
    last: Position,
    link: Link,
    /// Entries that were read but not taken yet.
    read: Option<Documents<Batch>>,
    /// Failures since the last progress.
    attempts: Option<Attempts>,
}

/// State of the server cursor.
enum Link {
    /// No cursor is open.
    Closed,
    /// The cursor is open. Its first entry must be the one to resume after. The time is when the primary was first seen to have nothing as
    /// new as that entry.
    Placing(Answers, Option<Instant>),
    /// The cursor returns new entries. The time is when it last did, or when the primary was last seen to be one.
    Following(Answers, Instant),
}

impl Tail {
    fn new(server: Arc<Server>, after: Position) -> Self {
        let decoder = Decoder::new(&server, after);
        Self {
            server,
            decoder,
            last: after,
            link: Link::Closed,
            read: None,
            attempts: None,
        }
    }

    /// Returns the next entries, at least one. Nothing follows an error.
    async fn next(&mut self) -> Result<Vec<Entry>> {
        loop {
            let error = match Box::pin(self.step()).await {
                Ok(entries) if entries.is_empty() => continue,
                Ok(entries) => return Ok(entries),
                Err(error) => error,
            };
            self.link = Link::Closed;
            self.read = None;
            let attempts = self.attempts.get_or_insert_with(|| RetryPolicy::SERVER.begin());
            match attempts.next_pause(&error) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Advances by one step, which may or may not return entries.
    async fn step(&mut self) -> Result<Vec<Entry>> {
        if let Some(part) = self.decoder.next_part().await? {
            return Ok(vec![part]);
        }
        match &mut self.link {
            Link::Closed => {
                self.link = Link::Placing(Answers::open(&self.server, self.last).await?, None);
            }
            Link::Placing(answers, future) => {
                let primary = answers.primary.clone();
                let batch = match answers.batches.next().await {
                    Ok(batch) => batch,
                    Err(error) => return Err(self.fell_out(error, &primary).await),
                };
                let mut documents = Documents::new(batch)?;
                let Some(first) = documents.first()? else {
                    let newest = in_time(self.server.newest(&primary.address)).await?;
                    if newest.timestamp() >= self.last.timestamp() {
                        // An entry before it is still being written.
                        *future = None;
                    } else if future.get_or_insert_with(Instant::now).elapsed() > FUTURE {
                        return Err(self.lost(&primary).await);
                    }
                    return Ok(Vec::new());
                };
                if position_of(first)? != self.last {
                    return Err(self.lost(&primary).await);
                }
                documents.advance()?;
                self.read = documents.first()?.is_some().then_some(documents);
                if let Link::Placing(answers, _) = std::mem::replace(&mut self.link, Link::Closed) {
                    self.link = Link::Following(answers, Instant::now());
                }
            }
            Link::Following(answers, _) if self.read.is_some() => {
                let primary = answers.primary.clone();
                return self.take_committed(&primary).await;
            }
            Link::Following(answers, active) => {
                let primary = answers.primary.clone();
                match answers.batches.next().await {
                    Ok(batch) if batch.is_empty() => {
                        self.attempts = None;
                        if active.elapsed() > SILENCE {
                            *active = Instant::now();
                            in_time(self.server.look(&primary)).await?;
                        }
                    }
                    Ok(batch) => {
                        *active = Instant::now();
                        self.read = Some(Documents::new(batch)?);
                    }
                    Err(error) => return Err(self.fell_out(error, &primary).await),
                }
            }
        }
        Ok(Vec::new())
    }

    /// Takes the entries that a majority has, up to about `BATCH` bytes. Waits until there are some.
    async fn take_committed(&mut self, primary: &Elected) -> Result<Vec<Entry>> {
        let Some(first) = self.read.as_ref().map(Documents::first).transpose()?.flatten() else {
            self.read = None;
            return Ok(Vec::new());
        };
        let next = position_of(first)?;
        let committed = match self.server.known(primary).filter(|known| *known >= next) {
            Some(known) => known,
            None => self.wait_for(primary, next).await?,
        };
        self.confirm(primary, committed.timestamp()).await?;
        self.attempts = None;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let Some(read) = &mut self.read else {
            return Ok(Vec::new());
        };
        while let Some(raw) = read.first()? {
            let position = position_of(raw)?;
            // Compared by time: a member reports what it has, whose term may be left out.
            if position.timestamp() > committed.timestamp() || bytes >= BATCH {
                break;
            }
            match self.decoder.take(raw, position)? {
                Taken::Entry(entry) => {
                    bytes += entry.size_in_memory();
                    entries.push(entry);
                }
                Taken::Large => {
                    self.last = position;
                    read.advance()?;
                    break;
                }
                Taken::Missing(missing) if entries.is_empty() => {
                    fetch(&self.server, &mut self.decoder, primary, (missing, self.last)).await?;
                    continue;
                }
                Taken::Missing(_) => break,
            }
            self.last = position;
            read.advance()?;
            self.decoder.make_room().await?;
        }
        Ok(entries)
    }

    /// Waits until a majority has an entry. Any error ends the cursor: the primary may be another one.
    async fn wait_for(&self, primary: &Elected, entry: Position) -> Result<Position> {
        let committed = || in_time(self.server.committed(primary));
        until_majority(FOLLOWED, entry, committed, |_| true).await
    }

    /// Makes sure that a primary has what earlier ones had committed up to a time. Protocol version 0 can lose that. Asks once per election.
    ///
    /// # Errors
    /// [`PositionLost`](crate::ErrorKind::PositionLost) if it does not, or a server error.
    async fn confirm(&self, primary: &Elected, until: Timestamp) -> Result<()> {
        let unconfirmed = self.server.seen().unconfirmed(primary, until);
        for position in unconfirmed {
            let found = in_time(self.server.first_from(&primary.address, position.timestamp())).await?;
            // A server may report a position without its term.
            let is_it = |found: Position| {
                found.timestamp() == position.timestamp()
                    && (found.term == position.term || position.term == Position::ZERO.term)
            };
            match found {
                None => {
                    let message = "an entry before it is still being written";
                    return Err(
                        Error::new(ErrorKind::Connection, OPERATION, message).with_context("position", position)
                    );
                }
                Some(found) if is_it(found) => {}
                Some(_) => {
                    // Whatever is older than the oplog is older than the entry to resume after, which was found.
                    if in_time(oldest(&self.server, primary)).await?.timestamp() <= position.timestamp() {
                        return Err(lost::rolled_back(position));
                    }
                }
            }
            self.server.seen().confirmed(primary, position);
        }
        Ok(())
    }

    /// See [`lost::fell_out`].
    async fn fell_out(&self, error: Error, primary: &Elected) -> Error {
        lost::fell_out(error, self.last, in_time(oldest(&self.server, primary))).await
    }

    /// Returns the error for a history that does not hold the entry to resume after.
    async fn lost(&self, primary: &Elected) -> Error {
        lost::lost(self.last, in_time(oldest(&self.server, primary)).await)
    }
}

/// Reads an earlier part of a transaction, for an entry that follows `last`.
async fn fetch(
    server: &Server,
    decoder: &mut Decoder,
    primary: &Elected,
    (position, last): (Position, Position),
) -> Result<()> {
    let entry = in_time(server.first(from(&primary.address, position.timestamp()))).await?;
    match entry.filter(|entry| position_of(entry).is_ok_and(|found| found == position)) {
        Some(entry) => {
            decoder.supply(&entry)?;
            decoder.make_room().await
        }
        None => Err(part_lost(position, last)),
    }
}

/// Returns the oldest entry of a member's oplog.
pub(super) async fn oldest(server: &Server, primary: &Elected) -> Result<Position> {
    let mut find = oplog(&primary.address, RawDocumentBuf::new());
    find.sort = Some(bson::rawdoc! { "$natural": 1 });
    oldest_of(server.first_position(find).await)
}

/// A cursor on a primary.
struct Answers {
    primary: Elected,
    batches: ReadAhead<Batch>,
}

impl Answers {
    /// Opens a cursor at the entry at `after`, followed by everything newer.
    async fn open(server: &Server, after: Position) -> Result<Self> {
        let primary = in_time(server.primary()).await?;
        let mut find = from(&primary.address, after.timestamp());
        let await_ms = u32::try_from(AWAIT.as_millis()).unwrap_or(1_000);
        find.mode = FindMode::TailAwait { await_ms };
        let cursor = in_time(Box::pin(server.client.find(find))).await?;
        let batches = stream::try_unfold(cursor, |mut cursor| async {
            let batch = in_time(cursor.next_batch()).await?;
            Ok(batch.map(|batch| (batch, cursor)))
        });
        Ok(Self {
            primary,
            batches: ReadAhead::of(batches.boxed()),
        })
    }
}
