//! Deltas as servers log them.

use bson::raw::RawDocumentBuf;
use bson::{Timestamp, rawdoc};
use mongoferry::oplog::delta;
use mongoferry::sink::{Refusal, RefusalReason, Sink};
use mongoferry::{CollectionKind, Operation, Write};
use mongoferry_testbed::Version;

use super::corpus::{document, int, nested};
use super::{Bench, batch, key, namespace, on_versions, read_all};

on_versions!(deltas_leave_the_documents_of_the_source);
on_versions!(deltas_that_cannot_be_applied_are_named);

fn delta_write(id: i32, delta: RawDocumentBuf) -> Write {
    Write {
        key: key(id),
        operation: Operation::Delta(delta),
    }
}

/// A document and a delta on it.
fn cases() -> Vec<(RawDocumentBuf, RawDocumentBuf)> {
    let empty = Timestamp { time: 0, increment: 0 };
    let mut cases = Vec::new();
    let mut add = |fields: RawDocumentBuf, delta: RawDocumentBuf| {
        let mut document = rawdoc! { "_id": cases.len() as i32 };
        for (name, value) in fields
            .iter_elements()
            .flatten()
            .map(|e| (e.key().to_owned(), e.value().unwrap()))
        {
            document.append(&name, value);
        }
        cases.push((document, delta));
    };
    let v2 = |diff: RawDocumentBuf| rawdoc! { "$v": 2, "diff": diff };
    add(rawdoc! { "a": 1, "b": 2 }, v2(rawdoc! { "u": { "a": 5 } }));
    add(rawdoc! { "a": 1, "b": 2 }, v2(rawdoc! { "i": { "a": 1 } }));
    add(
        rawdoc! { "a": 1, "b": 2 },
        v2(rawdoc! { "d": { "a": false }, "i": { "": 1, "x.y": 2, "t": empty } }),
    );
    add(
        rawdoc! { "a": { "b": { "c": 1 } } },
        v2(rawdoc! { "sa": { "sb": { "u": { "c": 2 }, "i": { "$x": 1 } } } }),
    );
    add(
        rawdoc! { "a": [1, 2, 3] },
        v2(rawdoc! { "sa": { "a": true, "u1": 9, "u4": 4 } }),
    );
    add(rawdoc! { "a": [1, 2, 3] }, v2(rawdoc! { "sa": { "a": true, "l": 1 } }));
    add(
        rawdoc! { "a": [{ "b": 1 }, 2] },
        v2(rawdoc! { "sa": { "a": true, "s0": { "u": { "b": 2 } } } }),
    );
    add(rawdoc! { "a": 1 }, v2(rawdoc! { "sa": { "u": { "b": 2 } } }));
    add(rawdoc! { "t": empty, "a": 1 }, v2(rawdoc! { "u": { "a": 2 } }));
    add(rawdoc! { "$x": 1, "a": 1 }, v2(rawdoc! { "u": { "a": 2 } }));
    add(rawdoc! { "n": { "$x": 1 }, "a": 1 }, v2(rawdoc! { "u": { "a": 2 } }));
    let v1 = |mut operators: RawDocumentBuf| {
        let mut delta = rawdoc! { "$v": 1 };
        std::mem::swap(&mut delta, &mut operators);
        for (name, value) in delta
            .iter_elements()
            .flatten()
            .map(|e| (e.key().to_owned(), e.value().unwrap()))
        {
            operators.append(&name, value);
        }
        operators
    };
    add(rawdoc! { "a": 1, "b": 2 }, v1(rawdoc! { "$set": { "a": 5, "c": 6 } }));
    add(
        rawdoc! { "a": 1, "b": 2 },
        v1(rawdoc! { "$unset": { "a": true }, "$set": { "x": 1 } }),
    );
    add(
        rawdoc! { "a": { "b": 1 } },
        v1(rawdoc! { "$set": { "a.c": 1, "d.e.f": 2 } }),
    );
    add(rawdoc! { "a": [1, 2] }, v1(rawdoc! { "$set": { "a.0": 7, "a.4": 8 } }));
    add(
        rawdoc! { "a": {} },
        v1(rawdoc! { "$set": { "02": 1, "10": 2, "9": 3, "a.10": 4, "a.9": 5 } }),
    );
    add(
        rawdoc! { "a": 1 },
        v1(rawdoc! { "$set": { "n": { "t": empty }, "t": empty } }),
    );
    add(
        rawdoc! { "a": [{ "b": 1 }] },
        v1(rawdoc! { "$set": { "a.0.b": 2 }, "$unset": { "a.0.c": true } }),
    );
    add(
        rawdoc! { "a": 1 },
        v1(rawdoc! { "$set": { "d": { "$id": 1, "$ref": "c" } } }),
    );
    cases
}

async fn deltas_leave_the_documents_of_the_source(version: Version) {
    let bench = Bench::start(version).await;
    let namespace = namespace("deltas");
    let cases = cases();
    let documents: Vec<&RawDocumentBuf> = cases.iter().map(|(document, _)| document).collect();
    assert_eq!(bench.sink.insert(&namespace, &batch(documents)).await.unwrap(), []);
    let writes: Vec<Write> = cases
        .iter()
        .enumerate()
        .map(|(id, (_, delta))| delta_write(id as i32, delta.clone()))
        .collect();
    let expected: Vec<RawDocumentBuf> = cases.iter().map(|(old, by)| delta::apply(old, by).unwrap()).collect();
    // The second time each delta finds what it has left.
    for round in ["once", "twice"] {
        let refusals = bench
            .sink
            .apply(&namespace, CollectionKind::Plain, &writes)
            .await
            .unwrap();
        assert_eq!(refusals, [], "{round} on {version}");
        let found = read_all(&bench.sink, &namespace).await;
        for ((expected, found), (old, delta)) in expected.iter().zip(&found).zip(&cases) {
            assert_eq!(found, expected, "{round}: {delta:?} on {old:?} on {version}");
        }
    }
}

async fn deltas_that_cannot_be_applied_are_named(version: Version) {
    let bench = Bench::start(version).await;
    let namespace = namespace("deltas");
    let twice = document(&[
        int(b"_id", 9),
        nested(b"n", &[int(b"a", 1), int(b"a", 2)]),
        int(b"b", 1),
    ]);
    let documents = [rawdoc! { "_id": 1, "a": 1 }, rawdoc! { "_id": 2, "a": 1 }, twice];
    assert_eq!(bench.sink.insert(&namespace, &batch(&documents)).await.unwrap(), []);
    let writes = [
        delta_write(1, rawdoc! { "$v": 1, "$set": { "b": 2 } }),
        delta_write(2, rawdoc! { "$v": 1, "$set": { "a.b": 2 } }),
        delta_write(3, rawdoc! { "$v": 1, "$set": { "b": 2 } }),
        delta_write(4, rawdoc! { "$v": 2, "diff": { "u": { "b": 2 } } }),
        delta_write(5, rawdoc! { "$v": 1, "$set": { "a.1": 2, "a.2": 3 } }),
        delta_write(6, rawdoc! { "$v": 3 }),
        delta_write(9, rawdoc! { "$v": 2, "diff": { "u": { "b": 2 } } }),
    ];
    let refusals = bench
        .sink
        .apply(&namespace, CollectionKind::Plain, &writes)
        .await
        .unwrap();
    let indexes: Vec<usize> = refusals.iter().map(|refusal| refusal.index).collect();
    assert_eq!(indexes, [1, 2, 3, 4, 5], "{refusals:?} on {version}");
    for Refusal { reason, .. } in &refusals {
        assert!(matches!(reason, RefusalReason::CannotApply(_)), "{reason:?}");
    }
    assert_eq!(
        read_all(&bench.sink, &namespace).await,
        [
            rawdoc! { "_id": 1, "a": 1, "b": 2 },
            rawdoc! { "_id": 2, "a": 1 },
            document(&[
                int(b"_id", 9),
                nested(b"n", &[int(b"a", 1), int(b"a", 2)]),
                int(b"b", 2)
            ]),
        ],
        "{version}"
    );
}
