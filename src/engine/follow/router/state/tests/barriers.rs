//! Barriers, and I4: what the checkpoints that follow from them say.

use super::*;
use crate::engine::messages::Finished;

#[test]
fn a_barrier_is_due_when_there_is_something_to_save() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    assert!(bench.state.is_barrier_due(bench.now), "a run begins with one");
    bench.send_barrier();
    assert!(!bench.state.is_barrier_due(bench.now));
    bench.route(ORDERS, 1, 5);
    assert!(bench.state.is_barrier_due(bench.now));
    bench.send_barrier();
    assert!(!bench.state.is_barrier_due(bench.now));
    bench.state.saved(true);
    assert!(!bench.state.is_barrier_due(bench.now));
    bench.state.saved(false);
    assert!(
        bench.state.is_barrier_due(bench.now),
        "the checkpoint was left to a later one"
    );
}

#[test]
fn barriers_wait_for_busy_appliers_once_everything_is_copied() {
    let second = Duration::from_secs(1);
    for (collection, is_copied) in [(indexed(ORDERS, 1), true), (copied(ORDERS, 1), false)] {
        let mut bench = Bench::new(vec![collection]);
        let first = bench.send_barrier();
        bench.route(ORDERS, 1, 5);
        assert_eq!(bench.state.is_barrier_due(bench.now + second), !is_copied);
        assert!(bench.state.is_barrier_due(bench.now + 2 * second));
        bench.reach(first, reached(first));
        bench.route(ORDERS, 1, 6);
        assert!(bench.state.is_barrier_due(bench.now), "they have reached it");
        // However slow the appliers are, few barriers are on their way.
        for time in 7..15 {
            assert!(bench.state.is_barrier_due(bench.now));
            bench.send_barrier();
            bench.route(ORDERS, 1, time);
            bench.pass(2 * second);
        }
        assert!(!bench.state.is_barrier_due(bench.now));
    }
}

#[test]
fn a_checkpoint_is_saved_once_all_have_reached_its_barrier() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    bench.route(ORDERS, 1, 5);
    let barrier = bench.send_barrier();
    bench.route(ORDERS, 1, 6);
    // The first applier alone decides nothing: see `reach`.
    bench.reach(barrier, reached(barrier));
    assert_eq!(bench.saves(), [at(5)], "what came behind the barrier is not in it");
}

#[test]
fn the_newest_checkpoint_alone_waits_while_one_is_saved() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    let mut saves = Vec::new();
    for time in 5..8 {
        bench.route(ORDERS, 1, time);
        let barrier = bench.send_barrier();
        bench.reach(barrier, reached(barrier));
        saves.extend(bench.saves());
    }
    assert_eq!(saves, [at(5)]);
    bench.state.tick(bench.now, &mut bench.actions);
    assert!(bench.saves().is_empty(), "the first is still being saved");
    bench.state.saved(true);
    bench.state.tick(bench.now, &mut bench.actions);
    assert_eq!(bench.saves(), [at(7)]);
    bench.state.saved(true);
    bench.state.tick(bench.now, &mut bench.actions);
    assert!(bench.saves().is_empty());
}

#[test]
fn a_barrier_that_is_waited_for_saves_nothing() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    bench.route(ORDERS, 1, 5);
    let older = bench.send_barrier();
    let awaited = bench.state.send_awaited_barrier(&mut bench.actions);
    assert!(!bench.state.dirty);
    for id in [older, older, awaited] {
        assert!(bench.state.note_awaited(reached(id), awaited).is_none());
    }
    assert!(bench.state.dirty, "the older checkpoint is lost");
    let barrier = bench.state.note_awaited(reached(awaited), awaited).unwrap();
    bench.state.save_barrier(barrier, &mut bench.actions);
    assert!(bench.saves().is_empty());
}

/// Nothing that is held may count as applied.
#[test]
fn a_watermark_stays_before_what_is_held_for_a_comparison() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    bench.route(ORDERS, 1, 4);
    let check = bench.compare();
    assert_eq!(check.at, at(4));
    assert_eq!(bench.route(ORDERS, 1, 5), Done::HeldForComparison);
    let barrier = bench.send_barrier();
    bench.reach(barrier, reached(barrier));
    assert_eq!(bench.saves(), [at(4)]);
    bench.state.stop_checks(bench.now, &mut bench.actions);
    assert!(bench.state.dirty, "the watermark can move now");
    assert_eq!(bench.state.applied_until(), (at(5), at(5)));
}

#[test]
fn a_watermark_stays_before_what_is_held_back_for_an_index() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1), copied(ITEMS, 1)]);
    bench.route(ITEMS, 1, 4);
    bench.block(ORDERS);
    assert_eq!(bench.route(ORDERS, 1, 5), Done::HeldForIndex);
    bench.route(ITEMS, 1, 6);
    let barrier = bench.send_barrier();
    bench.reach(barrier, reached(barrier));
    assert_eq!(bench.saves(), [at(4)]);
    bench.state.send_all_held_back(&mut bench.actions);
    assert!(bench.state.dirty);
    assert_eq!(bench.state.applied_until(), (at(6), at(6)));
}

/// It is redone as a repair.
#[test]
fn a_range_in_flight_is_not_done_in_a_checkpoint() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10])]);
    let chunk = bench.assign(ORDERS, 5);
    let done = |bench: &mut Bench| {
        let collection = bench.state.tracked.get(&id(ORDERS)).unwrap().to_checkpoint();
        let ranges = collection.ranges.iter();
        ranges.map(|range| range.done).collect::<Vec<_>>()
    };
    assert_eq!(done(&mut bench), [None, None]);
    let finished = Finished {
        collection: id(ORDERS),
        chunk: chunk.chunk,
        made: None,
        copied: crate::model::Amount::default(),
        last: None,
        repair: false,
        opened: at(5),
        high: None,
        refused: Vec::new(),
    };
    bench.state.finish_chunk(finished, &mut bench.actions);
    assert_eq!(done(&mut bench), [Some(at(5)), None]);
    assert!(bench.state.dirty);
}

/// They may be newer on the sink than the checkpoint says, so a run that resumes there reads them again.
#[test]
fn a_checkpoint_names_unsettled_documents() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    bench.state.given_up.insert((id(ORDERS), key(2)));
    let barrier = bench.send_barrier();
    let mut last = reached(barrier);
    last.unsettled.documents.push((id(ORDERS), key(1)));
    bench.reach(barrier, last);
    let named = bench.decided(|action| match action {
        Action::Save(checkpoint) => {
            let unsettled = checkpoint.head.unsettled.iter();
            Some(
                unsettled
                    .flat_map(|documents| documents.ids.clone())
                    .collect::<BTreeSet<_>>(),
            )
        }
        _ => None,
    });
    assert_eq!(named, [keys([1, 2])]);
}

#[test]
fn a_checkpoint_waits_if_there_are_too_many_documents_to_name() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    let barrier = bench.send_barrier();
    let mut last = reached(barrier);
    last.unsettled.collections.insert(id(ORDERS));
    bench.reach(barrier, last);
    assert!(bench.saves().is_empty());
    assert!(bench.state.is_barrier_due(bench.now), "a later barrier tries again");
}
