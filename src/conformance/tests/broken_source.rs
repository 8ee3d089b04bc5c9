//! Sources that each break one sentence of the contract, which the suite must notice.

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::sort_fields;
use crate::conformance::{FixtureWrite, SourceFixture, check_source};
use crate::error::{ErrorKind, Result};
use crate::model::{Batch, Collection, CollectionKind, Deployment, Layered, Namespace, Position};
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{MemorySource, PointRequest, ReadMode, ReadRequest, Source, SourceLayer};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    IdentityChanges,
    KindIsAlwaysPlain,
    SplitHasAnEmptyRange,
    PositionStandsStill,
    SentinelStandsStill,
    ReadPositionStandsStill,
    TailSkipsEntries,
    TailRepeatsEntries,
    TransactionIsSpread,
    LostPositionIsNotNoticed,
    FieldsAreSorted,
    LowerEndIsInRange,
    NaturalOrderIsLost,
    BatchesAreLarge,
    SnapshotIsAnInterval,
    PointsAreAnInterval,
    IntervalBeginsTooEarly,
    DigestIsConstant,
}

#[derive(Clone)]
struct Broken {
    source: MemorySource,
    bug: Bug,
}

#[tokio::test]
async fn the_suite_notices_what_a_source_does_wrong() {
    for (bug, check) in [
        (Bug::IdentityChanges, "the identity of a source stays the same"),
        (Bug::KindIsAlwaysPlain, "every collection and view is listed as it is"),
        (
            Bug::SplitHasAnEmptyRange,
            "a split cuts a collection into ranges of about the size",
        ),
        (
            Bug::PositionStandsStill,
            "the position never goes backwards and follows writes",
        ),
        (
            Bug::SentinelStandsStill,
            "a sentinel is at or after every write before it",
        ),
        (
            Bug::ReadPositionStandsStill,
            "a read position is at or after what reads have shown",
        ),
        (
            Bug::TailSkipsEntries,
            "a tail yields every entry in order without a gap",
        ),
        (
            Bug::TailRepeatsEntries,
            "a tail yields every entry in order without a gap",
        ),
        (Bug::TransactionIsSpread, "a tail goes on from every resume position"),
        (
            Bug::LostPositionIsNotNoticed,
            "a position that the history does not hold is lost",
        ),
        (Bug::FieldsAreSorted, "documents are read byte for byte"),
        (
            Bug::LowerEndIsInRange,
            "ranges take in their upper end, leave out their lower, and follow the order of `_id`",
        ),
        (Bug::NaturalOrderIsLost, "a capped collection is read in natural order"),
        (Bug::BatchesAreLarge, "batches have about the size that is asked for"),
        (Bug::SnapshotIsAnInterval, "a snapshot is exactly of its position"),
        (
            Bug::PointsAreAnInterval,
            "documents are read by `_id` as of their position",
        ),
        (
            Bug::IntervalBeginsTooEarly,
            "an interval read sees each document at its position or later",
        ),
        (Bug::DigestIsConstant, "a digest is equal for equal data only"),
    ] {
        let source = MemorySource::new();
        let failure = check_source(&Layered(Broken { source, bug }))
            .await
            .expect_err(&format!("{bug:?}"));
        assert_eq!(failure.check, check, "{bug:?}: {failure}");
    }
}

fn sorted_fields(batch: &Batch) -> Batch {
    let mut sorted = Batch::new();
    for document in batch.iter() {
        sorted.push(&sort_fields(document));
    }
    sorted
}

#[async_trait]
impl SourceLayer for Broken {
    fn inner(&self) -> &dyn Source {
        &self.source
    }

    async fn describe(&self) -> Result<Deployment> {
        let mut deployment = self.source.describe().await?;
        if self.bug == Bug::IdentityChanges {
            deployment.identity = format!("at {}", self.source.noop());
        }
        Ok(deployment)
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        let mut collections = self.source.collections().await?;
        if self.bug == Bug::KindIsAlwaysPlain {
            for collection in &mut collections {
                collection.kind = CollectionKind::Plain;
            }
        }
        Ok(collections)
    }

    async fn position(&self) -> Result<Position> {
        if self.bug == Bug::PositionStandsStill {
            return self.source.oldest_position().await;
        }
        self.source.position().await
    }

    async fn sentinel(&self) -> Result<Position> {
        if self.bug == Bug::SentinelStandsStill {
            return self.source.oldest_position().await;
        }
        self.source.sentinel().await
    }

    async fn read_position(&self) -> Result<Position> {
        if self.bug == Bug::ReadPositionStandsStill {
            return self.source.oldest_position().await;
        }
        self.source.read_position().await
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        let bug = self.bug;
        let stream = match self.source.tail(after).await {
            Err(error) if error.kind() == ErrorKind::PositionLost && bug == Bug::LostPositionIsNotNoticed => {
                self.source.tail(self.source.oldest_position().await?).await?
            }
            other => other?,
        };
        let stream = stream.map_ok(move |mut entries| {
            match bug {
                Bug::TailSkipsEntries if entries.len() > 9 => drop(entries.remove(5)),
                Bug::TailRepeatsEntries if entries.len() > 9 => entries.insert(5, entries[4].clone()),
                Bug::TransactionIsSpread => {
                    entries = entries.into_iter().flat_map(spread).collect();
                }
                _ => {}
            }
            entries
        });
        Ok(stream.boxed())
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        let mut keys = self.source.split(collection, bytes).await?;
        if self.bug == Bug::SplitHasAnEmptyRange && collection.kind == CollectionKind::Plain {
            let documents = self.source.documents(collection.namespace.as_str())?;
            keys.extend(documents.last().and_then(|document| Key::of_document(document)));
        }
        Ok(keys)
    }

    async fn read(&self, mut request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        let mut first = None;
        match self.bug {
            Bug::LowerEndIsInRange if !request.namespace.as_str().contains("split") => {
                let documents = self.source.documents_at(request.namespace.as_str(), request.at)?;
                first = documents.into_iter().find(|document| {
                    request.range.lower.is_some() && Key::of_document(document) == request.range.lower
                });
            }
            Bug::NaturalOrderIsLost => request.kind = CollectionKind::Plain,
            Bug::BatchesAreLarge => request.batch_bytes *= 100,
            Bug::SnapshotIsAnInterval => request.mode = ReadMode::Interval,
            Bug::IntervalBeginsTooEarly if request.namespace.as_str().contains("interval") => {
                let history = self.source.history();
                request.at = history[history.len() - 100].position;
            }
            _ => {}
        }
        let sorts = self.bug == Bug::FieldsAreSorted && request.namespace.as_str().contains("awkward");
        let stream = self.source.read(request).await?;
        let stream = stream.map_ok(move |batch| if sorts { sorted_fields(&batch) } else { batch });
        let first = first.map(|document| {
            let mut batch = Batch::new();
            batch.push(&document);
            Ok(batch)
        });
        Ok(stream::iter(first).chain(stream).boxed())
    }

    async fn read_documents(&self, mut request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        if self.bug == Bug::PointsAreAnInterval {
            request.mode = ReadMode::Interval;
        }
        self.source.read_documents(request).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        if self.bug == Bug::DigestIsConstant {
            return Ok(Some("constant".to_owned()));
        }
        self.source.digest(namespace).await
    }
}

/// Splits an entry into one entry for each item, all at the same position.
fn spread(entry: Entry) -> Vec<Entry> {
    if entry.items.len() < 2 {
        return vec![entry];
    }
    let alone = |item: &crate::oplog::Item| Entry {
        items: vec![item.clone()],
        ..entry.clone()
    };
    entry.items.iter().map(alone).collect()
}

#[async_trait]
impl SourceFixture for Layered<Broken> {
    fn source(&self) -> &dyn Source {
        self
    }

    async fn create_collection(&self, namespace: &Namespace, options: RawDocumentBuf) -> Result<()> {
        SourceFixture::create_collection(&self.source, namespace, options).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<()> {
        SourceFixture::create_index(&self.source, namespace, specification).await
    }

    async fn rename_collection(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        self.source.rename_collection(from, to).await
    }

    async fn drop_collection(&self, namespace: &Namespace) -> Result<()> {
        SourceFixture::drop_collection(&self.source, namespace).await
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        self.source.write(namespace, writes).await
    }

    async fn transaction(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        SourceFixture::transaction(&self.source, namespace, writes).await
    }
}
