//! Checks of documents that are written to a sink and read from it.

use bson::raw::{RawBson, RawDocumentBuf};
use bson::rawdoc;

use super::data::{awkward_documents, batch_of, drain, ensure_same, filled, key, mixed_ids, namespace, sorted};
use super::sink_catalog::{contents, make};
use super::{ConformanceFailure, Found, Outcome, check, ensure};
use crate::model::{Batch, CollectionKind, Namespace, Operation, Range, Write};
use crate::oplog::delta;
use crate::order::Key;
use crate::sink::{Refusal, RefusalReason, Sink, SinkRead};

pub(super) async fn run(sink: &dyn Sink) -> Result<(), ConformanceFailure> {
    check("documents are stored byte for byte", bytes(sink)).await?;
    check(
        "an insert replaces what has the same `_id`, and can be sent twice",
        insert(sink),
    )
    .await?;
    check(
        "writes of one document are applied in order, and can be sent twice",
        order(sink),
    )
    .await?;
    check("a delta leaves the document as the source has it", deltas(sink)).await?;
    check("a delta on a missing document is refused by its index", missing(sink)).await?;
    check(
        "a key that another document holds is refused by its index",
        duplicate(sink),
    )
    .await?;
    check("writes at the same time all arrive", together(sink)).await?;
    check(
        "ranges take in their upper end, leave out their lower, and follow the order of `_id`",
        ranges(sink),
    )
    .await?;
    check("a capped collection is read in natural order", natural(sink)).await?;
    check("batches have about the size that is asked for", batches(sink)).await?;
    check("documents are read by `_id`", points(sink)).await?;
    check("a flush follows what was written", flush(sink)).await?;
    check("a digest is equal for equal data only", digest(sink)).await
}

fn request(namespace: &Namespace) -> SinkRead {
    SinkRead {
        namespace: namespace.clone(),
        kind: CollectionKind::Plain,
        range: Range::FULL,
        batch_bytes: 1 << 20,
        document_bytes: 0,
    }
}

fn write(id: impl Into<RawBson>, operation: Operation) -> Write {
    let key = key(id);
    Write { key, operation }
}

fn full_image(document: &RawDocumentBuf, operation: fn(RawDocumentBuf) -> Operation) -> Outcome<Write> {
    let key = Key::of_document(document).ok_or_else(|| Found("the suite's document has no `_id`".to_owned()))?;
    let operation = operation(document.clone());
    Ok(Write { key, operation })
}

async fn apply(sink: &dyn Sink, namespace: &Namespace, writes: &[Write]) -> Outcome<Vec<Refusal>> {
    Ok(sink.apply(namespace, CollectionKind::Plain, writes).await?)
}

fn ensure_none(refusals: &[Refusal]) -> Outcome {
    ensure!(refusals.is_empty(), "writes were refused: {refusals:?}");
    Ok(())
}

async fn bytes(sink: &dyn Sink) -> Outcome {
    let expected = sorted(awkward_documents());
    let inserted = namespace("bytes_inserted");
    make(sink, &inserted, rawdoc! {}).await?;
    ensure_none(&sink.insert(&inserted, &batch_of(&expected)).await?)?;
    ensure_same("inserted in a batch", &contents(sink, &inserted).await?, &expected)?;
    for (name, operation) in [
        ("bytes_insert", Operation::Insert as fn(RawDocumentBuf) -> Operation),
        ("bytes_replace", Operation::Replace),
    ] {
        // Applied once to an empty collection, and once over other documents.
        let name = namespace(name);
        make(sink, &name, rawdoc! {}).await?;
        let writes = expected
            .iter()
            .map(|document| full_image(document, operation))
            .collect::<Outcome<Vec<_>>>()?;
        ensure_none(&apply(sink, &name, &writes).await?)?;
        ensure_same(
            "applied where there was nothing",
            &contents(sink, &name).await?,
            &expected,
        )?;
        let mut others = Batch::new();
        for write in &writes {
            others.push(&rawdoc! { "_id": write.key.to_bson_ref()?, "other": 1 });
        }
        ensure_none(&sink.insert(&name, &others).await?)?;
        ensure_none(&apply(sink, &name, &writes).await?)?;
        ensure_same("applied over other documents", &contents(sink, &name).await?, &expected)?;
    }
    Ok(())
}

async fn insert(sink: &dyn Sink) -> Outcome {
    let name = namespace("insert");
    make(sink, &name, rawdoc! {}).await?;
    let mut documents: Vec<_> = (0..50).map(|id| filled(id, 100)).collect();
    ensure_none(&sink.insert(&name, &batch_of(&documents[..30])).await?)?;
    // Existing documents are replaced, also by documents with other fields. Missing ones are inserted.
    for document in documents.iter_mut().step_by(3) {
        let id = document.get_i32("_id")?;
        *document = rawdoc! { "_id": id, "z": 1, "a": 2 };
    }
    for _ in 0..2 {
        ensure_none(&sink.insert(&name, &batch_of(&documents)).await?)?;
        ensure_same("inserted over others", &contents(sink, &name).await?, &documents)?;
    }
    Ok(())
}

async fn order(sink: &dyn Sink) -> Outcome {
    let name = namespace("order");
    make(sink, &name, rawdoc! {}).await?;
    let set = |id: i32, value: i32| {
        let delta = rawdoc! { "$v": 2, "diff": { "u": { "n": value } } };
        write(id, Operation::Delta(delta))
    };
    let mut writes = Vec::new();
    for id in 0..20 {
        writes.push(write(id, Operation::Insert(filled(id, 10))));
    }
    for id in 0..20 {
        writes.push(set(id, 1));
        writes.push(write(id, Operation::Replace(rawdoc! { "_id": id, "n": 5, "z": 1 })));
    }
    for id in 0..20 {
        writes.push(write(id, Operation::Delete));
        if id % 2 == 0 {
            writes.push(write(id, Operation::Insert(rawdoc! { "_id": id, "n": 7, "a": 1 })));
            writes.push(set(id, 8));
        }
    }
    let expected: Vec<_> = (0..20)
        .step_by(2)
        .map(|id| rawdoc! { "_id": id, "n": 8, "a": 1 })
        .collect();
    for _ in 0..2 {
        ensure_none(&apply(sink, &name, &writes).await?)?;
        ensure_same("applied in order", &contents(sink, &name).await?, &expected)?;
    }
    // A delete that finds nothing is no error.
    ensure_none(
        &apply(
            sink,
            &name,
            &[write(1, Operation::Delete), write(999, Operation::Delete)],
        )
        .await?,
    )
}

/// Deltas as servers write them.
fn logged_deltas() -> Vec<RawDocumentBuf> {
    vec![
        rawdoc! { "$v": 2, "diff": { "u": { "n": 1 } } },
        rawdoc! { "$v": 2, "diff": { "d": { "n": false }, "i": { "z": 1, "b": 2 } } },
        rawdoc! { "$v": 2, "diff": { "i": { "a": 9 } } },
        rawdoc! { "$v": 2, "diff": { "sm": { "d": { "z": false }, "u": { "a": [] }, "i": { "new": { "y": 1, "x": 2 } } } } },
        rawdoc! { "$v": 2, "diff": { "slist": { "a": true, "u1": "changed", "s2": { "u": { "b": 5 } } } } },
        rawdoc! { "$v": 2, "diff": { "slist": { "a": true, "l": 1 } } },
        rawdoc! { "$v": 2, "diff": { "i": { "with.dot": 1, "": 2 } } },
        rawdoc! { "$v": 1, "$set": { "m.z": 5, "added": { "q": 1 } }, "$unset": { "a": true } },
        rawdoc! { "$v": 1, "$set": { "list.3": "fourth", "m.deep.er": 1 } },
        rawdoc! { "$v": 1, "$unset": { "list.0": true, "m.a": true } },
        rawdoc! { "$set": { "n": 2, "z": 1, "b": 2, "m.y": 3, "m.c": { "q": 1 } }, "$unset": { "a": true } },
        rawdoc! { "$set": { "m.9": 1, "m.10": 2, "list.3": "fourth" } },
        rawdoc! { "$set": { "f": 1, "e": 1, "d": 1, "c": 1, "b": 1 } },
    ]
}

async fn deltas(sink: &dyn Sink) -> Outcome {
    let name = namespace("deltas");
    make(sink, &name, rawdoc! {}).await?;
    let before = |id: i32| {
        rawdoc! { "_id": id, "n": 0, "a": 1, "m": { "z": 1, "a": [1, { "x": 1 }], "b": 3 }, "list": [1, 2, { "b": 1 }], "end": true }
    };
    let deltas = logged_deltas();
    let mut expected = Vec::new();
    let mut writes = Vec::new();
    let mut documents = Vec::new();
    let mut add = |id: i32, deltas: &[&RawDocumentBuf]| -> Outcome {
        let mut document = before(id);
        documents.push(document.clone());
        for delta in deltas {
            document =
                delta::apply(&document, delta).map_err(|error| Found(format!("{delta:?} does not apply: {error}")))?;
            writes.push(write(id, Operation::Delta((*delta).clone())));
        }
        expected.push(document);
        Ok(())
    };
    // Each delta on its own, then all deltas of each format one after the other.
    let mut next = 0;
    for delta in &deltas {
        add(next, &[delta])?;
        next += 1;
    }
    for format in [None, Some(1), Some(2)] {
        let same: Vec<_> = deltas
            .iter()
            .filter(|delta| delta.get_i32("$v").ok() == format)
            .collect();
        add(next, &same)?;
        next += 1;
    }
    ensure_none(&sink.insert(&name, &batch_of(&documents)).await?)?;
    ensure_none(&apply(sink, &name, &writes).await?)?;
    ensure_same("updated", &contents(sink, &name).await?, &expected)
}

async fn missing(sink: &dyn Sink) -> Outcome {
    let name = namespace("missing");
    make(sink, &name, rawdoc! {}).await?;
    ensure_none(&sink.insert(&name, &batch_of(&[filled(1, 10), filled(3, 10)])).await?)?;
    for delta in [
        rawdoc! { "$v": 2, "diff": { "u": { "n": 1 } } },
        rawdoc! { "$v": 1, "$set": { "n": 1 } },
    ] {
        let writes: Vec<_> = (1..4).map(|id| write(id, Operation::Delta(delta.clone()))).collect();
        let refusals = apply(sink, &name, &writes).await?;
        ensure!(
            matches!(
                refusals.as_slice(),
                [Refusal {
                    index: 1,
                    reason: RefusalReason::CannotApply(_)
                }]
            ),
            "the second write's document is missing, and the refusals are {refusals:?}"
        );
    }
    let expected: Vec<_> = [1, 3]
        .into_iter()
        .map(|id| delta::apply(&filled(id, 10), &rawdoc! { "$v": 2, "diff": { "u": { "n": 1 } } }))
        .collect::<Result<_, _>>()
        .map_err(|error| Found(error.to_string()))?;
    ensure_same("the documents that are there", &contents(sink, &name).await?, &expected)
}

async fn duplicate(sink: &dyn Sink) -> Outcome {
    let name = namespace("duplicate");
    make(sink, &name, rawdoc! {}).await?;
    let specification = rawdoc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true };
    sink.create_index(&name, &specification).await?;
    let document = |id: i32, unique: i32| rawdoc! { "_id": id, "u": unique };
    let inserted = [document(1, 1), document(2, 2), document(3, 1), document(4, 4)];
    let refusals = sink.insert(&name, &batch_of(&inserted)).await?;
    ensure!(
        matches!(
            refusals.as_slice(),
            [Refusal {
                index: 2,
                reason: RefusalReason::DuplicateKey(_)
            }]
        ),
        "the third document holds the first one's key, and the refusals are {refusals:?}"
    );
    // The same `_id` is no duplicate, and a refused write does not hold back the others.
    let writes = [
        write(1, Operation::Insert(document(1, 1))),
        write(2, Operation::Replace(document(2, 4))),
        write(5, Operation::Insert(document(5, 5))),
        write(6, Operation::Insert(document(6, 5))),
        write(4, Operation::Delta(rawdoc! { "$v": 2, "diff": { "u": { "u": 1 } } })),
        write(7, Operation::Insert(document(7, 7))),
    ];
    // Applied twice, because the response may have been lost.
    for _ in 0..2 {
        let refusals = apply(sink, &name, &writes).await?;
        let mut indexes: Vec<_> = refusals.iter().map(|refusal| refusal.index).collect();
        indexes.sort_unstable();
        let all = refusals
            .iter()
            .all(|refusal| matches!(refusal.reason, RefusalReason::DuplicateKey(_)));
        ensure!(
            indexes == [1, 3, 4] && all,
            "the writes 1, 3 and 4 have duplicate keys; refused were {refusals:?}"
        );
        let expected = [
            document(1, 1),
            document(2, 2),
            document(4, 4),
            document(5, 5),
            document(7, 7),
        ];
        ensure_same("what was not refused", &contents(sink, &name).await?, &expected)?;
    }
    Ok(())
}

async fn together(sink: &dyn Sink) -> Outcome {
    let name = namespace("together");
    make(sink, &name, rawdoc! {}).await?;
    let documents: Vec<_> = (0..400).map(|id| filled(id, 50)).collect();
    let calls = documents.chunks(50).enumerate().map(|(place, part)| {
        let name = &name;
        async move {
            if place % 2 == 0 {
                return Ok(sink.insert(name, &batch_of(part)).await?);
            }
            let writes = part
                .iter()
                .map(|document| full_image(document, Operation::Insert))
                .collect::<Outcome<Vec<_>>>()?;
            apply(sink, name, &writes).await
        }
    });
    for refusals in futures::future::join_all(calls).await {
        ensure_none(&refusals?)?;
    }
    ensure_same("written at the same time", &contents(sink, &name).await?, &documents)
}

async fn ranges(sink: &dyn Sink) -> Outcome {
    let name = namespace("ranges");
    make(sink, &name, rawdoc! {}).await?;
    let ids = mixed_ids();
    let documents: Vec<_> = ids.iter().rev().map(|id| rawdoc! { "_id": id.clone() }).collect();
    ensure_none(&sink.insert(&name, &batch_of(&documents)).await?)?;
    let keys: Vec<_> = ids.into_iter().map(key).collect();
    let ends: Vec<_> = [None].into_iter().chain(keys.iter().step_by(3).map(Some)).collect();
    for lower in &ends {
        for upper in ends
            .iter()
            .filter(|upper| lower.is_none() || upper.is_none() || lower < *upper)
        {
            let range = Range {
                lower: lower.cloned(),
                upper: upper.cloned(),
            };
            let expected: Vec<_> = keys.iter().filter(|key| range.contains(key)).cloned().collect();
            let stream = sink
                .read(SinkRead {
                    range: range.clone(),
                    ..request(&name)
                })
                .await;
            let (read, _) = drain(stream).await?;
            let found: Vec<_> = read.iter().filter_map(|document| Key::of_document(document)).collect();
            ensure!(
                found == expected,
                "the range {range:?} reads as {found:?}, not {expected:?}"
            );
        }
    }
    Ok(())
}

async fn natural(sink: &dyn Sink) -> Outcome {
    let name = namespace("natural");
    make(sink, &name, rawdoc! { "capped": true, "size": 1_048_576 }).await?;
    let documents: Vec<_> = [5, 3, 9, 1, 7, 2, 8, 0].into_iter().map(|id| filled(id, 10)).collect();
    ensure_none(&sink.insert(&name, &batch_of(&documents[..5])).await?)?;
    let writes = documents[5..]
        .iter()
        .map(|document| full_image(document, Operation::Insert))
        .collect::<Outcome<Vec<_>>>()?;
    ensure_none(&sink.apply(&name, CollectionKind::Capped, &writes).await?)?;
    let stream = sink
        .read(SinkRead {
            kind: CollectionKind::Capped,
            ..request(&name)
        })
        .await;
    ensure_same("read in natural order", &drain(stream).await?.0, &documents)
}

async fn batches(sink: &dyn Sink) -> Outcome {
    let name = namespace("batches");
    make(sink, &name, rawdoc! {}).await?;
    let documents: Vec<_> = (0..300).map(|id| filled(id, 1000)).collect();
    ensure_none(&sink.insert(&name, &batch_of(&documents)).await?)?;
    let stream = sink
        .read(SinkRead {
            batch_bytes: 20_000,
            document_bytes: 1030,
            ..request(&name)
        })
        .await;
    let (read, largest) = drain(stream).await?;
    ensure!(read.len() == 300, "{} of 300 documents were read", read.len());
    ensure!(
        largest <= 80_000,
        "a batch that should have about 20 kB has {largest} bytes"
    );
    Ok(())
}

async fn points(sink: &dyn Sink) -> Outcome {
    let name = namespace("points");
    make(sink, &name, rawdoc! {}).await?;
    let documents: Vec<_> = (0..50).map(|id| filled(id, 10)).collect();
    ensure_none(&sink.insert(&name, &batch_of(&documents)).await?)?;
    let keys: Vec<_> = (0..60).step_by(7).map(key).collect();
    let expected: Vec<_> = documents.iter().step_by(7).cloned().collect();
    ensure_same(
        "read by `_id`",
        &sorted(sink.read_documents(&name, &keys).await?),
        &expected,
    )?;
    let none = sink.read_documents(&name, &[]).await?;
    ensure!(none.is_empty(), "no `_id` was asked for, and {none:?} was given");
    Ok(())
}

async fn flush(sink: &dyn Sink) -> Outcome {
    let name = namespace("flushed");
    make(sink, &name, rawdoc! {}).await?;
    sink.flush().await?;
    ensure_none(&sink.insert(&name, &batch_of(&[filled(1, 10)])).await?)?;
    sink.flush().await?;
    sink.flush().await?;
    ensure_same("after a flush", &contents(sink, &name).await?, &[filled(1, 10)])
}

async fn digest(sink: &dyn Sink) -> Outcome {
    let names = [namespace("digest_a"), namespace("digest_b")];
    let mut documents: Vec<_> = (0..20).map(|id| filled(id, 10)).collect();
    for name in &names {
        make(sink, name, rawdoc! {}).await?;
        ensure_none(&sink.insert(name, &batch_of(&documents)).await?)?;
        documents.reverse();
    }
    let (Some(first), Some(second)) = (sink.digest(&names[0]).await?, sink.digest(&names[1]).await?) else {
        return Ok(());
    };
    ensure!(first == second, "equal data have the digests {first} and {second}");
    ensure_none(
        &sink
            .insert(&names[1], &batch_of(&[rawdoc! { "_id": 3, "n": 1 }]))
            .await?,
    )?;
    let changed = sink.digest(&names[1]).await?;
    ensure!(
        changed.as_ref() != Some(&first),
        "a changed document leaves the digest at {first}"
    );
    Ok(())
}
