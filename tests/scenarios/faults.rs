//! Faults at random on real servers, while an application writes: the process is killed, members of both sets are killed, stepped down,
//! restarted and suspended, connections are cut, stalled and delayed, replies are lost. The migration goes on each time, and in the end both
//! sides are identical.
//!
//! The short forms run with the other tests. `MONGOFERRY_FAULTS=300` says how many faults the long ones have, and `MONGOFERRY_SEED=17`
//! which.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Event, Migration, MigrationHandle, Outcome};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{Proxy, ReplicaSet, Version, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

mod connections;
mod members;
mod process;
mod superseded;

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// The number of faults and the seed that they are drawn from.
pub(in crate::scenarios) fn plan(faults: u32) -> (u32, StdRng) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u32>().expect("a number"))
    };
    let seed = number("MONGOFERRY_SEED").unwrap_or_else(rand::random);
    eprintln!("MONGOFERRY_SEED={seed}");
    let faults = number("MONGOFERRY_FAULTS").unwrap_or(faults);
    (faults, StdRng::seed_from_u64(seed.into()))
}

/// A migration between two sets, with what it tells counted.
struct Run {
    source: ReplicaSet,
    target: ReplicaSet,
    writer: Writer,
    handle: MigrationHandle,
    retried: Arc<AtomicU64>,
    told: JoinHandle<()>,
}

impl Run {
    /// Starts a migration over connections that `uris` gives.
    async fn start(source: ReplicaSet, target: ReplicaSet, uris: [String; 2]) -> Self {
        let client = source.client().await.unwrap();
        workload::load(&client, 20_000, 7).await.unwrap();
        let writer = Writer::builder(&client, 8)
            .operations_per_second(100)
            .start()
            .await
            .unwrap();
        let (reader, sink) = futures::try_join!(MongoSource::connect(&uris[0]), MongoSink::connect(&uris[1])).unwrap();
        let migration = Migration::builder(reader, sink).chunk_bytes(64 << 10).walkers(2);
        let handle = migration.build().unwrap().start().await.unwrap();
        let retried = Arc::new(AtomicU64::new(0));
        let (mut events, counted) = (handle.events(), Arc::clone(&retried));
        let told = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if matches!(event, Event::Retrying { .. } | Event::Waiting { .. }) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    eprintln!("  {event:?}");
                }
            }
        });
        Self {
            source,
            target,
            writer,
            handle,
            retried,
            told,
        }
    }

    /// The migration is alive: what the source has now is durable on the target some time later.
    async fn moves_on(&self) {
        let before = self.handle.status().source_position;
        let moved = wait_until(DEADLINE, "the watermark to move on", async || {
            let status = self.handle.status();
            // The writer goes on, so that there is always something after what was known before.
            status.position > before && status.position.is_some()
        });
        if let Err(error) = moved.await {
            panic!("{error}: {:#?}", self.handle.status());
        }
    }

    async fn end(self) {
        let stop_writes = async {
            self.writer.stop().await;
        };
        let summary = timeout(DEADLINE, self.handle.cutover(stop_writes)).await;
        let summary = summary.expect("it cuts over in time").unwrap();
        let (source, target) = futures::try_join!(self.source.client(), self.target.client()).unwrap();
        assert_identical(&source, &target, &CompareOptions::default())
            .await
            .unwrap();
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        self.told.await.unwrap();
    }
}
