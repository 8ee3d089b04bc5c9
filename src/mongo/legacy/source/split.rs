//! Finds the keys that split a collection into ranges of about equal size.

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::rawdoc;

use super::server::{FIND_COMMAND, Server};
use crate::error::{Error, Result};
use crate::model::Collection;
use crate::mongo::client::{code, is_gone};
use crate::mongo::legacy::{Find, LegacyCursor};
use crate::mongo::retry::{RetryPolicy, WHOLE_COLLECTION, retry};
use crate::mongo::source::split::{BATCH, Plan, Shares, can_cut, quantiles};
use crate::order::Key;

const OPERATION: &str = "split a collection";

/// Returns the keys that split `collection` into ranges of about `bytes` each, in ascending order.
pub(super) async fn split(server: &Arc<Server>, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
    let Some(plan) = Plan::of(collection, bytes) else {
        return Ok(Vec::new());
    };
    let keys = retry(RetryPolicy::SERVER, || async {
        if plan.is_small {
            return walk(server, collection, plan.ranges).await;
        }
        // Servers before 3.2 do not sample.
        if server.wire_version < FIND_COMMAND {
            return jump(server, collection, plan.ranges).await;
        }
        match sample(server, collection, plan.samples, plan.ranges).await {
            // The random cursor has met the same documents again and again.
            Err(error) if code(&error) == Some(28799) => walk(server, collection, plan.ranges).await,
            answer => answer,
        }
    })
    .await;
    match keys {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        keys => keys.map_err(|error| error.with_context("namespace", &collection.namespace)),
    }
}

/// Takes quantiles of a random sample, which fits into one reply unless the keys are large.
async fn sample(server: &Server, collection: &Collection, samples: u64, ranges: u64) -> Result<Vec<Key>> {
    let samples = i64::try_from(samples).unwrap_or(i64::MAX);
    let limit = i64::try_from(WHOLE_COLLECTION.as_millis()).unwrap_or(i64::MAX);
    let command = rawdoc! {
        "aggregate": collection.namespace.collection(),
        "pipeline": [{ "$sample": { "size": samples } }, { "$project": { "_id": 1 } }],
        "cursor": { "batchSize": samples.saturating_add(1) },
        "allowDiskUse": true,
        "maxTimeMS": limit,
    };
    let cursor = Box::pin(server.client.command_cursor(collection.namespace.database(), &command)).await?;
    let mut keys = Vec::new();
    each_key(cursor, |key| {
        keys.extend(Some(key).filter(can_cut));
        true
    })
    .await?;
    keys.sort_unstable();
    Ok(quantiles(keys, ranges))
}

/// Walks along the index on `_id` and takes one key after each equal share of the documents.
async fn walk(server: &Server, collection: &Collection, ranges: u64) -> Result<Vec<Key>> {
    let mut find = ids_of(collection);
    find.batch_size = Some(BATCH);
    let mut shares = Shares::new(collection, ranges);
    each_key(Box::pin(server.client.find(find)).await?, |key| shares.take(key)).await?;
    Ok(shares.keys)
}

/// Passes the `_id` of each document to `take` until `take` returns `false`.
async fn each_key(mut cursor: LegacyCursor, mut take: impl FnMut(Key) -> bool) -> Result<()> {
    while let Some(batch) = Box::pin(cursor.next_batch()).await? {
        for key in batch.iter().filter_map(Key::of_document) {
            if !take(key) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Jumps along the index on `_id` by an equal share of the documents at a time. The server passes over the documents in between without
/// sending them.
async fn jump(server: &Server, collection: &Collection, ranges: u64) -> Result<Vec<Key>> {
    let step = (collection.documents / ranges).max(1);
    let mut find = ids_of(collection);
    find.skip = Some(u32::try_from(step).unwrap_or(u32::MAX));
    let mut keys = Vec::new();
    for _ in 1..ranges {
        let Some(document) = server.first(find.clone()).await? else {
            break;
        };
        let Some(key) = Key::of_document(&document) else { break };
        let from = RawDocumentBuf::from_bytes(key.document_bytes().to_vec());
        find.min = Some(from.map_err(|error| Error::malformed(OPERATION, error))?);
        keys.extend(Some(key).filter(can_cut));
    }
    Ok(keys)
}

/// The query for all `_id`s, in order.
fn ids_of(collection: &Collection) -> Find {
    let namespace = &collection.namespace;
    let mut find = Find::new(namespace.database(), namespace.collection(), rawdoc! {});
    find.projection = Some(rawdoc! { "_id": 1 });
    find.hint = Some(rawdoc! { "_id": 1 });
    find
}
