//! Reads documents of the source by their `_id`.

use std::collections::HashSet;
use std::ops::Range;

use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::{self, StreamExt, TryStreamExt};
use mongodb::Client;

use super::read::{Reader, Way};
use crate::error::Result;
use crate::model::Namespace;
use crate::model::raw::writer::RawWriter;
use crate::order::Key;
use crate::source::PointRequest;

/// Maximum number of keys in one `find`, and their maximum size in bytes. Both are small compared with the 16 MB of a command, and large
/// enough that the number of commands does not matter.
const KEYS: usize = 10_000;
const KEY_BYTES: usize = 4 << 20;

/// Maximum number of `find`s in flight.
const FINDS: usize = 8;

/// Returns those of the requested documents that exist.
pub(super) async fn read(
    client: &Client,
    version: [u32; 3],
    request: PointRequest<'_>,
    is_clustered: bool,
) -> Result<Vec<RawDocumentBuf>> {
    let way = Way::new(version, request.mode);
    let reader = Reader {
        client: client.clone(),
        database: request.namespace.database().to_owned(),
        way,
    };
    let read_concern = way.read_concern(request.at);
    let keys = request.keys;
    let found: Vec<Vec<RawDocumentBuf>> = stream::iter(groups(keys, is_clustered))
        .map(|group| documents(&reader, request.namespace, &keys[group], &read_concern))
        .buffer_unordered(FINDS)
        .try_collect()
        .await
        .map_err(|error| error.with_context("namespace", request.namespace))?;
    Ok(found.into_iter().flatten().collect())
}

/// Groups the keys so that each group fits into one `find`.
///
/// A clustered collection finds a single key at once, but scans all its documents to find one of several keys (5.0 and 6.0).
pub(in crate::mongo) fn groups(keys: &[Key], is_clustered: bool) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut start = 0;
    while start < keys.len() {
        let mut bytes = 0;
        let fitting = keys
            .iter()
            .skip(start)
            .take(if is_clustered { 1 } else { KEYS })
            .take_while(|key| {
                bytes += key.document_bytes().len();
                bytes <= KEY_BYTES
            })
            .count();
        let end = start + fitting.max(1);
        groups.push(start..end);
        start = end;
    }
    groups
}

fn find(namespace: &Namespace, keys: &[Key], read_concern: &RawDocument) -> RawDocumentBuf {
    let filter = with_ids(keys);
    let mut command = RawWriter::with_capacity(256 + filter.as_bytes().len());
    command.string("find", namespace.collection());
    command.document("filter", &filter);
    command.int64("batchSize", i64::from(batch_size(keys)));
    command.document("readConcern", read_concern);
    command.finish()
}

/// Builds the filter for the documents with these `_id`s.
pub(in crate::mongo) fn with_ids(keys: &[Key]) -> RawDocumentBuf {
    let bytes = keys.iter().map(|key| key.document_bytes().len() + 8).sum::<usize>();
    let mut filter = RawWriter::with_capacity(64 + bytes);
    filter.open_document("_id");
    match keys {
        [key] => {
            filter.value("$eq", key.as_raw());
        }
        keys => {
            filter.open_array("$in");
            for (index, key) in keys.iter().enumerate() {
                filter.value(&index.to_string(), key.as_raw());
            }
            filter.close();
        }
    }
    filter.finish()
}

/// One more than the `find` can return. The first batch is then the only one, unless it exceeds the 16 MB of a reply.
fn batch_size(keys: &[Key]) -> u32 {
    u32::try_from(keys.len()).unwrap_or(u32::MAX).saturating_add(1)
}

async fn documents(
    reader: &Reader,
    namespace: &Namespace,
    keys: &[Key],
    read_concern: &RawDocument,
) -> Result<Vec<RawDocumentBuf>> {
    // Under a default collation, different values can compare as equal. The `find` can then return a document that was not requested.
    let wanted: HashSet<&Key> = keys.iter().collect();
    let mut batches = reader
        .open(&find(namespace, keys, read_concern), batch_size(keys))
        .await?;
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        found.extend(
            batch
                .iter()
                .filter(|document| Key::of_document(document).is_some_and(|key| wanted.contains(&key)))
                .map(RawDocument::to_owned),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::raw::RawBson;

    fn key(value: impl Into<RawBson>) -> Key {
        Key::from(value.into().as_raw_bson_ref())
    }

    #[test]
    fn keys_are_grouped_by_number_and_bytes() {
        let sizes = |keys: &[Key], is_clustered| groups(keys, is_clustered).iter().map(Range::len).collect::<Vec<_>>();
        let small: Vec<Key> = (0..10_001).map(key).collect();
        assert_eq!(sizes(&small, false), [10_000, 1]);
        assert_eq!(sizes(&small[..3], true), [1, 1, 1]);
        let large: Vec<Key> = (0..5).map(|at| key(format!("{at}{}", "x".repeat(3 << 20)))).collect();
        assert_eq!(sizes(&large, false), [1; 5]);
        assert_eq!(sizes(&[], false), [0; 0]);
    }
}
