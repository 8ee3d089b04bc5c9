//! Finds the keys that split a collection into ranges of about equal size.

use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::Client;

use crate::error::{Error, Result};
use crate::model::{Collection, CollectionKind};
use crate::mongo::client::{code, is_gone, open_cursor_within};
use crate::mongo::retry::{RetryPolicy, WHOLE_COLLECTION, retry};
use crate::order::Key;

const OPERATION: &str = "split a collection";

/// Maximum number of keys returned.
const CUTS: u64 = 2_000;

/// Documents to sample for each cut. With this number, the ranges differ by about a third in size.
const SAMPLES_PER_CUT: u64 = 10;

/// The server picks documents at random if the sample is less than a twentieth of the collection. For a larger sample it reads the whole
/// collection. The count in the metadata may be off, hence the margin.
const RANDOM_PART: u64 = 25;

/// Maximum size in bytes of an `_id` used as a cut. The cuts are kept in memory, and each is part of commands and checkpoints.
const MOST_KEY_BYTES: usize = 16 << 10;

/// Maximum number of documents for reading the whole index on `_id`, which takes about a second. Random documents of a small tree are not
/// very random: a tree that had just been filled returned half of its samples from a tenth of itself.
const INDEX_WALK: u64 = 1_000_000;

/// Number of `_id`s per batch.
pub(in crate::mongo) const BATCH: u32 = 20_000;

/// Returns the keys that split `collection` into ranges of about `bytes` each, in ascending order.
pub(super) async fn split(client: &Client, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
    let Some(Plan {
        ranges,
        samples,
        is_small,
    }) = Plan::of(collection, bytes)
    else {
        return Ok(Vec::new());
    };
    let keys = retry(RetryPolicy::SERVER, || async {
        if is_small {
            return walk(client, collection, ranges).await;
        }
        match sample(client, collection, samples, ranges).await {
            // The random cursor has met the same documents again and again. This happens with small or lopsided trees.
            Err(error) if code(&error) == Some(28799) => walk(client, collection, ranges).await,
            answer => answer,
        }
    })
    .await;
    match keys {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        keys => keys.map_err(|error| error.with_context("namespace", &collection.namespace)),
    }
}

/// How a collection is split.
pub(in crate::mongo) struct Plan {
    pub ranges: u64,
    /// Documents to sample.
    pub samples: u64,
    /// Whether the whole index is read instead.
    pub is_small: bool,
}

impl Plan {
    /// Returns `None` for a collection that stays one range.
    pub fn of(collection: &Collection, bytes: u64) -> Option<Self> {
        let ranges = collection.bytes.div_ceil(bytes.max(1)).min(CUTS + 1);
        if !collection.kind.has_ranges() || ranges <= 1 {
            return None;
        }
        let samples = (ranges * SAMPLES_PER_CUT).min(collection.documents / RANDOM_PART);
        let is_small = match collection.kind {
            CollectionKind::Plain => collection.documents <= INDEX_WALK,
            // For these kinds, a walk would have to read the documents themselves.
            _ => samples < 2 * ranges,
        };
        Some(Self {
            ranges,
            samples,
            is_small,
        })
    }
}

/// Takes quantiles of a random sample.
async fn sample(client: &Client, collection: &Collection, samples: u64, ranges: u64) -> Result<Vec<Key>> {
    let command = doc! {
        "aggregate": collection.namespace.collection(),
        "pipeline": [
            { "$sample": { "size": i64::try_from(samples).unwrap_or(i64::MAX) } },
            { "$project": { "_id": 1 } },
        ],
        "cursor": { "batchSize": BATCH },
        "allowDiskUse": true,
    };
    let mut keys = Vec::new();
    each_key(client, collection, &command, |key| {
        keys.extend(Some(key).filter(can_cut));
        true
    })
    .await?;
    keys.sort_unstable();
    Ok(quantiles(keys, ranges))
}

/// Reads every `_id` in order and takes one key after each equal share of the documents.
async fn walk(client: &Client, collection: &Collection, ranges: u64) -> Result<Vec<Key>> {
    let hint = match collection.kind {
        CollectionKind::Plain => doc! { "_id": 1 },
        // The other kinds are stored by `_id`.
        _ => doc! { "$natural": 1 },
    };
    let command = doc! {
        "find": collection.namespace.collection(),
        "projection": { "_id": 1 },
        "hint": hint,
        "batchSize": BATCH,
    };
    let mut shares = Shares::new(collection, ranges);
    each_key(client, collection, &command, |key| shares.take(key)).await?;
    Ok(shares.keys)
}

/// Takes one key after each equal share of the documents of a collection, whose keys come in order.
pub(in crate::mongo) struct Shares {
    /// Number of documents of a share.
    step: u64,
    /// Documents since the last key that was taken.
    seen: u64,
    most: u64,
    pub keys: Vec<Key>,
}

impl Shares {
    pub fn new(collection: &Collection, ranges: u64) -> Self {
        Self {
            step: (collection.documents / ranges).max(1),
            seen: 0,
            most: ranges - 1,
            keys: Vec::new(),
        }
    }

    /// Takes the next key of the collection. Returns `false` once no more are needed.
    pub fn take(&mut self, key: Key) -> bool {
        self.seen += 1;
        if self.seen >= self.step && can_cut(&key) {
            self.keys.push(key);
            self.seen = 0;
        }
        (self.keys.len() as u64) < self.most
    }
}

pub(in crate::mongo) fn can_cut(key: &Key) -> bool {
    key.size_in_bytes() <= MOST_KEY_BYTES
}

/// Passes the `_id` of each returned document to `take` until `take` returns `false`.
async fn each_key(
    client: &Client,
    collection: &Collection,
    command: &Document,
    mut take: impl FnMut(Key) -> bool,
) -> Result<()> {
    let malformed = |error| Error::malformed(OPERATION, error);
    let command = RawDocumentBuf::try_from(command).map_err(malformed)?;
    let database = collection.namespace.database();
    // Sampling a large collection on slow disks takes a long time.
    let mut batches = open_cursor_within(WHOLE_COLLECTION, client, OPERATION, database, command, Some(BATCH)).await?;
    while let Some(batch) = batches.try_next().await? {
        for key in batch.iter().filter_map(Key::of_document) {
            if !take(key) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns the keys that split `sorted` into `ranges` equal parts, without duplicates.
pub(in crate::mongo) fn quantiles(sorted: Vec<Key>, ranges: u64) -> Vec<Key> {
    let ranges = usize::try_from(ranges).unwrap_or(usize::MAX);
    let samples = sorted.len();
    let mut cuts: Vec<Key> = (1..ranges)
        .filter_map(|cut| sorted.get(cut * samples / ranges).cloned())
        .collect();
    cuts.dedup();
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::RawBsonRef;

    #[test]
    fn quantiles_cut_into_equal_parts_at_distinct_keys() {
        let keys = |numbers: &[i32]| -> Vec<Key> {
            numbers
                .iter()
                .map(|number| Key::from(RawBsonRef::Int32(*number)))
                .collect()
        };
        assert_eq!(quantiles(keys(&[0, 1, 2, 3, 4, 5, 6, 7]), 4), keys(&[2, 4, 6]));
        assert_eq!(quantiles(keys(&[0, 1, 1, 1]), 4), keys(&[1]));
        assert_eq!(quantiles(keys(&[5]), 3), keys(&[5]));
        assert_eq!(quantiles(Vec::new(), 3), keys(&[]));
    }
}
