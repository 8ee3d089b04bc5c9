//! What is watched on a replica set besides its data: its members, and who else writes to it.

use std::collections::VecDeque;
use std::time::Duration;

use bson::raw::{RawDocument, cstr};
use bson::{Document, RawBsonRef, Timestamp, doc, rawdoc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use mongodb::Client;
use mongodb::options::{CursorType, RunCursorCommandOptions};
use mongodb::raw_batch_cursor::RawBatchCursor;
use tokio::time::{sleep, timeout};

use crate::driver;
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::Namespace;
use crate::retry::RetryRule;

const OPERATION: &str = "watch for other writers";

/// How long the server waits for an entry before it answers that there is none.
const AWAIT: Duration = Duration::from_secs(1);

/// How long an answer may take, beyond which the connection counts as broken.
const REPLY: Duration = Duration::from_secs(30);

/// The addresses of the set's members, in order. Every user may ask for them.
///
/// # Errors
/// A server error.
pub(crate) async fn members(client: &Client) -> Result<Vec<String>> {
    let hello = driver::run(client, "list the members", "admin", doc! { "isMaster": 1 }).await?;
    let mut members: Vec<String> = ["hosts", "passives", "arbiters"]
        .into_iter()
        .filter_map(|list| hello.get_array(list).ok())
        .flatten()
        .filter_map(|member| member.as_str().map(str::to_owned))
        .collect();
    members.sort();
    Ok(members)
}

/// The collections that sessions with retryable writes or transactions write to from now on, once for each write.
///
/// The oplog names the session of such writes alone, and those of this crate are never among them: what is seen here is another's for
/// certain. Drivers have written so by default since 2019. Not seen are writers that have switched it off, and updates and deletes of many
/// documents, which cannot be retried. The server looks for the entries; none of this crate's own is sent over the network.
///
/// # Errors
/// [`Unauthorized`](ErrorKind::Unauthorized) when the oplog may not be read, else a server error, from the call or as the last item.
pub(crate) async fn foreign_writes(client: &Client) -> Result<BoxStream<'static, Result<Namespace>>> {
    let mut watch = Watch {
        client: client.clone(),
        after: newest(client).await?.0,
        cursor: None,
    };
    watch.reopen().await?;
    let batches = stream::try_unfold(watch, |mut watch| async move {
        let namespaces = watch.next().await?;
        Ok::<_, Error>(Some((stream::iter(namespaces.into_iter().map(Ok)), watch)))
    });
    Ok(batches.try_flatten().boxed())
}

struct Watch {
    client: Client,
    after: Timestamp,
    cursor: Option<RawBatchCursor>,
}

impl Watch {
    /// The next writes; none in most answers. Elections and broken connections are sat out.
    async fn next(&mut self) -> Result<VecDeque<Namespace>> {
        let mut attempts = RetryRule::SERVER.begin();
        loop {
            let error = match self.step().await {
                Ok(namespaces) => return Ok(namespaces),
                Err(error) => error,
            };
            self.cursor = None;
            if error.kind() == ErrorKind::PositionLost {
                // What the oplog no longer holds was not seen; what comes is.
                self.after = newest(&self.client).await?.0;
                continue;
            }
            match attempts.next_pause(&error) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn step(&mut self) -> Result<VecDeque<Namespace>> {
        if self.cursor.is_none() {
            self.reopen().await?;
        }
        let closed = || Error::new(ErrorKind::Connection, OPERATION, "the server closed the cursor");
        let cursor = self.cursor.as_mut().ok_or_else(closed)?;
        let batch = in_time(async { cursor.next().await.ok_or_else(closed)?.map_err(convert) }).await?;
        let mut namespaces = VecDeque::new();
        for entry in batch.doc_slices().map_err(convert)? {
            let malformed = |error| Error::malformed(OPERATION, error);
            let entry = entry.map_err(malformed)?;
            let RawBsonRef::Document(entry) = entry else { continue };
            self.after = entry
                .get_timestamp("ts")
                .map_err(|error| Error::malformed(OPERATION, error))?;
            written(entry, &mut namespaces);
        }
        Ok(namespaces)
    }

    async fn reopen(&mut self) -> Result<()> {
        let (_, needs_replay_flag) = newest(&self.client).await?;
        let mut find = rawdoc! {
            "find": "oplog.rs",
            "filter": {
                "ts": { "$gt": self.after },
                "lsid": { "$exists": true },
                "op": { "$in": ["i", "u", "d", "c"] },
            },
            "projection": { "ts": 1, "ns": 1, "o.applyOps.ns": 1 },
            "tailable": true,
            "awaitData": true,
        };
        if needs_replay_flag {
            find.append(cstr!("oplogReplay"), true);
        }
        let mut options = RunCursorCommandOptions::default();
        options.cursor_type = Some(CursorType::TailableAwait);
        options.max_time = Some(AWAIT);
        let database = self.client.database("local");
        let open = database.run_raw_cursor_command(find).with_options(options).batch();
        self.cursor = Some(in_time(async { open.await.map_err(convert) }).await?);
        Ok(())
    }
}

/// The collections of one entry, a transaction's among them.
fn written(entry: &RawDocument, namespaces: &mut VecDeque<Namespace>) {
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

/// The position of the server's newest entry, and whether it has to be told that a query goes by position.
async fn newest(client: &Client) -> Result<(Timestamp, bool)> {
    /// From 4.4 on the server sees it by itself.
    const SEES_IT_ITSELF: i32 = 9;
    let hello: Document = driver::run(client, OPERATION, "admin", doc! { "isMaster": 1 }).await?;
    let newest = hello
        .get_document("lastWrite")
        .and_then(|write| write.get_document("opTime"))
        .and_then(|time| time.get_timestamp("ts"))
        .map_err(|error| Error::malformed(OPERATION, error))?;
    let wire = hello.get_i32("maxWireVersion").unwrap_or_default();
    Ok((newest, wire < SEES_IT_ITSELF))
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
    driver::convert(OPERATION, error).with_context("namespace", "local.oplog.rs")
}

#[cfg(test)]
mod tests {
    use bson::{RawArrayBuf, RawDocumentBuf};

    use super::*;

    #[test]
    fn collections_are_named_once_for_each_write() {
        let names = |entry: RawDocumentBuf| {
            let mut namespaces = VecDeque::new();
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
