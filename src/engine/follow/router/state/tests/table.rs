//! Every row of the routing table.

use super::*;

#[test]
fn a_change_outside_the_selection_is_ignored() {
    let mut selection = Selection::all();
    selection.include("other.*").unwrap();
    let mut bench = Bench::of(RoutingParts {
        selection,
        ..parts(Vec::new())
    });
    assert_eq!(bench.route(ORDERS, 1, 5), Done::Ignored);
}

#[test]
fn a_change_of_a_ghost_is_ignored() {
    let mut bench = Bench::new(Vec::new());
    bench.state.ghosts.insert(id(ORDERS), None);
    assert_eq!(bench.route(ORDERS, 1, 5), Done::Ignored);
}

#[test]
fn a_change_of_a_collection_never_seen_is_an_error() {
    let mut bench = Bench::new(Vec::new());
    let error = bench.try_route(ORDERS, 1, at(5), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedEntry);
}

#[test]
fn a_change_of_an_unread_range_is_dropped() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10])]);
    bench.assign(ORDERS, 3);
    assert_eq!(bench.route(ORDERS, 11, 5), Done::Dropped);
}

#[test]
fn a_change_of_a_range_in_flight_is_held_after_its_position() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[10])]);
    bench.assign(ORDERS, 5);
    assert_eq!(bench.route(ORDERS, 1, 4), Done::Dropped, "the snapshot has it");
    assert_eq!(bench.route(ORDERS, 1, 5), Done::Dropped, "the snapshot has it");
    assert_eq!(bench.route(ORDERS, 1, 6), Done::HeldForChunk);
}

#[test]
fn a_change_of_a_chunk_given_up_is_dropped() {
    let mut bench = Bench::new(vec![unread(ORDERS, CollectionKind::Plain, &[])]);
    bench.assign(ORDERS, 5);
    assert_eq!(bench.route(ORDERS, 1, 6), Done::HeldForChunk);
    bench.state.give_up_all(id(ORDERS), &mut bench.actions);
    assert_eq!((bench.state.held, bench.state.dropped), (0, 1));
    assert_eq!(bench.route(ORDERS, 1, 7), Done::Dropped);
}

#[test]
fn a_change_that_the_copy_has_is_dropped() {
    let mut bench = Bench::new(vec![copied(ORDERS, 5)]);
    assert_eq!(bench.route(ORDERS, 1, 4), Done::Dropped);
    assert_eq!(bench.route(ORDERS, 1, 5), Done::Dropped);
}

#[test]
fn a_change_of_a_done_range_is_sent() {
    let mut bench = Bench::new(vec![copied(ORDERS, 5)]);
    assert!(matches!(bench.route(ORDERS, 1, 6), Done::Sent(_)));
    assert_eq!(bench.state.held, 0);
}

#[test]
fn a_change_of_a_part_being_compared_is_held() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    bench.compare();
    assert_eq!(bench.route(ORDERS, 1, 5), Done::HeldForComparison);
    // A change of the part that is at the same position is already behind the barrier.
    let verification = &bench.state.tracked.get(&id(ORDERS)).unwrap().verification;
    assert!(!verification.must_hold(&key(1), at(1)));
}

#[test]
fn a_change_below_the_part_being_compared_is_sent() {
    let mut bench = Bench::verified(vec![indexed(ORDERS, 1)]);
    let check = bench.compare();
    let compared = Compared {
        is_at_position: true,
        opened: at(1),
        last: Some(key(10)),
        left: HashSet::new(),
        documents: 10,
        bytes: 100,
        differences: Vec::new(),
        count: 0,
    };
    let chunk = (id(ORDERS), check.chunk);
    bench.state.checked(chunk, Ok(compared), bench.now, &mut bench.actions);
    bench.compare();
    assert!(matches!(bench.route(ORDERS, 10, 5), Done::Sent(_)));
    assert_eq!(bench.route(ORDERS, 11, 6), Done::HeldForComparison);
}

#[test]
fn a_change_is_held_back_while_a_refused_index_is_built_again() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1), copied(ITEMS, 1)]);
    let job = bench.block(ORDERS);
    assert_eq!(bench.route(ORDERS, 1, 5), Done::HeldForIndex);
    assert!(matches!(bench.route(ITEMS, 1, 6), Done::Sent(_)), "others continue");
    // The index is refused again, and this time for what is in the documents.
    let ended = bench.state.build_ended(refused(&job), &mut bench.actions).unwrap();
    assert!(matches!(ended, Ended::Done));
    let sent = bench.decided(|action| match action {
        Action::SendHeldBack { collection, held } => Some((*collection, held.count())),
        _ => None,
    });
    assert_eq!(sent, [(id(ORDERS), 1)]);
    assert!(matches!(bench.route(ORDERS, 1, 7), Done::Sent(_)));
    assert_eq!(bench.state.held, 0);
}

/// I5.
#[test]
fn changes_of_a_document_go_to_one_applier() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1), copied(ITEMS, 1)]);
    let mut appliers = HashSet::new();
    for document in 0..50 {
        let first = bench.route(ORDERS, document, 5);
        bench.state.routed = at(1);
        assert_eq!(bench.route(ORDERS, document, 6), first);
        bench.state.routed = at(1);
        let Done::Sent(applier) = first else {
            panic!("{first:?}")
        };
        let routing = bench.state.send_on(id(ORDERS), at(7), delete(document), bench.now);
        assert!(
            matches!(routing, Routing::Send(sent, _) if sent == applier),
            "sent later"
        );
        appliers.insert(applier);
    }
    assert_eq!(appliers.len(), 2, "both have work");
}

/// I5: the order of all inserts into a capped collection is data.
#[test]
fn all_changes_of_a_capped_collection_go_to_one_applier() {
    let mut capped = unread(ORDERS, CollectionKind::Capped, &[]);
    capped.ranges = Ranges::done(at(1));
    let mut bench = Bench::new(vec![capped]);
    let appliers: HashSet<String> = (0..50)
        .map(|document| format!("{:?}", bench.route(ORDERS, document, 5 + document as u32)))
        .collect();
    assert_eq!(appliers.len(), 1);
}

/// I6: a tail that starts again shows entries once more.
#[test]
fn an_entry_that_is_routed_is_not_routed_again() {
    let mut bench = Bench::new(vec![copied(ORDERS, 1)]);
    bench.route(ORDERS, 1, 5);
    assert!(!bench.state.begin_entry(at(5), at(4)));
    assert_eq!(
        bench.state.applied_until(),
        (at(5), at(4)),
        "the position to resume from moves"
    );
    assert!(bench.state.begin_entry(at(6), at(6)));
    assert_eq!(bench.state.routed, at(5), "not before the entry ends");
}

fn delete(document: i32) -> Write {
    Write {
        key: key(document),
        operation: Operation::Delete,
    }
}
