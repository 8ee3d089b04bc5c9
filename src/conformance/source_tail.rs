//! Checks of a source's positions and history.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::raw::{RawBson, RawDocumentBuf};
use bson::rawdoc;
use futures::{FutureExt, StreamExt};

use super::data::{drain, ensure_same, filled, find, key, namespace};
use super::{ConformanceFailure, FixtureWrite, Found, Outcome, SourceFixture, check, ensure};
use crate::error::{Error, ErrorKind};
use crate::model::{Change, CollectionKind, Namespace, Operation, Position, Range};
use crate::oplog::{CommandOperation, Entry, Item, delta};
use crate::order::Key;
use crate::source::{ReadMode, ReadRequest, Source};

/// Maximum time until a tail has caught up. The contract says "within seconds"; this leaves room for a busy machine.
const SECONDS: Duration = Duration::from_secs(30);

pub(super) async fn run(fixture: &dyn SourceFixture) -> Result<(), ConformanceFailure> {
    check(
        "the position never goes backwards and follows writes",
        positions(fixture),
    )
    .await?;
    check("a sentinel is at or after every write before it", sentinel(fixture)).await?;
    check(
        "a read position is at or after what reads have shown",
        read_position(fixture),
    )
    .await?;
    check("a tail yields every entry in order without a gap", complete(fixture)).await?;
    check("a tail goes on from every resume position", resumed(fixture)).await?;
    check("a transaction is one entry at one position", transaction(fixture)).await?;
    check(
        "a tail waits for what comes and loses nothing when its futures are dropped",
        waiting(fixture),
    )
    .await?;
    check("the tail of an idle source reaches the newest position", idle(fixture)).await?;
    check("changes to the catalog are in the history", commands(fixture)).await?;
    check("a position that the history does not hold is lost", lost(fixture)).await
}

async fn positions(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("positions");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let mut last = source.position().await?;
    for id in 0..20 {
        fixture.write(&name, vec![FixtureWrite::Insert(filled(id, 1))]).await?;
        let position = source.position().await?;
        ensure!(
            position > last,
            "the position was {last} before a write and {position} after it"
        );
        last = position;
    }
    let (oldest, start) = (source.oldest_position().await?, source.start_position().await?);
    let newest = source.position().await?;
    ensure!(
        oldest <= start,
        "the oldest position {oldest} is after the start position {start}"
    );
    ensure!(
        start <= newest,
        "the start position {start} is after the newest {newest}"
    );
    for position in [oldest, start, newest] {
        let mut tail = source.tail(position).await?;
        if let Some(Some(Err(error))) = tail.next().now_or_never() {
            return Err(Found(format!("a tail cannot start after {position}: {error:#}")));
        }
    }
    Ok(())
}

async fn sentinel(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("sentinel");
    fixture.create_collection(&name, rawdoc! {}).await?;
    for id in 0..10 {
        let before = source.position().await?;
        let write = vec![FixtureWrite::Insert(filled(id, 1))];
        fixture.write(&name, write.clone()).await?;
        let sentinel = source.sentinel().await?;
        let position = source.position().await?;
        ensure!(
            sentinel <= position,
            "the sentinel {sentinel} was given before it was committed: the position is {position}"
        );
        let entries = follow(source, before, sentinel).await?;
        ensure_writes(changes(&entries, &name), &write)?;
    }
    Ok(())
}

async fn read_position(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("read_position");
    fixture.create_collection(&name, rawdoc! {}).await?;
    for id in 0..10 {
        let before = source.position().await?;
        let write = vec![FixtureWrite::Insert(filled(id, 1))];
        fixture.write(&name, write.clone()).await?;
        source.collections().await?;
        let shown = source.read_position().await?;
        let position = source.position().await?;
        ensure!(
            shown <= position,
            "the read position {shown} was given before it was committed: the position is {position}"
        );
        let entries = follow(source, before, shown).await?;
        ensure_writes(changes(&entries, &name), &write)?;
    }
    Ok(())
}

/// Writes of every kind, some of them to the same documents.
fn writes() -> Vec<FixtureWrite> {
    let set = |id: i32, field, value| FixtureWrite::Set {
        id: RawBson::Int32(id),
        field,
        value,
    };
    let mut writes: Vec<_> = (0..60).map(|id| FixtureWrite::Insert(filled(id, 20))).collect();
    writes.extend((0..60).map(|id| set(id, "n", id + 1)));
    writes.extend((0..60).step_by(2).map(|id| set(id, "added", id)));
    writes.extend(
        (0..60)
            .step_by(3)
            .map(|id| FixtureWrite::Replace(rawdoc! { "_id": id, "z": 1, "a": 2 })),
    );
    writes.extend(
        (0..60)
            .step_by(5)
            .map(|id| FixtureWrite::Delete { id: RawBson::Int32(id) }),
    );
    writes.extend(
        (0..60)
            .step_by(10)
            .map(|id| FixtureWrite::Insert(rawdoc! { "_id": id, "again": true })),
    );
    writes
}

/// Returns what a tail yields up to a position, and checks what must hold for every tail.
async fn follow(source: &dyn Source, after: Position, until: Position) -> Outcome<Vec<Entry>> {
    let mut tail = source.tail(after).await?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut last = after;
    while last < until {
        let next = tokio::time::timeout(SECONDS, tail.next()).await;
        let next = next.map_err(|_| Found(format!("the tail is at {last} and does not reach {until}")))?;
        let yielded = next.ok_or_else(|| Found("the tail ended without an error".to_owned()))??;
        ensure!(!yielded.is_empty(), "the tail yielded no entry");
        for entry in yielded {
            let position = entry.position;
            ensure!(position > last, "{position} was yielded after {last}");
            ensure!(
                entry.resume <= position,
                "{position} resumes at {}, after itself",
                entry.resume
            );
            for item in &entry.items {
                let own = match item {
                    Item::Change(change) => change.position,
                    Item::Command(command) => command.position,
                };
                ensure!(
                    own == position,
                    "an item of the entry {position} has the position {own}"
                );
            }
            last = position;
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn changes<'a>(entries: &'a [Entry], namespace: &'a Namespace) -> impl Iterator<Item = &'a Change> {
    entries
        .iter()
        .flat_map(|entry| &entry.items)
        .filter_map(move |item| match item {
            Item::Change(change) if *change.namespace == *namespace => Some(change),
            _ => None,
        })
}

/// Describes a change as text, for comparison with what was written.
fn shown(change: &Change) -> String {
    let operation = match &change.write.operation {
        Operation::Insert(_) => "insert",
        Operation::Replace(_) => "replace",
        Operation::Delta(_) => "update",
        Operation::Delete => "delete",
    };
    format!("{operation} {:?}", change.write.key)
}

fn expected(write: &FixtureWrite) -> String {
    let of = |document: &RawDocumentBuf| Key::of_document(document).unwrap_or_else(|| key(RawBson::Null));
    match write {
        FixtureWrite::Insert(document) => format!("insert {:?}", of(document)),
        FixtureWrite::Replace(document) => format!("replace {:?}", of(document)),
        FixtureWrite::Set { id, .. } => format!("update {:?}", key(id.clone())),
        FixtureWrite::Delete { id } => format!("delete {:?}", key(id.clone())),
    }
}

fn ensure_writes<'a>(changes: impl Iterator<Item = &'a Change>, writes: &[FixtureWrite]) -> Outcome {
    let found: Vec<_> = changes.map(shown).collect();
    let expected: Vec<_> = writes.iter().map(expected).collect();
    let differs = found
        .iter()
        .zip(&expected)
        .position(|(found, expected)| found != expected);
    ensure!(
        found == expected,
        "{} writes became {} changes; they differ from write {:?} on: {:?}, not {:?}",
        expected.len(),
        found.len(),
        differs,
        differs.map(|at| &found[at]),
        differs.map(|at| &expected[at])
    );
    Ok(())
}

async fn complete(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("history");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let id = find(&source.collections().await?, &name)?.id;
    let after = source.position().await?;
    let writes = writes();
    fixture.write(&name, writes.clone()).await?;
    let until = source.position().await?;
    let entries = follow(source, after, until).await?;
    ensure_writes(changes(&entries, &name), &writes)?;

    // Replaying the history gives the documents that the source has, byte for byte.
    let mut documents: BTreeMap<Key, RawDocumentBuf> = BTreeMap::new();
    for change in changes(&entries, &name) {
        ensure!(
            change.collection == id,
            "a change names the collection {}, not {id}",
            change.collection
        );
        let write = &change.write;
        match &write.operation {
            Operation::Insert(document) | Operation::Replace(document) => {
                ensure!(
                    Key::of_document(document).as_ref() == Some(&write.key),
                    "the key {:?} is not that of {document:?}",
                    write.key
                );
                documents.insert(write.key.clone(), document.clone());
            }
            Operation::Delta(change) => {
                let before = documents.get(&write.key);
                let before =
                    before.ok_or_else(|| Found(format!("{:?} was updated before it was inserted", write.key)))?;
                let updated = delta::apply(before, change)
                    .map_err(|error| Found(format!("{change:?} does not apply: {error}")))?;
                documents.insert(write.key.clone(), updated);
            }
            Operation::Delete => {
                documents.remove(&write.key);
            }
        }
    }
    let request = ReadRequest {
        namespace: name,
        kind: CollectionKind::Plain,
        range: Range::FULL,
        at: until,
        mode: ReadMode::Interval,
        batch_bytes: 1 << 20,
        document_bytes: 0,
    };
    let (read, _) = drain(source.read(request).await).await?;
    let replayed: Vec<_> = documents.into_values().collect();
    ensure_same("the replayed history", &replayed, &read)
}

async fn resumed(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("resumed");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let after = source.position().await?;
    let writes: Vec<_> = (0..30).map(|id| FixtureWrite::Insert(filled(id, 1))).collect();
    fixture.write(&name, writes[..20].to_vec()).await?;
    fixture.transaction(&name, writes[20..].to_vec()).await?;
    let until = source.position().await?;
    let entries = follow(source, after, until).await?;
    ensure_writes(changes(&entries, &name), &writes)?;
    for (place, entry) in entries.iter().enumerate().step_by(4) {
        let again = follow(source, entry.resume, until).await?;
        let rest: Vec<_> = again
            .into_iter()
            .filter(|other| other.position > entry.position)
            .collect();
        let missing = entries[place + 1..]
            .iter()
            .zip(&rest)
            .find(|(first, second)| first.position != second.position);
        ensure!(
            missing.is_none() && rest.len() == entries.len() - place - 1,
            "a tail resumed at {} yields {} of {} entries, and first differs at {:?}",
            entry.resume,
            rest.len(),
            entries.len() - place - 1,
            missing.map(|(first, _)| first.position)
        );
        let count = changes(&entries[place + 1..], &name).count();
        let seen = changes(&rest, &name).count();
        ensure!(
            seen == count,
            "a tail resumed at {} yields {seen} of {count} changes",
            entry.resume
        );
    }
    Ok(())
}

async fn transaction(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("transaction");
    fixture.create_collection(&name, rawdoc! {}).await?;
    fixture
        .write(
            &name,
            vec![FixtureWrite::Insert(filled(0, 1)), FixtureWrite::Insert(filled(1, 1))],
        )
        .await?;
    let after = source.position().await?;
    let writes = vec![
        FixtureWrite::Insert(filled(2, 1)),
        FixtureWrite::Set {
            id: RawBson::Int32(0),
            field: "n",
            value: 5,
        },
        FixtureWrite::Delete { id: RawBson::Int32(1) },
        FixtureWrite::Set {
            id: RawBson::Int32(2),
            field: "n",
            value: 6,
        },
    ];
    fixture.transaction(&name, writes.clone()).await?;
    let entries = follow(source, after, source.position().await?).await?;
    ensure_writes(changes(&entries, &name), &writes)?;
    let with_changes = entries
        .iter()
        .filter(|entry| changes(std::slice::from_ref(entry), &name).count() > 0)
        .count();
    ensure!(
        with_changes == 1,
        "the transaction's changes are spread over {with_changes} entries"
    );
    Ok(())
}

async fn waiting(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let name = namespace("waiting");
    fixture.create_collection(&name, rawdoc! {}).await?;
    let mut tail = source.tail(source.position().await?).await?;
    let mut found = 0;
    let mut last = Position::ZERO;
    let mut written = 0;
    let begun = tokio::time::Instant::now();
    while found < 200 {
        if written < 200 {
            fixture
                .write(&name, vec![FixtureWrite::Insert(filled(written, 1))])
                .await?;
            written += 1;
        }
        // Most of these futures are dropped before they are ready.
        let Ok(next) = tokio::time::timeout(Duration::from_micros(200), tail.next()).await else {
            ensure!(
                begun.elapsed() < SECONDS * 2,
                "{found} of {written} writes have arrived after {SECONDS:?}"
            );
            continue;
        };
        let entries = next.ok_or_else(|| Found("the tail ended without an error".to_owned()))??;
        for change in changes(&entries, &name) {
            ensure!(
                change.write.key == key(found),
                "write {found} is missing: {:?} came in its place",
                change.write.key
            );
            ensure!(change.position > last, "{} was yielded after {last}", change.position);
            last = change.position;
            found += 1;
        }
    }
    Ok(())
}

async fn idle(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let after = source.position().await?;
    // The newest position may be that of an entry without effect.
    fixture.create_collection(&namespace("idle"), rawdoc! {}).await?;
    follow(source, after, source.position().await?).await?;
    Ok(())
}

async fn commands(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let (name, renamed) = (namespace("commands"), namespace("commands_renamed"));
    let after = source.position().await?;
    fixture
        .create_collection(&name, rawdoc! { "validator": { "n": { "$gte": 0 } } })
        .await?;
    let id = find(&source.collections().await?, &name)?.id;
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" };
    fixture.create_index(&name, index).await?;
    fixture.write(&name, vec![FixtureWrite::Insert(filled(0, 1))]).await?;
    fixture.rename_collection(&name, &renamed).await?;
    fixture.drop_collection(&renamed).await?;
    let entries = follow(source, after, source.position().await?).await?;
    let mut steps = Vec::new();
    for item in entries.iter().flat_map(|entry| &entry.items) {
        let (collection, step) = match item {
            Item::Change(change) if *change.namespace == name => (Some(change.collection), "write"),
            Item::Change(_) => continue,
            Item::Command(command) => {
                let step = match &command.operation {
                    CommandOperation::Create { namespace, options, .. } if **namespace == name => {
                        let validator = options.get_document("validator")?;
                        ensure!(!validator.is_empty(), "the options of the collection are missing");
                        "create"
                    }
                    CommandOperation::CreateIndexes { namespace, indexes } if **namespace == name => {
                        let found = indexes.first().and_then(|index| index.get_str("name").ok());
                        ensure!(found == Some("n_1"), "the index is logged as {indexes:?}");
                        "index"
                    }
                    CommandOperation::Rename { from, to, dropped } if **from == name => {
                        ensure!(**to == renamed, "the collection was renamed to {to}, not {renamed}");
                        ensure!(dropped.is_none(), "the rename dropped {dropped:?}");
                        "rename"
                    }
                    CommandOperation::Drop { namespace } if **namespace == renamed => "drop",
                    _ => continue,
                };
                (command.collection, step)
            }
        };
        ensure!(
            collection == Some(id),
            "the step {step} names the collection {collection:?}, not {id}"
        );
        steps.push(step);
    }
    ensure!(
        steps == ["create", "index", "write", "rename", "drop"],
        "the history has {steps:?}"
    );
    Ok(())
}

async fn lost(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let newest = source.position().await?;
    let ancient = Position {
        time: 1,
        increment: 1,
        term: newest.term,
    };
    // An entry that was rolled back had the same place in another term.
    let rolled_back = Position {
        term: newest.term + 1,
        ..newest
    };
    let to_come = Position {
        time: newest.time.saturating_add(86_400),
        ..newest
    };
    for position in [Position::ZERO, ancient, rolled_back, to_come] {
        let answer = async {
            let mut tail = source.tail(position).await?;
            tail.next().await.transpose()
        };
        let answer = tokio::time::timeout(SECONDS, answer).await;
        let kind = match &answer {
            Ok(Err(error)) => Some(Error::kind(error)),
            _ => None,
        };
        ensure!(
            kind == Some(ErrorKind::PositionLost),
            "a tail after {position} (the newest is {newest}) should say that the position is lost: {answer:?}"
        );
    }
    Ok(())
}
