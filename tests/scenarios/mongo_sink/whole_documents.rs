//! Documents that have to be stored as they are.

use bson::raw::RawDocumentBuf;
use bson::{Timestamp, rawdoc};
use futures::TryStreamExt;
use mongoferry::order::Key;
use mongoferry::sink::{MongoSink, Refusal, Sink};
use mongoferry::{CollectionKind, Namespace, Operation, Write};
use mongoferry_testbed::{ReplicaSet, Version};

use super::catalog::create;
use super::corpus::{Sample, plain, samples};
use super::{Bench, batch, namespace, on_versions, read_all};

on_versions!(whole_documents_are_stored_byte_for_byte);
on_versions!(deltas_leave_empty_timestamps_on_all_members: v4_2 V4_2, v5_0 V5_0, v6_0 V6_0);
on_versions!(empty_timestamps_are_the_same_on_all_members);
on_versions!(repeated_names_are_replaced: v4_2 V4_2, v5_0 V5_0, v6_0 V6_0, v6_0_27 V6_0_27);

/// Each way of storing, onto nothing, onto the same document, and onto another one with its `_id`.
async fn whole_documents_are_stored_byte_for_byte(version: Version) {
    let bench = Bench::start(version).await;
    let samples = samples();
    let documents: Vec<&RawDocumentBuf> = samples.iter().map(|sample| &sample.document).collect();

    let inserted = namespace("inserted");
    for round in ["new", "again"] {
        let refusals = bench
            .sink
            .insert(&inserted, &batch(documents.iter().copied()))
            .await
            .unwrap();
        check(&bench, &inserted, &samples, &refusals, version, round).await;
    }

    for (name, operation) in [
        ("applied_inserts", Operation::Insert as fn(RawDocumentBuf) -> Operation),
        ("applied_replacements", Operation::Replace),
    ] {
        let applied = namespace(name);
        let writes: Vec<Write> = samples
            .iter()
            .map(|sample| Write {
                key: sample.key(),
                operation: operation(sample.document.clone()),
            })
            .collect();
        for round in ["new", "again"] {
            let refusals = bench
                .sink
                .apply(&applied, CollectionKind::Plain, &writes)
                .await
                .unwrap();
            check(
                &bench,
                &applied,
                &samples,
                &refusals,
                version,
                &format!("{name} {round}"),
            )
            .await;
        }
        let others = samples
            .iter()
            .filter(|sample| sample.is_taken_by(version))
            .map(|sample| plain(&sample.document));
        let others: Vec<RawDocumentBuf> = others.collect();
        assert_eq!(bench.sink.insert(&applied, &batch(&others)).await.unwrap(), []);
        let refusals = bench
            .sink
            .apply(&applied, CollectionKind::Plain, &writes)
            .await
            .unwrap();
        check(
            &bench,
            &applied,
            &samples,
            &refusals,
            version,
            &format!("{name} onto another"),
        )
        .await;
    }
}

/// The one way to store an empty timestamp makes 5.0 and later compare it with the document that it replaces.
async fn repeated_names_are_replaced(version: Version) {
    let bench = Bench::start(version).await;
    let namespace = namespace("replaced");
    let before = rawdoc! { "_id": 1, "pad": "p".repeat(500), "s": { "x": 1, "x": 2 } };
    let empty = Timestamp { time: 0, increment: 0 };
    for t in [bson::Bson::Timestamp(empty), bson::Bson::Null] {
        let after = rawdoc! { "_id": 1, "pad": "p".repeat(500), "s": { "x": 5 }, "t": bson::raw::RawBson::try_from(t).unwrap() };
        for document in [&before, &after, &before] {
            let write = Write {
                key: super::key(1),
                operation: Operation::Replace(document.clone()),
            };
            let refusals = bench
                .sink
                .apply(&namespace, CollectionKind::Plain, &[write])
                .await
                .unwrap();
            assert_eq!(refusals, [], "{version}");
            assert_eq!(
                read_all(&bench.sink, &namespace).await,
                std::slice::from_ref(document),
                "{version}"
            );
        }
    }
}

/// Checks that each member has these documents.
async fn check_members(set: &ReplicaSet, sink: &MongoSink, name: &str, expected: &[RawDocumentBuf], version: Version) {
    // All members have everything then.
    sink.flush().await.unwrap();
    for member in 0..set.members() {
        let client = set.member_client(member).await.unwrap();
        let collection = client.database("test").collection::<RawDocumentBuf>(name);
        let found = collection
            .find(bson::doc! {})
            .sort(bson::doc! { "_id": 1 })
            .await
            .unwrap();
        let found: Vec<RawDocumentBuf> = found.try_collect().await.unwrap();
        assert_eq!(found, expected, "member {member} of {version}");
    }
}

/// Updates that the server may log as a replacement because they add more than the document had.
async fn deltas_leave_empty_timestamps_on_all_members(version: Version) {
    let set = ReplicaSet::builder(version).members(2).start().await.unwrap();
    let sink = MongoSink::connect(&set.uri()).await.unwrap();
    let empty = Timestamp { time: 0, increment: 0 };
    let long = "x".repeat(200);
    // A document that has one, and one that gets one.
    for (name, before) in [
        ("with", rawdoc! { "_id": 1, "t": empty }),
        ("without", rawdoc! { "_id": 1, "n": 1 }),
    ] {
        sink.execute(&create(name, CollectionKind::Plain, rawdoc! {}))
            .await
            .unwrap();
        assert_eq!(sink.insert(&namespace(name), &batch([&before])).await.unwrap(), []);
        let mut expected = before;
        for added in [
            rawdoc! { "u": empty },
            rawdoc! { "long": long.as_str() },
            rawdoc! { "more": 1 },
        ] {
            let delta = rawdoc! { "$v": 2, "diff": { "i": added } };
            expected = mongoferry::oplog::delta::apply(&expected, &delta).unwrap();
            let (key, operation) = (super::key(1), Operation::Delta(delta));
            let write = Write { key, operation };
            let refusals = sink.apply(&namespace(name), CollectionKind::Plain, &[write]).await;
            assert_eq!(refusals.unwrap(), [], "{version}");
            check_members(&set, &sink, name, std::slice::from_ref(&expected), version).await;
        }
    }
}

/// A secondary puts the current time in place of an empty timestamp in a replacement that it reads in the oplog.
async fn empty_timestamps_are_the_same_on_all_members(version: Version) {
    let set = ReplicaSet::builder(version).members(2).start().await.unwrap();
    let sink = MongoSink::connect(&set.uri()).await.unwrap();
    let namespace = namespace("members");
    let empty = Timestamp { time: 0, increment: 0 };
    let with = |id: i32, n: i32, t: bson::raw::RawBson| rawdoc! { "_id": id, "n": n, "t": t, "more": n };
    let before: Vec<RawDocumentBuf> = vec![
        with(1, 1, Timestamp { time: 5, increment: 5 }.into()),
        with(2, 2, empty.into()),
        rawdoc! { "_id": 3, "s": { "x": 1, "x": 2 } },
    ];
    assert_eq!(sink.insert(&namespace, &batch(&before)).await.unwrap(), []);
    let after: Vec<RawDocumentBuf> = (1..5).map(|id| with(id, 7, empty.into())).collect();
    let writes = after.iter().map(|document| Write {
        key: Key::of_document(document).unwrap(),
        operation: Operation::Replace(document.clone()),
    });
    let writes: Vec<Write> = writes.collect();
    // The second time, the documents are there.
    for _ in 0..2 {
        let refusals = sink.apply(&namespace, CollectionKind::Plain, &writes).await.unwrap();
        assert_eq!(refusals, [], "{version}");
        check_members(&set, &sink, "members", &after, version).await;
    }
}

/// What the target takes is there byte for byte; everything else is refused, and nothing of it is there.
async fn check(
    bench: &Bench,
    namespace: &Namespace,
    samples: &[Sample],
    refusals: &[Refusal],
    version: Version,
    round: &str,
) {
    let stored = read_all(&bench.sink, namespace).await;
    for (index, sample) in samples.iter().enumerate() {
        let name = sample.name;
        let refusal = refusals.iter().find(|refusal| refusal.index == index);
        let is_stored = stored.contains(&sample.document);
        if sample.is_taken_by(version) {
            assert_eq!(refusal, None, "{round}: {name} on {version}");
            assert!(is_stored, "{round}: {name} is stored unchanged on {version}");
        } else {
            assert!(refusal.is_some(), "{round}: {name} is refused on {version}");
            assert!(!is_stored, "{round}: {name} is not stored on {version}");
        }
    }
    let taken = samples.iter().filter(|sample| sample.is_taken_by(version)).count();
    assert_eq!(stored.len(), taken, "{round}: nothing else is there on {version}");
}
