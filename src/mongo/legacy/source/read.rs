//! Reads documents: each as of some point between a position and the end of the read.
//!
//! Where the server has majority reads, it returns nothing that can be rolled back. Elsewhere each batch waits until a majority has everything
//! that it can show: the newest entry of the primary after the batch was read, in the same election.
//!
//! Ranges are read in the order of the index on `_id`. The older storage engine (MMAPv1) moves a document that grows. A scan of the
//! collection can then meet it twice or not at all, while the index always has it at its `_id`.

use std::sync::Arc;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{RawBson, rawdoc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::server::{Elected, Server, UUIDS, changed, from};
use crate::catalog::Series;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Batch, CollectionKind, Namespace, Position, Range};
use crate::mongo::client::code;
use crate::mongo::legacy::{Find, LegacyCursor};
use crate::mongo::range_query::{Numbers, batch_size, open_range, range_find};
use crate::mongo::retry::{FIRST_BATCH_TIMEOUT, RetryPolicy, answered, retry};
use crate::mongo::source::by_id::{groups, with_ids};
use crate::order::Key;
use crate::source::{PointRequest, ReadMode, ReadRequest};

const OPERATION: &str = "read documents";

/// First servers that know the type Decimal128.
const DECIMALS: Series = [3, 4];

/// First wire version that reads the documents above a value and up to MaxKey in one query (3.6).
const OPEN_END: i32 = UUIDS;

/// Highest wire version whose cursors end as if nothing were left when their collection is dropped (2.6).
const ENDS_SILENTLY: i32 = 2;

/// Returns the documents of a range.
///
/// # Errors
/// [`SnapshotUnavailable`](ErrorKind::SnapshotUnavailable) for a snapshot, or a server error.
pub(super) async fn range(server: &Arc<Server>, request: &ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
    refuse_snapshot(request.mode)?;
    let namespace = &request.namespace;
    let batch_size = batch_size(request.batch_bytes, request.document_bytes);
    // Of the kinds with ranges, these servers have one.
    let kind = match request.kind {
        CollectionKind::Plain if server.wire_version < OPEN_END => CollectionKind::Clustered,
        kind => kind,
    };
    let numbers = if server.series < DECIMALS {
        Numbers::WithoutDecimal
    } else {
        Numbers::All
    };
    let opened = open_range(namespace, numbers, |numbers| async move {
        let query = range_find(namespace, kind, &request.range, batch_size, None, numbers);
        let mut queries = vec![find_of(namespace, &query.command)];
        let Range { lower, upper } = &request.range;
        let reaches_end = upper.as_ref().is_none_or(|upper| *upper == Key::MAX);
        if kind == CollectionKind::Clustered && reaches_end && lower.as_ref().is_some_and(|lower| *lower < Key::MAX) {
            // An index scan without an end stops before MaxKey.
            queries.push(Find::new(
                namespace.database(),
                namespace.collection(),
                rawdoc! { "_id": RawBson::MaxKey },
            ));
        }
        queries.reverse();
        let opened = retry(RetryPolicy::SERVER, || {
            answered(OPERATION, FIRST_BATCH_TIMEOUT, async {
                Box::pin(Reading::open(server, namespace, request.at, queries.clone())).await
            })
        });
        Ok((query, opened.await?))
    });
    let (query, opened) = opened.await?;
    let batches = stream::try_unfold(opened, |mut reading| async {
        let batch = reading
            .next()
            .await
            .map_err(|error| error.with_context("namespace", &reading.namespace))?;
        Ok(batch.map(|batch| (batch, reading)))
    });
    Ok(query.within(batches.boxed()))
}

/// Returns those of the requested documents that exist.
///
/// # Errors
/// Same as [`range`].
pub(super) async fn documents(server: &Arc<Server>, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
    refuse_snapshot(request.mode)?;
    let namespace = request.namespace;
    let mut found = Vec::new();
    for group in groups(request.keys, false) {
        let keys = &request.keys[group];
        let query = Find::new(namespace.database(), namespace.collection(), with_ids(keys));
        let documents = retry(RetryPolicy::SERVER, || {
            answered(OPERATION, FIRST_BATCH_TIMEOUT, async {
                let open = Reading::open(server, namespace, request.at, vec![query.clone()]);
                let mut reading = Box::pin(open).await?;
                let mut documents = Vec::new();
                while let Some(batch) = reading.next().await? {
                    documents.extend(batch.iter().map(RawDocument::to_owned));
                }
                Ok(documents)
            })
        });
        let documents = documents
            .await
            .map_err(|error| error.with_context("namespace", namespace))?;
        // Under a default collation, different values can compare as equal. The query can then return a document that was not requested.
        let wanted: std::collections::HashSet<&Key> = keys.iter().collect();
        found.extend(
            documents
                .into_iter()
                .filter(|document| Key::of_document(document).is_some_and(|key| wanted.contains(&key))),
        );
    }
    Ok(found)
}

fn refuse_snapshot(mode: ReadMode) -> Result<()> {
    match mode {
        ReadMode::Interval => Ok(()),
        ReadMode::Snapshot => Err(Error::new(
            ErrorKind::SnapshotUnavailable,
            OPERATION,
            "servers before 4.2 read nothing as of a position",
        )
        .with_retryable(false)),
    }
}

/// A read in progress.
struct Reading {
    server: Arc<Server>,
    namespace: Namespace,
    primary: Elected,
    /// The position that the read began at.
    at: Position,
    /// Queries that have not begun, the next one last.
    queries: Vec<Find>,
    cursor: Option<LegacyCursor>,
}

impl Reading {
    async fn open(server: &Arc<Server>, namespace: &Namespace, at: Position, queries: Vec<Find>) -> Result<Self> {
        let primary = server.primary().await?;
        server.reaches(&primary, at).await?;
        let mut reading = Self {
            server: Arc::clone(server),
            namespace: namespace.clone(),
            primary,
            at,
            queries,
            cursor: None,
        };
        reading.begin().await?;
        Ok(reading)
    }

    /// Begins the next query, if there is one.
    async fn begin(&mut self) -> Result<()> {
        self.cursor = match self.queries.pop() {
            Some(mut find) => {
                find.address = Some(self.primary.address.clone());
                if self.server.reads_majority {
                    find.read_concern = Some(rawdoc! { "level": "majority" });
                }
                Some(Box::pin(self.server.client.find(find)).await.map_err(judge)?)
            }
            None => None,
        };
        Ok(())
    }

    /// Returns the next batch that is not empty, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Batch>> {
        while let Some(cursor) = &mut self.cursor {
            match Box::pin(cursor.next_batch()).await.map_err(judge)? {
                Some(batch) if batch.is_empty() => {}
                Some(batch) => {
                    self.confirm().await?;
                    return Ok(Some(batch));
                }
                None => {
                    self.cursor = None;
                    // What was not returned has been seen not to be there.
                    let newest = self.confirm().await?;
                    self.ensure_whole(newest).await?;
                    self.begin().await?;
                }
            }
        }
        Ok(None)
    }

    /// Waits until a majority has everything that was read.
    async fn confirm(&self) -> Result<Position> {
        if self.server.reads_majority {
            return Ok(self.at);
        }
        let newest = self.server.newest(&self.primary.address).await?;
        match self.server.known(&self.primary) {
            Some(known) if known >= newest => self.server.look(&self.primary).await.map(|_| ())?,
            _ => self.server.committed_through(&self.primary, newest).await.map(|_| ())?,
        }
        Ok(newest)
    }

    /// Makes sure that the collection existed under its name until the cursor ended.
    async fn ensure_whole(&self, until: Position) -> Result<()> {
        if self.server.wire_version > ENDS_SILENTLY {
            return Ok(());
        }
        let mut find = from(&self.primary.address, self.at.timestamp());
        let (from, until) = (self.at.timestamp(), until.timestamp());
        // What is logged at the position itself was over before the cursor was opened.
        find.filter = rawdoc! { "ts": { "$gt": from, "$lte": until } };
        let mut commands = Box::pin(self.server.client.find(find)).await?;
        while let Some(batch) = Box::pin(commands.next_batch()).await? {
            let mut commands = batch
                .iter()
                .filter(|entry| entry.get_str("op").is_ok_and(|op| op == "c"));
            if commands.any(|entry| ends(entry, &self.namespace)) {
                return Err(changed(&self.primary).with_context("changed", "the collection"));
            }
        }
        Ok(())
    }
}

/// Whether a command may have ended the cursors of a collection.
fn ends(entry: &RawDocument, namespace: &Namespace) -> bool {
    let database = entry
        .get_str("ns")
        .unwrap_or_default()
        .split('.')
        .next()
        .unwrap_or_default();
    let Some(Ok((name, value))) = entry.get_document("o").ok().and_then(|command| command.iter().next()) else {
        return true;
    };
    match name.as_str() {
        "renameCollection" => {
            let to = entry.get_document("o").and_then(|command| command.get_str("to"));
            value.as_str() == Some(namespace.as_str()) || to.is_ok_and(|to| to == namespace.as_str())
        }
        "create" | "collMod" => false,
        _ if database != namespace.database() => false,
        "dropDatabase" => true,
        _ => value.as_str() == Some(namespace.collection()),
    }
}

/// Classifies an error of a read for the caller: the collection or its indexes may have changed, or a capped collection has pushed out
/// what was to be read next.
fn judge(error: Error) -> Error {
    match code(&error) {
        Some(136) => error.with_kind(ErrorKind::Server).with_retryable(true),
        _ if error.kind() == ErrorKind::SnapshotUnavailable => error.with_kind(ErrorKind::Server).with_retryable(true),
        _ => error,
    }
}

/// Turns a `find` command into a query.
pub(super) fn find_of(namespace: &Namespace, command: &RawDocument) -> Find {
    let mut find = Find::new(namespace.database(), namespace.collection(), RawDocumentBuf::new());
    for (name, value) in command.iter().flatten() {
        let document = match value {
            RawBsonRef::Document(document) => Some(document.to_owned()),
            _ => None,
        };
        let number = || match value {
            RawBsonRef::Int32(number) => u32::try_from(number).ok(),
            RawBsonRef::Int64(number) => u32::try_from(number).ok(),
            _ => None,
        };
        match (name.as_str(), document) {
            ("filter", Some(filter)) => find.filter = filter,
            ("projection", projection) => find.projection = projection,
            ("sort", sort) => find.sort = sort,
            ("hint", hint) => find.hint = hint,
            ("min", min) => find.min = min,
            ("max", max) => find.max = max,
            ("collation", collation) => find.collation = collation,
            ("readConcern", read_concern) => find.read_concern = read_concern,
            ("batchSize", None) => find.batch_size = number(),
            ("limit", None) => find.limit = number(),
            _ => {}
        }
    }
    find
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_becomes_the_same_query() {
        let namespace = Namespace::new("d", "c");
        let find = find_of(
            &namespace,
            &rawdoc! {
                "find": "c", "filter": { "a": 1 }, "hint": { "_id": 1 }, "min": { "_id": 1 }, "max": { "_id": 5 }, "batchSize": 10_i64,
                "limit": 3, "projection": { "_id": 1 }, "sort": { "$natural": -1 },
            },
        );
        assert_eq!(find.namespace, ("d".to_owned(), "c".to_owned()));
        assert_eq!(find.filter, rawdoc! { "a": 1 });
        assert_eq!(find.hint, Some(rawdoc! { "_id": 1 }));
        assert_eq!(
            (find.min, find.max),
            (Some(rawdoc! { "_id": 1 }), Some(rawdoc! { "_id": 5 }))
        );
        assert_eq!((find.batch_size, find.limit), (Some(10), Some(3)));
        assert_eq!(find.projection, Some(rawdoc! { "_id": 1 }));
        assert_eq!(find.sort, Some(rawdoc! { "$natural": -1 }));
    }

    #[test]
    fn commands_that_end_cursors_of_a_collection_are_known() {
        let namespace = Namespace::new("d", "c");
        for (ns, command, expected) in [
            ("d.$cmd", rawdoc! { "drop": "c" }, true),
            ("d.$cmd", rawdoc! { "drop": "e" }, false),
            ("e.$cmd", rawdoc! { "drop": "c" }, false),
            ("d.$cmd", rawdoc! { "dropDatabase": 1 }, true),
            ("e.$cmd", rawdoc! { "dropDatabase": 1 }, false),
            ("admin.$cmd", rawdoc! { "renameCollection": "d.c", "to": "d.e" }, true),
            ("admin.$cmd", rawdoc! { "renameCollection": "d.e", "to": "d.c" }, true),
            ("admin.$cmd", rawdoc! { "renameCollection": "d.e", "to": "d.f" }, false),
            ("d.$cmd", rawdoc! { "convertToCapped": "c", "size": 5 }, true),
            ("d.$cmd", rawdoc! { "deleteIndexes": "c", "index": "*" }, true),
            ("d.$cmd", rawdoc! { "create": "c" }, false),
        ] {
            let entry = rawdoc! { "ns": ns, "o": command };
            assert_eq!(ends(&entry, &namespace), expected, "{entry:?}");
        }
    }
}
