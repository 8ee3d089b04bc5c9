//! Whole migrations between real servers: every version pair, resumed, renamed, refused.

mod chosen;
mod kinds;
mod shop;

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{ErrorKind, Event, Migration, MigrationBuilder, MigrationHandle, Outcome, Summary};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::deadline::{DEADLINE, cut_over, ready};

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
}

impl Pair {
    async fn start(from: Version, to: Version) -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(from).start(),
            ReplicaSet::builder(to).name("rs1").start()
        )
        .unwrap();
        Self { source, target }
    }

    async fn migration(&self) -> MigrationBuilder {
        let (from, to) = (self.source.uri(), self.target.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        Migration::builder(source, sink)
    }

    async fn assert_identical(&self, options: &CompareOptions) {
        let (source, target) = (self.source.client().await.unwrap(), self.target.client().await.unwrap());
        assert_identical(&source, &target, options).await.unwrap();
    }
}

async fn insert(client: &Client, namespace: &str, documents: impl IntoIterator<Item = Document>) {
    let (database, name) = namespace.split_once('.').unwrap();
    client
        .database(database)
        .collection(name)
        .insert_many(documents)
        .await
        .unwrap();
}

/// Waits until the run is ready, stops the writer, and hands over.
async fn stop_and_cut_over(run: &MigrationHandle, writer: Writer) -> Summary {
    ready(run).await;
    let stop = async {
        let stats = writer.stop().await;
        assert_eq!(stats.errors, 0, "{stats:?}");
    };
    tokio::time::timeout(DEADLINE, run.cutover(stop))
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_from_its_checkpoint() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    workload::load(&source, 20_000, 7).await.unwrap();
    let writer = Writer::start(&source, 8).await.unwrap();
    // Dropping the handle is what a crash of the host does, except for the lease.
    for round in 0..4 {
        let run = pair
            .migration()
            .await
            .chunk_bytes(64 << 10)
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        let mut events = run.events();
        let mut saved = 0;
        while saved <= round {
            match tokio::time::timeout(DEADLINE, events.next()).await.unwrap() {
                Some(Event::CheckpointSaved { .. }) => saved += 1,
                Some(Event::Started { resumed, .. }) => assert_eq!(resumed, round > 0),
                Some(_) => {}
                None => panic!("the run ended"),
            }
        }
        drop(run);
    }
    let run = pair.migration().await.build().unwrap().start().await.unwrap();
    run.pause().await.unwrap();
    run.resume().unwrap();
    let summary = stop_and_cut_over(&run, writer).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
    drop(run);
    let again = pair.migration().await.build().unwrap().start().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyComplete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    insert(&source, "shop.orders", [doc! { "_id": 1 }]).await;
    let first = pair.migration().await.build().unwrap().start().await.unwrap();
    wait_until(DEADLINE, "the first is ready", async || first.status().can_cut_over)
        .await
        .unwrap();
    let second = pair.migration().await.build().unwrap().start();
    let error = tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseHeld, "{error}");
    assert!(first.status().can_cut_over);
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_may_be_killed_and_replaced() {
    let pair = Pair {
        source: ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap(),
        target: ReplicaSet::builder(Version::V6_0)
            .name("rs1")
            .members(3)
            .start()
            .await
            .unwrap(),
    };
    let source = pair.source.client().await.unwrap();
    workload::load(&source, 10_000, 7).await.unwrap();
    let writer = Writer::start(&source, 8).await.unwrap();
    let run = pair
        .migration()
        .await
        .chunk_bytes(64 << 10)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    wait_until(DEADLINE, "the copy has begun", async || {
        run.status().copied.documents > 0
    })
    .await
    .unwrap();
    let primary = pair.target.primary_index().await.unwrap();
    pair.target.kill(primary).await.unwrap();
    pair.source.step_down().await.unwrap();
    let watermark = run.status().position;
    wait_until(DEADLINE, "the watermark moves again", async || {
        run.status().position > watermark
    })
    .await
    .unwrap();
    pair.target.restart(primary).await.unwrap();
    pair.target.step_down().await.unwrap();
    let summary = stop_and_cut_over(&run, writer).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secured_servers_are_migrated_and_passwords_stay_secret() {
    let source = ReplicaSet::builder(Version::V6_0).key_file_auth().tls().start();
    let target = ReplicaSet::builder(Version::V6_0).name("rs1").key_file_auth().start();
    let (source, target) = futures::try_join!(source, target).unwrap();
    let pair = Pair { source, target };
    let client = pair.source.client().await.unwrap();
    workload::load(&client, 500, 7).await.unwrap();
    let migration = pair.migration().await.build().unwrap();
    let password = |uri: String| uri.split(['@', ':']).nth(2).unwrap().to_owned();
    let secrets = [password(pair.source.uri()), password(pair.target.uri())];
    let described = format!("{migration:?} {:?}", migration.preflight().await.unwrap());
    let run = migration.start().await.unwrap();
    let mut events = run.events();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let mut told = format!("{described} {run:?} {summary:?}");
    drop(run);
    while let Some(event) = events.next().await {
        told.push_str(&format!("{event:?}"));
    }
    let target = pair.target.client().await.unwrap();
    let records = target
        .database("__mdb_internal_mongoferry")
        .collection::<Document>("records");
    let mut records = records.find(doc! {}).await.unwrap();
    while let Some(record) = records.next().await {
        told.push_str(&format!("{:?}", record.unwrap()));
    }
    for secret in secrets {
        assert!(secret.len() > 8 && !told.contains(&secret));
    }
    pair.assert_identical(&CompareOptions::default()).await;
}
