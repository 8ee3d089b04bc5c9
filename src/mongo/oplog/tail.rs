//! State machine behind an oplog cursor: open, find the position, follow, reopen after errors.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bson::Timestamp;
use bson::raw::cstr;
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::options::{CursorType, RunCursorCommandOptions, SelectionCriteria};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::time::Instant;

use super::lost::{fell_out, lost, part_lost};
use super::read_ahead::ReadAhead;
use super::{AWAIT, BATCH, FUTURE, OPERATION, in_time};
use crate::error::{Error, Result};
use crate::model::Position;
use crate::model::raw::batch_cursor::Documents;
use crate::mongo::client;
use crate::mongo::oplog::position::{oldest_position, position_before, start_position};
use crate::mongo::oplog::seek::{entry_at, find_from, is_at};
use crate::mongo::oplog::standing::standing;
use crate::mongo::retry::{Attempts, RetryPolicy};
use crate::oplog::assembler::{Assembler, Taken};
use crate::oplog::entry::Entry;

/// Maximum time without new entries before the cursor is reopened. An idle set writes a no-op every 10 seconds. A member that is cut off
/// from its set continues to answer, but never shows anything new.
const SILENCE: Duration = Duration::from_secs(30);

/// Where a tail starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the newest position, or before the first entry of the oldest transaction that is open.
    Now,
    /// After the entry at this position.
    After(Position),
    /// With the first entry at or after this time.
    From(Timestamp),
}

/// Settings of a tail.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where to start.
    pub start: Start,
    /// Maximum number of bytes of open transactions kept in memory.
    pub transaction_bytes: usize,
    /// Member to read from.
    pub selection: Option<SelectionCriteria>,
    /// Receives the number of bytes of open transactions kept in memory.
    pub kept: Arc<AtomicUsize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start: Start::Now,
            transaction_bytes: 16 << 20,
            selection: None,
            kept: Arc::default(),
        }
    }
}

/// A tail of the oplog.
pub(crate) struct Tail {
    client: Client,
    settings: Settings,
    /// State of the history read so far; `None` until the start position is known.
    assembler: Option<Assembler>,
    link: Link,
    /// Entries that were read but not processed yet.
    documents: Option<Documents<RawBatch>>,
    /// Failures since the last progress.
    attempts: Option<Attempts>,
}

/// State of the server cursor.
enum Link {
    /// No cursor is open.
    Closed,
    /// The cursor is open. Its first entry must be the one to resume after. The time is when the primary was first seen to have nothing as
    /// new as that entry.
    Placing(ReadAhead<RawBatch>, Option<Instant>),
    /// The cursor returns new entries. The time is when it last did.
    Following(ReadAhead<RawBatch>, Instant),
}

impl Tail {
    pub fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            assembler: None,
            link: Link::Closed,
            documents: None,
            attempts: None,
        }
    }

    /// Returns the next entries, at least one. Nothing follows an error.
    pub async fn next(&mut self) -> Result<Vec<Entry>> {
        loop {
            let error = match self.step().await {
                Ok(entries) if entries.is_empty() => continue,
                Ok(entries) => return Ok(entries),
                Err(error) => error,
            };
            self.link = Link::Closed;
            let attempts = self.attempts.get_or_insert_with(|| RetryPolicy::SERVER.begin());
            match attempts.next_pause(&error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Advances by one step, which may or may not return entries.
    async fn step(&mut self) -> Result<Vec<Entry>> {
        let assembler = match &mut self.assembler {
            Some(assembler) => assembler,
            none => {
                let after = match self.settings.start {
                    Start::After(after) => after,
                    Start::Now => in_time(start_position(&self.client)).await?,
                    // Each answer of the server has its own timeout.
                    Start::From(time) => position_before(&self.client, time).await?,
                };
                none.insert(Assembler::new(after, self.settings.transaction_bytes))
            }
        };
        if let Some(part) = assembler.next_part().await? {
            self.settings.kept.store(assembler.bytes(), Relaxed);
            return Ok(vec![part]);
        }
        if let Some(documents) = &mut self.documents {
            let (entries, missing) = take(assembler, documents).await?;
            self.settings.kept.store(assembler.bytes(), Relaxed);
            if !entries.is_empty() {
                return Ok(entries);
            }
            match missing {
                Some(position) => fetch(&self.client, assembler, position).await?,
                None if documents.first()?.is_none() => self.documents = None,
                None => {}
            }
            return Ok(entries);
        }
        let after = assembler.last();
        match &mut self.link {
            Link::Closed => {
                self.link = match open(&self.client, self.settings.selection.clone(), after).await {
                    Ok(cursor) => Link::Placing(ReadAhead::of(cursor.map_err(convert)), None),
                    Err(error) => return Err(fell_out(error, after, oldest(&self.client)).await),
                };
            }
            Link::Placing(answers, future) => {
                let mut documents = answer(&self.client, answers, after).await?;
                let Some(first) = documents.first()? else {
                    let newest = in_time(standing(&self.client)).await?.newest;
                    if newest.timestamp() >= after.timestamp() {
                        // Not yet replicated to this member, or not yet majority-committed as far as this member knows.
                        *future = None;
                    } else if future.get_or_insert_with(Instant::now).elapsed() > FUTURE {
                        return Err(lost(after, oldest(&self.client).await));
                    }
                    return Ok(Vec::new());
                };
                if !is_at(first, after) {
                    return Err(lost(after, oldest(&self.client).await));
                }
                documents.advance()?;
                if documents.first()?.is_some() {
                    self.attempts = None;
                    self.documents = Some(documents);
                }
                let Link::Placing(answers, _) = std::mem::replace(&mut self.link, Link::Closed) else {
                    return Ok(Vec::new());
                };
                self.link = Link::Following(answers, Instant::now());
            }
            Link::Following(answers, active) => {
                let documents = answer(&self.client, answers, after).await?;
                self.attempts = None;
                if documents.first()?.is_some() {
                    *active = Instant::now();
                    self.documents = Some(documents);
                } else if active.elapsed() > SILENCE {
                    self.link = Link::Closed;
                }
            }
        }
        Ok(Vec::new())
    }
}

/// Opens a cursor at the entry at `after`, followed by everything newer.
async fn open(client: &Client, selection: Option<SelectionCriteria>, after: Position) -> Result<RawBatchCursor> {
    let needs_replay_flag = in_time(standing(client)).await?.needs_replay_flag;
    let mut command = find_from(after.timestamp(), needs_replay_flag);
    command.append(cstr!("tailable"), true);
    command.append(cstr!("awaitData"), true);
    let mut options = RunCursorCommandOptions::default();
    options.cursor_type = Some(CursorType::TailableAwait);
    options.max_time = Some(AWAIT);
    options.selection_criteria = selection;
    let database = client.database("local");
    in_time(async { client::raw_batches(&database, command, options).await.map_err(convert) }).await
}

/// Takes entries out of a batch, up to about `BATCH` bytes. Stops early after an entry that ends a large transaction, and at one that needs
/// an entry that was never read.
async fn take(
    assembler: &mut Assembler,
    documents: &mut Documents<RawBatch>,
) -> Result<(Vec<Entry>, Option<Position>)> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    while let Some(document) = documents.first()? {
        match assembler.take(document)? {
            Taken::Entry(entry) => {
                bytes += entry.size_in_memory();
                entries.push(entry);
            }
            Taken::Large => {
                documents.advance()?;
                break;
            }
            Taken::Missing(position) => return Ok((entries, Some(position))),
        }
        assembler.make_room().await?;
        documents.advance()?;
        if bytes >= BATCH {
            break;
        }
    }
    Ok((entries, None))
}

/// Reads an earlier part of a transaction.
async fn fetch(client: &Client, assembler: &mut Assembler, position: Position) -> Result<()> {
    match in_time(entry_at(client, OPERATION, position)).await? {
        Some(entry) => {
            assembler.supply(&entry)?;
            assembler.make_room().await
        }
        None => Err(part_lost(position, assembler.last())),
    }
}

/// Returns the server's next answer.
async fn answer(client: &Client, answers: &mut ReadAhead<RawBatch>, after: Position) -> Result<Documents<RawBatch>> {
    match in_time(answers.next()).await {
        Ok(batch) => Documents::new(batch),
        Err(error) => Err(fell_out(error, after, oldest(client)).await),
    }
}

/// Returns the position of the oldest entry.
async fn oldest(client: &Client) -> Result<Position> {
    in_time(oldest_position(client)).await
}

fn convert(error: mongodb::error::Error) -> Error {
    client::convert(OPERATION, error).with_context("namespace", "local.oplog.rs")
}
