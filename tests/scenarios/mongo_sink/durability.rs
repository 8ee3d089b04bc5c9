//! Flushes, records, and answers that are lost.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bson::raw::RawDocumentBuf;
use bson::{doc, rawdoc};
use mongoferry::order::Key;
use mongoferry::sink::{MongoSink, Sink};
use mongoferry::{CollectionKind, ErrorKind, Operation, Write};
use mongoferry_testbed::{Proxy, ReplicaSet, Version};

use super::catalog::create;
use super::{Bench, batch, key, namespace, on_versions, read_all};

on_versions!(a_changed_primary_is_told_once);
on_versions!(records_are_fenced);
on_versions!(lost_answers_change_nothing);
on_versions!(writes_sit_out_elections);

async fn a_changed_primary_is_told_once(version: Version) {
    let set = ReplicaSet::builder(version).members(3).start().await.unwrap();
    let sink = MongoSink::connect(&set.uri()).await.unwrap();
    sink.flush().await.unwrap();
    let documents = [rawdoc! { "_id": 1 }];
    assert_eq!(sink.insert(&namespace("c"), &batch(&documents)).await.unwrap(), []);
    sink.flush().await.unwrap();

    // Everything is flushed: another primary takes nothing away.
    set.step_down().await.unwrap();
    sink.flush().await.unwrap();

    assert_eq!(sink.insert(&namespace("c"), &batch(&documents)).await.unwrap(), []);
    set.step_down().await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PrimaryChanged);
    assert!(error.is_retryable());
    assert_eq!(sink.losses(), 1);
    sink.flush().await.unwrap();
    assert_eq!(sink.losses(), 1);

    // Writes on both sides of a change, of all kinds.
    for operation in [
        Operation::Replace(rawdoc! { "_id": 1, "a": 1 }),
        Operation::Delta(rawdoc! { "$v": 1, "$set": { "a": 2 } }),
        Operation::Delta(rawdoc! { "$v": 2, "diff": { "u": { "a": 3 } } }),
        Operation::Delete,
    ] {
        let write = Write { key: key(1), operation };
        sink.apply(&namespace("c"), CollectionKind::Plain, std::slice::from_ref(&write))
            .await
            .unwrap();
        set.step_down().await.unwrap();
        sink.apply(
            &namespace("d"),
            CollectionKind::Plain,
            &[Write {
                key: key(1),
                operation: Operation::Delete,
            }],
        )
        .await
        .unwrap();
        let error = sink.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PrimaryChanged, "{write:?}");
        sink.flush().await.unwrap();
    }
}

async fn records_are_fenced(version: Version) {
    let bench = Bench::start(version).await;
    let sink = &bench.sink;
    assert_eq!(sink.load_record("lease").await.unwrap(), None);
    let record = |fence: i64, note: &str| rawdoc! { "fence": fence, "note": note, "names": { "$x": 1, "a.b": 2 } };
    let unfenced = rawdoc! { "note": "a record without a fence" };
    assert!(!sink.save_record("lease", &record(1, "first"), 7).await.unwrap());
    assert!(sink.save_record("lease", &unfenced, 0).await.unwrap());
    assert_eq!(sink.load_record("lease").await.unwrap(), Some(unfenced));
    assert!(sink.save_record("lease", &record(1, "first"), 0).await.unwrap());
    assert_eq!(sink.load_record("lease").await.unwrap(), Some(record(1, "first")));
    assert!(!sink.save_record("lease", &record(1, "another"), 0).await.unwrap());
    assert!(!sink.save_record("lease", &record(3, "another"), 2).await.unwrap());
    assert_eq!(sink.load_record("lease").await.unwrap(), Some(record(1, "first")));
    assert!(sink.save_record("lease", &record(2, "second"), 1).await.unwrap());
    assert_eq!(sink.load_record("other").await.unwrap(), None);
    sink.delete_record("lease").await.unwrap();
    sink.delete_record("lease").await.unwrap();
    assert_eq!(sink.load_record("lease").await.unwrap(), None);
    assert!(
        sink.collections().await.unwrap().is_empty(),
        "records are in no user namespace"
    );
}

async fn lost_answers_change_nothing(version: Version) {
    let set = ReplicaSet::builder(version).start().await.unwrap();
    let proxy = Proxy::start(set.member_address(0)).await.unwrap();
    let sink = MongoSink::connect(&proxy.uri(&set)).await.unwrap();
    let collection = namespace("c");
    let plain = create("c", CollectionKind::Plain, rawdoc! {});
    sink.execute(&plain).await.unwrap();
    let index = rawdoc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true };
    sink.create_index(&collection, &index).await.unwrap();
    let documents: Vec<RawDocumentBuf> = (0..50).map(|id| rawdoc! { "_id": id, "u": id }).collect();

    proxy.lose_next_reply_matching(b"insert\0".as_slice());
    assert_eq!(sink.insert(&collection, &batch(&documents)).await.unwrap(), []);
    assert_eq!(proxy.lost_replies(), 1);
    assert_eq!(read_all(&sink, &collection).await, documents);

    let write = |id: i32, operation| Write {
        key: key(id),
        operation,
    };
    let writes = [
        write(1, Operation::Delta(rawdoc! { "$v": 2, "diff": { "i": { "u": 101 } } })),
        write(2, Operation::Delta(rawdoc! { "$v": 1, "$set": { "a": 1, "u": 102 } })),
        write(
            2,
            Operation::Delta(rawdoc! { "$v": 1, "$set": { "b": 1 }, "$unset": { "a": true } }),
        ),
        write(3, Operation::Replace(rawdoc! { "_id": 3, "u": 3, "a": 1 })),
        write(60, Operation::Replace(rawdoc! { "_id": 60, "u": 60 })),
        write(61, Operation::Insert(rawdoc! { "_id": 61, "u": 61 })),
        write(4, Operation::Delete),
        write(4, Operation::Insert(rawdoc! { "_id": 4, "u": -4 })),
    ];
    for needle in ["update\0", "delete\0", "insert\0"] {
        let lost = proxy.lost_replies();
        proxy.lose_next_reply_matching(needle);
        assert_eq!(
            sink.apply(&collection, CollectionKind::Plain, &writes).await.unwrap(),
            [],
            "{needle}"
        );
        assert_eq!(proxy.lost_replies(), lost + 1, "{needle}");
        let found = read_all(&sink, &collection).await;
        let document = |id: i32| {
            found
                .iter()
                .find(|found| Key::of_document(found) == Some(key(id)))
                .unwrap()
        };
        assert_eq!(*document(1), rawdoc! { "_id": 1, "u": 101 });
        assert_eq!(*document(2), rawdoc! { "_id": 2, "u": 102, "b": 1 });
        assert_eq!(*document(3), rawdoc! { "_id": 3, "u": 3, "a": 1 });
        assert_eq!(*document(4), rawdoc! { "_id": 4, "u": -4 });
        assert_eq!(found.len(), 52);
    }

    let record = rawdoc! { "fence": 1_i64, "holder": "this one" };
    for expected in [0, 1] {
        let record = rawdoc! { "fence": expected + 1_i64, "holder": "this one" };
        proxy.lose_next_reply_matching(b"records\0".as_slice());
        assert!(sink.save_record("lease", &record, expected).await.unwrap());
    }
    assert!(!sink.save_record("lease", &record, 0).await.unwrap());

    proxy.lose_next_reply_matching(b"createIndexes\0".as_slice());
    let index = rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a_1" };
    sink.create_index(&collection, &index).await.unwrap();
    proxy.lose_next_reply_matching(b"flush\0".as_slice());
    sink.flush().await.unwrap();
    assert_eq!(proxy.lost_replies(), 8);
}

/// Writers go on while primaries step down; in the end everything is there.
async fn writes_sit_out_elections(version: Version) {
    let set = ReplicaSet::builder(version).members(3).start().await.unwrap();
    let sink = MongoSink::connect(&set.uri()).await.unwrap();
    let collection = namespace("c");
    let disturbed = AtomicBool::new(false);
    let write = async {
        let (mut written, mut rounds_after) = (0, 0);
        while rounds_after < 3 {
            rounds_after += i32::from(disturbed.load(Relaxed));
            let documents: Vec<RawDocumentBuf> = (written..written + 50)
                .map(|id| rawdoc! { "_id": id, "a": 0 })
                .collect();
            assert_eq!(sink.insert(&collection, &batch(&documents)).await.unwrap(), []);
            let deltas: Vec<Write> = (written..written + 50)
                .map(|id| Write {
                    key: key(id),
                    operation: Operation::Delta(rawdoc! { "$v": 2, "diff": { "u": { "a": id } } }),
                })
                .collect();
            assert_eq!(
                sink.apply(&collection, CollectionKind::Plain, &deltas).await.unwrap(),
                []
            );
            written += 50;
        }
        written
    };
    let disturb = async {
        for _ in 0..2 {
            set.step_down().await.unwrap();
        }
        disturbed.store(true, Relaxed);
    };
    let (written, ()) = tokio::join!(write, disturb);
    assert!(written > 0);
    let found = read_all(&sink, &collection).await;
    let expected: Vec<RawDocumentBuf> = (0..written).map(|id| rawdoc! { "_id": id, "a": id }).collect();
    assert_eq!(found, expected);
    let identity = sink.describe().await.unwrap();
    assert_eq!(identity.name, set.name());
    let client = set.client().await.unwrap();
    client.database("test").run_command(doc! { "drop": "c" }).await.unwrap();
}
