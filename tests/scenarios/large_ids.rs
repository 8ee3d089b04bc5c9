//! `_id`s of which two do not fit into one command of 16 MB.

use bson::raw::RawDocumentBuf;
use bson::{Document, doc, rawdoc};
use futures::TryStreamExt;
use mongoferry::order::Key;
use mongoferry::sink::{MongoSink, Sink, SinkRead};
use mongoferry::source::{MongoSource, PointRequest, ReadMode, ReadRequest, Source};
use mongoferry::{Batch, CollectionKind, Migration, Namespace, Operation, Outcome, Range, Verification, Write};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version};

use super::deadline::{cut_over, ready};

#[tokio::test(flavor = "multi_thread")]
async fn large_ids_are_read_and_written_on_4_2() {
    read_and_write(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ids_are_read_and_written_on_5_0() {
    read_and_write(Version::V5_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ids_are_read_and_written_on_6_0() {
    read_and_write(Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ids_are_migrated_from_4_2_to_4_2() {
    migrate(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ids_are_migrated_from_6_0_to_6_0() {
    migrate(Version::V6_0).await;
}

/// 6.0 logs an insert with its `_id` once more, in one entry of 16 MB + 16 KB.
fn large(letter: &str, version: Version) -> String {
    let bytes = if version < Version::V6_0 {
        9 << 20
    } else {
        (8 << 20) + (4 << 10)
    };
    letter.repeat(bytes)
}

async fn read_and_write(version: Version) {
    let set = ReplicaSet::builder(version).cache_gb(1.0).start().await.unwrap();
    let uri = set.uri();
    let (source, sink) = futures::try_join!(MongoSource::connect(&uri), MongoSink::connect(&uri)).unwrap();
    let namespace = Namespace::new("test", "large");
    let ids = [
        large("a", version),
        "b".to_owned(),
        large("c", version),
        large("d", version),
    ];
    let documents: Vec<RawDocumentBuf> = ids.iter().map(|id| rawdoc! { "_id": id.as_str(), "n": 1 }).collect();
    for document in &documents {
        let mut batch = Batch::new();
        batch.push(document);
        assert_eq!(sink.insert(&namespace, &batch).await.unwrap(), []);
    }
    sink.flush().await.unwrap();
    let keys: Vec<Key> = documents
        .iter()
        .map(|document| Key::of_document(document).unwrap())
        .collect();
    // 4.4 and earlier keep a snapshot for seconds, in which a busy machine may not come to read it.
    let modes: &[ReadMode] = match version < Version::V5_0 {
        true => &[ReadMode::Interval],
        false => &[ReadMode::Interval, ReadMode::Snapshot],
    };
    let bounds: Vec<Option<Key>> = keys.iter().cloned().map(Some).collect();
    for (lower, upper) in [
        (None, 0),
        (Some(0), 1),
        (Some(0), 2),
        (Some(0), 3),
        (Some(2), 3),
        (Some(1), 4),
        (Some(2), 4),
    ] {
        let range = Range {
            lower: lower.and_then(|at: usize| bounds[at].clone()),
            upper: bounds.get(upper).cloned().flatten(),
        };
        let expected = &keys[lower.map_or(0, |at| at + 1)..(upper + 1).min(keys.len())];
        let read = SinkRead {
            namespace: namespace.clone(),
            kind: CollectionKind::Plain,
            range: range.clone(),
            batch_bytes: 1 << 20,
            document_bytes: 8 << 20,
        };
        let batches = sink.read(read).await.unwrap().try_collect().await.unwrap();
        assert!(keys_of(batches) == expected, "sink, {lower:?} to {upper} on {version}");
        for mode in modes {
            let read = ReadRequest {
                namespace: namespace.clone(),
                kind: CollectionKind::Plain,
                range: range.clone(),
                at: source.position().await.unwrap(),
                mode: *mode,
                batch_bytes: 1 << 20,
                document_bytes: 100,
            };
            let batches = source.read(read).await.unwrap().try_collect().await.unwrap();
            assert!(
                keys_of(batches) == expected,
                "{mode:?}, {lower:?} to {upper} on {version}"
            );
        }
    }
    let request = PointRequest {
        namespace: &namespace,
        keys: &keys,
        at: source.position().await.unwrap(),
        mode: ReadMode::Interval,
    };
    assert_eq!(source.read_documents(request).await.unwrap().len(), keys.len());
    assert_eq!(sink.read_documents(&namespace, &keys).await.unwrap().len(), keys.len());

    let write = |at: usize, operation: Operation| Write {
        key: keys[at].clone(),
        operation,
    };
    let replaced = rawdoc! { "_id": ids[0].as_str(), "n": 2 };
    let writes = [
        write(0, Operation::Replace(replaced.clone())),
        write(1, Operation::Delta(rawdoc! { "$v": 1, "$set": { "n": 3 } })),
        write(2, Operation::Delta(rawdoc! { "$v": 1, "$set": { "n": 3 } })),
    ];
    assert_eq!(
        sink.apply(&namespace, CollectionKind::Plain, &writes).await.unwrap(),
        [],
        "{version}"
    );
    let found = sink.read_documents(&namespace, &keys).await.unwrap();
    assert!(found.contains(&replaced), "{version}");
    assert!(found.contains(&rawdoc! { "_id": ids[2].as_str(), "n": 3 }), "{version}");
    let deletes: Vec<Write> = (0..keys.len()).map(|at| write(at, Operation::Delete)).collect();
    assert_eq!(
        sink.apply(&namespace, CollectionKind::Plain, &deletes).await.unwrap(),
        [],
        "{version}"
    );
    assert!(
        sink.read_documents(&namespace, &keys).await.unwrap().is_empty(),
        "{version}"
    );
}

fn keys_of(batches: Vec<Batch>) -> Vec<Key> {
    let documents = batches.iter().flat_map(Batch::iter);
    documents.map(|document| Key::of_document(document).unwrap()).collect()
}

async fn migrate(version: Version) {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(version).cache_gb(1.0).start(),
        ReplicaSet::builder(version).name("rs1").cache_gb(1.0).start()
    )
    .unwrap();
    let (writer, reader) = (source.client().await.unwrap(), target.client().await.unwrap());
    let collection = writer.database("d").collection::<Document>("large");
    for letter in ["a", "c", "e", "g"] {
        collection
            .insert_one(doc! { "_id": large(letter, version) })
            .await
            .unwrap();
        collection
            .insert_one(doc! { "_id": letter.repeat(3) + "z" })
            .await
            .unwrap();
    }
    let start = async || {
        let (from, to) = (source.uri(), target.uri());
        let (reader, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        let builder = Migration::builder(reader, sink).chunk_bytes(1 << 20);
        let migration = builder.verification(Verification::Continuous).build().unwrap();
        migration.start().await.unwrap()
    };
    let run = start().await;
    ready(&run).await;
    run.abandon().await;
    let run = start().await;
    ready(&run).await;
    collection
        .insert_one(doc! { "_id": large("f", version) })
        .await
        .unwrap();
    let first = doc! { "_id": large("a", version) };
    collection.update_one(first, doc! { "$set": { "n": 1 } }).await.unwrap();
    collection
        .delete_one(doc! { "_id": large("c", version) })
        .await
        .unwrap();
    let summary = cut_over(&run).await;
    assert_identical(&writer, &reader, &CompareOptions::default())
        .await
        .unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{version}");
    assert_eq!(run.status().differences, 0, "{version}");
}
