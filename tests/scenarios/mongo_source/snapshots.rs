//! What a read at a position shows while documents change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::{RawDocument, doc};
use futures::TryStreamExt;
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use mongodb::options::{ClientOptions, WriteConcern};
use mongoferry::source::{ReadMode, ReadRequest};
use mongoferry::{CollectionKind, ConnectOptions, Error, ErrorKind, MongoSource, Source};
use mongoferry_testbed::{Version, wait_until};

use super::{Bed, DATABASE, PATIENCE, assert_same, documents, integer, keys};

const DOCUMENTS: i32 = 200;

/// All documents carry the number of the transaction that changed them last, and every transaction changes all of them: what shows two
/// numbers is no snapshot.
async fn write_generation(bed: &Bed, generation: i32) {
    let mut session = bed.client.start_session().await.unwrap();
    let collection = bed
        .client
        .database(DATABASE)
        .collection::<bson::Document>("generations");
    let majority = WriteConcern::majority();
    session.start_transaction().write_concern(majority).await.unwrap();
    let update = doc! { "$set": { "generation": generation } };
    collection
        .update_many(doc! {}, update)
        .session(&mut session)
        .await
        .unwrap();
    session.commit_transaction().await.unwrap();
}

fn generation(document: &RawDocument) -> i32 {
    document.get_i32("generation").unwrap()
}

/// Reads the collection and writes another generation after each batch. Answers what the documents showed, in the order read.
async fn read_while_writing(bed: &Bed, mut request: ReadRequest, next: &mut i32) -> Result<Vec<i32>, Error> {
    request.at = bed.source.position().await?;
    let mut batches = bed.source.read(request).await?;
    let (mut seen, mut count) = (Vec::new(), 0);
    while let Some(batch) = batches.try_next().await? {
        seen.extend(batch.iter().map(generation));
        count += 1;
        write_generation(bed, *next).await;
        *next += 1;
    }
    assert!(count >= 10, "{count} batches");
    Ok(seen)
}

async fn shows_one_generation(version: Version) {
    let bed = Bed::start(version).await;
    bed.insert(
        "generations",
        (0..DOCUMENTS).map(|id| doc! { "_id": id, "generation": 0, "filler": "x".repeat(60) }),
    )
    .await;
    let mut next = 1;
    let mut complete = 0;
    let mut attempts = 0;
    while complete < 3 {
        attempts += 1;
        assert!(attempts < 20, "too few snapshots");
        let request = bed.request("generations", ReadMode::Snapshot).await;
        let newest = next - 1;
        match read_while_writing(&bed, request, &mut next).await {
            Ok(seen) => {
                // The transaction was committed by a majority before the position was asked for.
                assert_same(&seen, &[newest; DOCUMENTS as usize]);
                complete += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::SnapshotUnavailable, "{error}"),
        }
    }

    let newest = next - 1;
    let request = bed.request("generations", ReadMode::Interval).await;
    let seen = read_while_writing(&bed, request, &mut next).await.unwrap();
    assert_eq!(seen.len(), DOCUMENTS as usize);
    assert!(seen.iter().all(|generation| *generation >= newest), "{seen:?}");
    // Not promised, but if it were otherwise the snapshots above would prove nothing.
    assert!(seen.iter().any(|generation| *generation > newest), "{seen:?}");

    points_are_read_at_the_position(&bed, next).await;
}

async fn points_are_read_at_the_position(bed: &Bed, next: i32) {
    let at = bed.source.position().await.unwrap();
    write_generation(bed, next).await;
    let wanted = [integer(3), integer(150), integer(5_000)];
    for (mode, expected) in [(ReadMode::Snapshot, next - 1), (ReadMode::Interval, next)] {
        let mut found = bed.points("generations", &wanted, at, mode).await;
        found.sort_by_key(|document| document.get_i32("_id").unwrap());
        assert_eq!(keys(&found), wanted[..2]);
        assert!(
            found.iter().all(|document| generation(document) == expected),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn snapshots_show_one_generation_4_2() {
    shows_one_generation(Version::V4_2).await;
}

#[tokio::test]
async fn snapshots_show_one_generation_4_4() {
    shows_one_generation(Version::V4_4).await;
}

#[tokio::test]
async fn snapshots_show_one_generation_5_0() {
    shows_one_generation(Version::V5_0).await;
}

#[tokio::test]
async fn snapshots_show_one_generation_6_0() {
    shows_one_generation(Version::V6_0).await;
}

async fn says_that_it_is_too_old(version: Version) {
    let bed = Bed::start(version).await;
    bed.insert("old", (0..100).map(|id| doc! { "_id": id })).await;
    let window = if version < Version::V5_0 {
        "maxTargetSnapshotHistoryWindowInSeconds"
    } else {
        "minSnapshotHistoryWindowInSeconds"
    };
    bed.admin(doc! { "setParameter": 1, window: 0 }).await;
    let request = bed.request("old", ReadMode::Snapshot).await;
    let mut error = None;
    wait_until(PATIENCE, "the snapshot to be too old", async || {
        bed.run(doc! { "update": "old", "updates": [{ "q": { "_id": 1 }, "u": { "$inc": { "n": 1 } } }] })
            .await;
        error = documents(&bed.source, request.clone()).await.err();
        error.is_some()
    })
    .await
    .unwrap();
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::SnapshotUnavailable, "{error}");
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("shop.old"), "{error}");
}

#[tokio::test]
async fn old_snapshots_are_refused_4_2() {
    says_that_it_is_too_old(Version::V4_2).await;
}

#[tokio::test]
async fn old_snapshots_are_refused_4_4() {
    says_that_it_is_too_old(Version::V4_4).await;
}

#[tokio::test]
async fn old_snapshots_are_refused_5_0() {
    says_that_it_is_too_old(Version::V5_0).await;
}

#[tokio::test]
async fn old_snapshots_are_refused_6_0() {
    says_that_it_is_too_old(Version::V6_0).await;
}

/// From 5.0 on there is no snapshot of a capped collection, and none newer will do.
#[tokio::test]
async fn capped_collections_are_read_in_natural_order() {
    for version in [Version::V4_4, Version::V6_0] {
        let bed = Bed::start(version).await;
        bed.run(doc! { "create": "events", "capped": true, "size": 1 << 20 })
            .await;
        let order = (0..300).map(|number| number * 7 % 300);
        bed.insert("events", order.clone().map(|id| doc! { "_id": id })).await;
        let expected: Vec<_> = order.map(integer).collect();

        let mut request = bed.request("events", ReadMode::Interval).await;
        request.kind = CollectionKind::Capped;
        assert_eq!(keys(&bed.read(&request).await), expected);

        request.mode = ReadMode::Snapshot;
        if version < Version::V5_0 {
            assert_eq!(keys(&bed.read(&request).await), expected);
        } else {
            let error = documents(&bed.source, request).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SnapshotUnavailable, "{error}");
            assert!(!error.is_retryable(), "{error}");
        }
    }
}

/// Defaults of the host's client that no snapshot read would be given with.
#[tokio::test]
async fn defaults_of_a_client_do_not_matter() {
    for version in [Version::V4_4, Version::V6_0] {
        let mut bed = Bed::start(version).await;
        bed.insert("plain", (0..50).map(|id| doc! { "_id": id })).await;
        let uri = format!(
            "{}&readPreference=secondary&readConcernLevel=linearizable&w=0",
            bed.set.uri()
        );
        let client = mongodb::Client::with_uri_str(uri).await.unwrap();
        bed.source = MongoSource::connect(client).await.unwrap();
        for mode in [ReadMode::Snapshot, ReadMode::Interval] {
            let request = bed.request("plain", mode).await;
            assert_same(
                &keys(&bed.read(&request).await),
                &(0..50).map(integer).collect::<Vec<_>>(),
            );
        }
        assert_eq!(bed.source.collections().await.unwrap().len(), 1);
    }
}

/// 4.2 and 4.4 end a transaction for its age, wherever its reader is.
#[tokio::test]
async fn a_transaction_that_the_server_ends_is_a_lost_snapshot() {
    for version in [Version::V4_2, Version::V4_4] {
        let bed = Bed::start(version).await;
        bed.insert("slow", (0..100).map(|id| doc! { "_id": id })).await;
        bed.admin(doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 1 })
            .await;
        let mut begun = None;
        wait_until(PATIENCE, "a snapshot", async || {
            begun = bed
                .source
                .read(bed.request("slow", ReadMode::Snapshot).await)
                .await
                .ok();
            begun.is_some()
        })
        .await
        .unwrap();
        let mut batches = begun.unwrap();
        batches.try_next().await.unwrap().unwrap();
        wait_until(PATIENCE, "the transaction to end", async || {
            let status = bed.admin(doc! { "serverStatus": 1 }).await;
            status
                .get_document("transactions")
                .unwrap()
                .get_i64("currentOpen")
                .unwrap()
                == 0
        })
        .await
        .unwrap();
        let error = batches.try_next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SnapshotUnavailable, "{error}");
        assert!(error.is_retryable(), "{error}");
    }
}

/// A server would keep each session for half an hour.
#[tokio::test]
async fn sessions_of_transactions_are_ended() {
    let mut bed = Bed::start(Version::V4_2).await;
    bed.insert("plain", (0..50).map(|id| doc! { "_id": id })).await;
    let ended = Arc::new(AtomicUsize::new(0));
    let mut options = ClientOptions::parse(bed.set.uri()).await.unwrap();
    let counted = Arc::clone(&ended);
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Succeeded(event) = event
            && event.command_name == "endSessions"
        {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    }));
    bed.source = MongoSource::connect(ConnectOptions::options(options)).await.unwrap();
    for reads in 1..=3 {
        let request = bed.request("plain", ReadMode::Snapshot).await;
        assert_eq!(bed.read(&request).await.len(), 50);
        assert!(ended.load(Ordering::SeqCst) >= reads);
    }
}
