//! Wraps the MongoDB sink in a sink that counts what passes through.
//!
//! Such a wrapper can audit or throttle a migration, or feed a second system. This one refuses nothing.
//!
//! `cargo run --example custom_sink` migrates a small shop between two replica sets of its own, and prints the counts.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use mongoferry::sink::{Refusal, SinkLayer};
use mongoferry::{
    Batch, CollectionKind, Layered, Migration, MongoSink, MongoSource, Namespace, Operation, Outcome, Result, Sink,
    Write,
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

/// A layer over the MongoDB sink. What it does not implement itself is forwarded, so the sink's guarantees are kept.
struct CountingSink {
    inner: MongoSink,
    counts: Counts,
}

#[async_trait]
impl SinkLayer for CountingSink {
    fn inner(&self) -> &dyn Sink {
        &self.inner
    }

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
    let sink = Layered(CountingSink {
        inner: MongoSink::connect(&target.uri()).await?,
        counts: counts.clone(),
    });
    let run = Migration::builder(MongoSource::connect(&source.uri()).await?, sink)
        .build()?
        .start()
        .await?;
    run.ready_to_cut_over().await?;
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
