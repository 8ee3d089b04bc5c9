//! How often the checkpoint is saved.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use mongoferry::checkpoint::MemoryStore;
use mongoferry::sink::SinkCall;
use mongoferry::{CheckpointStore, Result, Source};
use tokio::time::{Instant, sleep};

use super::{Bench, settle_down};

/// A store that needs a while for each save, as for the checkpoint of very many collections.
#[derive(Clone, Default)]
struct SlowStore {
    inner: MemoryStore,
    takes: Duration,
    saves: Arc<AtomicUsize>,
}

#[async_trait]
impl CheckpointStore for SlowStore {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        self.inner.load().await
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        sleep(self.takes).await;
        self.saves.fetch_add(1, Relaxed);
        self.inner.save(checkpoint).await
    }

    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }
}

/// A checkpoint that is slow to save is saved less often. The lag does not grow by that, and what was done last is saved in the end.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_slow_to_save_rests_in_between() {
    let bench = Bench::with_orders(4);
    let store = SlowStore {
        inner: bench.store.clone(),
        takes: Duration::from_millis(600),
        ..SlowStore::default()
    };
    let migration = bench.migration().checkpoint_store(store.clone());
    let run = migration.build().unwrap().start().await.unwrap();
    bench.caught_up().await;
    let before = store.saves.load(Relaxed);
    for second in 0..60 {
        bench.source.skip_time(1);
        bench.set("shop.orders", 1 + second % 4, second);
        sleep(Duration::from_secs(1)).await;
        let status = run.status();
        assert!(
            status.lag.is_some_and(|lag| lag <= Duration::from_secs(2)),
            "{status:?}"
        );
    }
    let saves = store.saves.load(Relaxed) - before;
    // One each three seconds.
    assert!((15..=25).contains(&saves), "{saves}");
    // What comes within the rest is saved after it, though nothing else follows.
    for n in 0..3 {
        bench.caught_up().await;
        bench.set("shop.orders", 1, n);
    }
    bench.caught_up().await;
    assert_eq!(run.status().position, Some(bench.source.position().await.unwrap()));
    bench.finish(run).await;
}

/// What is written now and then is durable at once, not a tick later.
#[tokio::test(start_paused = true)]
async fn the_watermark_moves_at_once_when_all_is_routed() {
    let bench = Bench::with_orders(5);
    let _run = bench.start().await;
    bench.caught_up().await;
    settle_down().await;
    for n in 0..10 {
        sleep(Duration::from_millis(310)).await;
        let written = Instant::now();
        bench.set("shop.orders", 1, n);
        bench.caught_up().await;
        assert!(written.elapsed() < Duration::from_millis(50), "{:?}", written.elapsed());
    }
}

/// A marker ends what an applier applies at once. While the applier is busy the next one comes only after a while, so that what comes meanwhile is
/// applied together: of one document the newest image alone.
#[tokio::test(start_paused = true)]
async fn markers_keep_their_distance_while_a_lane_is_busy() {
    let bench = Bench::with_orders(1);
    let _run = bench.by_digest().build().unwrap().start().await.unwrap();
    bench.caught_up().await;
    settle_down().await;
    let busy = bench.sink.hold(SinkCall::Apply);
    for n in 1..=50 {
        bench
            .source
            .replace("shop.orders", rawdoc! { "_id": 1, "n": n })
            .unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    busy.release();
    bench.caught_up().await;
    let applied = bench.applied(1);
    // The first one by itself, then those of two seconds at a time.
    assert_eq!(applied.len(), 4, "{applied:?}");
    assert_eq!(applied.last(), Some(&50));
}
