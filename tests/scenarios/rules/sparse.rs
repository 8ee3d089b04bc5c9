//! Filters that leave little of a collection, on a source that is slow to read.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use mongoferry::sink::MemorySink;
use mongoferry::source::{MemorySource, ReadRequest, Source, SourceLayer};
use mongoferry::{Batch, Layered, Phase, Verification};
use tokio::time::sleep;

use super::*;

const ORDERS: &str = "shop.orders";

/// A source that takes this long for each batch. Counts the reads of ranges.
#[derive(Clone)]
struct Slow {
    inner: MemorySource,
    batch: Duration,
    reads: Arc<AtomicUsize>,
}

#[async_trait]
impl SourceLayer for Slow {
    fn inner(&self) -> &dyn Source {
        &self.inner
    }

    async fn read(&self, request: ReadRequest) -> mongoferry::Result<BoxStream<'static, mongoferry::Result<Batch>>> {
        self.reads.fetch_add(1, Relaxed);
        let batch = self.batch;
        let batches = self.inner.read(request).await?;
        Ok(batches
            .then(move |read| async move {
                sleep(batch).await;
                read
            })
            .boxed())
    }
}

/// Compares 4,000 documents of 1 KB during a run whose filter keeps those for which `is_open`. Returns how often a range was read for it.
async fn reads_to_compare(batch: Duration, is_open: impl Fn(i32) -> bool) -> usize {
    let source = MemorySource::new();
    source.set_batch_documents(100);
    let mut expected = 0;
    for id in 0..4_000 {
        let state = if is_open(id) { "open" } else { "done" };
        expected += u64::from(is_open(id));
        let order = bson::rawdoc! { "_id": id, "state": state, "note": "x".repeat(1_000) };
        source.insert(ORDERS, order).unwrap();
    }
    let slow = Slow {
        inner: source,
        batch,
        reads: Arc::default(),
    };
    let builder = Migration::builder(Layered(slow.clone()), MemorySink::new()).filter(ORDERS, doc! { "state": "open" });
    let builder = builder.verification(Verification::Continuous);
    let run = builder.build().unwrap().start().await.unwrap();
    while !matches!(run.status().phase, Phase::CatchUp | Phase::Ready) {
        sleep(Duration::from_millis(10)).await;
    }
    let before = slow.reads.load(Relaxed);
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    let reads = slow.reads.load(Relaxed) - before;
    let all = run.collections();
    assert!(all.iter().all(|collection| collection.all_compared), "{all:#?}");
    assert_eq!(run.status().compared.documents, expected);
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    reads
}

/// A comparison that has run out of time still compares all that was gathered for it.
#[tokio::test(start_paused = true)]
async fn comparisons_compare_all_that_was_gathered() {
    let reads = reads_to_compare(Duration::from_millis(100), |id| id % 50 == 0).await;
    assert!(reads < 20, "{reads} reads");
}

/// A comparison gets ahead in documents that the filter leaves out.
#[tokio::test(start_paused = true)]
async fn comparisons_pass_what_is_left_out() {
    let reads = reads_to_compare(Duration::from_secs(1), |id| id < 10).await;
    assert!(reads < 60, "{reads} reads");
}
