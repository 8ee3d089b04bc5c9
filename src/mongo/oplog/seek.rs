//! Reads of the oplog that begin at a known position or time.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::{Timestamp, rawdoc};
use futures::StreamExt;
use mongodb::Client;

use crate::error::Result;
use crate::model::Position;
use crate::mongo::client;
use crate::mongo::oplog::standing::standing;

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
