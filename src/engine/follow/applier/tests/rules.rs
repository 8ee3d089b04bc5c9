//! What an applier sends and reads if the collection has rules.

use std::collections::BTreeSet;

use bson::doc;

use super::*;
use crate::config::OnRuleError;
use crate::rules::{Query, RuleSet};
use crate::runtime::shaping::source::{Purpose, ShapedSource};
use crate::sink::JournalEntry;
use crate::source::SourceCall;

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
    let bench = Bench::with(filter(), 1 << 20, replay_until, &[rawdoc! { "_id": 1, "kind": 1 }]).await;
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
    ];
    let changes = writes.into_iter().enumerate();
    let changes = changes.map(|(index, (id, operation))| (at(10 + index as u32), id, operation));
    bench.send(changes.collect()).await;
    let sink = bench.sink.clone();
    bench.end().await;
    let kept = sink.documents(NAME).unwrap();
    assert_eq!(kept, [rawdoc! { "_id": 4, "kind": 1, "n": 1 }]);
    let written = sink.journal().split_off(before);
    let written = written.into_iter().filter_map(|entry| match entry {
        JournalEntry::Applied { write, .. } => {
            let id = write.key.to_bson_ref().unwrap().as_i32().unwrap();
            Some(format!("{id} {}", kind_of(&write.operation)))
        }
        _ => None,
    });
    written.collect()
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
        ["1 delete", "4 insert", "5 delete"].map(String::from).into()
    );
}

/// An earlier run may have written what a document became later.
#[tokio::test]
async fn left_out_documents_are_deleted_when_changes_are_replayed() {
    let all = ["1 delete", "2 delete", "3 delete", "4 replace", "5 delete"];
    assert_eq!(sent(at(1_000)).await, all.map(String::from).into());
}

#[tokio::test]
async fn images_are_read_while_others_are_written() {
    let documents: Vec<RawDocumentBuf> = (0..300).map(|id| rawdoc! { "_id": id, "kind": 1 }).collect();
    let bench = Bench::with(filter(), 1 << 20, Position::ZERO, &documents).await;
    let set = rawdoc! { "kind": 0 };
    let mut changes = Vec::new();
    for id in 0..300 {
        let delta = rawdoc! { "$v": 1, "$set": set.clone() };
        changes.push((bench.source.update(NAME, id, delta).unwrap(), id, v1(set.clone())));
    }
    let gate = bench.sink.hold(SinkCall::Apply);
    bench.send(changes).await;
    gate.reached().await;
    let read = async {
        while bench.source.calls(SourceCall::ReadDocuments) < 2 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
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

/// The source that an applier reads from.
pub(super) fn shaped(source: &MemorySource, shaping: &Arc<Shaping>) -> Arc<dyn Source> {
    let shaped = ShapedSource::new(Arc::new(source.clone()), Arc::clone(shaping), Purpose::Write);
    Arc::new(crate::model::Layered(shaped))
}
