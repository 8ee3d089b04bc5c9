//! Positions in a replica set's history: the newest, the oldest, and the start position.
//!
//! A primary that the other members have superseded may not know it yet, and still answers for some seconds. Everything that it reports as
//! majority-committed is so, but may be far from the newest. That is good enough to read and to follow from, since later entries are met
//! from there. Where it matters that nothing newer exists, [`confirmed`] asks a majority.

use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::{Bson, Document, Timestamp, doc, rawdoc};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use mongodb::Client;
use tokio::time::sleep;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::mongo::client::{self, Commands};
use crate::mongo::retry::{COMMAND_TIMEOUT, RetryPolicy, answered, retry};

/// First wire version whose servers seek in the oplog on their own (4.4). Older servers need `oplogReplay` for that.
const SEEKS: i32 = 9;

/// Timeout for a majority to confirm the primary before it is asked again.
pub(crate) const CONFIRMATION: Duration = Duration::from_secs(10);

/// Operation named in the errors of the search for a start position.
const START: &str = "find the position to start at";

/// Operation named in the errors of the search for the oldest entry.
const OLDEST: &str = "find the oldest oplog entry";

/// How far a member is in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Newest entry of the member itself.
    pub newest: Position,
    /// Newest entry that a majority has. Nothing up to it can be rolled back, and there are no holes before it.
    pub majority: Position,
    /// Whether a `find` on the oplog needs `oplogReplay` to be fast.
    pub needs_replay_flag: bool,
}

/// Returns how far the primary is in the history. Nothing is retried.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) if the server is not a member of a replica set, or a server error.
pub(crate) fn standing(client: &Client) -> BoxFuture<'_, Result<Standing>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        const OPERATION: &str = "ask for the newest position";
        let database = client.database("admin");
        // Every version knows this name; `hello` was added in 4.4.2.
        let hello = answered(OPERATION, COMMAND_TIMEOUT, async {
            let hello = database.run_command(doc! { "isMaster": 1 }).await;
            hello.map_err(|error| client::convert(OPERATION, error))
        })
        .await?;
        let Ok(last_write) = hello.get_document("lastWrite") else {
            if hello.contains_key("setName") || hello.contains_key("isreplicaset") {
                return Err(Error::new(
                    ErrorKind::Connection,
                    OPERATION,
                    "the member has not joined its set yet",
                ));
            }
            return Err(Error::new(
                ErrorKind::Refused,
                OPERATION,
                "the server is no member of a replica set and has no oplog",
            ));
        };
        let optime = |name: &str| {
            last_write
                .get_document(name)
                .ok()
                .and_then(client::position_of)
                .filter(|position| position.time > 0)
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Connection,
                        OPERATION,
                        "the set has not committed anything since it started",
                    )
                })
        };
        Ok(Standing {
            newest: optime("opTime")?,
            majority: optime("majorityOpTime")?,
            needs_replay_flag: hello.get_i32("maxWireVersion").is_ok_and(|version| version < SEEKS),
        })
    }
    .boxed()
}

/// Returns the newest majority-committed position.
///
/// # Errors
/// Same as [`standing`], after retries through elections.
pub(crate) async fn newest_position(client: &Client) -> Result<Position> {
    Ok(retry(RetryPolicy::SERVER, || standing(client)).await?.majority)
}

/// Returns the position of the oldest entry that the oplog still holds.
///
/// # Errors
/// A server error.
pub(crate) async fn oldest_position(client: &Client) -> Result<Position> {
    oldest_of(find_one(client, OLDEST, doc! {}, doc! { "$natural": 1 }).await)
}

/// Returns the oldest entry that was `found`.
///
/// # Errors
/// The error of `found`, or a retryable one if there was no entry, or none any more.
pub(crate) fn oldest_of(found: Result<Option<Position>>) -> Result<Position> {
    let entry = match found {
        // This is no caller's position: the entry was removed while it was being read.
        Err(error) if error.kind() == ErrorKind::PositionLost => {
            let message = "the oldest entry was removed while it was read";
            return Err(Error::new(ErrorKind::Server, OLDEST, message)
                .with_source(error)
                .with_retryable(true));
        }
        found => found?,
    };
    entry.ok_or_else(|| Error::new(ErrorKind::Protocol, OLDEST, "the oplog is empty").with_retryable(true))
}

/// Returns a majority-committed position from which a tail meets the first entry of every transaction that is open or prepared now.
///
/// # Errors
/// [`Unauthorized`](ErrorKind::Unauthorized) if the oplog or `config.transactions` may not be read,
/// [`PositionLost`](ErrorKind::PositionLost) if an open transaction is as old as the oplog, or a server error.
pub(crate) async fn start_position(client: &Client) -> Result<Position> {
    // The order matters: a transaction that is prepared after this position was taken is met from there anyway.
    let majority = newest_position(client).await?;
    let Some(first) = oldest_transaction(client, majority).await? else {
        return Ok(majority);
    };
    let before = doc! { "ts": { "$lt": first.timestamp() } };
    let entry = find_one(client, START, before, doc! { "$natural": -1 }).await?;
    entry.ok_or_else(|| as_old_as_the_oplog(first))
}

/// Returns the first entry of the oldest transaction that is open or prepared now, unless it comes after `majority`.
///
/// # Errors
/// [`Unauthorized`](ErrorKind::Unauthorized) if `config.transactions` may not be read, or a server error.
pub(crate) async fn oldest_transaction(client: &dyn Commands, majority: Position) -> Result<Option<Position>> {
    let command = doc! {
        "find": "transactions",
        "filter": { "state": { "$in": ["prepared", "inProgress"] }, "startOpTime": { "$exists": true } },
        "sort": { "startOpTime.ts": 1 },
        "projection": { "startOpTime": 1 },
        "limit": 1,
        "singleBatch": true,
    };
    let reply = client::run(client, START, "config", command)
        .await
        .map_err(|error| error.with_context("namespace", "config.transactions"))?;
    let first = first_document(START, &reply)?
        .and_then(|transaction| transaction.get_document("startOpTime").ok())
        .and_then(client::position_of);
    Ok(first.filter(|first| *first <= majority))
}

/// Returns the error for a transaction before whose first entry there is none.
pub(crate) fn as_old_as_the_oplog(first: Position) -> Error {
    let message = "a transaction is open that began at the oldest entry of the oplog; end it, or make the oplog larger, and start again";
    Error::new(ErrorKind::PositionLost, START, message).with_context("transaction", first)
}

/// Returns the position of the last majority-committed entry before `time`, so that a tail starts with the first entry at or after it. That
/// is the newest position if the time is in the future, and the first entry of a set that was created after it.
///
/// # Errors
/// [`PositionLost`](ErrorKind::PositionLost) if entries from before `time` have been removed and none is left, or a server error.
pub(crate) async fn position_before(client: &Client, time: Timestamp) -> Result<Position> {
    let newest = newest_position(client).await?;
    if newest.timestamp() < time {
        return Ok(newest);
    }
    let oldest = oldest_position(client).await?;
    // Servers seek forwards only. So this reads from a moment before `time`, and from an earlier one if there is nothing in between.
    let mut seconds = 1_u32;
    while oldest.timestamp() < time {
        let from = Timestamp {
            time: time.time.saturating_sub(seconds),
            increment: 0,
        };
        if let Some(last) = last_between(client, START, from, time).await? {
            return Ok(last);
        }
        if from <= oldest.timestamp() {
            break;
        }
        seconds = seconds.saturating_mul(10);
    }
    let oldest = oldest_position(client).await?;
    // The entry that initiates a set is the only one without a term. The oplog then contains everything that was ever written.
    if oldest.term == Position::ZERO.term {
        return Ok(oldest);
    }
    Err(Error::new(
        ErrorKind::PositionLost,
        START,
        no_longer(
            format_args!("what was written at {}:{}", time.time, time.increment),
            oldest,
        ),
    ))
}

/// The message for a position or time that has been removed from the oplog.
pub(crate) fn no_longer(what: impl std::fmt::Display, oldest: Position) -> String {
    format!(
        "the oplog no longer contains {what}; its oldest entry is {oldest}: start after that one, and use a larger oplog if the cursor was \
         too slow or stood still"
    )
}

/// Returns the position of the last majority-committed entry from `from` on and before `end`.
async fn last_between(
    client: &Client,
    operation: &'static str,
    from: Timestamp,
    end: Timestamp,
) -> Result<Option<Position>> {
    let mut command = find_from(from, standing(client).await?.needs_replay_flag);
    command.append(cstr!("projection"), rawdoc! { "ts": 1, "t": 1 });
    let mut batches = client::open_cursor(client, operation, "local", command, Some(1000)).await?;
    let mut last = None;
    while let Some(batch) = batches.next().await {
        for entry in batch?.iter() {
            let timestamp = entry
                .get_timestamp("ts")
                .map_err(|error| Error::malformed(operation, error))?;
            if timestamp >= end {
                return Ok(last);
            }
            last = Some(Position::new(
                timestamp,
                entry.get_i64("t").unwrap_or(Position::ZERO.term),
            ));
        }
    }
    Ok(last)
}

/// Returns the newest entry of the primary, once a majority has it. Nothing that was written before the call comes after it.
///
/// # Errors
/// A server error, or an error if the majority does not advance for as long as the patience lasts.
pub(crate) async fn newest_written(client: &Client) -> Result<Position> {
    followed(|| standing(client)).await
}

async fn followed<F>(mut standing: impl FnMut() -> F) -> Result<Position>
where
    F: Future<Output = Result<Standing>>,
{
    let written = retry(RetryPolicy::SERVER, &mut standing).await?.newest;
    let majority = || {
        let standing = standing();
        async { Ok(standing.await?.majority) }
    };
    until_majority(RetryPolicy::SERVER, written, majority, |_| false).await
}

/// Asks what a majority has until that is everything up to `written`, and returns it. An error that `is_final` takes for one ends the wait,
/// others only if the majority does not advance for as long as the patience of `rule` lasts.
///
/// # Errors
/// A final error, or the last one of `majority`, or that the majority does not advance.
pub(crate) async fn until_majority<F>(
    rule: RetryPolicy,
    written: Position,
    mut majority: impl FnMut() -> F,
    is_final: impl Fn(&Error) -> bool,
) -> Result<Position>
where
    F: Future<Output = Result<Position>>,
{
    let (mut attempts, mut reached) = (rule.begin(), Position::ZERO);
    loop {
        let error = match majority().await {
            Ok(majority) if majority >= written => return Ok(majority),
            Ok(majority) => {
                if majority > reached {
                    reached = majority;
                    attempts = rule.begin();
                }
                Error::new(
                    ErrorKind::Connection,
                    "wait until a majority has everything",
                    "the members that make a majority do not follow the primary; see with `rs.status()` which are down or behind",
                )
                .with_context("written", written)
                .with_context("majority", majority)
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => error,
        };
        match attempts.next_pause(&error) {
            Some(pause) => sleep(pause).await,
            None => return Err(error),
        }
    }
}

/// Same as [`newest_written`], but from a primary that a majority has confirmed since the call began. No write that was made before the
/// call and acknowledged by any majority comes after the returned position.
///
/// To confirm itself, the server writes an entry without effect to its oplog, as it does for every read with read concern `linearizable`.
///
/// # Errors
/// A server error, or an error if no majority confirms the primary for as long as the patience lasts.
pub(crate) async fn confirmed(client: &Client) -> Result<Position> {
    const OPERATION: &str = "have a majority confirm the newest position";
    // If members were far behind, the read below would fail again and again.
    newest_written(client).await?;
    retry(RetryPolicy::SERVER, || async {
        let noted = note_linearizable_read(client, OPERATION).await?;
        // Any member may answer. If its majority position is as new as the note, that position comes after the note.
        let majority = standing(client).await?.majority;
        if majority.timestamp() >= noted {
            return Ok(majority);
        }
        let message = "the primary has changed, and the new one does not know yet what a majority has";
        Err(Error::new(ErrorKind::Connection, OPERATION, message).with_context("majority", majority))
    })
    .await
}

/// Makes the primary write an entry without effect and wait until a majority has it. On a superseded primary that never happens. Returns
/// the entry's time. Nothing is retried.
async fn note_linearizable_read(client: &Client, operation: &'static str) -> Result<Timestamp> {
    let milliseconds = i64::try_from(CONFIRMATION.as_millis()).unwrap_or(i64::MAX);
    // What is read does not matter. Every user of this crate may read this.
    let command = doc! {
        "find": "oplog.rs",
        "projection": { "ts": 1 },
        "limit": 1,
        "singleBatch": true,
        "readConcern": { "level": "linearizable" },
        "maxTimeMS": milliseconds,
    };
    let database = client.database("local");
    let reply = answered(operation, COMMAND_TIMEOUT, async {
        let reply = database.run_command(command).await;
        reply.map_err(|error| client::convert(operation, error))
    })
    .await
    .map_err(|error| match client::code(&error) {
        // MaxTimeMSExpired.
        Some(50) => unconfirmed(operation).with_source(error),
        _ => error,
    })?;
    reply
        .get_timestamp("operationTime")
        .map_err(|error| Error::malformed(operation, error))
}

/// Returns the error for a primary that no majority has confirmed in time.
pub(crate) fn unconfirmed(operation: &'static str) -> Error {
    let message = "no majority of the set confirms that the member is its primary; see whether the members reach each other, and whether \
                   writes are locked (`db.fsyncLock()`)";
    Error::new(ErrorKind::Connection, operation, message)
}

/// Returns the whole majority-committed entry at `position`, or `None` if the oplog does not hold it. Nothing is retried.
///
/// # Errors
/// A server error.
pub(crate) async fn entry_at(
    client: &Client,
    operation: &'static str,
    position: Position,
) -> Result<Option<RawDocumentBuf>> {
    first_at(client, operation, position, "majority").await
}

/// Returns `true` if the primary's oplog holds the entry at `position`, which a majority had before. Nothing is retried.
///
/// # Errors
/// A server error.
pub(crate) async fn is_held(client: &Client, operation: &'static str, position: Position) -> Result<bool> {
    // Not a majority read: a new primary has the entry, but may not know yet that others have it too.
    let entry = first_at(client, operation, position, "local").await?;
    Ok(entry.is_some())
}

/// Returns the first entry at or after a position if it is the one at the position.
async fn first_at(
    client: &Client,
    operation: &'static str,
    position: Position,
    read_concern: &str,
) -> Result<Option<RawDocumentBuf>> {
    let needs_replay_flag = standing(client).await?.needs_replay_flag;
    let mut command = find_at(position.timestamp(), needs_replay_flag, read_concern);
    command.append(cstr!("limit"), 1);
    command.append(cstr!("singleBatch"), true);
    let mut batches = client::open_cursor(client, operation, "local", command, None).await?;
    while let Some(batch) = batches.next().await {
        if let Some(entry) = batch?.iter().next() {
            return Ok(is_at(entry, position).then(|| entry.to_owned()));
        }
    }
    Ok(None)
}

/// Builds the command that reads majority-committed oplog entries from a time on.
pub(crate) fn find_from(from: Timestamp, needs_replay_flag: bool) -> RawDocumentBuf {
    find_at(from, needs_replay_flag, "majority")
}

fn find_at(from: Timestamp, needs_replay_flag: bool, read_concern: &str) -> RawDocumentBuf {
    let mut command = rawdoc! {
        "find": "oplog.rs",
        "filter": { "ts": { "$gte": from } },
        "readConcern": { "level": read_concern },
    };
    if needs_replay_flag {
        command.append(cstr!("oplogReplay"), true);
    }
    command
}

/// Whether the entry is the one at this position. Both its time and its term must match.
pub(crate) fn is_at(entry: &RawDocument, position: Position) -> bool {
    entry.get_timestamp("ts").is_ok_and(|ts| ts == position.timestamp())
        && entry.get_i64("t").unwrap_or(Position::ZERO.term) == position.term
}

/// Returns the position of the first entry that matches the filter, in natural or reverse natural order.
fn find_one<'a>(
    client: &'a Client,
    operation: &'static str,
    filter: Document,
    sort: Document,
) -> BoxFuture<'a, Result<Option<Position>>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let command = doc! {
            "find": "oplog.rs",
            "filter": filter,
            "sort": sort,
            "projection": { "ts": 1, "t": 1 },
            "limit": 1,
            "singleBatch": true,
        };
        let reply = client::run(client, operation, "local", command)
            .await
            .map_err(|error| error.with_context("namespace", "local.oplog.rs"))?;
        Ok(first_document(operation, &reply)?.and_then(client::position_of))
    }
    .boxed()
}

/// Returns the first document of a cursor's reply.
fn first_document<'a>(operation: &'static str, reply: &'a Document) -> Result<Option<&'a Document>> {
    let batch = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .map_err(|error| Error::malformed(operation, error))?;
    Ok(batch.first().and_then(Bson::as_document))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    fn at(seconds: u64) -> Position {
        Position {
            time: 1_000 + u32::try_from(seconds).unwrap(),
            increment: 0,
            term: 1,
        }
    }

    /// Follows a set whose majority is at the position that `majority` returns for the seconds since the start.
    async fn follow(majority: impl Fn(u64) -> u64) -> (Result<Position>, Duration) {
        let began = Instant::now();
        let written = at(100);
        let found = followed(|| {
            let majority = at(majority(began.elapsed().as_secs()));
            async move {
                Ok(Standing {
                    newest: written,
                    majority,
                    needs_replay_flag: false,
                })
            }
        })
        .await;
        (found, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_that_advances_is_waited_for() {
        // The majority advances by one second of history every three seconds.
        let (found, took) = follow(|seconds| seconds / 3).await;
        assert_eq!(found.unwrap(), at(100));
        assert!(took >= Duration::from_secs(300), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_that_stands_still_is_given_up() {
        let (found, took) = follow(|seconds| seconds.min(60)).await;
        let error = found.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        let patience = RetryPolicy::SERVER.patience;
        let last = Duration::from_secs(60);
        assert!(took >= last + patience && took < last + patience * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_majority_ends_with_a_final_error() {
        let began = Instant::now();
        let mut asked = 0;
        let majority = || {
            asked += 1;
            let answer = match asked {
                1 | 2 => Ok(at(50)),
                _ => Err(Error::new(ErrorKind::Connection, "test", "the primary has changed")),
            };
            std::future::ready(answer)
        };
        let found = until_majority(RetryPolicy::SERVER, at(100), majority, |_| true).await;
        assert_eq!(found.unwrap_err().operation(), "test");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(asked, 3);
    }
}
