//! Counts the documents that the index on `_id` does not have.
//!
//! Up to 4.0 an index takes keys of at most 1024 bytes. Servers before 2.6, and later ones with `failIndexKeyTooLong` off, store a document
//! with a longer `_id` all the same, without an entry in the index. Whatever is read along the index misses it.

use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::model::Collection;
use crate::mongo::client::{self, is_gone, number};

const OPERATION: &str = "count the documents without an entry in the index on `_id`";

/// Timeout for one collection, however often it is counted.
const LIMIT: Duration = Duration::from_secs(20);

/// How often a collection is counted that seems to have such documents. Writes during a count make it wrong, in either direction.
const COUNTS: usize = 3;

/// Returns how many documents the index does not have: the number of documents that the collection has, less the number of the index's
/// entries. Returns `None` if there is no answer in time.
///
/// # Errors
/// A server error.
pub(in crate::mongo) async fn count(client: &dyn client::Commands, collection: &Collection) -> Result<Option<u64>> {
    match timeout(LIMIT, least(client, collection)).await {
        Ok(Err(error)) if is_gone(&error) => Ok(Some(0)),
        Ok(counted) => counted
            .map(Some)
            .map_err(|error| error.with_context("namespace", &collection.namespace)),
        Err(_) => Ok(None),
    }
}

async fn least(client: &dyn client::Commands, collection: &Collection) -> Result<u64> {
    let namespace = &collection.namespace;
    let ask = async |command: Document| {
        let reply = client::run(client, OPERATION, namespace.database(), command).await?;
        Ok::<u64, Error>(number(&reply, "n"))
    };
    // Without a query, the server answers with the number that it keeps of the collection.
    let documents = doc! { "count": namespace.collection() };
    // Every value is at least MinKey, so that the entries are counted without the documents.
    let entries = doc! {
        "count": namespace.collection(),
        "query": { "_id": { "$gte": Bson::MinKey } },
        "hint": { "_id": 1 },
        "maxTimeMS": i64::try_from(LIMIT.as_millis()).unwrap_or(i64::MAX),
    };
    let mut missing = u64::MAX;
    for _ in 0..COUNTS {
        let before = ask(documents.clone()).await?;
        let indexed = ask(entries.clone()).await?;
        let after = ask(documents.clone()).await?;
        missing = missing.min(before.min(after).saturating_sub(indexed));
        if missing == 0 {
            break;
        }
    }
    Ok(missing)
}
