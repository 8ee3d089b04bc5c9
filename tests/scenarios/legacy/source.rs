//! The source for old servers on sets of three members: what a majority has, in each of the ways to find out, and elections.
//!
//! 4.2 at feature compatibility version 4.0 writes the oplog of 4.0. It is read as from servers of an older wire version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongoferry::order::Key;
use mongoferry::source::{ReadMode, ReadRequest};
use mongoferry::{
    Batch, Collection, CollectionKind, Migration, MongoSink, MongoSource, Namespace, Outcome, Range, Source,
};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{OldSet, Period, ReplicaSet, Version, wait_until};
use tokio::time::{sleep, timeout};

use super::old_source::{compatible_with_4_0, old_options};

/// Reported by `isMaster`; derived from `replSetGetStatus`; asked of each member.
const WAYS: [i32; 3] = [7, 4, 3];

const DOCUMENTS: i32 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_through_elections() {
    let (set, client) = old_set().await;
    let target = ReplicaSet::builder(Version::V4_2).name("rs1").start().await.unwrap();
    let to = target.client().await.unwrap();
    for wire_version in WAYS {
        to.database("shop").drop().await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(client.clone(), Arc::clone(&stop)));
        let source = connect(&set, wire_version).await;
        let sink = MongoSink::connect(target.uri()).await.unwrap();
        let builder = Migration::builder(source, sink).chunk_bytes(1 << 14);
        let handle = builder.build().unwrap().start().await.unwrap();
        set.step_down().await.unwrap();
        handle.ready_to_cut_over().await.unwrap();
        set.step_down().await.unwrap();
        let stop_writes = async {
            stop.store(true, Ordering::Relaxed);
            writer.await.unwrap();
        };
        let summary = handle.cutover(stop_writes).await.unwrap();
        assert_eq!(summary.outcome, Outcome::Complete, "{wire_version}: {summary:#?}");
        assert_identical(&client, &to, &CompareOptions::default())
            .await
            .unwrap();
        to.database("__mdb_internal_mongoferry").drop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_followed_that_a_majority_lacks() {
    let (set, client) = old_set().await;
    for wire_version in WAYS {
        let source = connect(&set, wire_version).await;
        let before = source.position().await.unwrap();
        let primary = set.primary_index().await.unwrap();
        let others: Vec<usize> = (0..set.members()).filter(|member| *member != primary).collect();
        for member in &others {
            set.suspend(*member).await.unwrap();
        }
        let orders = client.database("shop").collection::<Document>("orders");
        // The primary takes writes for the seconds in which it does not miss the others.
        let update = doc! { "$inc": { "n": 1 } };
        orders.update_one(doc! { "_id": 1 }, update).await.unwrap();
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let newest = oplog
            .find_one(doc! {})
            .sort(doc! { "$natural": -1 })
            .await
            .unwrap()
            .unwrap();
        let written = newest.get_timestamp("ts").unwrap();
        // It answers with what a majority had, or not at all.
        if let Ok(answer) = timeout(Duration::from_secs(3), source.position()).await {
            let position = answer.unwrap();
            assert!(
                position.timestamp() < written,
                "{wire_version}: {position} is not committed"
            );
        }
        for member in &others {
            set.resume(*member).await.unwrap();
        }
        let deadline = Duration::from_secs(60);
        let has_advanced = async || source.position().await.is_ok_and(|position| position > before);
        wait_until(deadline, "the majority has the write", has_advanced)
            .await
            .unwrap();
        let sentinel = source.sentinel().await.unwrap();
        assert!(sentinel > before, "{wire_version}: {sentinel} after {before}");
    }
}

/// A read may begin at the very entry that gives the collection its name.
#[tokio::test(flavor = "multi_thread")]
async fn renamed_collection_of_2_6_is_read_at_once() {
    let set = OldSet::start(Period::V2_6, 1).await.unwrap();
    let documents: Vec<_> = (0..10).map(|id| doc! { "_id": id }).collect();
    let insert = doc! { "insert": "before", "documents": documents };
    set.run("shop", insert).await.unwrap();
    let rename = doc! { "renameCollection": "shop.before", "to": "shop.after" };
    set.run("admin", rename).await.unwrap();
    let source = MongoSource::connect(set.uri()).await.unwrap();
    let request = ReadRequest {
        namespace: Namespace::new("shop", "after"),
        kind: CollectionKind::Plain,
        range: Range::FULL,
        at: source.position().await.unwrap(),
        mode: ReadMode::Interval,
        batch_bytes: 1_000,
        document_bytes: 100,
    };
    let batches: Vec<Batch> = source.read(request).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.iter().count()).sum::<usize>(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_old_collections_are_split_by_random_samples() {
    const RANGES: u64 = 20;
    let (set, _client) = old_set().await;
    for wire_version in [7, 4] {
        let source = connect(&set, wire_version).await;
        let listed = source.collections().await.unwrap();
        let is_orders = |collection: &Collection| collection.namespace.as_str() == "shop.orders";
        let mut orders = listed.into_iter().find(is_orders).unwrap();
        // Of a small one the whole index would be read, and in one of this size it would find no cut.
        orders.documents = 2_000_000;
        let cuts = source.split(&orders, orders.bytes.div_ceil(RANGES)).await.unwrap();
        let id = |key: &Key| key.to_bson_ref().unwrap().as_i32().unwrap();
        let mut bounds = vec![0];
        bounds.extend(cuts.iter().map(id));
        bounds.push(DOCUMENTS);
        assert_eq!(bounds.len() as u64, RANGES + 1, "{wire_version}: {bounds:?}");
        let largest = bounds.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap();
        assert!(
            bounds.is_sorted_by(|left, right| left < right) && largest < 4 * DOCUMENTS / RANGES as i32,
            "{wire_version}: {bounds:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_those_that_the_driver_reads() {
    let set = ReplicaSet::builder(Version::V4_2)
        .key_file_auth()
        .start()
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    // Both sources read what a majority has.
    let role = doc! {
        "createRole": "auditor", "privileges": [], "roles": [{ "role": "read", "db": "shop" }], "writeConcern": { "w": "majority" },
    };
    client.database("admin").run_command(role).await.unwrap();
    for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256"] {
        let user = doc! {
            "createUser": mechanism, "pwd": "secret", "roles": ["auditor"], "mechanisms": [mechanism], "customData": { "a": 1 },
            "writeConcern": { "w": "majority" },
        };
        client.database("admin").run_command(user).await.unwrap();
    }
    let expected = MongoSource::connect(set.uri()).await.unwrap().accounts().await.unwrap();
    assert_eq!((expected.accounts.len(), expected.own.is_empty()), (4, false));
    for wire_version in WAYS {
        let read = connect(&set, wire_version).await.accounts().await.unwrap();
        assert!(read.accounts == expected.accounts, "{wire_version}: {read:?}");
        assert_eq!(read.own, expected.own, "{wire_version}");
    }
}

async fn old_set() -> (ReplicaSet, Client) {
    let set = compatible_with_4_0(3).await;
    let client = set.client().await.unwrap();
    let orders = client.database("shop").collection("orders");
    let documents = (0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0, "text": "x".repeat(200) });
    orders.insert_many(documents).await.unwrap();
    (set, client)
}

async fn connect(set: &ReplicaSet, wire_version: i32) -> MongoSource {
    let options = old_options(&set.uri(), Some(wire_version));
    MongoSource::connect(options).await.unwrap()
}

/// Writes until it is stopped. During an election, writes fail.
async fn write(client: Client, stop: Arc<AtomicBool>) {
    let orders = client.database("shop").collection::<Document>("orders");
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = turn * 37 % DOCUMENTS;
        let _ = match turn % 5 {
            0 => orders.delete_one(doc! { "_id": id }).await.map(|_| ()),
            1 => orders
                .insert_one(doc! { "_id": DOCUMENTS + turn, "n": turn })
                .await
                .map(|_| ()),
            _ => orders
                .update_one(doc! { "_id": id }, doc! { "$inc": { "n": 1 } })
                .await
                .map(|_| ()),
        };
        sleep(Duration::from_millis(5)).await;
    }
}
