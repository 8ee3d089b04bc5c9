//! Connections to the source fail while it is copied, followed and handed over.

use std::sync::Arc;

use bson::doc;
use mongoferry::{Migration, MigrationHandle, MongoSink, MongoSource, Outcome};
use mongoferry_testbed::{Period, ReplicaSet, Version, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::*;
use crate::scenarios::faults::plan;
use crate::scenarios::legacy::old_source::{Age, OldSource, Writer, Writers};
use crate::scenarios::random_servers::not_kept;

/// Parts of requests by commands (from 3.2 on) and by queries (before), whose replies are lost. Names of collections are in the header of a
/// query, and of what reads on.
const LOST_OF_COMMANDS: [&str; 6] = [
    "find\0",
    "getMore\0",
    "oplog.rs\0",
    "isMaster\0",
    "listCollections\0",
    "listIndexes\0",
];
const LOST_OF_QUERIES: [&str; 6] = [
    "one.large\0",
    "local.oplog.rs\0",
    "isMaster\0",
    "one.",
    "appendOplogNote\0",
    "system.",
];

/// Documents of a collection that only grows and shrinks as a whole. Its copy takes some seconds.
const DOCUMENTS: i32 = 3_000;

async fn connections_fail(age: Age, faults: u32) {
    let (faults, mut random) = plan(faults);
    let seed = random.random();
    let (source, target) = futures::join!(
        OldSource::start(age),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    );
    let (source, target) = (Arc::new(source), target.unwrap());
    for first in (0..DOCUMENTS).step_by(500) {
        let documents: Vec<_> = (first..first + 500)
            .map(|id| doc! { "_id": id, "text": "x".repeat(300) })
            .collect();
        source
            .run("one", doc! { "insert": "large", "documents": documents })
            .await;
    }
    let mut before = Writer::start(&source, random.random(), false).await;
    for _ in 0..50 {
        before.step().await;
    }
    let writers = Writers::start(&source, &mut random, false).await;
    let handle = start(&source, &target).await;
    let mut troubles = Troubles {
        source: &source,
        random: StdRng::seed_from_u64(seed),
    };
    for number in 0..faults {
        let before = handle.status().source_position;
        troubles.make(number).await;
        if troubles.random.random_bool(0.3) {
            let moved = wait_until(DEADLINE, "the run to move on", async || {
                let status = handle.status();
                status.source_position > before && status.position.is_some()
            });
            if let Err(error) = moved.await {
                panic!("{error}: {:#?}", handle.status());
            }
        }
    }
    let during_cutover = async {
        for number in faults..faults + 3 {
            troubles.make(number).await;
        }
    };
    let cutover = timeout(DEADLINE, handle.cutover(writers.end()));
    let (summary, ()) = futures::join!(cutover, during_cutover);
    let summary = summary.expect("it cuts over in time").unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!((summary.resyncs, handle.status().differences), (0, 0), "{summary:#?}");
    source
        .assert_identical(seed, &target.client().await.unwrap(), &not_kept(&summary))
        .await;
    let lost = source.proxy().lost_replies();
    assert!(lost > 0, "nothing was under way");
    eprintln!("{lost} replies lost");
}

async fn start(source: &OldSource, target: &ReplicaSet) -> MigrationHandle {
    let (reader, sink) =
        futures::try_join!(MongoSource::connect(source.options()), MongoSink::connect(target.uri())).unwrap();
    let migration = Migration::builder(reader, sink).chunk_bytes(16 << 10).walkers(2);
    migration.build().unwrap().start().await.unwrap()
}

/// What happens to connections to the source.
struct Troubles<'a> {
    source: &'a OldSource,
    random: StdRng,
}

impl Troubles<'_> {
    async fn make(&mut self, number: u32) {
        let proxy = self.source.proxy();
        let pause = Duration::from_millis(self.random.random_range(0..500));
        let fault = match self.random.random_range(0..10) {
            0 => {
                proxy.cut();
                "cut"
            }
            1 => {
                // Every connection is closed, and new ones are let through.
                proxy.cut();
                sleep(Duration::from_millis(5)).await;
                proxy.restore();
                "closed"
            }
            2 => {
                proxy.stall();
                "stalled"
            }
            lost => {
                let needles = match self.source.has_commands() {
                    true => LOST_OF_COMMANDS,
                    false => LOST_OF_QUERIES,
                };
                for _ in 0..self.random.random_range(1..5) {
                    let needle = *needles.choose(&mut self.random).unwrap();
                    match lost % 2 {
                        0 => proxy.cut_next_reply_matching(needle),
                        _ => proxy.lose_next_reply_matching(needle),
                    }
                }
                "losing replies"
            }
        };
        eprintln!("{number}: connections to the source are {fault} for {pause:?}");
        sleep(pause).await;
        proxy.restore();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_connections_fail_4_0() {
    connections_fail(Age::Compatible(7), 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_connections_fail_2_6() {
    connections_fail(Age::Of(Period::V2_6), 12).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn legacy_connections_fail_for_long() {
    for age in Age::all([7, 3]) {
        eprintln!("{age:?}");
        connections_fail(age, 100).await;
    }
}
