//! Stuck documents over time.

use super::*;
use crate::engine::messages::ResolveStep;

const SECOND: Duration = Duration::from_secs(1);

/// Takes all steps. `resolves` says whether a step helps a document.
fn steps(documents: &[i32], resolves: impl Fn(&Key, ResolveStep) -> bool) -> (Vec<(Key, ResolveStep)>, Vec<Key>) {
    let all = documents
        .iter()
        .map(|document| stuck(ORDERS, *document, *document as u32));
    let mut resolution = Resolution::new(all.collect());
    let mut taken = Vec::new();
    while let Some((document, step)) = resolution.next() {
        taken.push((document.key.clone(), step));
        let is_resolved = resolves(&document.key, step);
        resolution.answered(is_resolved);
    }
    let still = resolution.into_stuck().into_iter().map(|stuck| stuck.key);
    (taken, still.collect())
}

/// A unique key can go round several documents: all must give it up before one can take it.
#[test]
fn every_step_is_taken_for_all_documents_before_the_next() {
    use ResolveStep::{Clear, Refetch, Retry};
    let (taken, still) = steps(&[2, 1], |document, step| step == Refetch && *document == key(1));
    let both = |step| [(key(1), step), (key(2), step)];
    assert_eq!(
        taken,
        [both(Retry), both(Clear), both(Retry), both(Refetch)].concat(),
        "oldest first"
    );
    assert_eq!(still, [key(2)]);
    let (taken, still) = steps(&[1, 2], |document, step| *document == key(1) || step == Clear);
    let expected = [(key(1), Retry), (key(2), Retry), (key(2), Clear)];
    assert_eq!(
        taken, expected,
        "nothing is done for a document that is no longer stuck"
    );
    assert!(still.is_empty());
}

#[test]
fn a_document_is_given_up_after_all_it_may_wait_for() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    bench.state.dirty = false;
    let still = |bench: &mut Bench| {
        let documents = vec![stuck(ORDERS, 1, 5)];
        let newest = at(8 + bench.state.routed.time);
        bench.state.still_stuck(documents, bench.now, newest).len()
    };
    // The source is at 9 by then: a change up to there may free the key.
    assert_eq!(still(&mut bench), 0);
    bench.pass(29 * SECOND);
    bench.state.routed = at(9);
    assert_eq!(still(&mut bench), 0, "it is not that long");
    bench.pass(SECOND);
    bench.state.routed = at(8);
    assert_eq!(still(&mut bench), 0, "not everything is routed");
    assert!(bench.state.is_any_stuck() && !bench.state.dirty);
    bench.state.routed = at(9);
    assert_eq!(still(&mut bench), 1);
    assert!(!bench.state.is_any_stuck());
    assert!(bench.state.dirty, "the next checkpoint names it");
    assert_eq!(bench.state.with_given_up(Vec::new()), [(id(ORDERS), key(1))]);
    bench.state.forget_documents(id(ORDERS));
    assert!(bench.state.with_given_up(Vec::new()).is_empty());
}

#[test]
fn the_patience_begins_again_once_nothing_is_stuck() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    let still = |bench: &mut Bench| {
        let documents = vec![stuck(ORDERS, 1, 5)];
        bench.state.still_stuck(documents, bench.now, at(1)).len()
    };
    assert_eq!(still(&mut bench), 0);
    bench.pass(20 * SECOND);
    let barrier = bench.send_barrier();
    bench.reach(barrier, reached(barrier));
    assert!(!bench.state.is_any_stuck());
    assert_eq!(still(&mut bench), 0);
    bench.pass(20 * SECOND);
    assert_eq!(still(&mut bench), 0);
    bench.pass(10 * SECOND);
    assert_eq!(still(&mut bench), 1);
}

#[test]
fn a_barrier_with_stuck_documents_leads_to_another() {
    let mut bench = Bench::new(vec![indexed(ORDERS, 1)]);
    let barrier = bench.send_barrier();
    let mut last = reached(barrier);
    last.stuck.push(stuck(ORDERS, 1, 5));
    bench.reach(barrier, last);
    assert!(bench.state.is_barrier_due(bench.now));
}

#[test]
fn waiting_ends_when_nothing_more_can_be_done_at_this_position() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    assert!(bench.state.is_drained(true, false, bench.now));
    assert!(
        !bench.state.is_drained(true, true, bench.now),
        "the barrier did not name all"
    );
    let documents = vec![stuck(ORDERS, 1, 5)];
    bench.state.still_stuck(documents, bench.now, at(9));
    assert!(
        bench.state.is_drained(false, true, bench.now),
        "a later change may free the key"
    );
    bench.pass(30 * SECOND);
    assert!(bench.state.is_drained(false, false, bench.now));
    bench.state.routed = at(9);
    assert!(
        !bench.state.is_drained(false, false, bench.now),
        "it is about to be given up"
    );
}
