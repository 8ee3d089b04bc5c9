mod bench;
mod refetched;
mod refused;
mod rules;

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{RawBsonRef, rawdoc};
use tokio::time::{advance, sleep, timeout};

use self::bench::Bench;
use super::*;
use crate::engine::messages::ResolveStep;
use crate::sink::SinkCall;
use crate::test_util::at;

const NAME: &str = "shop.orders";

/// Waits for a condition, for at most a minute.
async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), met).await.unwrap();
}

fn key_of(document: &RawDocumentBuf) -> Key {
    Key::of_document(document).unwrap()
}

fn v1(set: RawDocumentBuf) -> Operation {
    Operation::Delta(rawdoc! { "$v": 1, "$set": set })
}

#[tokio::test]
async fn a_replayed_delta_without_its_document_reads_it_again() {
    let replay_until = Position {
        time: u32::MAX,
        ..Position::ZERO
    };
    let bench = Bench::new(replay_until, &[rawdoc! { "_id": 1, "n": 0 }]).await;
    let delta = rawdoc! { "$v": 2, "diff": { "u": { "n": 1 } } };
    let position = bench.source.update(NAME, 1, delta.clone()).unwrap();
    // As left by a run that ended between clearing the document and writing it again.
    bench.write(Operation::Delete, Key::from(RawBsonRef::Int32(1))).await;
    bench.send(vec![(position, 1, Operation::Delta(delta))]).await;
    let (source, sink) = (bench.source.clone(), bench.sink.clone());
    bench.end().await;
    assert_eq!(source.documents(NAME).unwrap(), sink.documents(NAME).unwrap());
}

/// The document is read from the source, so no other applier has to wait for it.
#[tokio::test]
async fn an_ambiguous_change_reads_the_document_from_the_source() {
    let before = rawdoc! { "_id": 1, "x": 1, "x": 2 };
    let mut bench = Bench::new(Position::ZERO, &[before]).await;
    // As a server leaves it after a `$set`.
    let after = rawdoc! { "_id": 1, "x": 3, "x": 2 };
    let position = bench.source.replace(NAME, after.clone()).unwrap();
    let delta = rawdoc! { "$v": 2, "diff": { "u": { "x": 3 } } };
    bench.send(vec![(position, 1, Operation::Delta(delta))]).await;
    assert_eq!(bench.barrier(position).await.stuck.len(), 0);
    assert_eq!(bench.sink.documents(NAME).unwrap(), [after]);
    bench.end().await;
}

#[tokio::test]
async fn moving_unique_values_are_written_in_source_order() {
    let mut bench = Bench::new(
        Position::ZERO,
        &[rawdoc! { "_id": 1, "u": 1 }, rawdoc! { "_id": 2, "u": 2 }],
    )
    .await;
    // The first document takes each value that the second one has just dropped.
    let mut moved = async |value: i32, stuck: usize| {
        let update = |id: i32, value: i32| {
            let set = rawdoc! { "u": value };
            let delta = rawdoc! { "$v": 1, "$set": set.clone() };
            (bench.source.update(NAME, id, delta).unwrap(), id, v1(set))
        };
        let changes = vec![update(2, value + 1), update(1, value)];
        let routed = changes[1].0;
        bench.send(changes).await;
        let reached = bench.barrier(routed).await;
        assert_eq!(reached.stuck.len(), stuck, "{value}");
        for stuck in &reached.stuck {
            assert!(bench.resolve(stuck, ResolveStep::Retry).await);
        }
    };
    moved(2, 1).await;
    moved(3, 0).await;
    moved(4, 0).await;
    bench.end().await;
}

/// A change is applied once the applier has rested, or at once if a barrier follows it.
#[tokio::test(start_paused = true)]
async fn a_applier_rests_after_work_unless_somebody_waits_for_it() {
    let mut bench = Bench::new(Position::ZERO, &[rawdoc! { "_id": 0 }]).await;
    let insert = |id| vec![(at(id as u32), id, Operation::Insert(rawdoc! { "_id": id }))];
    for first in [1, 3] {
        let gate = bench.sink.hold(SinkCall::Apply);
        bench.send(insert(first)).await;
        gate.reached().await;
        advance(Duration::from_secs(1)).await;
        gate.release();
        let rested = Instant::now();
        bench.send(insert(first + 1)).await;
        if first == 3 {
            bench.barrier(at(4)).await;
            assert!(rested.elapsed() < Duration::from_millis(5));
            continue;
        }
        until(|| bench.sink.documents(NAME).unwrap().len() >= 3).await;
        assert!(
            (45..60).contains(&rested.elapsed().as_millis()),
            "{:?}",
            rested.elapsed()
        );
    }
    bench.end().await;
}
