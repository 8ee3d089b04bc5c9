//! Wraps the MongoDB sink in a sink that counts what passes through.
//!
//! Such a wrapper can audit or throttle a migration, or feed a second system. This one refuses nothing.
//!
//! `cargo run --example custom_sink` migrates a small shop between two replica sets of its own, and prints the counts.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;
use mongoferry::order::Key;
use mongoferry::preflight::Inspection;
use mongoferry::sink::{CatalogCommand, Refusal, SinkRead, WritesSeen};
use mongoferry::source::Deployment;
use mongoferry::{
    Batch, Collection, CollectionKind, Migration, MongoSink, MongoSource, Namespace, Operation, Outcome, Position,
    Result, Sink, Write,
};
use mongoferry_testbed::workload::Writer;
use mongoferry_testbed::{ReplicaSet, Version, workload};

/// Counts of what passed through the sink, by the collection's name on the target.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<Namespace, Count>>>);

#[derive(Clone, Debug, Default)]
struct Count {
    copied: usize,
    copied_bytes: usize,
    replaced: usize,
    updated: usize,
    deleted: usize,
}

impl Counts {
    fn add(&self, namespace: &Namespace, change: impl FnOnce(&mut Count)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(counts.entry(namespace.clone()).or_default());
    }
}

/// Forwards every call to the MongoDB sink, and thereby keeps its guarantees. Methods with a default implementation are
/// forwarded, too: the defaults do nothing, and the MongoDB sink needs each of these methods.
struct CountingSink {
    inner: MongoSink,
    counts: Counts,
}

#[async_trait]
impl Sink for CountingSink {
    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        let refusals = self.inner.insert(namespace, batch).await?;
        // Count only acknowledged batches. A batch whose answer is lost may be sent again.
        self.counts.add(namespace, |count| {
            count.copied += batch.len() - refusals.len();
            count.copied_bytes += batch.size_in_bytes();
        });
        Ok(refusals)
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        let refusals = self.inner.apply(namespace, kind, writes).await?;
        self.counts.add(namespace, |count| {
            for write in writes {
                match &write.operation {
                    Operation::Insert(_) | Operation::Replace(_) => count.replaced += 1,
                    Operation::Delta(_) => count.updated += 1,
                    Operation::Delete => count.deleted += 1,
                }
            }
        });
        Ok(refusals)
    }

    async fn describe(&self) -> Result<Deployment> {
        self.inner.describe().await
    }

    async fn members(&self) -> Result<Vec<String>> {
        self.inner.members().await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        self.inner.foreign_writes(after).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.inner.collections().await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.inner.execute(command).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.inner.create_index(namespace, specification).await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn quiesce(&self) -> Result<()> {
        self.inner.quiesce().await
    }

    async fn sentinel(&self) -> Result<Option<Position>> {
        self.inner.sentinel().await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.inner.read(request).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.inner.read_documents(namespace, keys).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.inner.inspect().await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.inner.digest(namespace).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.inner.load_record(name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.inner.save_record(name, record, expected).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.inner.delete_record(name).await
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).name("old").start(),
        ReplicaSet::builder(Version::V6_0).name("new").start()
    )?;
    let client = source.client().await?;
    workload::load(&client, 5000, 1).await?;
    let writer = Writer::start(&client, 2).await?;

    let counts = Counts::default();
    let sink = CountingSink {
        inner: MongoSink::connect(&target.uri()).await?,
        counts: counts.clone(),
    };
    let run = Migration::builder(MongoSource::connect(&source.uri()).await?, sink)
        .build()?
        .start()
        .await?;
    run.ready_to_cut_over(Duration::from_secs(2)).await?;
    let summary = run.cutover(async { drop(writer.stop().await) }).await?;

    for (namespace, count) in counts.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{namespace}: {count:?}");
    }
    println!("{:?}", summary.outcome);
    if summary.outcome == Outcome::Complete {
        Ok(())
    } else {
        Err(format!("{summary:#?}").into())
    }
}
