//! Cursors that wait at the end.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bson::{Document, doc, rawdoc};
use mongodb::Database;
use mongoferry::ErrorKind;
use mongoferry::test_util::legacy::{Find, FindMode, LegacyClient, LegacyCursor};
use mongoferry_testbed::{ReplicaSet, Version};

use super::{PATIENCE, clients, id_of, next, start};

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_tails_4_2() {
    tails(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_tails_5_0() {
    tails(Version::V5_0).await;
}

async fn tails(version: Version) {
    let set = start(version).await;
    let database = set.client().await.unwrap().database("d");
    for client in clients(&set.uri()).await {
        follows_the_oplog(&client, &database).await;
        loses_nothing_when_calls_are_dropped(&client, &database).await;
        reports_a_lost_position(&client, &database).await;
    }
    waits_without_a_write(&set).await;
}

fn tail(database: &str, collection: &str, filter: bson::raw::RawDocumentBuf) -> Find {
    Find {
        mode: FindMode::TailAwait { await_ms: 1_000 },
        ..Find::new(database, collection, filter)
    }
}

async fn insert(database: &Database, id: i32) {
    let collection = database.collection::<Document>("tailed");
    collection.insert_one(doc! { "_id": id }).await.unwrap();
}

/// The ids of the inserts into `tailed` up to the last one, in order.
async fn read_up_to(cursor: &mut LegacyCursor, last: i32) -> Vec<i32> {
    let mut read = Vec::new();
    let end = Instant::now() + PATIENCE;
    while read.last() != Some(&last) {
        assert!(Instant::now() < end, "{read:?}");
        for entry in next(cursor).await.unwrap() {
            if entry.get_str("ns").unwrap() == "d.tailed" && entry.get_str("op").unwrap() == "i" {
                read.push(id_of(entry.get_document("o").unwrap()));
            }
        }
    }
    read
}

/// A tail of the oplog from now on.
async fn oplog(client: &LegacyClient, database: &Database) -> LegacyCursor {
    database.collection::<Document>("tailed").drop().await.unwrap();
    let primary = client.command("admin", &rawdoc! { "isMaster": 1 }).await.unwrap();
    let last = primary
        .get_document("lastWrite")
        .unwrap()
        .get_document("opTime")
        .unwrap();
    let from = rawdoc! { "ts": { "$gte": last.get_timestamp("ts").unwrap() } };
    let find = Find {
        oplog_replay: true,
        ..tail("local", "oplog.rs", from)
    };
    let mut cursor = client.find(find).await.unwrap();
    // The newest entry may not be visible yet.
    let mut first = Vec::new();
    while first.is_empty() {
        first = next(&mut cursor).await.unwrap();
    }
    assert_eq!(first[0].get_timestamp("ts").unwrap(), last.get_timestamp("ts").unwrap());
    cursor
}

async fn follows_the_oplog(client: &LegacyClient, database: &Database) {
    let mut cursor = oplog(client, database).await;
    insert(database, 1).await;
    assert_eq!(read_up_to(&mut cursor, 1).await, [1]);
    // What comes while the server waits wakes it. An answer after its whole second would show that it was not woken.
    let mut woken = false;
    for id in 2..12 {
        let began = Instant::now();
        let (read, ()) = tokio::join!(read_up_to(&mut cursor, id), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            insert(database, id).await;
        });
        assert_eq!(read, [id]);
        woken |= began.elapsed() < Duration::from_millis(600);
        if woken {
            break;
        }
    }
    assert!(woken);
}

async fn loses_nothing_when_calls_are_dropped(client: &LegacyClient, database: &Database) {
    let mut cursor = oplog(client, database).await;
    let (dropped, last) = (Cell::new(0), Cell::new(None));
    // A fast server may answer most calls before they are dropped, so writes go on until enough of them were.
    let writer = async {
        for id in 0.. {
            insert(database, id).await;
            if id >= 99 && dropped.get() > 10 {
                last.set(Some(id));
                break;
            }
        }
    };
    let reader = async {
        let mut read = Vec::new();
        let end = Instant::now() + PATIENCE;
        while last.get().is_none() || read.last().copied() != last.get() {
            assert!(Instant::now() < end, "{dropped:?} of {read:?}");
            let next = tokio::time::timeout(Duration::from_micros(700), cursor.next_batch());
            let Ok(batch) = next.await else {
                dropped.set(dropped.get() + 1);
                continue;
            };
            for entry in batch.unwrap().unwrap().iter() {
                if entry.get_str("ns").unwrap() == "d.tailed" && entry.get_str("op").unwrap() == "i" {
                    read.push(id_of(entry.get_document("o").unwrap()));
                }
            }
        }
        read
    };
    let (read, ()) = tokio::join!(reader, writer);
    assert!(read.iter().copied().eq(0..=read[read.len() - 1]));
}

/// A capped collection overtakes the cursor.
async fn reports_a_lost_position(client: &LegacyClient, database: &Database) {
    let capped = database.collection::<Document>("capped");
    capped.drop().await.unwrap();
    database
        .create_collection("capped")
        .capped(true)
        .size(4096)
        .await
        .unwrap();
    let insert =
        |ids: std::ops::Range<i32>| capped.insert_many(ids.map(|id| doc! { "_id": id, "text": "x".repeat(100) }));
    insert(0..10).await.unwrap();
    let find = Find {
        batch_size: Some(2),
        ..tail("d", "capped", rawdoc! {})
    };
    let mut cursor = client.find(find).await.unwrap();
    assert_eq!(cursor.next_batch().await.unwrap().unwrap().len(), 2);
    insert(10..200).await.unwrap();
    let error = cursor.next_batch().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error:#}");
    assert_eq!(next(&mut cursor).await, None);
}

/// An awaiting tail takes as long as it is told where it can be told, and then gives an empty batch.
async fn waits_without_a_write(set: &ReplicaSet) {
    let database = set.client().await.unwrap().database("d");
    for client in clients(&set.uri()).await {
        database.collection::<Document>("quiet").drop().await.unwrap();
        database
            .create_collection("quiet")
            .capped(true)
            .size(4096)
            .await
            .unwrap();
        let quiet = database.collection("quiet");
        quiet.insert_one(doc! { "_id": 1 }).await.unwrap();
        let mut cursor = client.find(tail("d", "quiet", rawdoc! {})).await.unwrap();
        assert_eq!(cursor.next_batch().await.unwrap().unwrap().len(), 1);
        let began = Instant::now();
        assert_eq!(next(&mut cursor).await, Some(Vec::new()));
        assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
        assert_ne!(cursor.id(), 0);
    }
}
