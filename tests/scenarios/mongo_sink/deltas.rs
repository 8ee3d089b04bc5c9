//! Deltas as servers log them.

use std::time::Duration;

use bson::raw::{CString, RawArrayBuf, RawBson, RawDocumentBuf};
use bson::{Timestamp, rawdoc};
use mongoferry::oplog::delta;
use mongoferry::sink::{CatalogCommand, Refusal, RefusalReason, Sink};
use mongoferry::{CollectionKind, Operation, Write};
use mongoferry_testbed::Version;

use super::corpus::{array, document, int, nested};
use super::{Bench, batch, key, namespace, on_versions, read_all};

on_versions!(deltas_leave_the_documents_of_the_source);
on_versions!(deltas_that_cannot_be_applied_are_named);
on_versions!(deltas_of_repeated_names_are_left_to_the_source: v4_2 V4_2, v4_4 V4_4, v5_0 V5_0, v6_0 V6_0, v6_0_27 V6_0_27);
on_versions!(deltas_of_ten_thousand_paths_take_no_time);

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
    for Refusal { index, reason, .. } in &refusals {
        // One does not fit its document, one has no known format; the others are for documents that are not there.
        match index {
            1 | 5 => assert!(matches!(reason, RefusalReason::CannotApply(_)), "{reason:?}"),
            _ => assert!(matches!(reason, RefusalReason::NoDocument(_)), "{reason:?}"),
        }
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

/// Documents with a name that stands twice, and deltas on them: those of which the outcome can be told, and those of which it cannot.
fn repeated_names() -> Vec<(&'static str, RawDocumentBuf, RawDocumentBuf, bool)> {
    let twice = |name: &'static [u8]| nested(name, &[int(b"x", 1), int(b"x", 2), int(b"y", 1)]);
    let v1 = |operators: RawDocumentBuf| {
        let mut delta = rawdoc! { "$v": 1 };
        for element in operators.iter_elements().flatten() {
            delta.append(element.key(), element.value().unwrap());
        }
        delta
    };
    let v2 = |diff: RawDocumentBuf| rawdoc! { "$v": 2, "diff": diff };
    let top = || vec![int(b"x", 1), int(b"b", 1), int(b"x", 2)];
    let inner = || vec![twice(b"s"), int(b"b", 1)];
    let item = || vec![array(b"l", &[twice(b"0"), int(b"1", 7)]), int(b"b", 1)];
    let cases = [
        ("set", top(), v2(rawdoc! { "u": { "x": 3 } }), false),
        (
            "set and add",
            top(),
            v2(rawdoc! { "u": { "x": 3 }, "i": { "y": 1 } }),
            false,
        ),
        ("remove", top(), v2(rawdoc! { "d": { "x": false } }), false),
        ("beside", top(), v2(rawdoc! { "u": { "b": 3 } }), true),
        (
            "beside and add",
            top(),
            v2(rawdoc! { "u": { "b": 3 }, "i": { "y": 1 } }),
            true,
        ),
        ("nested set", inner(), v2(rawdoc! { "ss": { "u": { "x": 3 } } }), false),
        (
            "nested, beside",
            inner(),
            v2(rawdoc! { "ss": { "u": { "y": 3 }, "i": { "z": 1 } } }),
            true,
        ),
        (
            "replaced whole",
            inner(),
            v2(rawdoc! { "u": { "s": { "x": 5 } }, "i": { "n": 1 } }),
            true,
        ),
        ("moved", inner(), v2(rawdoc! { "i": { "s": { "x": 5 } } }), true),
        (
            "in an element",
            item(),
            v2(rawdoc! { "sl": { "a": true, "s0": { "u": { "x": 3 } } } }),
            false,
        ),
        (
            "an element replaced",
            item(),
            v2(rawdoc! { "sl": { "a": true, "u0": { "x": 3 } } }),
            true,
        ),
        (
            "an element added",
            item(),
            v2(rawdoc! { "sl": { "a": true, "u2": 3 } }),
            true,
        ),
        (
            "comes in",
            vec![nested(b"s", &[int(b"x", 1)]), int(b"b", 1)],
            {
                let updated = document(&[twice(b"s")]);
                v2(rawdoc! { "u": updated, "i": { "n": 1 } })
            },
            true,
        ),
        (
            "comes in alone",
            vec![nested(b"s", &[int(b"x", 1)])],
            v2(rawdoc! { "u": document(&[twice(b"s")]) }),
            true,
        ),
        ("v1 set", top(), v1(rawdoc! { "$set": { "x": 3 } }), true),
        (
            "v1 nested set",
            inner(),
            v1(rawdoc! { "$set": { "s.x": 3, "s.n": 1 } }),
            true,
        ),
        ("v1 remove", top(), v1(rawdoc! { "$unset": { "x": true } }), true),
        (
            "v1 in an element",
            item(),
            v1(rawdoc! { "$set": { "l.0.x": 3 }, "$unset": { "l.0.y": true } }),
            true,
        ),
    ];
    let numbered = cases.into_iter().zip(0..).map(|((name, fields, delta, known), id)| {
        let fields = [vec![int(b"_id", id)], fields].concat();
        (name, document(&fields), delta, known)
    });
    numbered.collect()
}

async fn deltas_of_repeated_names_are_left_to_the_source(version: Version) {
    let bench = Bench::start(version).await;
    let cases = repeated_names();
    let before: Vec<&RawDocumentBuf> = cases.iter().map(|(_, document, _, _)| document).collect();
    // One collection that the sink has made and one that it knows nothing of.
    for name in ["made", "found"] {
        let namespace = namespace(name);
        if name == "made" {
            let create = CatalogCommand::Create {
                namespace: namespace.clone(),
                kind: CollectionKind::Plain,
                options: RawDocumentBuf::new(),
            };
            bench.sink.execute(&create).await.unwrap();
            assert_eq!(bench.sink.insert(&namespace, &batch(before.clone())).await.unwrap(), []);
        } else {
            let mut documents = RawArrayBuf::new();
            for document in &before {
                documents.push((*document).clone());
            }
            let client = bench.set.client().await.unwrap();
            let insert = rawdoc! { "insert": name, "documents": documents };
            client.database("test").run_raw_command(insert).await.unwrap();
        }
        let writes: Vec<Write> = (0..)
            .zip(&cases)
            .map(|(id, (_, _, delta, _))| delta_write(id, delta.clone()))
            .collect();
        let refusals = bench
            .sink
            .apply(&namespace, CollectionKind::Plain, &writes)
            .await
            .unwrap();
        for (id, (case, before, delta, known)) in cases.iter().enumerate() {
            let refusal = refusals.iter().find(|refusal| refusal.index == id);
            let ambiguous = refusal.is_some_and(|refusal| matches!(refusal.reason, RefusalReason::Ambiguous(_)));
            assert_eq!(ambiguous, !known, "{case} in {name} on {version}: {refusal:?}");
            assert_eq!(delta::apply(before, delta).is_ok(), *known, "{case} in memory");
        }
        let found = read_all(&bench.sink, &namespace).await;
        for ((case, before, delta, _), found) in cases.iter().zip(&found) {
            let expected = delta::apply(before, delta).unwrap_or_else(|_| before.clone());
            assert_eq!(found, &expected, "{case} in {name} on {version}");
        }
    }
}

/// On 5.0 and later a server took minutes for 2,000 paths, as many updates.
async fn deltas_of_ten_thousand_paths_take_no_time(version: Version) {
    const PATHS: i32 = 10_000;
    let bench = Bench::start(version).await;
    let namespace = namespace("paths");
    // As 4.4 and earlier list them: 1, 10, 100.
    let mut numbers: Vec<String> = (0..PATHS).map(|number| number.to_string()).collect();
    numbers.sort_unstable();
    let fields = |name: &dyn Fn(&str) -> String, value: &dyn Fn() -> RawBson| -> RawDocumentBuf {
        let fields = numbers
            .iter()
            .map(|number| (CString::try_from(name(number)).unwrap(), value()));
        fields.collect()
    };
    let one = || RawBson::Int32(1);
    let nested_diff = || RawBson::Document(rawdoc! { "u": { "x": 1 } });
    let item = || RawBson::Document(rawdoc! { "x": 0, "y": 0 });
    let items = RawArrayBuf::from_iter((0..PATHS).map(|_| item()));
    let whole = rawdoc! { "l": items, "d": fields(&|number| format!("f{number}"), &item) };
    let flat = fields(&|number| format!("f{number}"), &one);
    let mut in_order: RawDocumentBuf = rawdoc! { "a": true };
    for number in 0..PATHS {
        in_order.append(CString::try_from(format!("s{number}")).unwrap(), nested_diff());
    }
    let cases = [
        (
            &whole,
            rawdoc! { "$v": 1, "$set": fields(&|number| format!("l.{number}"), &one) },
        ),
        (
            &whole,
            rawdoc! { "$v": 1, "$set": fields(&|number| format!("l.{number}.x"), &one) },
        ),
        (
            &whole,
            rawdoc! { "$v": 1, "$unset": fields(&|number| format!("l.{number}.x"), &one) },
        ),
        (
            &whole,
            rawdoc! { "$v": 1, "$set": fields(&|number| format!("d.f{number}.n"), &one) },
        ),
        (
            &whole,
            rawdoc! { "$v": 1, "$unset": fields(&|number| format!("d.f{number}"), &one) },
        ),
        (
            &whole,
            rawdoc! { "$v": 1, "$set": fields(&|number| format!("new.f{number}"), &one) },
        ),
        (
            &flat,
            rawdoc! { "$v": 1, "$set": fields(&|number| format!("g{number}"), &one) },
        ),
        (
            &flat,
            rawdoc! { "$v": 1, "$unset": fields(&|number| format!("f{number}"), &one) },
        ),
        (
            &flat,
            rawdoc! { "$v": 2, "diff": { "u": fields(&|number| format!("f{number}"), &|| RawBson::Int32(2)) } },
        ),
        (
            &flat,
            rawdoc! { "$v": 2, "diff": { "i": fields(&|number| format!("g{number}"), &one) } },
        ),
        (
            &whole,
            rawdoc! { "$v": 2, "diff": { "sd": fields(&|number| format!("sf{number}"), &nested_diff) } },
        ),
        (&whole, rawdoc! { "$v": 2, "diff": { "sl": in_order } }),
    ];
    for (id, (before, delta)) in (0..).zip(&cases) {
        let mut document = rawdoc! { "_id": id };
        for element in before.iter_elements().flatten() {
            document.append(element.key(), element.value().unwrap());
        }
        assert_eq!(bench.sink.insert(&namespace, &batch([&document])).await.unwrap(), []);
        let writes = [delta_write(id, delta.clone())];
        let applied = bench.sink.apply(&namespace, CollectionKind::Plain, &writes);
        // Much less on a machine that has nothing else to do.
        let applied = tokio::time::timeout(Duration::from_secs(10), applied).await;
        assert_eq!(
            applied.unwrap_or_else(|_| panic!("case {id} on {version}")).unwrap(),
            [],
            "case {id} on {version}"
        );
        let expected = delta::apply(&document, delta).unwrap();
        let found = bench.sink.read_documents(&namespace, &[key(id)]).await.unwrap();
        assert!(found == [expected], "case {id} on {version}");
    }
}
