//! Comparisons: when they begin, when they may read the target, and how they end.

use super::*;
use crate::config::Verification;
use crate::engine::messages::VerificationRequest;
use crate::engine::track::verification::Portion;

const SECOND: Duration = Duration::from_secs(1);

fn compared(opened: u32) -> Compared {
    Compared {
        is_at_position: true,
        opened: at(opened),
        last: None,
        left: HashSet::new(),
        documents: 10,
        bytes: 100,
        differences: Vec::new(),
        count: 0,
    }
}

impl Bench {
    fn is_running(&self) -> bool {
        let tracked = self.state.tracked.get(&id(ORDERS)).unwrap();
        tracked.verification.running().is_some()
    }

    fn checked(&mut self, check: &Check, result: Result<Compared>) {
        let chunk = (id(ORDERS), check.chunk);
        self.state.checked(chunk, result, self.now, &mut self.actions);
    }

    fn ends(&mut self) -> usize {
        self.decided(|action| matches!(action, Action::EndComparison { .. }).then_some(()))
            .len()
    }

    fn is_allowed(&mut self, check: &mut Check) -> bool {
        for action in self.actions.drain(..) {
            if let Action::AllowComparison(applied) = action {
                applied.send(()).unwrap();
            }
        }
        check.applied.try_recv().is_ok()
    }
}

#[test]
fn a_comparison_waits_for_the_barrier_behind_its_position() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    bench.route(ORDERS, 1, 5);
    let mut check = bench.compare();
    assert_eq!(check.at, at(5));
    let barrier = bench.barrier();
    let other = bench.send_barrier();
    bench.reach(other, reached(other));
    assert!(!bench.is_allowed(&mut check), "another barrier says nothing");
    bench.reach(barrier, reached(barrier));
    assert!(bench.is_allowed(&mut check));
}

/// The target would not be at the position of the comparison.
#[test]
fn a_comparison_ends_if_documents_are_stuck_or_ahead() {
    for is_stuck in [true, false] {
        let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
        bench.route(ORDERS, 1, 5);
        let mut check = bench.compare();
        let barrier = bench.barrier();
        let mut last = reached(barrier);
        if is_stuck {
            last.stuck.push(stuck(ORDERS, 1, 5));
        } else {
            last.ahead = at(6);
        }
        bench.reach(barrier, last);
        assert!(!bench.is_running());
        assert_eq!(bench.ends(), 1);
        assert!(check.applied.try_recv().is_err());
    }
}

#[test]
fn comparisons_do_not_begin_when_they_would_be_in_the_way() {
    let bench = || Bench::verified(vec![indexed(ORDERS, 1)]);
    let next = |bench: &mut Bench, outside: Outside| bench.state.next_check(&outside, &mut bench.actions).is_some();
    let (mut plain, mut late, mut cutover) = (bench(), bench(), bench());
    let outside = plain.outside();
    assert!(next(&mut plain, outside));
    assert!(!next(&mut plain, outside), "one at a time in a collection");
    let newest = outside.newest + 4;
    assert!(!next(&mut late, Outside { newest, ..outside }), "the tail comes first");
    let is_handing_over = true;
    assert!(!next(
        &mut cutover,
        Outside {
            is_handing_over,
            ..outside
        }
    ));
    let mut stuck_one = bench();
    let now = stuck_one.now;
    stuck_one.state.still_stuck(vec![stuck(ORDERS, 1, 5)], now, at(9));
    assert!(!next(&mut stuck_one, outside));
    let mut full = bench();
    full.state.held = full.state.held_limit / 4;
    assert!(!next(&mut full, outside));
    let mut replaying = bench();
    replaying.state.replay_until = at(2);
    assert!(!next(&mut replaying, outside));
    let mut busy = bench();
    for _ in 0..16 {
        assert!(busy.actions.len() < 16);
        busy.send_barrier();
    }
    assert!(!next(&mut busy, outside));
}

#[test]
fn a_comparison_that_takes_too_long_is_stopped() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    bench.compare();
    bench.pass(5 * SECOND);
    bench.state.tick(bench.now, &mut bench.actions);
    assert!(bench.is_running());
    bench.route(ORDERS, 1, 3);
    bench.state.tick(bench.now, &mut bench.actions);
    assert!(bench.is_running());
    bench.pass(Duration::from_millis(1));
    bench.state.tick(bench.now, &mut bench.actions);
    assert_eq!((bench.is_running(), bench.ends()), (false, 1));
}

#[test]
fn a_comparison_that_holds_the_watermark_back_is_stopped() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    bench.compare();
    bench.route(ORDERS, 1, 4);
    bench.state.tick(bench.now, &mut bench.actions);
    assert_eq!((bench.is_running(), bench.ends(), bench.state.held), (false, 1, 0));
}

/// A rename or drop up to a later position may have misled the read.
#[test]
fn a_result_counts_once_no_entry_can_contradict_it() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    let check = bench.compare();
    bench.checked(&check, Ok(compared(5)));
    assert!(bench.is_running() && !bench.state.advance().all_compared);
    bench.route(ORDERS, 1, 5);
    bench.actions.clear();
    bench.state.finish_checks(bench.now, &mut bench.actions);
    let decided = bench.decided(|action| match action {
        Action::CountVerified { documents, .. } => Some(*documents),
        Action::EndComparison { running, .. } => Some(1000 + running.held_keys().count() as u64),
        _ => None,
    });
    assert_eq!(decided, [10, 1001], "what was held is sent");
    assert!(bench.state.advance().all_compared);
    let tracked = bench.state.tracked.get(&id(ORDERS)).unwrap();
    assert_eq!(tracked.verification.open(), Some(vec![key(1)]), "it has changed since");
}

#[test]
fn the_result_of_a_stopped_comparison_does_not_count() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    let stopped = bench.compare();
    bench.state.stop_checks(bench.now, &mut bench.actions);
    bench.pass(SECOND);
    bench.compare();
    bench.checked(&stopped, Ok(compared(1)));
    assert!(bench.is_running() && !bench.state.advance().all_compared);
}

#[test]
fn changed_documents_are_compared_again_after_a_rest() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    let check = bench.compare();
    bench.checked(&check, Ok(compared(1)));
    bench.route(ORDERS, 7, 2);
    let outside = bench.outside();
    assert!(bench.state.next_work(at(2), &outside, &mut bench.actions).is_none());
    bench.pass(5 * SECOND);
    let check = bench.compare();
    assert!(matches!(&check.what, Portion::Documents(documents) if *documents == HashSet::from([key(7)])));
    assert_eq!(bench.route(ORDERS, 7, 3), Done::HeldForComparison);
    assert!(
        matches!(bench.route(ORDERS, 8, 4), Done::Sent(_)),
        "it is not compared now"
    );
}

/// The `_id`s that are remembered take a limited amount of memory.
#[test]
fn too_many_changes_begin_the_comparison_again() {
    let mut bench = Bench::of(RoutingParts {
        rules: CollectionRules::all(Verification::Continuous),
        changed_memory: Allowance::alone(2000),
        ..parts(vec![indexed(ORDERS, 1)])
    });
    let check = bench.compare();
    bench.checked(&check, Ok(compared(1)));
    assert!(bench.state.advance().all_compared);
    let mut document = 0;
    let is_compared = |bench: &Bench| {
        let orders = bench.state.tracked.get(&id(ORDERS)).unwrap();
        !orders.verification.is_open_as_a_whole()
    };
    while is_compared(&bench) {
        bench.route(ORDERS, document, 2 + document as u32);
        document += 1;
        assert!(document < 1000);
    }
    assert!(document > 5, "{document}");
    assert!(
        bench.state.advance().all_compared,
        "the run does not wait for what is put off"
    );
    bench.route(ORDERS, document, 2 + document as u32);
    assert_eq!(
        bench.state.tracked.changed_bytes(),
        0,
        "nothing is compared, so nothing is noted"
    );
}

/// However long the copy takes, a caller that waits for a comparison gets it, and the copy goes on.
#[test]
fn a_comparison_that_is_asked_for_takes_every_other_turn() {
    let mut bench = Bench::new(vec![
        indexed(ORDERS, 1),
        unread(ITEMS, CollectionKind::Plain, &[1, 2, 3]),
    ]);
    let (reply, _wait) = oneshot::channel();
    let request = VerificationRequest::Begin {
        collections: vec![namespace(ORDERS)],
        reply,
    };
    bench.state.verify(request, bench.now, &mut bench.actions);
    let mut turns = String::new();
    for _ in 0..4 {
        let outside = bench.outside();
        match bench.state.next_work(at(1), &outside, &mut bench.actions) {
            Some(Work::Chunk(_)) => turns.push('c'),
            Some(Work::Check(check)) => {
                let result = Compared {
                    last: Some(key(turns.len() as i32)),
                    ..compared(1)
                };
                bench.checked(&check, Ok(result));
                turns.push('v');
            }
            None => turns.push('-'),
        }
    }
    assert_eq!(turns, "vcvc");
}

#[test]
fn repairing_documents_stops_comparisons_first() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    bench.compare();
    bench.actions.clear();
    let (reply, _wait) = oneshot::channel();
    let request = VerificationRequest::Repair {
        namespace: namespace(ORDERS),
        keys: vec![key(1)],
        reply,
    };
    bench.state.verify(request, bench.now, &mut bench.actions);
    let steps = bench.decided(|action| match action {
        Action::EndComparison { .. } => Some("end"),
        Action::Refetch { .. } => Some("refetch"),
        Action::Reply(_) => Some("reply"),
        _ => None,
    });
    assert_eq!(steps, ["end", "refetch", "reply"]);
}

/// The target lacks the changes that are held back for an index. A comparison would report false differences, and the changes held for it
/// would overtake them.
#[test]
fn a_collection_whose_changes_are_held_back_is_not_compared() {
    for is_again in [false, true] {
        let mut bench = Bench::verified(vec![indexed(ITEMS, 1), copied(ORDERS, 1)]);
        let (reply, _wait) = oneshot::channel();
        let request = VerificationRequest::Begin {
            collections: vec![namespace(ORDERS)],
            reply,
        };
        bench.state.verify(request, bench.now, &mut bench.actions);
        if is_again {
            let check = bench.compare();
            assert_eq!(check.target.id, id(ORDERS));
            bench.checked(&check, Ok(compared(1)));
            bench.route(ORDERS, 1, 2);
            bench.pass(Duration::from_secs(10));
        }
        let job = bench.block(ORDERS);
        assert_eq!(bench.route(ORDERS, 1, 5), Done::HeldForIndex);
        let outside = bench.outside();
        let work = bench.state.next_work(at(1), &outside, &mut bench.actions);
        assert!(work.is_none(), "{work:?}");
        // Once the index is built, it is compared.
        let ended = bench.state.build_ended(refused(&job), &mut bench.actions);
        assert!(matches!(ended, Ok(Ended::Done)));
        assert_eq!(bench.compare().target.id, id(ORDERS));
    }
}
