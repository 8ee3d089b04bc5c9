use std::time::Duration;

use bson::rawdoc;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::*;
use crate::error::ErrorKind;
use crate::model::Range;
use crate::oplog::{CommandOperation, Item};
use crate::source::ReadMode;

fn request(at: Position, mode: ReadMode) -> ReadRequest {
    ReadRequest {
        namespace: "shop.orders".parse().unwrap(),
        kind: crate::model::CollectionKind::Plain,
        range: Range::FULL,
        at,
        mode,
        batch_bytes: 1 << 20,
        document_bytes: 0,
    }
}

/// The next item of a tail. A deadline makes a failing test end.
async fn next(tail: &mut BoxStream<'static, Result<Vec<Entry>>>) -> Option<Result<Vec<Entry>>> {
    tokio::time::timeout(Duration::from_secs(10), tail.next())
        .await
        .expect("the tail yields nothing")
}

async fn read(source: &MemorySource, request: ReadRequest) -> Result<Vec<RawDocumentBuf>> {
    let batches: Vec<Batch> = source.read(request).await?.try_collect().await?;
    Ok(batches
        .iter()
        .flat_map(|batch| batch.iter().map(ToOwned::to_owned).collect::<Vec<_>>())
        .collect())
}

#[tokio::test]
async fn snapshots_are_exact_at_every_position() {
    let source = MemorySource::new();
    let mut states = Vec::new();
    for step in 0..40 {
        let id = step % 7;
        let position = match step % 4 {
            _ if step < 7 => source.insert("shop.orders", rawdoc! { "_id": id, "n": step }),
            0 => source.replace("shop.orders", rawdoc! { "_id": id, "n": step }),
            1 => source.update_v2("shop.orders", id, rawdoc! { "u": { "n": step } }),
            2 => source
                .delete("shop.orders", id)
                .and_then(|_| source.insert("shop.orders", rawdoc! { "_id": id })),
            _ => source.update_v2("shop.orders", id, rawdoc! { "i": { "extra": step } }),
        }
        .unwrap();
        states.push((position, source.documents("shop.orders").unwrap()));
    }
    source.set_batch_documents(2);
    for (position, documents) in states {
        assert_eq!(
            read(&source, request(position, ReadMode::Snapshot)).await.unwrap(),
            documents
        );
    }
}

#[tokio::test]
async fn interval_reads_mix_versions() {
    let source = MemorySource::with_seed(7);
    let at = source
        .insert_many("shop.orders", (0..50).map(|id| rawdoc! { "_id": id, "n": 0 }))
        .unwrap();
    for id in 0..50 {
        source.replace("shop.orders", rawdoc! { "_id": id, "n": 1 }).unwrap();
    }
    let values: Vec<_> = read(&source, request(at, ReadMode::Interval))
        .await
        .unwrap()
        .iter()
        .map(|document| document.get_i32("n").unwrap())
        .collect();
    assert_eq!(values.len(), 50);
    assert!(values.contains(&0) && values.contains(&1), "{values:?}");
}

#[tokio::test]
async fn an_open_transaction_holds_the_resume_position_back() {
    let source = MemorySource::new();
    let before = source.noop();
    let open = source.open_transaction();
    let later = source.insert("shop.orders", rawdoc! { "_id": 1 }).unwrap();
    assert_eq!(source.start_position().await.unwrap(), before);
    let mut late = source.tail(open.first_position()).await.unwrap();
    let commit = open
        .commit(|transaction| transaction.insert("shop.orders", rawdoc! { "_id": 2 }))
        .unwrap();
    let history = source.history();
    let resume_of = |position| history.iter().find(|entry| entry.position == position).unwrap().resume;
    assert_eq!((resume_of(later), resume_of(commit)), (before, commit));
    // A tail that starts at the resume position of a later transaction reaches the commit of this one. It gets the transaction whole while
    // the first entry is in the history.
    assert!(next(&mut late).await.unwrap().is_ok());
    let mut worse = source.tail(later).await.unwrap();
    source.set_history_window(2);
    assert_eq!(
        next(&mut worse).await.unwrap().unwrap_err().kind(),
        ErrorKind::PositionLost
    );
    assert!(next(&mut worse).await.is_none());
}

#[tokio::test]
async fn windows_lose_positions_and_snapshots() {
    let source = MemorySource::new();
    let first = source.insert("shop.orders", rawdoc! { "_id": 1 }).unwrap();
    let mut tail = source.tail(first).await.unwrap();
    source.set_history_window(3);
    source.set_snapshot_window(2);
    for _ in 0..5 {
        source.noop();
    }
    let lost = |error: Error| error.kind();
    assert_eq!(
        next(&mut tail).await.unwrap().map_err(lost).unwrap_err(),
        ErrorKind::PositionLost
    );
    assert_eq!(
        source.tail(first).await.map(drop).map_err(lost),
        Err(ErrorKind::PositionLost)
    );
    assert!(source.tail(source.oldest_position().await.unwrap()).await.is_ok());
    let old = read(&source, request(first, ReadMode::Snapshot)).await;
    assert_eq!(old.map_err(lost), Err(ErrorKind::SnapshotUnavailable));
    let newest = source.position().await.unwrap();
    assert_eq!(
        read(&source, request(newest, ReadMode::Snapshot)).await.unwrap().len(),
        1
    );
    let open = source.read(request(newest, ReadMode::Snapshot)).await.unwrap();
    source.noop();
    source.expire_snapshots();
    let aged: Result<Vec<Batch>> = open.try_collect().await;
    assert_eq!(aged.map(drop).map_err(lost), Err(ErrorKind::SnapshotUnavailable));
}

#[tokio::test]
async fn names_follow_the_history_or_the_newest_catalog() {
    let source = MemorySource::new();
    let before = source.insert("shop.orders", rawdoc! { "_id": 1 }).unwrap();
    let renamed = source.rename("shop.orders", "shop.old").unwrap();
    source.insert("shop.orders", rawdoc! { "_id": 2 }).unwrap();
    let now = source.position().await.unwrap();
    let seen = |documents: Vec<RawDocumentBuf>| {
        documents
            .iter()
            .map(|document| document.get_i32("_id").unwrap())
            .collect::<Vec<_>>()
    };
    for (at, expected) in [(before, vec![1]), (renamed, vec![]), (now, vec![2])] {
        assert_eq!(
            seen(read(&source, request(at, ReadMode::Snapshot)).await.unwrap()),
            expected
        );
    }
    source.set_name_resolution(NameResolution::Newest);
    let old = read(&source, request(before, ReadMode::Snapshot)).await;
    assert_eq!(old.unwrap_err().kind(), ErrorKind::SnapshotUnavailable);
    let open = source.read(request(now, ReadMode::Snapshot)).await.unwrap();
    source.drop_collection("shop.orders").unwrap();
    let killed: Result<Vec<Batch>> = open.try_collect().await;
    assert!(killed.unwrap_err().is_retryable());
}

#[tokio::test]
async fn a_disconnected_tail_ends_with_an_error_and_gates_stop_a_call() {
    let source = MemorySource::new();
    let mut tail = source.tail(source.position().await.unwrap()).await.unwrap();
    assert!(tail.next().now_or_never().is_none());
    source.disconnect_tail();
    assert!(next(&mut tail).await.unwrap().unwrap_err().is_retryable());
    assert!(next(&mut tail).await.is_none());

    let gate = source.hold(SourceCall::ReadBatch);
    let at = source.insert("shop.orders", rawdoc! { "_id": 1 }).unwrap();
    let held = tokio::spawn({
        let source = source.clone();
        async move { read(&source, request(at, ReadMode::Snapshot)).await }
    });
    tokio::time::timeout(Duration::from_secs(10), gate.reached())
        .await
        .unwrap();
    assert_eq!(gate.waiting(), 1);
    source.delete("shop.orders", 1).unwrap();
    gate.release();
    assert_eq!(held.await.unwrap().unwrap().len(), 1);
    source.fail_next(SourceCall::Read, Error::new(ErrorKind::Server, "test", "planned"));
    assert!(read(&source, request(at, ReadMode::Snapshot)).await.is_err());
    assert!(read(&source, request(at, ReadMode::Snapshot)).await.is_ok());
}

#[tokio::test]
async fn changes_to_the_catalog_are_listed_and_logged() {
    let source = MemorySource::new();
    let start = source.position().await.unwrap();
    source
        .create_collection("shop.a", rawdoc! { "capped": true, "size": 100 })
        .unwrap();
    source
        .create_index(
            "shop.a",
            rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "expireAfterSeconds": 5 },
        )
        .unwrap();
    source
        .modify(
            "shop.a",
            rawdoc! { "index": { "name": "n_1", "expireAfterSeconds": 9 } },
        )
        .unwrap();
    source
        .create_collection("shop.v", rawdoc! { "viewOn": "a", "pipeline": [] })
        .unwrap();
    source.create_collection("shop.b", rawdoc! {}).unwrap();
    source.rename("shop.a", "shop.b").unwrap();
    let listed = source.collections().await.unwrap();
    assert_eq!(
        listed.iter().map(|each| each.namespace.as_str()).collect::<Vec<_>>(),
        ["shop.b", "shop.v"]
    );
    assert_eq!(listed[0].kind, crate::model::CollectionKind::Capped);
    assert_eq!(listed[0].indexes[1].get_i32("expireAfterSeconds").unwrap(), 9);
    source.drop_database("shop").unwrap();
    assert!(source.collections().await.unwrap().is_empty());
    let mut names = Vec::new();
    for entry in source.tail(start).await.unwrap().next().await.unwrap().unwrap() {
        for item in entry.items {
            let Item::Command(command) = item else {
                panic!("{item:?}")
            };
            names.push(match command.operation {
                CommandOperation::Create { .. } => "create",
                CommandOperation::CreateIndexes { .. } => "createIndexes",
                CommandOperation::Modify { .. } => "modify",
                CommandOperation::SetView { .. } => "setView",
                CommandOperation::Rename { dropped, .. } => {
                    if dropped.is_some() {
                        "replace"
                    } else {
                        "rename"
                    }
                }
                CommandOperation::Drop { .. } => "drop",
                CommandOperation::DropView { .. } => "dropView",
                CommandOperation::DropDatabase { .. } => "dropDatabase",
                other => panic!("{other:?}"),
            });
        }
    }
    let expected = "create createIndexes modify setView create replace drop dropView dropDatabase";
    assert_eq!(names.join(" "), expected);
}
