//! Wraps the MongoDB sink in a sink that counts what passes through.
//!
//! Such a wrapper can audit or throttle a migration, or feed a second system. This one refuses nothing.
//!
//! `cargo run --example custom_sink -- SOURCE TARGET` migrates from one replica set to the other, and prints the counts. Without arguments,
//! the example migrates a small shop between servers of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use mongoferry::sink::{Refusal, SinkLayer};
use mongoferry::{
    Batch, CollectionKind, Layered, Migration, MongoSink, MongoSource, Namespace, Operation, Outcome, Result, Sink,
    Write,
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

type AnyError = Box<dyn Error + Send + Sync>;

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

/// Migrates, and prints the counts. Once `stop_writes` has returned, nothing may write to the source any more.
async fn migrate(
    source: &str,
    target: &str,
    stop_writes: impl Future<Output = ()>,
) -> std::result::Result<(), AnyError> {
    let counts = Counts::default();
    let sink = Layered(CountingSink {
        inner: MongoSink::connect(target).await?,
        counts: counts.clone(),
    });
    let migration = Migration::builder(MongoSource::connect(source).await?, sink).build()?;
    let run = migration.start().await?;
    run.ready_to_cut_over().await?;
    let summary = run.cutover(stop_writes).await?;

    for (namespace, count) in counts.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{namespace}: {count:?}");
    }
    println!("{:?}", summary.outcome);
    match summary.outcome {
        Outcome::Complete => Ok(()),
        _ => Err(format!("{summary:#?}").into()),
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, target] if arguments.iter().all(|uri| uri.starts_with("mongodb")) => {
            migrate(source, target, applications_stopped()).await
        }
        _ => {
            eprintln!("usage: cargo run --example custom_sink -- SOURCE TARGET (two connection strings)");
            std::process::exit(2)
        }
    }
}

async fn applications_stopped() {
    println!("ready: stop the applications, then press Enter");
    // At the end of the input, nobody can press anything.
    let _ = BufReader::new(stdin()).read_line(&mut String::new()).await;
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry_testbed::workload::Writer;
    use mongoferry_testbed::{ReplicaSet, Version, workload};

    use super::*;

    pub async fn run() -> std::result::Result<(), AnyError> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        let client = old.client().await?;
        workload::load(&client, 5000, 1).await?;
        let writer = Writer::start(&client, 2).await?;
        migrate(&old.uri(), &new.uri(), async { drop(writer.stop().await) }).await
    }
}
