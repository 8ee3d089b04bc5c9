//! Random workloads on sources of each version before 4.2: documents and the catalog change while a migration copies, follows, is started
//! anew and hands over; then both sides are identical, indexes and options included.
//!
//! The sources are 4.2 servers that look like the version, or real ones where the environment names their binaries (`MONGOD_2_6`).
//! `MONGOFERRY_SEED=17` runs one seed, with what happens printed, and `MONGOFERRY_SEEDS=20` that many.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Event, Migration, MigrationHandle, Outcome, Source, Summary};
use mongoferry_testbed::{OldSet, Period, ReplicaSet, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use super::old_source::{Age, OldSource, Writer, Writers};
use crate::scenarios::random_servers::not_kept;

/// How long one seed may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_2_6() {
    seeds(Period::V2_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_3_0() {
    seeds(Period::V3_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_3_2() {
    seeds(Period::V3_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_3_4() {
    seeds(Period::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_3_6() {
    seeds(Period::V3_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_4_0() {
    seeds(Period::V4_0).await;
}

/// Such a server closes the connections of the driver, which would try for 30 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_known_by_its_version() {
    let source = OldSet::start(Period::V3_0, 1).await.unwrap();
    let connecting = timeout(Duration::from_secs(20), MongoSource::connect(source.uri()));
    let connected = connecting.await.expect("the driver was not waited for").unwrap();
    assert_eq!(connected.describe().await.unwrap().version[..2], [3, 0]);
}

async fn seeds(period: Period) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let only = number("MONGOFERRY_SEED");
    let first = only.or_else(|| number("MONGOFERRY_FIRST_SEED")).unwrap_or(1);
    let count = if only.is_some() {
        1
    } else {
        number("MONGOFERRY_SEEDS").unwrap_or(1)
    };
    let target = ReplicaSet::builder(Version::V6_0).name("rs1").start().await.unwrap();
    for seed in first..first + count {
        let to = target.client().await.unwrap();
        for database in ["one", "two"] {
            to.database(database).drop().await.unwrap();
        }
        let run = Run {
            seed,
            loud: only.is_some(),
            source: Arc::new(OldSource::start(Age::Of(period)).await),
            target: target.uri(),
        };
        let handed_over = timeout(DEADLINE, run.hand_over(&to)).await;
        handed_over.unwrap_or_else(|_| panic!("{period}: seed {seed} is not done after {DEADLINE:?}"));
    }
}

struct Run {
    seed: u64,
    loud: bool,
    source: Arc<OldSource>,
    target: String,
}

impl Run {
    /// Migrates while writers write, stops them for the cutover, and compares both sides.
    async fn hand_over(&self, to: &Client) {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut before = Writer::start(&self.source, random.random(), self.loud).await;
        for _ in 0..random.random_range(20..100) {
            before.step().await;
        }
        let writers = Writers::start(&self.source, &mut random, self.loud).await;
        let summary = self.migrate(&mut random, writers).await;
        self.source.assert_identical(self.seed, to, &not_kept(&summary)).await;
    }

    /// Copies, is started anew twice, and hands over.
    async fn migrate(&self, random: &mut StdRng, writers: Writers) -> Summary {
        let chunk = 1 << random.random_range(10..16);
        let mut handle = self.start(chunk).await;
        for _ in 0..2 {
            sleep(Duration::from_millis(random.random_range(0..1000))).await;
            handle.abandon().await;
            handle = self.start(chunk).await;
        }
        sleep(Duration::from_millis(random.random_range(0..1000))).await;
        let summary = handle.cutover(writers.end()).await;
        let summary = summary.unwrap_or_else(|error| panic!("seed {}: {error:?}", self.seed));
        assert_eq!(summary.outcome, Outcome::Complete, "seed {}: {summary:#?}", self.seed);
        assert_eq!(handle.status().differences, 0, "seed {}: a false alarm", self.seed);
        summary
    }

    async fn start(&self, chunk_bytes: u64) -> MigrationHandle {
        let begin = Instant::now();
        let (reader, writer) = futures::try_join!(
            MongoSource::connect(self.source.options()),
            MongoSink::connect(&self.target)
        )
        .unwrap();
        if self.loud {
            eprintln!("connected in {:?}", begin.elapsed());
        }
        let migration = Migration::builder(reader, writer).chunk_bytes(chunk_bytes);
        let handle = migration.build().unwrap().start().await.unwrap();
        let (mut events, loud) = (handle.events(), self.loud);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if loud && !matches!(event, Event::CheckpointSaved { .. }) {
                    eprintln!("      {event:?}");
                }
            }
        });
        handle
    }
}
