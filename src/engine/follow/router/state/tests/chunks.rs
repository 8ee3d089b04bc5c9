//! Chunks: when they are registered, and what is done when they are durable.

use tokio::sync::oneshot;

use super::*;
use crate::engine::messages::Assignment;
use crate::report::Event;
use crate::source::ReadMode;

fn finished(chunk: &Assignment) -> Finished {
    Finished {
        collection: chunk.target.id,
        chunk: chunk.chunk,
        made: None,
        copied: crate::model::Amount::default(),
        last: None,
        repair: false,
        opened: chunk.at,
        high: None,
        refused: Vec::new(),
    }
}

/// Reports a chunk as durable, and returns what is done with the changes held for it, in order.
fn finish(bench: &mut Bench, finished: Finished) -> Vec<String> {
    let (reply, _) = oneshot::channel();
    bench.state.finishing.push((finished, reply));
    bench.state.finish_chunks(&mut bench.actions);
    let mut steps = Vec::new();
    for action in bench.actions.drain(..) {
        if let Action::Replay(replay) = action {
            steps.extend(replayed(*replay));
        }
    }
    steps
}

fn replayed(replay: Replay) -> Vec<String> {
    use futures::FutureExt;
    let mut steps = Vec::new();
    let mut rules = replay.rules;
    // Nothing is in a file, so there is nothing to wait for.
    let mut held = replay.held.read().now_or_never().unwrap().unwrap();
    while let Some((position, write)) = held.next().now_or_never().unwrap().unwrap() {
        match rules.step(position, write) {
            ReplayStep::Nothing => {}
            ReplayStep::Refetch(keys) => steps.push(format!("refetch {keys:?}")),
            ReplayStep::Send { refetch, write } => {
                if !refetch.is_empty() {
                    steps.push(format!("refetch {refetch:?}"));
                }
                steps.push(format!("send {:?}", write.key));
            }
        }
    }
    let rest = rules.end();
    if !rest.is_empty() {
        steps.push(format!("refetch {rest:?}"));
    }
    steps
}

fn shown(verb: &str, documents: impl IntoIterator<Item = i32>) -> String {
    let keys = keys(documents);
    match keys.first() {
        Some(key) if verb == "send" => format!("send {key:?}"),
        _ => format!("refetch {keys:?}"),
    }
}

/// I1.
#[test]
fn a_chunk_is_never_registered_before_what_is_routed() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10, 20])]);
    assert_eq!(bench.assign(ORDERS, 5).at, at(5), "the source is ahead");
    bench.route(ORDERS, 15, 9);
    let chunk = bench.assign(ORDERS, 5);
    assert_eq!(chunk.at, at(9), "the change of document 15 was dropped");
    assert_eq!(bench.route(ORDERS, 15, 10), Done::HeldForChunk);
}

/// I2.
#[test]
fn held_changes_are_sent_once_their_chunk_is_durable() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
    let chunk = bench.assign(ORDERS, 5);
    for (document, time) in [(3, 6), (1, 7), (3, 8)] {
        assert_eq!(bench.route(ORDERS, document, time), Done::HeldForChunk);
    }
    assert!(bench.actions.is_empty(), "{:?}", bench.actions);
    let steps = finish(&mut bench, finished(&chunk));
    assert_eq!(steps, [3, 1, 3].map(|document| shown("send", [document])), "in order");
    assert_eq!(bench.state.held, 0);
    assert!(matches!(bench.route(ORDERS, 3, 9), Done::Sent(_)));
}

/// A rename or drop up to a later position may have misled the read.
#[test]
fn a_chunk_waits_for_entries_that_may_contradict_its_read() {
    for (opened, high) in [(9, None), (7, Some(9))] {
        let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
        let chunk = bench.assign(ORDERS, 5);
        bench.route(ORDERS, 1, 8);
        let finished = Finished {
            opened: at(opened),
            high: high.map(at),
            ..finished(&chunk)
        };
        assert!(finish(&mut bench, finished).is_empty());
        assert_eq!(bench.state.finishing.len(), 1);
        assert_eq!(bench.route(ORDERS, 1, 9), Done::HeldForChunk);
        bench.state.finish_chunks(&mut bench.actions);
        assert_eq!(bench.state.finishing.len(), 0);
        assert!(bench.state.tracked.get(&id(ORDERS)).unwrap().ranges.all_done());
    }
}

/// The rest of the range is read later, at a position after these changes.
#[test]
fn changes_above_what_was_read_are_left_to_the_next_chunk() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
    let chunk = bench.assign(ORDERS, 5);
    bench.route(ORDERS, 10, 6);
    bench.route(ORDERS, 11, 7);
    let last = Some(key(10));
    let steps = finish(
        &mut bench,
        Finished {
            last,
            ..finished(&chunk)
        },
    );
    assert_eq!(steps, [shown("send", [10])]);
    assert_eq!(bench.route(ORDERS, 11, 8), Done::Dropped);
    assert_eq!(bench.assign(ORDERS, 5).at, at(8));
}

/// An interval read may or may not have seen a change that was made during it.
#[test]
fn documents_changed_during_an_interval_read_are_refetched() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
    let chunk = bench.assign(ORDERS, 5);
    for (document, time) in [(1, 6), (2, 7), (1, 8), (3, 9), (1, 10)] {
        bench.route(ORDERS, document, time);
    }
    let finished = Finished {
        high: Some(at(8)),
        refused: vec![key(7)],
        ..finished(&chunk)
    };
    let steps = finish(&mut bench, finished);
    let expected = [shown("refetch", [1, 2, 7]), shown("send", [3]), shown("send", [1])];
    assert_eq!(steps, expected, "later changes go behind the refetch");
}

/// Only inserts matter in a capped collection, and all of them in order.
#[test]
fn changes_during_the_read_of_a_capped_one_are_sent_again() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Capped, &[])]);
    let chunk = bench.assign(ORDERS, 5);
    assert_eq!(chunk.mode, ReadMode::Interval);
    bench.route(ORDERS, 1, 6);
    let high = Some(at(6));
    let steps = finish(
        &mut bench,
        Finished {
            high,
            ..finished(&chunk)
        },
    );
    assert_eq!(steps, [shown("send", [1])]);
}

#[test]
fn a_chunk_given_up_is_read_again_in_smaller_parts() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
    let chunk = bench.assign(ORDERS, 5);
    bench.route(ORDERS, 1, 6);
    bench.state.give_up_all(id(ORDERS), &mut bench.actions);
    assert!(
        finish(&mut bench, finished(&chunk)).is_empty(),
        "its held changes are dropped"
    );
    assert!(!bench.state.has_chunks(id(ORDERS)));
    let again = bench.assign(ORDERS, 5);
    assert_eq!((again.at, again.repair), (at(6), true));
    assert_eq!(again.chunk_bytes, chunk.chunk_bytes / 2);
    finish(&mut bench, finished(&again));
    assert_eq!(bench.state.tracked.get(&id(ORDERS)).unwrap().chunk_divisor, 1);
}

#[test]
fn chunks_get_smaller_and_then_do_without_a_snapshot() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
    let mut chunks = Vec::new();
    for _ in 0..4 {
        let chunk = bench.assign(ORDERS, 5);
        bench.state.release(id(ORDERS), chunk.chunk, true);
        chunks.push((chunk.mode, chunk.chunk_bytes));
    }
    let whole = bench.state.chunk_bytes;
    let expected = [
        (ReadMode::Snapshot, whole),
        (ReadMode::Snapshot, whole / 2),
        (ReadMode::Snapshot, whole / 4),
        (ReadMode::Interval, whole),
    ];
    assert_eq!(chunks, expected);
}

/// An earlier run may have carried out a rename whose entry is still to be replayed.
#[test]
fn nothing_is_copied_before_what_an_earlier_run_has_applied() {
    let mut bench = Bench::of(RoutingParts {
        replay_until: at(6),
        ..parts(vec![unread(ORDERS, CollectionKind::Plain, &[])])
    });
    let outside = bench.outside();
    assert!(bench.state.next_work(at(9), &outside, &mut bench.actions).is_none());
    assert!(bench.state.next_build().is_none());
    bench.route(ORDERS, 1, 6);
    assert!(bench.state.next_work(at(9), &outside, &mut bench.actions).is_some());
}

#[test]
fn a_copied_collection_is_reported_behind_its_held_changes() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10])]);
    for expected in [vec!["replay", "show"], vec!["replay", "copied", "show"]] {
        let chunk = bench.assign(ORDERS, 5);
        bench.state.finish_chunk(finished(&chunk), &mut bench.actions);
        let decided = bench.decided(|action| match action {
            Action::Replay(_) => Some("replay"),
            Action::Report(Event::CollectionCopied { .. }) => Some("copied"),
            Action::ShowProgress(progress) => {
                assert!(!progress.is_indexed);
                Some("show")
            }
            _ => None,
        });
        assert_eq!(decided, expected);
    }
}

/// What the checkpoint could not vouch for is read again, unless its range is copied again anyway.
#[test]
fn unsettled_documents_of_a_checkpoint_are_refetched() {
    let mut tracked = unread(ORDERS, CollectionKind::Plain, &[10]);
    tracked.ranges.take(ChunkId(9)).unwrap();
    tracked.ranges.finish(ChunkId(9), None, at(1), false);
    let mut parts = parts(vec![tracked]);
    parts.checkpoint.unsettled = vec![crate::checkpoint::UnsettledDocuments {
        collection: id(ORDERS),
        ids: vec![key(1), key(11)],
    }];
    let mut bench = Bench::of(parts);
    bench.state.refetch_again(&mut bench.actions);
    let refetched = bench.decided(|action| match action {
        Action::Refetch { keys, .. } => Some(keys.clone()),
        _ => None,
    });
    assert_eq!(refetched, [keys([1])]);
}
