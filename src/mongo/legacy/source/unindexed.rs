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

/// Timeout for counting the entries of one index, however often.
const LIMIT: Duration = Duration::from_secs(20);

/// Timeout for counting the documents of a collection by reading them all.
const READ_LIMIT: Duration = Duration::from_secs(40);

/// How often a collection is counted that seems to have such documents. Writes during a count make it wrong, in either direction.
const COUNTS: usize = 3;

/// Returns how many documents the index does not have: the number of documents that the collection has, less the number of the index's
/// entries. Returns `None` if there is no answer in time.
///
/// # Errors
/// A server error.
pub(super) async fn count(client: &dyn client::Commands, collection: &Collection) -> Result<Option<u64>> {
    let kept = match timeout(LIMIT, least(client, collection, Documents::Kept)).await {
        Ok(Ok(kept)) => kept,
        Ok(Err(error)) if is_gone(&error) => return Ok(Some(0)),
        Ok(Err(error)) => return Err(error.with_context("namespace", &collection.namespace)),
        Err(_) => return Ok(None),
    };
    if kept == 0 {
        return Ok(Some(0));
    }
    // The number that a server keeps of a collection is often wrong after a crash.
    match timeout(READ_LIMIT, least(client, collection, Documents::Read)).await {
        Ok(Ok(read)) => Ok(Some(read)),
        Ok(Err(error)) if is_gone(&error) => Ok(Some(0)),
        Ok(Err(_)) | Err(_) => Ok(Some(kept)),
    }
}

/// Where the number of documents of a collection is from.
#[derive(Clone, Copy)]
enum Documents {
    /// From the number that the server keeps.
    Kept,
    /// From reading all documents.
    Read,
}

async fn least(client: &dyn client::Commands, collection: &Collection, from: Documents) -> Result<u64> {
    let namespace = &collection.namespace;
    let ask = async |command: Document| {
        let reply = client
            .run_within(READ_LIMIT, OPERATION, namespace.database(), command)
            .await?;
        Ok::<u64, Error>(number(&reply, "n"))
    };
    // Every value is at least MinKey, so that the entries are counted without the documents.
    let counted_by = |hint: Document, limit: Duration| {
        doc! {
            "count": namespace.collection(),
            "query": { "_id": { "$gte": Bson::MinKey } },
            "hint": hint,
            "maxTimeMS": i64::try_from(limit.as_millis()).unwrap_or(i64::MAX),
        }
    };
    let entries = counted_by(doc! { "_id": 1 }, LIMIT);
    let mut missing = u64::MAX;
    for _ in 0..COUNTS {
        let most = match from {
            Documents::Kept => {
                let kept = doc! { "count": namespace.collection() };
                let before = ask(kept.clone()).await?;
                let indexed = ask(entries.clone()).await?;
                let after = ask(kept).await?;
                before.min(after).saturating_sub(indexed)
            }
            Documents::Read => {
                let before = ask(entries.clone()).await?;
                let read = ask(counted_by(doc! { "$natural": 1 }, READ_LIMIT)).await?;
                let after = ask(entries.clone()).await?;
                read.saturating_sub(before.max(after))
            }
        };
        missing = missing.min(most);
        if missing == 0 {
            break;
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bson::Uuid;
    use bson::raw::RawDocumentBuf;

    use super::*;
    use crate::model::{CollectionKind, Namespace};

    /// Answers counts of a collection.
    struct Counts {
        kept: i32,
        indexed: i32,
        /// `None` if it takes too long.
        read: Option<i32>,
    }

    #[async_trait]
    impl client::Commands for Counts {
        async fn run_within(&self, _: Duration, _: &'static str, _: &str, command: Document) -> Result<Document> {
            let hint = command.get_document("hint").ok();
            let n = match hint.and_then(|hint| hint.keys().next()).map(String::as_str) {
                None => self.kept,
                Some("_id") => self.indexed,
                Some(_) => match self.read {
                    Some(read) => read,
                    None => std::future::pending().await,
                },
            };
            Ok(doc! { "n": n })
        }

        async fn documents_within(
            &self,
            _: usize,
            _: &'static str,
            _: &str,
            _: Document,
        ) -> Result<Option<Vec<RawDocumentBuf>>> {
            Ok(None)
        }
    }

    async fn counted(kept: i32, indexed: i32, read: Option<i32>) -> Option<u64> {
        let collection = Collection::new(
            Uuid::from_bytes([0; 16]),
            Namespace::new("shop", "orders"),
            CollectionKind::Plain,
        );
        count(&Counts { kept, indexed, read }, &collection).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_number_of_documents_is_no_document_without_an_entry() {
        assert_eq!(counted(50, 50, None).await, Some(0));
        assert_eq!(counted(53, 50, Some(50)).await, Some(0), "the server's number is wrong");
        assert_eq!(counted(53, 50, Some(52)).await, Some(2));
        assert_eq!(counted(53, 50, None).await, Some(3), "nothing better is known");
    }
}
