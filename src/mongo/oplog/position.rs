//! Positions in a replica set's history: the newest, the oldest, and the start position.

use bson::raw::cstr;
use bson::{Bson, Document, Timestamp, doc, rawdoc};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use mongodb::Client;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::mongo::client::{self, Commands};
use crate::mongo::oplog::seek::find_from;
use crate::mongo::oplog::standing::standing;
use crate::mongo::retry::{RetryPolicy, retry};

/// Operation named in the errors of the search for a start position.
const START: &str = "find the position to start at";

/// Operation named in the errors of the search for the oldest entry.
const OLDEST: &str = "find the oldest oplog entry";

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
