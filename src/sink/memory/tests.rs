use bson::{RawBsonRef, rawdoc};

use super::*;

fn orders() -> Namespace {
    "shop.orders".parse().unwrap()
}

fn batch(documents: impl IntoIterator<Item = RawDocumentBuf>) -> Batch {
    let mut batch = Batch::new();
    for document in documents {
        batch.push(&document);
    }
    batch
}

fn write(id: i32, operation: Operation) -> Write {
    Write {
        key: Key::from(RawBsonRef::Int32(id)),
        operation,
    }
}

async fn apply(sink: &MemorySink, writes: &[Write]) -> Vec<Refusal> {
    sink.apply(&orders(), CollectionKind::Plain, writes).await.unwrap()
}

#[tokio::test]
async fn a_crash_takes_back_what_was_not_flushed() {
    let sink = MemorySink::new();
    let unique = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "unique": true };
    sink.insert(&orders(), &batch((0..5).map(|id| rawdoc! { "_id": id, "n": id })))
        .await
        .unwrap();
    sink.create_index(&orders(), &unique).await.unwrap();
    sink.flush().await.unwrap();
    let durable = (
        sink.documents("shop.orders").unwrap(),
        sink.collections().await.unwrap(),
    );
    apply(
        &sink,
        &[
            write(0, Operation::Delete),
            write(9, Operation::Insert(rawdoc! { "_id": 9, "n": 0 })),
            write(1, Operation::Delta(rawdoc! { "$v": 2, "diff": { "u": { "n": 77 } } })),
        ],
    )
    .await;
    let to: Namespace = "shop.new".parse().unwrap();
    let arguments = rawdoc! { "index": { "name": "n_1", "hidden": true }, "validationLevel": "off" };
    let other: Namespace = "shop.other".parse().unwrap();
    for command in [
        CatalogCommand::Modify {
            namespace: orders(),
            arguments,
        },
        CatalogCommand::DropIndex {
            namespace: orders(),
            name: "n_1".to_owned(),
        },
        CatalogCommand::Rename {
            from: orders(),
            to: to.clone(),
        },
        CatalogCommand::Create {
            namespace: other,
            kind: CollectionKind::Plain,
            options: rawdoc! {},
        },
        CatalogCommand::Drop { namespace: to },
    ] {
        sink.execute(&command).await.unwrap();
    }
    assert!(sink.documents("shop.orders").unwrap().is_empty());
    sink.crash();
    assert_eq!(
        (
            sink.documents("shop.orders").unwrap(),
            sink.collections().await.unwrap()
        ),
        durable
    );
    // The index is complete again, too.
    assert_eq!(
        apply(&sink, &[write(9, Operation::Insert(rawdoc! { "_id": 9, "n": 0 }))])
            .await
            .len(),
        1
    );
    assert_eq!(sink.flush().await.unwrap_err().kind(), ErrorKind::PrimaryChanged);
    sink.flush().await.unwrap();
}

#[tokio::test]
async fn unique_indexes_refuse_documents_and_are_refused() {
    let sink = MemorySink::new();
    let unique = rawdoc! { "v": 2, "key": { "a.b": 1, "c": 1 }, "name": "u", "unique": true };
    let create = CatalogCommand::Create {
        namespace: orders(),
        kind: CollectionKind::Plain,
        options: rawdoc! {},
    };
    sink.execute(&create).await.unwrap();
    sink.create_index(&orders(), &unique).await.unwrap();
    let refusals = sink
        .insert(
            &orders(),
            &batch([
                rawdoc! { "_id": 1, "a": [{ "b": 1 }, { "b": 2 }], "c": 1 },
                rawdoc! { "_id": 2, "a": { "b": 2.0 }, "c": 1 },
                rawdoc! { "_id": 3, "a": { "b": 2 } },
                rawdoc! { "_id": 4, "a": { "b": 2 }, "c": bson::RawBson::Null },
            ]),
        )
        .await
        .unwrap();
    let refused: Vec<_> = refusals.iter().map(|refusal| refusal.index).collect();
    assert_eq!(refused, [1, 3]);
    assert!(matches!(refusals[0].reason, RefusalReason::DuplicateKey(_)));
    // A document does not conflict with itself, and a key that is no longer used is free.
    assert!(
        apply(
            &sink,
            &[write(
                3,
                Operation::Replace(rawdoc! { "_id": 3, "a": { "b": 2 }, "x": 1 })
            )]
        )
        .await
        .is_empty()
    );
    let moves = [
        write(1, Operation::Delete),
        write(2, Operation::Insert(rawdoc! { "_id": 2, "a": { "b": 2 }, "c": 1 })),
    ];
    assert!(apply(&sink, &moves).await.is_empty());
    let other = rawdoc! { "v": 2, "key": { "missing": 1 }, "name": "m", "unique": true };
    assert_eq!(
        sink.create_index(&orders(), &other).await.unwrap_err().kind(),
        ErrorKind::TargetRefused
    );
    let sparse = rawdoc! { "v": 2, "key": { "missing": 1 }, "name": "m", "unique": true, "sparse": true };
    sink.create_index(&orders(), &sparse).await.unwrap();
}

#[tokio::test]
async fn faults_leave_what_they_should() {
    let sink = MemorySink::new();
    sink.lose_next_answer(SinkCall::Insert);
    assert!(
        sink.insert(&orders(), &batch([rawdoc! { "_id": 1 }]))
            .await
            .unwrap_err()
            .is_retryable()
    );
    assert_eq!(sink.documents("shop.orders").unwrap().len(), 1);
    let planned = || Error::new(ErrorKind::Connection, "test", "planned");
    sink.cut_next(SinkCall::Insert, 2, planned());
    let four = batch((2..6).map(|id| rawdoc! { "_id": id }));
    assert!(sink.insert(&orders(), &four).await.is_err());
    assert_eq!(sink.documents("shop.orders").unwrap().len(), 3);
    sink.fail_next(SinkCall::Insert, planned());
    assert!(sink.insert(&orders(), &four).await.is_err());
    assert_eq!(sink.documents("shop.orders").unwrap().len(), 3);
    sink.insert(&orders(), &four).await.unwrap();
    assert_eq!(sink.documents("shop.orders").unwrap().len(), 5);
}

#[tokio::test]
async fn an_index_on_id_has_the_version_asked_for() {
    let sink = MemorySink::new();
    let old = rawdoc! { "v": 1, "key": { "_id": 1 }, "name": "_id_" };
    let create = CatalogCommand::Create {
        namespace: orders(),
        kind: CollectionKind::Plain,
        options: rawdoc! { "validationLevel": "off", "idIndex": old.clone() },
    };
    sink.execute(&create).await.unwrap();
    let made = sink.collections().await.unwrap();
    assert_eq!(made[0].indexes, [old]);
    assert_eq!(made[0].options, rawdoc! { "validationLevel": "off" });
    // A specification that is written differently is the same index.
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "sparse": 1 };
    let again = rawdoc! { "v": 2.0, "key": { "n": 1.0 }, "sparse": true, "name": "n_1", "ns": "shop.orders" };
    let other = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" };
    sink.create_index(&orders(), &index).await.unwrap();
    sink.create_index(&orders(), &again).await.unwrap();
    sink.create_index(&orders(), &other).await.unwrap_err();
}
