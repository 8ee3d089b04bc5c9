//! What an applier sends and reads if the collection has rules.

use std::collections::BTreeSet;

use bson::doc;
use bson::raw::RawDocument;

use super::*;
use crate::config::OnRuleError;
use crate::model::Namespace;
use crate::report::Events;
use crate::rules::{
    DeltaEffect, FieldRules, Query, RuleError, RuleIdentity, RuleSet, TouchedFields, Transform, Transformed,
};
use crate::runtime::limits::memory::MemoryBudget;
use crate::runtime::shaping::source::{Purpose, ShapedSource};
use crate::sink::{JournalEntry, MemorySink};
use crate::source::{MemorySource, SourceCall};

/// Keeps documents of kind 1.
fn filter() -> Arc<Shaping> {
    let mut rules = RuleSet::default();
    rules
        .filter(NAME, Arc::new(Query::new(doc! { "kind": 1 }).unwrap()))
        .unwrap();
    Arc::new(Shaping::new(rules, OnRuleError::Fail, None, Events::new()))
}

fn insert(id: i32, kind: i32) -> Operation {
    Operation::Insert(rawdoc! { "_id": id, "kind": kind })
}

fn delta() -> Operation {
    Operation::Delta(rawdoc! { "$v": 2, "diff": { "i": { "n": 1 } } })
}

/// Writes that a source makes to a document that is left out, and to others. Returns what is sent for them.
async fn sent(replay_until: Position) -> BTreeSet<String> {
    let existing = [rawdoc! { "_id": 1, "kind": 1 }, rawdoc! { "_id": 6, "kind": 1 }];
    let bench = Bench::with(filter(), 1 << 20, replay_until, &existing).await;
    let before = bench.sink.journal().len();
    let writes = [
        (2, insert(2, 0)),
        (2, delta()),
        (3, insert(3, 0)),
        (3, Operation::Replace(rawdoc! { "_id": 3, "kind": 2 })),
        (3, Operation::Delete),
        (4, insert(4, 0)),
        (4, Operation::Delete),
        (4, insert(4, 1)),
        (4, delta()),
        (1, Operation::Delete),
        (1, insert(1, 0)),
        (5, insert(5, 0)),
        (5, Operation::Replace(rawdoc! { "_id": 5, "kind": 1 })),
        (5, Operation::Delete),
        (6, Operation::Replace(rawdoc! { "_id": 6, "kind": 0 })),
    ];
    let changes = writes.into_iter().enumerate();
    let changes = changes.map(|(index, (id, operation))| (at(10 + index as u32), id, operation));
    bench.send(changes.collect()).await;
    let sink = bench.sink.clone();
    bench.end().await;
    let kept = sink.documents(NAME).unwrap();
    assert_eq!(kept, [rawdoc! { "_id": 4, "kind": 1, "n": 1 }]);
    written(&sink, before)
        .iter()
        .map(|write| {
            let id = write.key.to_bson_ref().unwrap().as_i32().unwrap();
            format!("{id} {}", kind_of(&write.operation))
        })
        .collect()
}

/// What was written after so many entries of the journal.
fn written(sink: &MemorySink, before: usize) -> Vec<Write> {
    let entries = sink.journal().split_off(before).into_iter();
    let writes = entries.filter_map(|entry| match entry {
        JournalEntry::Applied { write, .. } => Some(write),
        _ => None,
    });
    writes.collect()
}

fn kind_of(operation: &Operation) -> &'static str {
    match operation {
        Operation::Insert(_) => "insert",
        Operation::Replace(_) => "replace",
        Operation::Delta(_) => "delta",
        Operation::Delete => "delete",
    }
}

#[tokio::test]
async fn nothing_is_sent_for_documents_that_were_never_there() {
    assert_eq!(
        sent(Position::ZERO).await,
        ["1 delete", "4 insert", "5 delete", "6 delete"]
            .map(String::from)
            .into()
    );
}

/// An earlier run may have written what a document became later.
#[tokio::test]
async fn left_out_documents_are_deleted_when_changes_are_replayed() {
    let all = ["1 delete", "2 delete", "3 delete", "4 replace", "5 delete", "6 delete"];
    assert_eq!(sent(at(1_000)).await, all.map(String::from).into());
}

#[tokio::test]
async fn images_are_read_while_others_are_written() {
    let (bench, changes) = changed_kinds(300).await;
    let gate = bench.sink.hold(SinkCall::Apply);
    bench.send(changes).await;
    gate.reached().await;
    until(|| bench.source.calls(SourceCall::ReadDocuments) >= 2).await;
    gate.release();
    let sink = bench.sink.clone();
    bench.end().await;
    assert_eq!(sink.documents(NAME).unwrap().len(), 0);
}

/// A document that is refetched has its newest state. An image of an earlier position must not replace it.
#[tokio::test]
async fn no_image_is_written_over_a_refetched_document() {
    let documents = [rawdoc! { "_id": 1, "kind": 0 }, rawdoc! { "_id": 2, "kind": 1 }];
    let mut bench = Bench::with(filter(), 1 << 20, at(u32::MAX), &documents).await;
    let sets = [
        (1, rawdoc! { "n": 1 }),
        (1, rawdoc! { "kind": 1 }),
        (2, rawdoc! { "n": 1 }),
        (1, rawdoc! { "n": 2 }),
    ];
    let mut changes = Vec::new();
    for (id, set) in sets {
        let delta = rawdoc! { "$v": 1, "$set": set.clone() };
        changes.push((bench.source.update(NAME, id, delta).unwrap(), id, v1(set)));
    }
    let later = changes.split_off(3);
    let routed = changes[2].0;
    bench.send(changes).await;
    bench.barrier(routed).await;
    bench.send(later).await;
    let sink = bench.sink.clone();
    bench.end().await;
    let expected = [
        rawdoc! { "_id": 1, "kind": 1, "n": 2 },
        rawdoc! { "_id": 2, "kind": 1, "n": 1 },
    ];
    assert_eq!(sink.documents(NAME).unwrap(), expected);
}

/// To a collation, the target's document of another `_id` may be the same.
#[tokio::test]
async fn left_out_documents_are_deleted_under_a_collation() {
    let mut bench = Bench::with(filter(), 1 << 20, Position::ZERO, &[rawdoc! { "_id": 1, "kind": 1 }]).await;
    let before = bench.sink.journal().len();
    bench.target = Arc::new(CollectionMapping {
        id: bench.target.id,
        namespace: bench.target.namespace.clone(),
        target: bench.target.target.clone(),
        kind: CollectionKind::Unordered,
    });
    let document = rawdoc! { "_id": "a", "kind": 0 };
    let key = key_of(&document);
    let write = Write {
        key: key.clone(),
        operation: Operation::Insert(document),
    };
    let permit = MemoryBudget::new(1).take(1).await.unwrap();
    let changes = vec![Routed {
        target: Arc::clone(&bench.target),
        position: at(10),
        write,
    }];
    bench
        .message(ApplierMessage::Changes {
            changes,
            bytes: 1,
            permit,
        })
        .await;
    let sink = bench.sink.clone();
    bench.end().await;
    let written: Vec<_> = written(&sink, before)
        .into_iter()
        .map(|write| (write.key, kind_of(&write.operation)))
        .collect();
    assert_eq!(written, [(key, "delete")]);
}

/// Fails for documents that are not of kind 1, and promises that deltas of other fields change nothing of that.
struct Failing;

impl Transform for Failing {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("failing", "1")
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> std::result::Result<Transformed, RuleError> {
        match document.get_i32("kind") {
            Ok(1) => Ok(Transformed::Keep),
            _ => Err(RuleError::failed("another kind")),
        }
    }

    fn delta(&self, _: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        match touched.iter().any(|field| field == "kind") {
            true => DeltaEffect::Image,
            false => DeltaEffect::Forward,
        }
    }
}

/// A rule may have a result for it by now, and its letter has what it was.
#[tokio::test]
async fn a_new_document_that_failed_is_read_when_it_changes() {
    let mut rules = RuleSet::default();
    rules.transform(NAME, Arc::new(Failing)).unwrap();
    let shaping = Arc::new(Shaping::new(rules, OnRuleError::Skip, None, Events::new()));
    let bench = Bench::with(shaping, 1 << 20, Position::ZERO, &[rawdoc! { "_id": 1, "kind": 1 }]).await;
    let document = rawdoc! { "_id": 2, "kind": 0 };
    let inserted = bench.source.insert(NAME, document.clone()).unwrap();
    let Operation::Delta(change) = delta() else { return };
    let changed = bench.source.update(NAME, 2, change).unwrap();
    let changes = vec![(inserted, 2, Operation::Insert(document)), (changed, 2, delta())];
    bench.send(changes).await;
    let source = bench.source.clone();
    bench.end().await;
    assert_eq!(source.calls(SourceCall::ReadDocuments), 1);
}

#[tokio::test]
async fn deltas_are_applied_without_removed_fields() {
    let mut rules = RuleSet::default();
    let drops = FieldRules::builder("drops", "1").drop("secret").build().unwrap();
    rules.transform(NAME, Arc::new(drops)).unwrap();
    let shaping = Arc::new(Shaping::new(rules, OnRuleError::Fail, None, Events::new()));
    let bench = Bench::with(shaping, 1 << 20, Position::ZERO, &[rawdoc! { "_id": 1, "n": 0 }]).await;
    let before = bench.sink.journal().len();
    let both = rawdoc! { "$v": 2, "diff": { "u": { "n": 1 }, "i": { "secret": 1 } } };
    let only = rawdoc! { "$v": 2, "diff": { "u": { "secret": 2 } } };
    bench
        .send(vec![
            (at(10), 1, Operation::Delta(both)),
            (at(11), 1, Operation::Delta(only)),
        ])
        .await;
    let (source, sink) = (bench.source.clone(), bench.sink.clone());
    bench.end().await;
    assert_eq!(sink.documents(NAME).unwrap(), [rawdoc! { "_id": 1, "n": 1 }]);
    let rest = rawdoc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    let written = written(&sink, before);
    assert!(
        matches!(&*written, [Write { operation: Operation::Delta(delta), .. }] if *delta == rest),
        "{written:?}"
    );
    assert_eq!(source.calls(SourceCall::ReadDocuments), 0);
}

/// Changes documents of kind 1 so that the filter leaves them out, each by an update whose document has to be read.
async fn changed_kinds(count: i32) -> (Bench, Vec<(Position, i32, Operation)>) {
    let documents: Vec<RawDocumentBuf> = (0..count).map(|id| rawdoc! { "_id": id, "kind": 1 }).collect();
    let bench = Bench::with(filter(), 1 << 20, Position::ZERO, &documents).await;
    let set = rawdoc! { "kind": 0 };
    let mut changes = Vec::new();
    for id in 0..count {
        let delta = rawdoc! { "$v": 1, "$set": set.clone() };
        changes.push((bench.source.update(NAME, id, delta).unwrap(), id, v1(set.clone())));
    }
    (bench, changes)
}

#[tokio::test]
async fn images_that_cannot_be_written_end_the_applier() {
    let (bench, changes) = changed_kinds(300).await;
    let error = Error::new(ErrorKind::Connection, "apply", "the target does not answer");
    bench.sink.fail_next(SinkCall::Apply, error);
    bench.send(changes).await;
    let ended = timeout(Duration::from_secs(60), bench.applier).await;
    assert_eq!(ended.unwrap().unwrap().unwrap_err().kind(), ErrorKind::Connection);
}

#[tokio::test]
async fn images_without_a_snapshot_are_refetched() {
    let (bench, changes) = changed_kinds(1200).await;
    let reading = bench.source.hold(SourceCall::ReadDocuments);
    bench.send(changes).await;
    reading.reached().await;
    reading.let_one_pass();
    // The second read, of documents that are not the last ones, has no snapshot.
    until(|| bench.sink.documents(NAME).unwrap().len() < 1200 && reading.waiting() > 0).await;
    bench.source.set_snapshots(false);
    reading.release();
    let sink = bench.sink.clone();
    bench.end().await;
    assert_eq!(sink.documents(NAME).unwrap().len(), 0);
}

/// The source that an applier reads from.
pub(super) fn shaped(source: &MemorySource, shaping: &Arc<Shaping>) -> Arc<dyn Source> {
    let shaped = ShapedSource::new(Arc::new(source.clone()), Arc::clone(shaping), Purpose::Write);
    Arc::new(crate::model::Layered(shaped))
}
