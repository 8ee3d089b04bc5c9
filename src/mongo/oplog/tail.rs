//! State machine behind an oplog cursor: open, find the position, follow, reopen after errors.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bson::Timestamp;
use bson::raw::cstr;
use futures::{Stream, StreamExt};
use mongodb::Client;
use mongodb::options::{CursorType, RunCursorCommandOptions, SelectionCriteria};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::model::raw::batch_cursor::Documents;
use crate::mongo::client;
use crate::mongo::oplog::position::{
    entry_at, find_from, is_at, no_longer, oldest_position, position_before, standing, start_position,
};
use crate::mongo::retry::{Attempts, RetryPolicy, answered};
use crate::oplog::assembler::{Assembler, Taken};
use crate::oplog::entry::Entry;

/// Operation named in the errors of a tail.
const OPERATION: &str = "follow the oplog";

/// How long the server waits for a new entry before it returns an empty batch.
const AWAIT: Duration = Duration::from_secs(1);

/// Timeout for an answer. After it the connection counts as broken. A lost network may never report that.
const REPLY: Duration = Duration::from_secs(30);

/// Maximum time without new entries before the cursor is reopened. An idle set writes a no-op every 10 seconds. A member that is cut off
/// from its set continues to answer, but never shows anything new.
const SILENCE: Duration = Duration::from_secs(30);

/// How long the primary may know of nothing as new as the position to start after, before the position counts as lost. A primary that has
/// lost its majority may be behind, and notices within 10 seconds.
const FUTURE: Duration = Duration::from_secs(12);

/// Approximate number of bytes of entries returned at once.
const BATCH: usize = 1 << 20;

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
    Placing(Answers, Option<Instant>),
    /// The cursor returns new entries. The time is when it last did.
    Following(Answers, Instant),
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
                    Ok(cursor) => Link::Placing(Answers::of(cursor), None),
                    Err(error) => return Err(fell_out(&self.client, error, after).await),
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
                        return Err(lost(&self.client, after).await);
                    }
                    return Ok(Vec::new());
                };
                if !is_at(first, after) {
                    return Err(lost(&self.client, after).await);
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

/// A cursor that requests the next batch while the last one is processed. Processing a batch takes about as long as the server needs for
/// it. Two batches of up to 16 MB each are in memory.
struct Answers {
    batches: mpsc::Receiver<Result<RawBatch>>,
    asking: AbortOnDropHandle<()>,
}

impl Answers {
    fn of(mut cursor: impl Stream<Item = mongodb::error::Result<RawBatch>> + Send + Unpin + 'static) -> Self {
        let (send, batches) = mpsc::channel(1);
        let asking = async move {
            // Requests a batch only when there is room for it, and stops when the receiver is gone.
            while let Ok(room) = send.reserve().await {
                let Some(batch) = cursor.next().await else { return };
                room.send(batch.map_err(convert));
            }
        };
        Self {
            batches,
            asking: AbortOnDropHandle::new(tokio::spawn(asking)),
        }
    }

    /// Returns the next batch. Nothing follows an error.
    async fn next(&mut self) -> Result<RawBatch> {
        if let Some(batch) = self.batches.recv().await {
            return batch;
        }
        // The task closed the channel when it ended, so this does not wait.
        match (&mut self.asking).await {
            Err(error) if error.is_panic() => {
                Err(Error::new(ErrorKind::Panic, OPERATION, "the task that reads ahead panicked").with_source(error))
            }
            _ => Err(Error::new(
                ErrorKind::Connection,
                OPERATION,
                "the server closed the cursor",
            )),
        }
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
        None => Err(Error::new(
            ErrorKind::PositionLost,
            OPERATION,
            format!(
                "the oplog no longer contains {position}, a part of a transaction that ends after {}; start after the end of that \
                 transaction, or at a position before its beginning",
                assembler.last()
            ),
        )),
    }
}

/// Returns the server's next answer.
async fn answer(client: &Client, answers: &mut Answers, after: Position) -> Result<Documents<RawBatch>> {
    match in_time(answers.next()).await {
        Ok(batch) => Documents::new(batch),
        Err(error) => Err(fell_out(client, error, after).await),
    }
}

/// Examines an error that may mean that the cursor fell out of the oplog. That can also happen on its way to the first entry. The entry to
/// resume after may still exist, in which case a new cursor finds it, or not.
async fn fell_out(client: &Client, error: Error, after: Position) -> Error {
    if error.kind() != ErrorKind::PositionLost {
        return error;
    }
    match in_time(oldest_position(client)).await {
        Ok(oldest) if oldest > after => lost(client, after).await,
        Ok(_) => error.with_retryable(true),
        Err(error) => error,
    }
}

/// Returns the error for a history that does not hold the entry to resume after.
async fn lost(client: &Client, after: Position) -> Error {
    let message = match in_time(oldest_position(client)).await {
        Ok(oldest) if oldest.timestamp() > after.timestamp() => no_longer(after, oldest),
        Ok(oldest) => format!(
            "the oplog does not contain {after}, although its oldest entry is {oldest}: it was rolled back or restored, or belongs to \
             another replica set; start at a position that it contains"
        ),
        // This error is the one that matters, whether or not its reason can be determined.
        Err(_) => format!("the oplog does not contain {after}; start at a position that it contains"),
    };
    Error::new(ErrorKind::PositionLost, OPERATION, message).with_context("position", after)
}

/// Fails if an answer takes too long.
async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    answered(OPERATION, REPLY, call).await
}

fn convert(error: mongodb::error::Error) -> Error {
    client::convert(OPERATION, error).with_context("namespace", "local.oplog.rs")
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_panic_while_reading_ahead_is_no_closed_cursor() {
        let panicking = stream::poll_fn(|_| panic!("a fault of the driver"));
        let error = Answers::of(panicking).next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
        assert!(!error.is_retryable());

        let error = Answers::of(stream::empty()).next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(error.is_retryable());
    }
}
