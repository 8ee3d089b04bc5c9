use std::time::Duration;

use bson::{RawBsonRef, Uuid, rawdoc};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Request;
use super::fixture::Fixture;
use super::markers::GivenUp;
use crate::builds::EndedBuild;
use crate::document::Position;
use crate::error::{Error, ErrorKind};
use crate::index::IndexJob;
use crate::oplog::Entry;
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

/// A checkpoint in between would say of no part that it is applied, and a chunk could be read at a position before it.
#[tokio::test(start_paused = true)]
async fn nothing_is_done_between_parts_of_a_transaction() {
    let fixture = Fixture::new(10, false);
    let mut parts: Vec<Entry> = fixture.turn(0).into_iter().take(3).collect();
    let position = parts[2].position;
    for part in &mut parts {
        (part.position, part.continues) = (position, true);
        part.resume = Position::ZERO;
    }
    (parts[2].continues, parts[2].resume) = (false, position);
    let router = fixture.start();
    let last = parts.split_off(2);
    for part in parts {
        router.route(vec![part]).await;
    }
    // Everything that has been given to it so far is dealt with.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (reply, mut report) = oneshot::channel();
    let at = Position::ZERO;
    router.requests.send(Request::Report { at, reply }).await.unwrap();
    assert!(timeout(Duration::from_secs(10), &mut report).await.is_err());
    router.route(last).await;
    let report = timeout(Duration::from_secs(10), report).await.unwrap().unwrap();
    assert_eq!(report.position, position);
}

/// Changes were applied while its build went on, so that its refusal says nothing of one position, although the collection stands still for
/// another index by now.
#[tokio::test(start_paused = true)]
async fn an_index_fails_only_if_its_collection_stood_still_all_the_time() {
    let mut fixture = Fixture::new(1, false);
    let _lanes = fixture.run_lanes();
    let (router, id) = (&mut fixture.router, Uuid::from_bytes([0; 16]));
    let tracked = router.tracked.get_mut(&id).unwrap();
    tracked.add_indexes(&[
        rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a" },
        rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b" },
    ]);
    let [a, b] = [(); 2].map(|()| tracked.next_index(Position::ZERO).unwrap());
    let refused = |job: &IndexJob, anew| EndedBuild {
        job: IndexJob { anew, ..job.clone() },
        result: Err(Error::new(ErrorKind::TargetRefused, "create an index", "duplicate key")),
    };
    router.build_ended(refused(&a, false)).await.unwrap();
    // As for a checkpoint of everything.
    router.send_all_held_back().await.unwrap();
    router.build_ended(refused(&b, false)).await.unwrap();
    router.build_ended(refused(&a, true)).await.unwrap();
    let tracked = router.tracked.get(&id).unwrap();
    assert!(tracked.failed_indexes.is_empty() && tracked.is_being_built("a"));
    router.build_ended(refused(&a, true)).await.unwrap();
    assert!(router.tracked.get(&id).unwrap().failed_indexes.contains("a"));
}
