//! Updates of documents that the target does not have, as a filter leaves them out: they are named, and once most are missing, those of
//! the next batch are sent only for documents that a look has found.

use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use mongoferry::order::Key;
use mongoferry::sink::{RefusalReason, Sink};
use mongoferry::{CollectionKind, Operation, Write};
use mongoferry_testbed::Version;

use super::catalog::create;
use super::{Bench, batch, key, namespace, on_versions, read_all, read_range};

on_versions!(updates_of_missing_documents_are_looked_for_first);
on_versions!(writes_around_a_missing_document_are_in_order);
on_versions!(missing_documents_are_named_under_a_collation: v4_2 V4_2, v6_0 V6_0);

const NAME: &str = "filtered";

fn set(key: Key, n: i32) -> Write {
    let delta = rawdoc! { "$v": 1, "$set": { "n": n } };
    let operation = Operation::Delta(delta);
    Write { key, operation }
}

/// Applies writes. Returns which of them had no document; no other refusal is allowed.
async fn missing(bench: &Bench, kind: CollectionKind, writes: &[Write]) -> Vec<usize> {
    let refusals = bench.sink.apply(&namespace(NAME), kind, writes).await.unwrap();
    let has_none = |reason: &RefusalReason| matches!(reason, RefusalReason::NoDocument(_));
    assert!(refusals.iter().all(|refusal| has_none(&refusal.reason)), "{refusals:?}");
    refusals.iter().map(|refusal| refusal.index).collect()
}

/// Number of update statements that the server has received.
async fn updates(bench: &Bench) -> i64 {
    let status = bench.command("admin", bson::doc! { "serverStatus": 1 }).await;
    let counters = status.get_document("opcounters").unwrap();
    let updates = counters.get("update").unwrap();
    updates
        .as_i64()
        .unwrap_or_else(|| updates.as_i32().unwrap_or_default().into())
}

/// Sets `n` in all documents with these `_id`s. Returns the missing ones, and the number of statements that were sent.
async fn set_all(bench: &Bench, ids: std::ops::Range<i32>, n: i32) -> (Vec<i32>, i64) {
    let writes: Vec<Write> = ids.clone().map(|id| set(key(id), n)).collect();
    let before = updates(bench).await;
    let missing = missing(bench, CollectionKind::Plain, &writes).await;
    let ids: Vec<i32> = ids.collect();
    let missing = missing.into_iter().map(|index| ids[index]).collect();
    (missing, updates(bench).await - before)
}

async fn updates_of_missing_documents_are_looked_for_first(version: Version) {
    let bench = Bench::start(version).await;
    let documents: Vec<RawDocumentBuf> = (0..10).map(|id| rawdoc! { "_id": id, "n": 0 }).collect();
    let inserted = bench.sink.insert(&namespace(NAME), &batch(&documents)).await.unwrap();
    assert_eq!(inserted, []);
    let none: Vec<i32> = (10..40).collect();
    assert_eq!(set_all(&bench, 0..40, 1).await, (none.clone(), 40), "sent to all");
    assert_eq!(set_all(&bench, 0..40, 2).await, (none, 10), "sent after a look");
    assert_eq!(
        set_all(&bench, 40..50, 3).await,
        ((40..50).collect(), 0),
        "nothing is sent"
    );
    assert_eq!(set_all(&bench, 5..10, 3).await, (vec![], 5), "a look finds all");
    assert_eq!(set_all(&bench, 8..12, 4).await, (vec![10, 11], 4), "no look");
    assert_eq!(set_all(&bench, 8..12, 4).await, (vec![10, 11], 4), "half are there");
    let expected = [2, 2, 2, 2, 2, 3, 3, 3, 4, 4];
    let expected = (0..10).zip(expected).map(|(id, n)| rawdoc! { "_id": id, "n": n });
    let expected: Vec<RawDocumentBuf> = expected.collect();
    assert_eq!(read_all(&bench.sink, &namespace(NAME)).await, expected, "{version}");
}

/// The same with and without a look: further changes of a missing document are refused, until it is written.
async fn writes_around_a_missing_document_are_in_order(version: Version) {
    let bench = Bench::start(version).await;
    let other = rawdoc! { "_id": "other", "n": 0 };
    let inserted = bench.sink.insert(&namespace(NAME), &batch([&other])).await.unwrap();
    assert_eq!(inserted, []);
    let whole = |id: i32| rawdoc! { "_id": id, "n": 5 };
    for round in 0..3 {
        let write = |id: i32, operation| Write {
            key: key(id),
            operation,
        };
        let writes = [
            set(key(1), 1),
            set(key(2), 1),
            set(key(3), 1),
            set(key("other"), round),
            set(key(1), 2),
            write(2, Operation::Insert(whole(2))),
            write(3, Operation::Replace(whole(3))),
            set(key(2), 7),
            write(3, Operation::Delete),
            set(key(3), 9),
            write(2, Operation::Delete),
            set(key(4), 1),
        ];
        let missing = missing(&bench, CollectionKind::Plain, &writes).await;
        assert_eq!(missing, [0, 1, 2, 4, 9, 11], "round {round} on {version}");
        let found = read_all(&bench.sink, &namespace(NAME)).await;
        assert_eq!(found, [rawdoc! { "_id": "other", "n": round }], "{version}");
    }
}

/// Where one `_id` matches another by the collation, and each update is sent by itself.
async fn missing_documents_are_named_under_a_collation(version: Version) {
    let bench = Bench::start(version).await;
    let kind = CollectionKind::Unordered;
    let collation = rawdoc! { "collation": { "locale": "en", "strength": 2 } };
    bench.sink.execute(&create(NAME, kind, collation)).await.unwrap();
    let documents = [rawdoc! { "_id": "a", "n": 0 }, rawdoc! { "_id": 1, "n": 0 }];
    let refused = bench.sink.insert(&namespace(NAME), &batch(&documents)).await.unwrap();
    assert_eq!(refused, []);
    for round in 1..3 {
        let keys = [key("a"), key("A"), key("b"), key(1), key(2), key("c")];
        let writes = keys.map(|key| set(key, round));
        assert_eq!(missing(&bench, kind, &writes).await, [1, 2, 4, 5], "{version}");
        let mut found = read_range(&bench.sink, &namespace(NAME), kind, mongoferry::Range::FULL, 1 << 20).await;
        found.sort_by_key(|document| document.get_str("_id").is_err());
        let expected = [rawdoc! { "_id": "a", "n": round }, rawdoc! { "_id": 1, "n": round }];
        assert_eq!(found, expected, "{version}");
    }
}
