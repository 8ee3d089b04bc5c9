//! Many writes at a time.

use std::collections::BTreeMap;

use bson::raw::{RawBson, RawDocumentBuf};
use bson::{doc, rawdoc};
use mongoferry::oplog::delta;
use mongoferry::order::Key;
use mongoferry::sink::{RefusalReason, Sink};
use mongoferry::{CollectionKind, Operation, Write};
use mongoferry_testbed::Version;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::catalog::create;
use super::{Bench, batch, key, namespace, on_versions, read_all, read_range};

on_versions!(writes_of_one_document_are_applied_in_order);
on_versions!(another_documents_unique_key_is_a_refusal);
on_versions!(capped_collections_keep_what_they_can);
on_versions!(ids_that_a_collation_holds_equal_are_replaced);
on_versions!(deletes_leave_ids_that_a_collation_holds_equal);
on_versions!(great_batches_are_split);

/// Random writes of few documents, in batches, against a map that is changed one write at a time.
async fn writes_of_one_document_are_applied_in_order(version: Version) {
    let bench = Bench::start(version).await;
    let mut random = StdRng::seed_from_u64(7);
    for (kind, name) in [
        (CollectionKind::Plain, "plain"),
        (CollectionKind::Unordered, "unordered"),
    ] {
        let namespace = namespace(name);
        let mut model: BTreeMap<Key, RawDocumentBuf> = BTreeMap::new();
        for round in 0..40 {
            let mut expected = Vec::new();
            let mut writes = Vec::new();
            for index in 0..random.random_range(0..60) {
                let id = random.random_range(0..20);
                let key = key(id);
                let image = |value: i32| rawdoc! { "_id": id, "v": value, "w": { "x": value } };
                let value = random.random_range(0..1000);
                let operation = match random.random_range(0..6) {
                    0 => Operation::Insert(image(value)),
                    1 => Operation::Replace(image(value)),
                    2 => Operation::Delete,
                    3 => Operation::Delta(rawdoc! { "$v": 1, "$set": { "v": value, "w.y": value } }),
                    4 => Operation::Delta(rawdoc! { "$v": 1, "$set": { "n.10": value, "n.9": value } }),
                    _ => Operation::Delta(
                        rawdoc! { "$v": 2, "diff": { "i": { "v": value }, "sw": { "u": { "x": 1 } } } },
                    ),
                };
                match &operation {
                    Operation::Insert(document) | Operation::Replace(document) => {
                        model.insert(key.clone(), document.clone());
                    }
                    Operation::Delete => {
                        model.remove(&key);
                    }
                    Operation::Delta(by) => match model.get_mut(&key) {
                        Some(document) => *document = delta::apply(document, by).unwrap(),
                        None => expected.push(index),
                    },
                }
                writes.push(Write { key, operation });
            }
            let refusals = bench.sink.apply(&namespace, kind, &writes).await.unwrap();
            let refused: Vec<usize> = refusals.iter().map(|refusal| refusal.index).collect();
            assert_eq!(refused, expected, "round {round} on {version}");
            for refusal in &refusals {
                assert_eq!(refusal.reason, RefusalReason::NoDocument("no such document".to_owned()));
            }
            let found = read_all(&bench.sink, &namespace).await;
            assert_eq!(
                found,
                model.values().cloned().collect::<Vec<_>>(),
                "round {round} on {version}"
            );
        }
    }
}

async fn another_documents_unique_key_is_a_refusal(version: Version) {
    let bench = Bench::start(version).await;
    let namespace = namespace("unique");
    let plain = create("unique", CollectionKind::Plain, rawdoc! {});
    bench.sink.execute(&plain).await.unwrap();
    let index = rawdoc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true };
    bench.sink.create_index(&namespace, &index).await.unwrap();
    let old = [rawdoc! { "_id": 1, "u": "a" }, rawdoc! { "_id": 2, "u": "b" }];
    assert_eq!(bench.sink.insert(&namespace, &batch(&old)).await.unwrap(), []);

    let new = [
        rawdoc! { "_id": 3, "u": "c" },
        rawdoc! { "_id": 4, "u": "a" },
        rawdoc! { "_id": 2, "u": "d" },
        rawdoc! { "_id": 1, "u": "c" },
        rawdoc! { "_id": 5, "u": "e" },
    ];
    let refusals = bench.sink.insert(&namespace, &batch(&new)).await.unwrap();
    let indexes: Vec<usize> = refusals.iter().map(|refusal| refusal.index).collect();
    assert_eq!(indexes, [1, 3], "{refusals:?}");
    assert!(
        refusals
            .iter()
            .all(|refusal| matches!(refusal.reason, RefusalReason::DuplicateKey(_)))
    );

    let writes = [
        // What is deleted in the same call frees its key.
        Write {
            key: key(6),
            operation: Operation::Insert(rawdoc! { "_id": 6, "u": "a" }),
        },
        Write {
            key: key(1),
            operation: Operation::Delete,
        },
        Write {
            key: key(5),
            operation: Operation::Delta(rawdoc! { "$v": 1, "$set": { "u": "c" } }),
        },
        Write {
            key: key(2),
            operation: Operation::Delta(rawdoc! { "$v": 2, "diff": { "u": { "u": "c" } } }),
        },
        Write {
            key: key(7),
            operation: Operation::Replace(rawdoc! { "_id": 7, "u": "c" }),
        },
    ];
    let refusals = bench
        .sink
        .apply(&namespace, CollectionKind::Plain, &writes)
        .await
        .unwrap();
    let indexes: Vec<usize> = refusals.iter().map(|refusal| refusal.index).collect();
    assert_eq!(indexes, [2, 3, 4], "{refusals:?}");
    assert!(
        refusals
            .iter()
            .all(|refusal| matches!(refusal.reason, RefusalReason::DuplicateKey(_))),
        "{refusals:?}"
    );
    assert_eq!(
        read_all(&bench.sink, &namespace).await,
        [
            rawdoc! { "_id": 2, "u": "d" },
            rawdoc! { "_id": 3, "u": "c" },
            rawdoc! { "_id": 5, "u": "e" },
            rawdoc! { "_id": 6, "u": "a" },
        ]
    );
}

async fn capped_collections_keep_what_they_can(version: Version) {
    let bench = Bench::start(version).await;
    bench
        .command("test", doc! { "create": "capped", "capped": true, "size": 1 << 20 })
        .await;
    let namespace = namespace("capped");
    let insert = |id: i32| Write {
        key: key(id),
        operation: Operation::Insert(rawdoc! { "_id": id, "a": 1 }),
    };
    let writes = [
        insert(3),
        insert(1),
        Write {
            key: key(3),
            operation: Operation::Delta(rawdoc! { "$v": 1, "$set": { "a": 2 } }),
        },
        insert(2),
        Write {
            key: key(1),
            operation: Operation::Delete,
        },
        Write {
            key: key(3),
            operation: Operation::Replace(rawdoc! { "_id": 3, "a": 1, "longer": true }),
        },
        insert(1),
        insert(4),
    ];
    let refusals = bench
        .sink
        .apply(&namespace, CollectionKind::Capped, &writes)
        .await
        .unwrap();
    let found = read_range(
        &bench.sink,
        &namespace,
        CollectionKind::Capped,
        mongoferry::Range::FULL,
        1 << 20,
    )
    .await;
    if version >= Version::V6_0 {
        assert_eq!(refusals, []);
        assert_eq!(
            found,
            [
                rawdoc! { "_id": 3, "a": 1, "longer": true },
                rawdoc! { "_id": 2, "a": 1 },
                rawdoc! { "_id": 1, "a": 1 },
                rawdoc! { "_id": 4, "a": 1 },
            ]
        );
    } else {
        // A deletion is one that the server has made, or will make, by itself.
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert_eq!(refusals[0].index, 5);
        assert_eq!(
            found,
            [
                rawdoc! { "_id": 3, "a": 2 },
                rawdoc! { "_id": 1, "a": 1 },
                rawdoc! { "_id": 2, "a": 1 },
                rawdoc! { "_id": 4, "a": 1 },
            ]
        );
    }
}

async fn deletes_leave_ids_that_a_collation_holds_equal(version: Version) {
    let bench = Bench::start(version).await;
    let create = doc! { "create": "names", "collation": { "locale": "en", "strength": 2 } };
    bench.command("test", create).await;
    let namespace = namespace("names");
    let ids = [
        RawBson::from("A".to_owned()),
        RawBson::from("B".to_owned()),
        rawdoc! { "x": "C" }.into(),
        rawdoc! { "x": ["D", 1] }.into(),
        RawBson::from(5),
    ];
    let documents: Vec<RawDocumentBuf> = ids.iter().map(|id| rawdoc! { "_id": id.clone() }).collect();
    assert_eq!(bench.sink.insert(&namespace, &batch(&documents)).await.unwrap(), []);
    let delete = |id: RawBson| Write {
        key: key(id),
        operation: Operation::Delete,
    };
    let replace = |id: &str| Write {
        key: key(id),
        operation: Operation::Replace(rawdoc! { "_id": id, "n": 1 }),
    };
    let apply = async |writes: &[Write]| {
        let refusals = bench.sink.apply(&namespace, CollectionKind::Unordered, writes).await;
        assert_eq!(refusals.unwrap(), [], "{version}");
        read_sorted(&bench, &namespace).await
    };
    let others = [
        replace("A"),
        delete("a".to_owned().into()),
        delete("b".to_owned().into()),
        delete(rawdoc! { "x": "c" }.into()),
        delete(rawdoc! { "x": ["d", 1] }.into()),
    ];
    let mut expected = documents.clone();
    expected[0] = rawdoc! { "_id": "A", "n": 1 };
    assert_eq!(apply(&others).await, sorted(&expected), "{version}");
    let same: Vec<Write> = ids.into_iter().map(delete).collect();
    assert_eq!(apply(&same).await, [] as [RawDocumentBuf; 0], "{version}");
}

async fn ids_that_a_collation_holds_equal_are_replaced(version: Version) {
    let bench = Bench::start(version).await;
    bench
        .command(
            "test",
            doc! { "create": "names", "collation": { "locale": "sv", "strength": 1 } },
        )
        .await;
    let namespace = namespace("names");
    let kind = CollectionKind::Unordered;
    // The server quotes the keys of such an index in its answers as bytes that are often no UTF-8.
    let names = ["a", "zebra", "äpple", "ö", "q"];
    let documents: Vec<RawDocumentBuf> = names.iter().map(|name| rawdoc! { "_id": *name, "n": 1 }).collect();
    for _ in 0..2 {
        assert_eq!(bench.sink.insert(&namespace, &batch(&documents)).await.unwrap(), []);
    }
    let upper: Vec<RawDocumentBuf> = names
        .iter()
        .map(|name| rawdoc! { "_id": name.to_uppercase(), "n": 2 })
        .collect();
    assert_eq!(bench.sink.insert(&namespace, &batch(&upper)).await.unwrap(), []);
    assert_eq!(read_sorted(&bench, &namespace).await, sorted(&upper));
    let writes: Vec<Write> = names
        .iter()
        .flat_map(|name| {
            let upper = name.to_uppercase();
            let insert = |id: &str| Write {
                key: key(id),
                operation: Operation::Insert(rawdoc! { "_id": id, "n": 3 }),
            };
            let delete = |id: &str| Write {
                key: key(id),
                operation: Operation::Delete,
            };
            [delete(&upper), insert(&upper), delete(&upper), insert(name)]
        })
        .collect();
    assert_eq!(bench.sink.apply(&namespace, kind, &writes).await.unwrap(), []);
    let expected: Vec<RawDocumentBuf> = names.iter().map(|name| rawdoc! { "_id": *name, "n": 3 }).collect();
    assert_eq!(read_sorted(&bench, &namespace).await, sorted(&expected));
}

async fn read_sorted(bench: &Bench, namespace: &mongoferry::Namespace) -> Vec<RawDocumentBuf> {
    let kind = CollectionKind::Unordered;
    sorted(&read_range(&bench.sink, namespace, kind, mongoferry::Range::FULL, 1 << 20).await)
}

fn sorted(documents: &[RawDocumentBuf]) -> Vec<RawDocumentBuf> {
    let mut documents = documents.to_vec();
    documents.sort_by_key(|document| Key::of_document(document).unwrap());
    documents
}

async fn great_batches_are_split(version: Version) {
    let bench = Bench::start(version).await;
    let namespace = namespace("great");
    let filler = "x".repeat(900_000);
    let documents: Vec<RawDocumentBuf> = (0..40).map(|id| rawdoc! { "_id": id, "s": filler.as_str() }).collect();
    assert_eq!(bench.sink.insert(&namespace, &batch(&documents)).await.unwrap(), []);
    let writes: Vec<Write> = documents
        .iter()
        .map(|document| Write {
            key: Key::of_document(document).unwrap(),
            operation: Operation::Replace(document.clone()),
        })
        .chain((100_000..320_000).map(|id| Write {
            key: key(id),
            operation: Operation::Insert(rawdoc! { "_id": id }),
        }))
        .collect();
    assert_eq!(
        bench
            .sink
            .apply(&namespace, CollectionKind::Plain, &writes)
            .await
            .unwrap(),
        []
    );
    let count = bench.command("test", doc! { "count": "great" }).await;
    assert_eq!(count.get_i32("n").unwrap(), 220_040);
    let deletes: Vec<Write> = writes
        .iter()
        .skip(3)
        .map(|write| Write {
            key: write.key.clone(),
            operation: Operation::Delete,
        })
        .collect();
    assert_eq!(
        bench
            .sink
            .apply(&namespace, CollectionKind::Plain, &deletes)
            .await
            .unwrap(),
        []
    );
    assert_eq!(read_all(&bench.sink, &namespace).await, documents[..3]);
    // All of them known already: the server names each in its answer.
    let many: Vec<RawDocumentBuf> = (100..60_100).map(|id| rawdoc! { "_id": id }).collect();
    for _ in 0..2 {
        assert_eq!(bench.sink.insert(&namespace, &batch(&many)).await.unwrap(), []);
    }
    let count = bench.command("test", doc! { "count": "great" }).await;
    assert_eq!(count.get_i32("n").unwrap(), 60_003);
}
