//! What reads leave behind, and how they end when a server does.

use std::pin::pin;

use bson::doc;
use futures::{StreamExt, TryStreamExt};
use mongoferry::order::Key;
use mongoferry::source::{ReadMode, ReadRequest};
use mongoferry::{ErrorKind, Result, Source};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::{Bed, PATIENCE, assert_same, documents, integer, key, keys};

async fn opens(bed: &Bed) -> (i64, i64) {
    let status = bed.admin(doc! { "serverStatus": 1 }).await;
    let number = |path: [&str; 4]| {
        let mut document = &status;
        let (last, sections) = path.split_last().unwrap();
        for section in sections.iter().filter(|section| !section.is_empty()) {
            document = document.get_document(section).unwrap();
        }
        document.get_i64(last).unwrap()
    };
    (
        number(["metrics", "cursor", "open", "total"]),
        number(["", "", "transactions", "currentOpen"]),
    )
}

async fn nothing_is_left_open(bed: &Bed, when: &str) {
    let mut last = (0, 0);
    wait_until(PATIENCE, "cursors and transactions to be closed", async || {
        last = opens(bed).await;
        last == (0, 0)
    })
    .await
    .unwrap_or_else(|error| panic!("{when}: {error}: {last:?}"));
}

async fn leaves_nothing_behind(version: Version) {
    let bed = Bed::start(version).await;
    bed.insert("left", (0..1_000).map(|id| doc! { "_id": id })).await;
    nothing_is_left_open(&bed, "before a read").await;
    for mode in [ReadMode::Snapshot, ReadMode::Interval] {
        // Dropped between two batches.
        let mut batches = bed.source.read(bed.request("left", mode).await).await.unwrap();
        batches.next().await.unwrap().unwrap();
        let (cursors, transactions) = opens(&bed).await;
        assert_eq!(cursors, 1);
        let in_transaction = mode == ReadMode::Snapshot && version < Version::V5_0;
        assert_eq!(transactions, i64::from(in_transaction));
        drop(batches);
        nothing_is_left_open(&bed, "after a drop between batches").await;

        // Dropped while the server makes the first batch.
        let request = bed.request("left", mode).await;
        hold_finds(&bed, true).await;
        {
            let mut read = pin!(bed.source.read(request));
            let held = wait_until(PATIENCE, "the server to hold the find", async || held_finds(&bed).await);
            tokio::select! {
                _ = &mut read => panic!("the find was not held"),
                held = held => held.unwrap(),
            }
        }
        hold_finds(&bed, false).await;
        wait_until(PATIENCE, "the find to end", async || !held_finds(&bed).await)
            .await
            .unwrap();
        wait_until(PATIENCE, "the transaction to be ended", async || {
            opens(&bed).await.1 == 0
        })
        .await
        .unwrap();
        // The server closes the cursor that nobody got to know, but takes its time.
        bed.admin(doc! { "killAllSessions": [] }).await;
        nothing_is_left_open(&bed, "after a drop while opening").await;

        // The last batch has come, but the caller is still busy with it. The server knows it for the last when it is not full.
        let mut request = bed.request("left", mode).await;
        request.batch_bytes = 700;
        let mut batches = bed.source.read(request).await.unwrap();
        let mut seen = 0;
        while seen < 1_000 {
            seen += batches.try_next().await.unwrap().unwrap().len();
        }
        nothing_is_left_open(&bed, "at the end of a read").await;
    }
}

async fn hold_finds(bed: &Bed, hold: bool) {
    bed.admin(doc! {
        "configureFailPoint": "waitInFindBeforeMakingBatch",
        "mode": if hold { "alwaysOn" } else { "off" },
        "data": { "nss": "shop.left" },
    })
    .await;
}

async fn held_finds(bed: &Bed) -> bool {
    let pipeline = vec![
        doc! { "$currentOp": {} },
        doc! { "$match": { "command.find": "left", "active": true } },
    ];
    let command = doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {} };
    let reply = bed.admin(command).await;
    let operations = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    !operations.is_empty()
}

#[tokio::test]
async fn dropped_reads_leave_nothing_behind_4_2() {
    leaves_nothing_behind(Version::V4_2).await;
}

#[tokio::test]
async fn dropped_reads_leave_nothing_behind_4_4() {
    leaves_nothing_behind(Version::V4_4).await;
}

#[tokio::test]
async fn dropped_reads_leave_nothing_behind_6_0() {
    leaves_nothing_behind(Version::V6_0).await;
}

/// Reads one batch, lets `disturb` happen, and reads on.
async fn read_through(bed: &Bed, request: ReadRequest, disturb: impl Future<Output = ()>) -> Result<Vec<Key>> {
    let mut batches = bed.source.read(request).await.unwrap();
    let mut found = Vec::new();
    let first = batches.try_next().await.unwrap().unwrap();
    found.extend(first.iter().map(key));
    disturb.await;
    while let Some(batch) = batches.try_next().await? {
        found.extend(batch.iter().map(key));
    }
    Ok(found)
}

async fn a_restart_is_survived(version: Version) {
    let bed = Bed::start(version).await;
    bed.insert("left", (0..1_000).map(|id| doc! { "_id": id })).await;
    let mut request = bed.request("left", ReadMode::Snapshot).await;
    let before = request.at;
    let error = read_through(&bed, request.clone(), async { bed.set.kill(0).await.unwrap() })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.is_retryable(), "{error}");

    // The next call waits for the server to come back.
    request.mode = ReadMode::Interval;
    let (read, restarted) = tokio::join!(documents(&bed.source, request), bed.set.restart(0));
    restarted.unwrap();
    let expected: Vec<Key> = (0..1_000).map(integer).collect();
    assert_same(&keys(&read.unwrap()), &expected);
    let request = bed.request("left", ReadMode::Snapshot).await;
    assert!(request.at >= before);
    assert_same(&keys(&bed.read(&request).await), &expected);
}

#[tokio::test]
async fn a_restart_is_survived_4_2() {
    a_restart_is_survived(Version::V4_2).await;
}

#[tokio::test]
async fn a_restart_is_survived_6_0() {
    a_restart_is_survived(Version::V6_0).await;
}

async fn an_election_is_survived(version: Version) {
    let bed = Bed::of(ReplicaSet::builder(version).members(3)).await;
    bed.insert("left", (0..1_000).map(|id| doc! { "_id": id })).await;
    let expected: Vec<Key> = (0..1_000).map(integer).collect();
    for mode in [ReadMode::Snapshot, ReadMode::Interval] {
        let request = bed.request("left", mode).await;
        let before = request.at;
        // A read goes on at the old primary where that lets it; a transaction ends.
        match read_through(&bed, request, async { bed.set.step_down().await.unwrap() }).await {
            Ok(found) => assert_same(&found, &expected),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(bed.source.position().await.unwrap() >= before);
        let request = bed.request("left", mode).await;
        assert_same(&keys(&bed.read(&request).await), &expected);
    }
}

#[tokio::test]
async fn an_election_is_survived_4_4() {
    an_election_is_survived(Version::V4_4).await;
}

#[tokio::test]
async fn an_election_is_survived_6_0() {
    an_election_is_survived(Version::V6_0).await;
}

#[tokio::test]
async fn a_read_that_does_not_open_is_opened_again() {
    for version in [Version::V4_2, Version::V6_0] {
        let bed = Bed::start(version).await;
        bed.insert("left", (0..100).map(|id| doc! { "_id": id })).await;
        for failure in [doc! { "closeConnection": true }, doc! { "errorCode": 11602 }] {
            for mode in [ReadMode::Snapshot, ReadMode::Interval] {
                let mut data = doc! { "failCommands": ["find"] };
                data.extend(failure.clone());
                bed.admin(doc! { "configureFailPoint": "failCommand", "mode": { "times": 2 }, "data": data })
                    .await;
                // A snapshot from before the collection was made is another matter.
                let read = match documents(&bed.source, bed.request("left", mode).await).await {
                    Err(error) if error.kind() == ErrorKind::SnapshotUnavailable => continue,
                    read => read,
                };
                assert_eq!(read.unwrap().len(), 100);
            }
        }
    }
}
