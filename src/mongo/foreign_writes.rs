//! Watches the members of a replica set, and writes made by other programs.

use std::time::Duration;

use bson::raw::{RawDocument, cstr};
use bson::{RawBsonRef, doc, rawdoc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mongodb::Client;
use mongodb::options::{CursorType, RunCursorCommandOptions};
use mongodb::raw_batch_cursor::RawBatchCursor;
use tokio::time::{sleep, timeout};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Position};
use crate::mongo::client;
use crate::mongo::oplog::standing::standing;
use crate::mongo::oplog::{position, seek};
use crate::mongo::retry::{RetryPolicy, retry};
use crate::sink::WritesSeen;

const OPERATION: &str = "watch for other writers";

/// How long the server waits for an entry before it returns an empty batch. A cutover waits for such an answer.
const AWAIT: Duration = Duration::from_millis(100);

/// Timeout for an answer. After it the connection counts as broken.
const REPLY: Duration = Duration::from_secs(30);

/// Returns the addresses of the set's members, in order. Every user may request them.
///
/// # Errors
/// A server error.
pub(crate) async fn members(client: &dyn client::Commands) -> Result<Vec<String>> {
    let hello = client::run(client, "list the members", "admin", doc! { "isMaster": 1 }).await?;
    let mut members: Vec<String> = ["hosts", "passives", "arbiters"]
        .into_iter()
        .filter_map(|list| hello.get_array(list).ok())
        .flatten()
        .filter_map(|member| member.as_str().map(str::to_owned))
        .collect();
    members.sort();
    Ok(members)
}

/// Returns the writes that other programs make after a position, or from now on, in sessions with retryable writes or transactions.
///
/// The oplog names a session only for such writes, and writes of this crate are never among them. Every write seen here is certainly made
/// by another program. Drivers have used retryable writes by default since 2019. Writers that have disabled them are not seen. Updates and
/// deletes of many documents are not seen either, because they cannot be retried. The server filters the entries; no entry of this crate is
/// sent over the network.
///
/// # Errors
/// [`PositionLost`](ErrorKind::PositionLost) if the oplog no longer holds the position, [`Unauthorized`](ErrorKind::Unauthorized) if it may
/// not be read, otherwise a server error, from the call or as the last item.
pub(crate) async fn foreign_writes(
    client: &Client,
    after: Option<Position>,
) -> Result<BoxStream<'static, Result<WritesSeen>>> {
    let until = match after {
        Some(after) => after,
        None => position::newest_position(client).await?,
    };
    // This also shows at once whether the oplog may be read.
    if !retry(RetryPolicy::SERVER, || seek::is_held(client, OPERATION, until)).await? {
        return Err(lost(until));
    }
    let watch = Watch {
        client: client.clone(),
        until,
        told: until,
        cursor: None,
    };
    let begun = WritesSeen {
        collections: Vec::new(),
        until,
    };
    let seen = stream::try_unfold(watch, |mut watch| async move {
        let seen = watch.next().await?;
        Ok::<_, Error>(Some((seen, watch)))
    });
    Ok(stream::once(async { Ok(begun) }).chain(seen).boxed())
}

struct Watch {
    client: Client,
    /// A majority had this entry, and everything up to it has been examined.
    until: Position,
    /// Newest entry that was reported.
    told: Position,
    cursor: Option<Open>,
}

/// An open server cursor.
struct Open {
    cursor: RawBatchCursor,
    /// Term in which the cursor was opened.
    term: i64,
    /// Whether its first answer is known to cover everything after `until`.
    is_whole: bool,
}

impl Watch {
    /// Returns the next writes; most answers have none. Retried through elections and broken connections.
    async fn next(&mut self) -> Result<WritesSeen> {
        let mut attempts = RetryPolicy::SERVER.begin();
        loop {
            let error = match self.step().await {
                Ok(collections) => {
                    return Ok(WritesSeen {
                        collections,
                        until: self.until,
                    });
                }
                Err(error) => error,
            };
            self.cursor = None;
            match attempts.next_pause(&error) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn step(&mut self) -> Result<Vec<Namespace>> {
        let now = standing(&self.client).await?.majority;
        // After an election, the cursor may belong to the old primary, while `now` is an answer of the new one.
        if self.cursor.as_ref().is_none_or(|open| open.term != now.term) {
            self.cursor = None;
            self.cursor = Some(open(&self.client, self.until).await?);
        }
        let closed = || Error::new(ErrorKind::Connection, OPERATION, "the server closed the cursor");
        let open = self.cursor.as_mut().ok_or_else(closed)?;
        let batch = in_time(async { open.cursor.next().await.ok_or_else(closed)?.map_err(convert) }).await?;
        if !open.is_whole {
            // If the entry at `until` still exists, it also existed when the server began the scan.
            if !seek::is_held(&self.client, OPERATION, self.until).await? {
                return Err(lost(self.until));
            }
            open.is_whole = true;
        }
        let mut collections = Vec::new();
        let mut last = None;
        for entry in batch.doc_slices().map_err(convert)? {
            let malformed = |error| Error::malformed(OPERATION, error);
            let RawBsonRef::Document(entry) = entry.map_err(malformed)? else {
                continue;
            };
            let at = position_of(entry)?;
            last = Some(at);
            // A reopened cursor begins before some entries that were already reported. Entries of a new primary are new, whatever the time
            // of the old one was.
            if at > self.told || at.term > self.told.term {
                self.told = at;
                written(entry, &mut collections);
            }
        }
        // An answer without entries means that the server reached the end of what it had when it was asked, which is at or after `now`. An
        // answer with entries may have been cut short.
        let looked_at = last.map_or(now, |last| last.min(now));
        self.until = self.until.max(looked_at);
        Ok(collections)
    }
}

async fn open(client: &Client, after: Position) -> Result<Open> {
    let standing = standing(client).await?;
    let mut find = rawdoc! {
        "find": "oplog.rs",
        "filter": {
            "ts": { "$gt": after.timestamp() },
            "lsid": { "$exists": true },
            "op": { "$in": ["i", "u", "d", "c"] },
        },
        "projection": { "ts": 1, "t": 1, "ns": 1, "o.applyOps.ns": 1 },
        "tailable": true,
        "awaitData": true,
        // Scanning a long history is not part of opening.
        "batchSize": 0,
    };
    if standing.needs_replay_flag {
        find.append(cstr!("oplogReplay"), true);
    }
    let mut options = RunCursorCommandOptions::default();
    options.cursor_type = Some(CursorType::TailableAwait);
    options.max_time = Some(AWAIT);
    let database = client.database("local");
    let mut cursor = in_time(async { client::raw_batches(&database, find, options).await.map_err(convert) }).await?;
    // The first batch is empty and means nothing.
    in_time(async { cursor.next().await.transpose().map_err(convert) }).await?;
    Ok(Open {
        cursor,
        term: standing.majority.term,
        is_whole: false,
    })
}

fn position_of(entry: &RawDocument) -> Result<Position> {
    let malformed = |error| Error::malformed(OPERATION, error);
    let timestamp = entry.get_timestamp("ts").map_err(malformed)?;
    Ok(Position::new(timestamp, entry.get_i64("t").map_err(malformed)?))
}

/// Adds the collections to which one entry writes, including those of a transaction.
fn written(entry: &RawDocument, namespaces: &mut Vec<Namespace>) {
    let within = entry
        .get_document("o")
        .and_then(|operation| operation.get_array("applyOps"));
    if let Ok(operations) = within {
        for operation in operations.into_iter().flatten() {
            if let RawBsonRef::Document(operation) = operation {
                namespaces.extend(namespace_of(operation));
            }
        }
    } else {
        namespaces.extend(namespace_of(entry));
    }
}

fn namespace_of(entry: &RawDocument) -> Option<Namespace> {
    let namespace: Namespace = entry.get_str("ns").ok()?.parse().ok()?;
    let is_of_server = matches!(namespace.database(), "admin" | "config" | "local");
    (!is_of_server && namespace.database() != crate::METADATA_DATABASE).then_some(namespace)
}

async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(REPLY, call).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Connection,
            OPERATION,
            "the server does not answer",
        ))
    })
}

fn convert(error: mongodb::error::Error) -> Error {
    let error = client::convert(OPERATION, error).with_context("namespace", "local.oplog.rs");
    // A cursor that was too slow also returns this error. A new cursor finds out whether anything was missed.
    let is_retryable = error.is_retryable() || error.kind() == ErrorKind::PositionLost;
    error.with_retryable(is_retryable)
}

fn lost(position: Position) -> Error {
    Error::new(
        ErrorKind::PositionLost,
        OPERATION,
        "the target's oplog no longer holds the position up to which writes were watched",
    )
    .with_context("position", position)
}

#[cfg(test)]
mod tests {
    use bson::{RawArrayBuf, RawDocumentBuf};

    use super::*;

    #[test]
    fn collections_are_named_once_for_each_write() {
        let names = |entry: RawDocumentBuf| {
            let mut namespaces = Vec::new();
            written(&entry, &mut namespaces);
            namespaces.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(rawdoc! { "ns": "shop.orders" }), ["shop.orders"]);
        let operations = ["shop.a", "shop.b", "config.settings", "shop.a"];
        let operations: RawArrayBuf = operations.iter().map(|ns| rawdoc! { "ns": *ns }).collect();
        assert_eq!(
            names(rawdoc! { "ns": "admin.$cmd", "o": { "applyOps": operations } }),
            ["shop.a", "shop.b", "shop.a"]
        );
        assert!(names(rawdoc! { "ns": "__mdb_internal_mongoferry.records" }).is_empty());
    }
}
