//! What is watched on a replica set besides its data: its members, and who else writes to it.

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
use crate::mongo::oplog::position;
use crate::mongo::retry::{RetryPolicy, retry};
use crate::sink::WritesSeen;

const OPERATION: &str = "watch for other writers";

/// How long the server waits for an entry before it answers that there is none. A cutover waits for such an answer.
const AWAIT: Duration = Duration::from_millis(100);

/// How long an answer may take, beyond which the connection counts as broken.
const REPLY: Duration = Duration::from_secs(30);

/// The addresses of the set's members, in order. Every user may ask for them.
///
/// # Errors
/// A server error.
pub(crate) async fn members(client: &Client) -> Result<Vec<String>> {
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

/// What sessions with retryable writes or transactions write after a position, or from now on.
///
/// The oplog names the session of such writes alone, and those of this crate are never among them: what is seen here is another's for
/// certain. Drivers have written so by default since 2019. Not seen are writers that have switched it off, and updates and deletes of many
/// documents, which cannot be retried. The server looks for the entries; none of this crate's own is sent over the network.
///
/// # Errors
/// [`PositionLost`](ErrorKind::PositionLost) when the oplog no longer holds the position, [`Unauthorized`](ErrorKind::Unauthorized) when it
/// may not be read, else a server error, from the call or as the last item.
pub(crate) async fn foreign_writes(
    client: &Client,
    after: Option<Position>,
) -> Result<BoxStream<'static, Result<WritesSeen>>> {
    let until = match after {
        Some(after) => after,
        None => position::newest_position(client).await?,
    };
    // Whether the oplog may be read is known at once, too.
    if !retry(RetryPolicy::SERVER, || position::is_held(client, OPERATION, until)).await? {
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
    /// A majority had it, and everything up to it was looked at.
    until: Position,
    /// The newest entry that was told.
    told: Position,
    cursor: Option<Open>,
}

/// A cursor of the server.
struct Open {
    cursor: RawBatchCursor,
    /// The term in which it was opened.
    term: i64,
    /// Whether its first answer had everything after `until` in it.
    is_whole: bool,
}

impl Watch {
    /// The next writes; none in most answers. Elections and broken connections are sat out.
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
        let now = position::standing(&self.client).await?.majority;
        // After an election the cursor may be one of the old primary, and what is asked for above an answer of the new one.
        if self.cursor.as_ref().is_none_or(|open| open.term != now.term) {
            self.cursor = None;
            self.cursor = Some(open(&self.client, self.until).await?);
        }
        let closed = || Error::new(ErrorKind::Connection, OPERATION, "the server closed the cursor");
        let open = self.cursor.as_mut().ok_or_else(closed)?;
        let batch = in_time(async { open.cursor.next().await.ok_or_else(closed)?.map_err(convert) }).await?;
        if !open.is_whole {
            // It was there when the server began to look, since it is still there.
            if !position::is_held(&self.client, OPERATION, self.until).await? {
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
            // A cursor that was opened again begins before some that were told. What a new primary wrote is new, whatever the old one's
            // time was.
            if at > self.told || at.term > self.told.term {
                self.told = at;
                written(entry, &mut collections);
            }
        }
        // An answer without entries says that the server came to the end of what it had when it was asked, which is at or after `now`. One
        // with entries may have been cut short.
        let looked_at = last.map_or(now, |last| last.min(now));
        self.until = self.until.max(looked_at);
        Ok(collections)
    }
}

async fn open(client: &Client, after: Position) -> Result<Open> {
    let standing = position::standing(client).await?;
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
        // Looking through a long history is not part of opening.
        "batchSize": 0,
    };
    if standing.needs_replay_flag {
        find.append(cstr!("oplogReplay"), true);
    }
    let mut options = RunCursorCommandOptions::default();
    options.cursor_type = Some(CursorType::TailableAwait);
    options.max_time = Some(AWAIT);
    let database = client.database("local");
    let open = database.run_raw_cursor_command(find).with_options(options).batch();
    let mut cursor = in_time(async { open.await.map_err(convert) }).await?;
    // The first batch, which is empty and says nothing.
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

/// The collections of one entry, a transaction's among them.
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
    // A cursor that was too slow says so, too. Another one finds out whether anything was missed.
    let is_retryable = error.is_retryable() || error.kind() == ErrorKind::PositionLost;
    error.with_retryable(is_retryable)
}

fn lost(position: Position) -> Error {
    Error::new(
        ErrorKind::PositionLost,
        OPERATION,
        "the target's oplog no longer holds the position up to which was watched",
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
