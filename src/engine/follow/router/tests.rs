use std::sync::Arc;
use std::time::Duration;

use bson::{RawBsonRef, Uuid, rawdoc};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ApplierMessage;
use super::fixture::Fixture;
use super::state::GivenUp;
use crate::engine::messages::{Finished, Request};
use crate::engine::track::ranges::ChunkId;
use crate::error::{Error, ErrorKind};
use crate::model::{Amount, Namespace, Position};
use crate::oplog::{Command, CommandOperation, Entry};
use crate::order::Key;
use crate::runtime::index_builds::{EndedBuild, IndexJob};

/// Returns how many collections the router looks at in a few turns, out of `collections`.
async fn looks(collections: usize, held: bool) -> u64 {
    let mut fixture = Fixture::new(collections, held);
    let _work = fixture.wait_for_work();
    // The first turn looks at all collections.
    fixture.step(0).await;
    let before = fixture.router.state.tracked.looks();
    for turn in 1..5 {
        fixture.step(turn).await;
    }
    fixture.router.state.tracked.looks() - before
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

/// A checkpoint in between would contain no part of the transaction, and a chunk could be read at a position before it.
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
    // The router has now handled everything that was sent to it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (reply, mut report) = oneshot::channel();
    let at = Position::ZERO;
    router.requests.send(Request::Report { at, reply }).await.unwrap();
    assert!(timeout(Duration::from_secs(10), &mut report).await.is_err());
    router.route(last).await;
    let report = timeout(Duration::from_secs(10), report).await.unwrap().unwrap();
    assert_eq!(report.position, position);
}

/// Changes were applied during the build of `b`, so its refusal does not hold for any one position. It makes no difference that changes are
/// held back for another index by then.
#[tokio::test(start_paused = true)]
async fn an_index_fails_only_if_its_collection_stood_still() {
    let mut fixture = Fixture::new(1, false);
    let _appliers = fixture.run_appliers();
    let (router, id) = (&mut fixture.router, Uuid::from_bytes([0; 16]));
    let tracked = router.state.tracked.get_mut(&id).unwrap();
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
    // As a checkpoint of everything does.
    router.send_all_held_back().await.unwrap();
    router.build_ended(refused(&b, false)).await.unwrap();
    router.build_ended(refused(&a, true)).await.unwrap();
    let tracked = router.state.tracked.get(&id).unwrap();
    assert!(tracked.failed_indexes.is_empty() && tracked.is_being_built("a"));
    router.build_ended(refused(&a, true)).await.unwrap();
    assert!(router.state.tracked.get(&id).unwrap().failed_indexes.contains("a"));
}

/// Millions of documents may change while a chunk is read without a snapshot.
#[tokio::test(start_paused = true)]
async fn documents_to_refetch_go_to_appliers_in_small_portions() {
    const MOST: usize = 300 << 10;
    let mut fixture = Fixture::new(1, true);
    let mut high = Position::ZERO;
    for turn in 0..30 {
        for entry in fixture.turn(turn) {
            high = entry.position;
            fixture.router.route(entry).await.unwrap();
        }
    }
    let finished = Finished {
        collection: Uuid::from_bytes([0; 16]),
        chunk: ChunkId(0),
        made: None,
        copied: Amount::default(),
        last: None,
        repair: false,
        opened: Position::ZERO,
        high: Some(high),
        refused: Vec::new(),
    };
    let router = &mut fixture.router;
    router.state.finish_chunk(finished, &mut router.actions);
    router.perform().await.unwrap();
    let (mut count, mut bytes) = (0, 0);
    for applier in &mut fixture.appliers {
        while let Ok(message) = applier.try_recv() {
            let ApplierMessage::Refetch { keys, permit, .. } = message else {
                panic!("only refetches are expected");
            };
            let size: usize = keys.iter().map(Key::size_in_bytes).sum();
            assert!(size <= MOST, "{size}");
            assert_eq!(permit.bytes(), size, "they count against the budget");
            count += keys.len();
            bytes += size;
        }
    }
    assert_eq!(count, 30_000);
    assert!(bytes > 3 * MOST, "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn barriers_that_no_applier_has_reached_are_few() {
    // There is something left to copy, so every turn has a reason to send a barrier.
    let mut fixture = Fixture::new(1, true);
    for entry in fixture.turn(0).into_iter().take(100) {
        fixture.router.route(entry).await.unwrap();
        fixture.router.send_barrier_if_due().await.unwrap();
    }
    let count = fixture.router.state.barriers.len();
    assert!((2..10).contains(&count), "{count}");
}

/// The namespace alone does not tell which collection a command belongs to.
#[tokio::test]
async fn a_command_without_uuid_counts_only_in_the_selection() {
    let name = |name: &str| Arc::new(name.parse::<Namespace>().unwrap());
    let operations = |namespace: &str| {
        [
            CommandOperation::Create {
                namespace: name(namespace),
                options: rawdoc! {},
                id_index: None,
            },
            CommandOperation::CreateIndexes {
                namespace: name(namespace),
                indexes: vec![rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a" }],
            },
            CommandOperation::DropIndex {
                namespace: name(namespace),
                name: "a".to_owned(),
            },
            CommandOperation::Modify {
                namespace: name(namespace),
                arguments: rawdoc! { "validationLevel": "off" },
            },
            CommandOperation::Drop {
                namespace: name(namespace),
            },
            CommandOperation::Rename {
                from: name(namespace),
                to: name(&format!("{namespace}_renamed")),
                dropped: None,
            },
        ]
    };
    let mut fixture = Fixture::new(1, false);
    fixture.router.state.selection.include("shop.*").unwrap();
    let _appliers = fixture.run_appliers();
    for (namespace, is_taken) in [("other.things", true), ("shop.c0", false)] {
        for operation in operations(namespace) {
            let shown = format!("{operation:?}");
            let command = Command {
                position: Position::ZERO,
                collection: None,
                operation,
                raw: rawdoc! {},
            };
            let applied = fixture.router.apply_command(command).await;
            assert_eq!(applied.is_ok(), is_taken, "{shown}: {applied:?}");
        }
    }
}
