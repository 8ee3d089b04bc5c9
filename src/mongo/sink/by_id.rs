//! Reads documents of the target by `_id`.

use bson::doc;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::connection::TargetConnection;
use super::replace::needs_comparison;
use crate::error::Result;
use crate::model::raw::writer::{IndexNames, RawWriter};
use crate::model::{Batch, CollectionKind, Namespace};
use crate::mongo::client;
use crate::mongo::retry::{RetryPolicy, retry};
use crate::order::Key;

const OPERATION: &str = "read documents";

/// Maximum number of documents per command, and maximum size of their keys in bytes.
const MOST_KEYS: usize = 10_000;
const MOST_KEY_BYTES: usize = 8 * 1024 * 1024;

/// Maximum number of commands in flight, where each requests one document.
pub(super) const CONCURRENCY: usize = 8;

/// Which part of each document to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Id,
}

/// Returns those of the documents that exist, as the primary has them.
///
/// # Errors
/// A server error.
pub(super) async fn find(
    target: &TargetConnection,
    namespace: &Namespace,
    kind: CollectionKind,
    keys: &[&Key],
    part: Part,
) -> Result<Vec<RawDocumentBuf>> {
    let groups: Vec<_> = groups(kind, keys)
        .into_iter()
        .map(|group| {
            retry(RetryPolicy::SERVER, move || {
                let group = group.clone();
                async move {
                    let mut cursor = open(target, namespace, &group, part).await?;
                    let mut documents = Vec::new();
                    while let Some(batch) = cursor.next().await {
                        documents.extend(batch?.iter().map(RawDocument::to_owned));
                    }
                    Ok(documents)
                }
            })
        })
        .collect();
    let found: Vec<Vec<RawDocumentBuf>> = futures::stream::iter(groups)
        .buffered(CONCURRENCY)
        .try_collect()
        .await
        .map_err(|error| error.with_context("namespace", namespace))?;
    Ok(found.into_iter().flatten().collect())
}

/// Groups the keys so that each group fits into one command.
pub(super) fn groups<'a>(kind: CollectionKind, keys: &[&'a Key]) -> Vec<Vec<&'a Key>> {
    let (plain, singly): (Vec<&Key>, Vec<&Key>) = keys
        .iter()
        .copied()
        .partition(|key| takes_in(kind) && !needs_comparison(key));
    let mut groups: Vec<Vec<&Key>> = singly.into_iter().map(|key| vec![key]).collect();
    let mut bytes = usize::MAX;
    for key in plain {
        let size = key.document_bytes().len();
        match groups.last_mut() {
            Some(group) if bytes.saturating_add(size) <= MOST_KEY_BYTES && group.len() < MOST_KEYS => {
                group.push(key);
                bytes += size;
            }
            _ => {
                groups.push(vec![key]);
                bytes = size;
            }
        }
    }
    groups
}

/// Whether the server has an index for an `$in` on `_id`. Collections that are stored by `_id` have none, so the server scans the whole
/// collection.
pub(super) fn takes_in(kind: CollectionKind) -> bool {
    !matches!(kind, CollectionKind::Clustered | CollectionKind::TimeSeriesBuckets)
}

/// Returns whether the collection is stored by `_id`, which decides how its documents can be requested.
///
/// # Errors
/// A server error.
pub(super) async fn kind_of(target: &TargetConnection, namespace: &Namespace) -> Result<CollectionKind> {
    if namespace.time_series().is_some() {
        return Ok(CollectionKind::TimeSeriesBuckets);
    }
    if !target.is_at_least(5, 3) {
        return Ok(CollectionKind::Plain);
    }
    let listed = client::run(
        target.client(),
        OPERATION,
        namespace.database(),
        doc! { "listCollections": 1, "filter": { "name": namespace.collection() } },
    )
    .await?;
    let is_clustered = listed
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .is_ok_and(|found| {
            found
                .iter()
                .filter_map(|collection| collection.as_document()?.get_document("options").ok())
                .any(|options| options.contains_key("clusteredIndex"))
        });
    Ok(if is_clustered {
        CollectionKind::Clustered
    } else {
        CollectionKind::Plain
    })
}

/// Opens a cursor over the documents of one of the [`groups`]. Nothing is retried.
///
/// # Errors
/// A server error, from the call or from the stream.
pub(super) async fn open(
    target: &TargetConnection,
    namespace: &Namespace,
    group: &[&Key],
    part: Part,
) -> Result<BoxStream<'static, Result<Batch>>> {
    let command = command(namespace, group, part);
    client::open_cursor(target.client(), OPERATION, namespace.database(), command, None).await
}

fn command(namespace: &Namespace, keys: &[&Key], part: Part) -> RawDocumentBuf {
    let mut command = RawWriter::with_capacity(keys.len() * 32 + 128);
    command.string("find", namespace.collection());
    command.open_document("filter").open_document("_id");
    match keys {
        [key] => {
            command.value("$eq", key.as_raw());
        }
        _ => {
            command.open_array("$in");
            let mut names = IndexNames::default();
            for key in keys {
                command.value(names.next(), key.as_raw());
            }
            command.close();
        }
    }
    command.close().close();
    if part == Part::Id {
        command.open_document("projection").int32("_id", 1).close();
    }
    // As many documents in each reply as the server's 16 MB allow.
    command.int32("batchSize", 100_000);
    command.finish()
}
