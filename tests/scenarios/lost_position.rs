//! A position that a real server's oplog no longer holds.

use std::path::Path;

use bson::{Document, doc};
use mongodb::Client;
use mongoferry::{Event, Migration, MigrationHandle, MongoSink, MongoSource, Outcome};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::deadline::{DEADLINE, cut_over, event, ready, roll_over};

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
}

impl Pair {
    async fn start(version: Version) -> Self {
        // A small oplog, of which the server keeps no more than it has to.
        let source = ReplicaSet::builder(version)
            .oplog_size_mb(1)
            .arg("--syncdelay")
            .arg("1");
        let target = ReplicaSet::builder(Version::V6_0).name("rs1");
        let (source, target) = futures::try_join!(source.start(), target.start()).unwrap();
        Self { source, target }
    }

    /// Goes on from the checkpoint, and waits until everything is on the target.
    async fn run(&self) -> MigrationHandle {
        let run = self.begin().await;
        ready(&run).await;
        run
    }

    async fn begin(&self) -> MigrationHandle {
        let (from, to) = (self.source.uri(), self.target.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        let migration = Migration::builder(source, sink).include("shop.*");
        migration.build().unwrap().start().await.unwrap()
    }

    async fn finish(&self, run: MigrationHandle) {
        let summary = cut_over(&run).await;
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        assert_eq!(summary.resyncs, 1);
        let (source, target) = (self.source.client().await.unwrap(), self.target.client().await.unwrap());
        let options = CompareOptions {
            namespaces: Some(
                ["orders", "moved", "log", "made"]
                    .map(|name| format!("shop.{name}"))
                    .into(),
            ),
            ..CompareOptions::default()
        };
        assert_identical(&source, &target, &options).await.unwrap();
        let mut names = target.database("shop").list_collection_names().await.unwrap();
        names.retain(|name| !name.starts_with("system."));
        names.sort();
        let mut expected = source.database("shop").list_collection_names().await.unwrap();
        expected.retain(|name| !name.starts_with("system."));
        expected.sort();
        assert_eq!(names, expected);
    }
}

/// Something of every kind.
async fn load(client: &Client) {
    let shop = client.database("shop");
    let documents = |count: i32| (0..count).map(|id| doc! { "_id": id, "n": 0, "m": id });
    for (name, count) in [("orders", 500), ("mover", 100), ("dropped", 10)] {
        shop.collection(name).insert_many(documents(count)).await.unwrap();
    }
    for index in [
        doc! { "key": { "n": 1 }, "name": "n_1" },
        doc! { "key": { "m": 1 }, "name": "m_1", "unique": true },
    ] {
        let create = doc! { "createIndexes": "orders", "indexes": [index] };
        shop.run_command(create).await.unwrap();
    }
    shop.create_collection("log").capped(true).size(1 << 16).await.unwrap();
    shop.collection("log").insert_many(documents(10)).await.unwrap();
    shop.run_command(doc! { "create": "seen", "viewOn": "orders", "pipeline": [] })
        .await
        .unwrap();
}

/// Changes three documents of `shop.orders`, and what can be changed besides.
async fn change(client: &Client) {
    let shop = client.database("shop");
    let orders = shop.collection::<Document>("orders");
    orders
        .update_one(doc! { "_id": 100 }, doc! { "$set": { "n": 1 } })
        .await
        .unwrap();
    orders.delete_one(doc! { "_id": 200 }).await.unwrap();
    orders.insert_one(doc! { "_id": 1000, "n": 5, "m": 200 }).await.unwrap();
    for command in [
        doc! { "dropIndexes": "orders", "index": "n_1" },
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "n": -1 }, "name": "n_1" }, { "key": { "k": 1 }, "name": "k_1" }] },
        doc! { "collMod": "orders", "validator": { "n": { "$gte": 0 } }, "validationLevel": "moderate" },
        doc! { "drop": "dropped" },
        doc! { "drop": "seen" },
        doc! { "create": "seen", "viewOn": "moved", "pipeline": [{ "$match": { "n": 1 } }] },
        doc! { "create": "made", "collation": { "locale": "de" } },
    ] {
        shop.run_command(command).await.unwrap();
    }
    let rename = doc! { "renameCollection": "shop.mover", "to": "shop.moved" };
    client.database("admin").run_command(rename).await.unwrap();
    let moved = shop.collection::<Document>("moved");
    moved
        .update_one(doc! { "_id": 7 }, doc! { "$set": { "n": 1 } })
        .await
        .unwrap();
    shop.collection("log").insert_one(doc! { "_id": "last" }).await.unwrap();
    shop.collection("made")
        .insert_one(doc! { "_id": "first" })
        .await
        .unwrap();
}

/// Waits until the run says that it begins anew.
fn resync_of(run: &MigrationHandle) -> impl Future<Output = ()> + use<> {
    let mut events = run.events();
    async move {
        event(&mut events, |event| matches!(event, Event::Resync { .. }).then_some(())).await;
    }
}

/// How many writes to a collection are in the target's oplog.
async fn written(target: &Client, namespace: &str) -> u64 {
    let oplog = target.database("local").collection::<Document>("oplog.rs");
    let writes = doc! { "ns": namespace, "op": { "$in": ["i", "u", "d"] } };
    oplog.count_documents(writes).await.unwrap()
}

async fn a_process_that_was_down_for_too_long(version: Version) {
    let pair = Pair::start(version).await;
    let (source, target) = (pair.source.client().await.unwrap(), pair.target.client().await.unwrap());
    load(&source).await;
    drop(pair.run().await);
    let before = written(&target, "shop.orders").await;
    assert!(before >= 500, "{before}");
    change(&source).await;
    roll_over(&source).await;
    let run = pair.begin().await;
    resync_of(&run).await;
    pair.finish(run).await;
    assert_eq!(written(&target, "shop.orders").await, before + 3);
    assert_eq!(
        written(&target, "shop.moved").await,
        1,
        "it was moved, not copied again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_down_for_too_long_4_2() {
    a_process_that_was_down_for_too_long(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_down_for_too_long_6_0() {
    a_process_that_was_down_for_too_long(Version::V6_0).await;
}

/// The source goes back to a copy of its files, while a run follows it or while none does.
async fn a_source_restored_from_a_copy(running: bool) {
    let pair = Pair::start(Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    load(&source).await;
    let mut run = Some(pair.run().await);
    let data = pair.source.folder().join("member-0").join("data");
    let backup = pair.source.folder().join("backup");
    pair.source.stop(0).await.unwrap();
    copy(&data, &backup);
    pair.source.restart(0).await.unwrap();
    change(&source).await;
    let hello = source.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
    let newest = hello.get_document("lastWrite").unwrap().get_document("opTime").unwrap();
    let newest = newest.get_timestamp("ts").unwrap();
    let handle = run.as_ref().unwrap();
    wait_until(DEADLINE, "the changes to arrive", async || {
        handle
            .status()
            .position
            .is_some_and(|position| position.timestamp() >= newest)
    })
    .await
    .unwrap();
    if !running {
        run = None;
    }
    pair.source.stop(0).await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    let resynced = run.as_ref().map(resync_of);
    pair.source.restart(0).await.unwrap();
    let orders = source.database("shop").collection::<Document>("orders");
    orders
        .update_one(doc! { "_id": 300 }, doc! { "$set": { "n": 9 } })
        .await
        .unwrap();
    let run = match run {
        Some(run) => {
            resynced.unwrap().await;
            run
        }
        None => {
            let run = pair.begin().await;
            resync_of(&run).await;
            run
        }
    };
    pair.finish(run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_while_a_run_follows_it() {
    a_source_restored_from_a_copy(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_while_none_does() {
    a_source_restored_from_a_copy(false).await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
