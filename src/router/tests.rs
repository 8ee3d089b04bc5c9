use bson::{RawBsonRef, Uuid};

use super::fixture::Fixture;
use super::markers::GivenUp;
use crate::order::Key;

/// Collections that the router looks at in a few turns, of so many.
async fn looks(collections: usize, held: bool) -> u64 {
    let mut fixture = Fixture::new(collections, held);
    let _work = fixture.wait_for_work();
    // The first turn looks at all.
    fixture.step(0).await;
    let before = fixture.router.tracked.looks();
    for turn in 1..5 {
        fixture.step(turn).await;
    }
    fixture.router.tracked.looks() - before
}

#[tokio::test(start_paused = true)]
async fn turns_look_at_changed_collections_alone() {
    for held in [false, true] {
        let (few, many) = (looks(10, held).await, looks(2000, held).await);
        assert_eq!(few, many, "held: {held}");
    }
}

#[test]
fn given_up_documents_of_a_dropped_collection_make_room() {
    let mut given_up = GivenUp::default();
    let (one, other) = (Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16]));
    let key = |number: usize| Key::from(RawBsonRef::String(&format!("{number:01000}")));
    let mut fitted = 0;
    while given_up.insert((one, key(fitted))) {
        fitted += 1;
    }
    assert!((500..2000).contains(&fitted), "{fitted}");
    assert!(!given_up.insert((other, key(0))));
    given_up.forget(one);
    for number in 0..fitted {
        assert!(given_up.insert((other, key(number))), "{number}");
    }
    assert!(!given_up.insert((other, key(fitted))));
}
