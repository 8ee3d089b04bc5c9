//! Checks of reads of ranges and documents at a position.

use bson::raw::{RawBson, RawDocumentBuf};
use bson::rawdoc;
use futures::StreamExt;

use super::data::{awkward_documents, drain, ensure_same, filled, key, mixed_ids, namespace, number, sorted};
use super::source_catalog::split;
use super::{ConformanceFailure, FixtureWrite, Found, Outcome, SourceFixture, check, ensure};
use crate::error::{ErrorKind, Result};
use crate::model::{CollectionKind, Namespace, Position, Range};
use crate::order::Key;
use crate::source::{PointRequest, ReadMode, ReadRequest, Source};

pub(super) async fn run(fixture: &dyn SourceFixture) -> std::result::Result<(), ConformanceFailure> {
    check(
        "a split cuts a collection into ranges of about the size",
        split(fixture),
    )
    .await?;
    check("documents are read byte for byte", bytes(fixture)).await?;
    check(
        "ranges take in their upper end, leave out their lower, and follow the order of `_id`",
        ranges(fixture),
    )
    .await?;
    check("a capped collection is read in natural order", natural(fixture)).await?;
    check("batches have about the size that is asked for", batches(fixture)).await?;
    check("a snapshot is exactly of its position", snapshot(fixture)).await?;
    check(
        "a snapshot that cannot be given is refused as such",
        unavailable(fixture),
    )
    .await?;
    check(
        "an interval read sees each document at its position or later",
        interval(fixture),
    )
    .await?;
    check("documents are read by `_id` as of their position", points(fixture)).await?;
    check("a digest is equal for equal data only", digest(fixture)).await
}

fn request(namespace: &Namespace, at: Position, mode: ReadMode) -> ReadRequest {
    ReadRequest {
        namespace: namespace.clone(),
        kind: CollectionKind::Plain,
        range: Range::FULL,
        at,
        mode,
        batch_bytes: 1 << 20,
        document_bytes: 0,
    }
}

async fn all(source: &dyn Source, request: ReadRequest) -> Result<Vec<RawDocumentBuf>> {
    Ok(drain(source.read(request).await).await?.0)
}

/// The modes in which the source must be able to read.
fn modes(fixture: &dyn SourceFixture) -> &'static [ReadMode] {
    if fixture.has_snapshots() {
        &[ReadMode::Interval, ReadMode::Snapshot]
    } else {
        &[ReadMode::Interval]
    }
}

async fn bytes(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("awkward");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let documents = awkward_documents();
    fixture
        .write(&name, documents.iter().cloned().map(FixtureWrite::Insert).collect())
        .await?;
    let at = source.position().await?;
    let expected = sorted(documents);
    let keys: Vec<_> = expected
        .iter()
        .filter_map(|document| Key::of_document(document))
        .collect();
    for mode in modes(fixture).iter().copied() {
        ensure_same("read", &all(source, request(&name, at, mode)).await?, &expected)?;
        let point = PointRequest {
            namespace: &name,
            keys: &keys,
            at,
            mode,
        };
        ensure_same("read by `_id`", &sorted(source.read_documents(point).await?), &expected)?;
    }
    Ok(())
}

async fn ranges(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("ranges");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let ids = mixed_ids();
    // Written in an order other than that of `_id`.
    let writes = ids
        .iter()
        .rev()
        .map(|id| FixtureWrite::Insert(rawdoc! { "_id": id.clone() }));
    fixture.write(&name, writes.collect()).await?;
    let at = source.position().await?;
    let keys: Vec<_> = ids.into_iter().map(key).collect();
    ensure!(
        keys.is_sorted(),
        "the suite's values are not in the order that this crate knows"
    );
    let ends: Vec<_> = [None].into_iter().chain(keys.iter().step_by(3).map(Some)).collect();
    for mode in modes(fixture).iter().copied() {
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
                let read = all(
                    source,
                    ReadRequest {
                        range: range.clone(),
                        ..request(&name, at, mode)
                    },
                )
                .await?;
                let found: Vec<_> = read.iter().filter_map(|document| Key::of_document(document)).collect();
                ensure!(
                    found == expected,
                    "the range {range:?} reads as {found:?}, not {expected:?}"
                );
            }
        }
    }
    Ok(())
}

async fn natural(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("natural");
    fixture
        .create_collection(&name, rawdoc! { "capped": true, "size": 1_048_576 })
        .await?;
    let documents: Vec<_> = [5, 3, 9, 1, 7, 2, 8, 0].into_iter().map(|id| filled(id, 10)).collect();
    fixture
        .write(&name, documents.iter().cloned().map(FixtureWrite::Insert).collect())
        .await?;
    let request = ReadRequest {
        kind: CollectionKind::Capped,
        ..request(&name, source.position().await?, ReadMode::Interval)
    };
    ensure_same("read in natural order", &all(source, request).await?, &documents)
}

async fn batches(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("batches");
    fixture.create_collection(&name, rawdoc! {}).await?;
    fixture
        .write(
            &name,
            (0..300).map(|id| FixtureWrite::Insert(filled(id, 1000))).collect(),
        )
        .await?;
    let at = source.position().await?;
    for mode in modes(fixture).iter().copied() {
        let request = ReadRequest {
            batch_bytes: 20_000,
            document_bytes: 1030,
            ..request(&name, at, mode)
        };
        let (documents, largest) = drain(source.read(request).await).await?;
        ensure!(documents.len() == 300, "{} of 300 documents were read", documents.len());
        ensure!(
            largest <= 80_000,
            "a batch that should have about 20 kB has {largest} bytes"
        );
    }
    Ok(())
}

/// Updates, deletes and replaces documents with `_id`s from 0 to 99, and inserts new ones.
fn rewritten() -> Vec<FixtureWrite> {
    let mut writes: Vec<_> = (0..100)
        .map(|id| match id % 4 {
            0 => FixtureWrite::Set {
                id: RawBson::Int32(id),
                field: "n",
                value: 1,
            },
            1 => FixtureWrite::Delete { id: RawBson::Int32(id) },
            2 => FixtureWrite::Replace(rawdoc! { "_id": id, "n": 2 }),
            _ => FixtureWrite::Set {
                id: RawBson::Int32(id),
                field: "added",
                value: 1,
            },
        })
        .collect();
    writes.extend((100..120).map(|id| FixtureWrite::Insert(filled(id, 100))));
    writes
}

async fn snapshot(fixture: &dyn SourceFixture) -> Outcome {
    if !fixture.has_snapshots() {
        return Ok(());
    }
    let source = fixture.source();
    let name = namespace("snapshot");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let documents: Vec<_> = (0..100).map(|id| filled(id, 1000)).collect();
    fixture
        .write(&name, documents.iter().cloned().map(FixtureWrite::Insert).collect())
        .await?;
    let at = source.position().await?;
    let request = ReadRequest {
        batch_bytes: 10_000,
        document_bytes: 1030,
        ..request(&name, at, ReadMode::Snapshot)
    };
    // One read is in progress while everything changes; another one begins afterwards.
    let mut under_way = source.read(request.clone()).await?;
    let first = under_way
        .next()
        .await
        .ok_or_else(|| Found("the read is empty".to_owned()))??;
    fixture.write(&name, rewritten()).await?;
    let mut seen: Vec<_> = first.iter().map(ToOwned::to_owned).collect();
    seen.extend(drain(Ok(under_way)).await?.0);
    ensure_same("a snapshot that changes overtook", &seen, &documents)?;
    ensure_same("a snapshot of the past", &all(source, request).await?, &documents)
}

async fn unavailable(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("unavailable");
    fixture.create_collection(&name, rawdoc! {}).await?;
    fixture.write(&name, vec![FixtureWrite::Insert(filled(0, 1))]).await?;
    let newest = source.position().await?;
    let ancient = Position {
        time: newest.time.saturating_sub(1_000_000),
        ..newest
    };
    let keys = [key(0)];
    let point = PointRequest {
        namespace: &name,
        keys: &keys,
        at: ancient,
        mode: ReadMode::Snapshot,
    };
    let answers = [
        all(source, request(&name, ancient, ReadMode::Snapshot)).await,
        source.read_documents(point).await,
    ];
    for answer in answers {
        match answer {
            // A source may still know that the collection was empty then.
            Ok(documents) => ensure!(documents.is_empty(), "{documents:?} did not exist at {ancient}"),
            Err(error) => ensure!(
                error.kind() == ErrorKind::SnapshotUnavailable && error.is_retryable() == fixture.has_snapshots(),
                "a read at {ancient} failed with {error:?}, not as an unavailable snapshot"
            ),
        }
    }
    Ok(())
}

async fn interval(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("interval");
    fixture.create_collection(&name, rawdoc! {}).await?;
    fixture
        .write(
            &name,
            (0..110).map(|id| FixtureWrite::Insert(filled(id, 1000))).collect(),
        )
        .await?;
    let set = |id: i32, value: i32| FixtureWrite::Set {
        id: RawBson::Int32(id),
        field: "n",
        value,
    };
    // Before the position, everything is set to 1, and the last ten documents are deleted.
    let mut writes: Vec<_> = (0..100).map(|id| set(id, 1)).collect();
    writes.extend((100..110).map(|id| FixtureWrite::Delete { id: RawBson::Int32(id) }));
    fixture.write(&name, writes).await?;
    let at = source.position().await?;
    // Between the position and the read, the first half is set to 2.
    fixture.write(&name, (0..50).map(|id| set(id, 2)).collect()).await?;
    let request = ReadRequest {
        batch_bytes: 10_000,
        document_bytes: 1030,
        ..request(&name, at, ReadMode::Interval)
    };
    let mut under_way = source.read(request).await?;
    let first = under_way
        .next()
        .await
        .ok_or_else(|| Found("the read is empty".to_owned()))??;
    // During the read, the second half is set to 3.
    fixture.write(&name, (50..100).map(|id| set(id, 3)).collect()).await?;
    let mut seen: Vec<_> = first.iter().map(ToOwned::to_owned).collect();
    seen.extend(drain(Ok(under_way)).await?.0);
    ensure!(seen.len() == 100, "{} documents were read, not 100", seen.len());
    for (id, document) in (0..).zip(&seen) {
        let (found, value) = (number(document, "_id")?, number(document, "n")?);
        let possible = if id < 50 { [1, 2] } else { [1, 3] };
        ensure!(found == id, "the document {found} was read in the place of {id}");
        ensure!(
            possible.contains(&value),
            "the document {id} was read with {value}, which it never was since {at}"
        );
    }
    Ok(())
}

async fn points(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("points");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let documents: Vec<_> = (0..100).map(|id| filled(id, 100)).collect();
    fixture
        .write(&name, documents.iter().cloned().map(FixtureWrite::Insert).collect())
        .await?;
    let before = source.position().await?;
    fixture.write(&name, rewritten()).await?;
    let after = source.position().await?;
    let keys: Vec<_> = (0..130).step_by(7).map(key).collect();
    let point = |keys, at, mode| PointRequest {
        namespace: &name,
        keys,
        at,
        mode,
    };
    if fixture.has_snapshots() {
        let expected: Vec<_> = documents.iter().step_by(7).cloned().collect();
        let found = source.read_documents(point(&keys, before, ReadMode::Snapshot)).await?;
        ensure_same("read by `_id` in the past", &sorted(found), &expected)?;
    }
    let now = all(source, request(&name, after, ReadMode::Interval)).await?;
    let expected: Vec<_> = now
        .into_iter()
        .filter(|document| Key::of_document(document).is_some_and(|key| keys.contains(&key)))
        .collect();
    let found = source.read_documents(point(&keys, after, ReadMode::Interval)).await?;
    ensure_same("read by `_id`", &sorted(found), &expected)?;
    let none = source.read_documents(point(&[], after, ReadMode::Interval)).await?;
    ensure!(none.is_empty(), "no `_id` was asked for, and {none:?} was given");
    Ok(())
}

async fn digest(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let names = [namespace("digest_a"), namespace("digest_b")];
    for (place, name) in names.iter().enumerate() {
        fixture.create_collection(name, rawdoc! {}).await?;
        let mut writes: Vec<_> = (0..20).map(|id| FixtureWrite::Insert(filled(id, 10))).collect();
        if place == 1 {
            writes.reverse();
        }
        fixture.write(name, writes).await?;
    }
    let (Some(first), Some(second)) = (source.digest(&names[0]).await?, source.digest(&names[1]).await?) else {
        return Ok(());
    };
    ensure!(first == second, "equal data have the digests {first} and {second}");
    let write = FixtureWrite::Set {
        id: RawBson::Int32(3),
        field: "n",
        value: 1,
    };
    fixture.write(&names[1], vec![write]).await?;
    let changed = source.digest(&names[1]).await?;
    ensure!(
        changed.as_ref() != Some(&first),
        "a changed document leaves the digest at {first}"
    );
    Ok(())
}
