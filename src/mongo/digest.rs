//! Digest over all documents of a collection, to compare source and target.
//!
//! It equals what the server's command `dbHash` returns, except for capped collections: `dbHash` ignores their order. The command itself is
//! not used. It locks the whole database against writes while it reads a collection. Before that it waits for every transaction that is
//! open in the database, and all later writes queue behind it.

use futures::StreamExt;
use futures::stream::BoxStream;
use md5::{Digest, Md5};
use tokio::time::sleep;

use crate::error::Result;
use crate::model::{Batch, CollectionKind, Namespace, Position, Range};
use crate::mongo::client::code;
use crate::mongo::retry::RetryPolicy;
use crate::order::Key;
use crate::source::{ReadMode, ReadRequest, Source};

/// Approximate size of a batch in bytes, and the size to assume for a document, because actual sizes are not known.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
pub(crate) const DOCUMENT_BYTES: usize = 1 << 10;

/// Computes the MD5 over the documents of a collection: in natural order if it is capped, otherwise in the order of its index on `_id`.
/// Returns `None` if the collection has no such index.
///
/// `read` opens a range. A range that breaks is resumed where it broke.
///
/// # Errors
/// A final error of `read` or its stream, or a retryable one that outlasts the patience.
pub(crate) async fn digest<F>(kind: CollectionKind, read: impl Fn(CollectionKind, Range) -> F) -> Result<Option<String>>
where
    F: Future<Output = Result<BoxStream<'static, Result<Batch>>>>,
{
    // The order of the index does not matter: the whole index is read like any other.
    let read_as = match kind {
        CollectionKind::Unordered => CollectionKind::Plain,
        kind => kind,
    };
    let mut hash = Md5::new();
    let mut range = Range::FULL;
    let mut attempts = RetryPolicy::SERVER.begin();
    loop {
        let before = range.clone();
        let error = match add(read(read_as, range.clone()), &mut hash, &mut range).await {
            Ok(()) => return Ok(Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())),
            // BadValue: the index does not exist.
            Err(error) if kind == CollectionKind::Unordered && code(&error) == Some(2) => return Ok(None),
            Err(error) => error,
        };
        if !kind.has_ranges() {
            hash.reset();
            range = Range::FULL;
        } else if range != before {
            attempts = RetryPolicy::SERVER.begin();
        }
        match attempts.next_pause(&error) {
            Some(pause) => sleep(pause).await,
            None => return Err(error),
        }
    }
}

/// Computes the [`digest`] of a collection of a source, which is read as of some point after `at`.
///
/// # Errors
/// Same as [`digest`].
pub(crate) async fn of_source(
    source: &dyn Source,
    namespace: &Namespace,
    kind: CollectionKind,
    at: Position,
) -> Result<Option<String>> {
    let read = |kind, range| {
        source.read(ReadRequest {
            namespace: namespace.clone(),
            kind,
            range,
            at,
            mode: ReadMode::Interval,
            batch_bytes: BATCH_BYTES,
            document_bytes: DOCUMENT_BYTES,
        })
    };
    digest(kind, read).await
}

/// Adds the documents of a range to `hash`. Moves the lower bound of `range` to the last document that was added.
async fn add(
    read: impl Future<Output = Result<BoxStream<'static, Result<Batch>>>>,
    hash: &mut Md5,
    range: &mut Range,
) -> Result<()> {
    let mut batches = read.await?;
    while let Some(batch) = batches.next().await.transpose()? {
        batch.iter().for_each(|document| hash.update(document.as_bytes()));
        range.lower = batch.iter().last().and_then(Key::of_document);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bson::rawdoc;
    use futures::stream;

    use super::*;
    use crate::error::{Error, ErrorKind};

    /// Digests a collection of six documents in batches of two. Each of the first `breaking` reads fails after its first batch.
    async fn digest_over(kind: CollectionKind, breaking: u32) -> (String, u32) {
        let reads = Cell::new(0);
        let read = |_, range: Range| {
            reads.set(reads.get() + 1);
            let documents = (0..6).map(|id| rawdoc! { "_id": id });
            let documents: Vec<_> = documents
                .filter(|document| Key::of_document(document).is_some_and(|key| range.contains(&key)))
                .collect();
            let batches = documents.chunks(2).map(|documents| {
                let mut batch = Batch::new();
                documents.iter().for_each(|document| batch.push(document));
                Ok(batch)
            });
            let mut batches: Vec<Result<Batch>> = batches.collect();
            if reads.get() <= breaking {
                let broken = Error::new(ErrorKind::Connection, "read", "the connection broke");
                batches.splice(1.., [Err(broken)]);
            }
            std::future::ready(Ok(stream::iter(batches).boxed()))
        };
        let digest = digest(kind, read).await.unwrap().unwrap();
        (digest, reads.get())
    }

    #[tokio::test(start_paused = true)]
    async fn digest_goes_on_behind_what_was_read() {
        let (whole, _) = digest_over(CollectionKind::Plain, 0).await;
        assert_eq!(whole.len(), 32);
        for kind in [CollectionKind::Plain, CollectionKind::Capped, CollectionKind::Unordered] {
            let (digest, reads) = digest_over(kind, 2).await;
            assert_eq!((digest, reads), (whole.clone(), 3), "{kind:?}");
        }
    }
}
