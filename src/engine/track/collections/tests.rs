use bson::{RawBsonRef, rawdoc};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::track::collection::{Chunk, IndexWork};
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::ranges::{ChunkId, Ranges};
use crate::engine::track::verification::RangeVerification;
use crate::model::{Collection, CollectionKind, Namespace};
use crate::order::Key;
use crate::test_util::{Random, at};

fn tracked(random: &mut Random) -> CollectionProgress {
    let id = random.uuid();
    let namespace = Namespace::new("shop", &format!("c{}", random.next()));
    let collection = Collection {
        id,
        namespace: namespace.clone(),
        kind: CollectionKind::Plain,
        options: rawdoc! {},
        indexes: vec![rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" }],
        documents: 1,
        bytes: random.next() % 1000,
    };
    let cuts = (0..random.below(3)).map(|cut| key(cut * 10)).collect();
    let mut tracked = CollectionProgress::unread(&collection, namespace, cuts);
    tracked.verification.begin();
    tracked
}

fn key(number: usize) -> Key {
    Key::from(RawBsonRef::Int64(number as i64))
}

/// Changes a collection in a random way.
fn change(tracked: &mut CollectionProgress, random: &mut Random, step: u32) {
    let chunk = ChunkId(step.into());
    match random.below(8) {
        0 => tracked.changes += 1,
        1 => {
            if tracked.ranges.take(chunk).is_some() {
                let chunk_state = Chunk {
                    low: at(step),
                    held: HeldChanges::default(),
                    cancel: CancellationToken::new(),
                    hurry: CancellationToken::new(),
                    is_given_up: false,
                };
                tracked.chunks.insert(chunk, chunk_state);
            }
        }
        2 => {
            let running = tracked.chunks.keys().next().copied();
            if let Some(chunk) = running {
                tracked.chunks.remove(&chunk);
                tracked.ranges.finish(chunk, None, at(step), false);
            }
        }
        3 => tracked.ranges = Ranges::done(at(step)),
        4 => tracked.verification = RangeVerification::of_empty(true),
        5 => {
            tracked.verification.note(&key(random.below(50)), Instant::now());
        }
        6 => tracked.verification.ask(),
        _ => tracked.index_work = IndexWork::Done,
    }
}

#[tokio::test(start_paused = true)]
async fn counts_and_sets_equal_a_look_at_all() {
    for seed in 0..20 {
        let random = &mut Random::new(seed);
        let (mut all, mut ids) = (Collections::default(), Vec::new());
        for step in 1..300 {
            let now = Instant::now();
            if ids.is_empty() || random.below(4) == 0 {
                let tracked = tracked(random);
                ids.push(tracked.target.id);
                all.insert(tracked.target.id, tracked);
            }
            let at_random = random.below(ids.len());
            match random.below(10) {
                0 => assert!(all.remove(&ids.swap_remove(at_random)).is_some()),
                _ => change(all.get_mut(&ids[at_random]).unwrap(), random, step),
            }
            if random.below(10) == 0 {
                all.join_ranges(at(step));
            }
            let values: Vec<&CollectionProgress> = all.values().collect();
            assert_eq!(values.len(), ids.len());
            let expected = (
                values.iter().all(|tracked| tracked.ranges.all_done()),
                values.iter().all(|tracked| tracked.is_indexed()),
                values.iter().all(|tracked| tracked.verification.is_settled()),
                values.iter().any(|tracked| tracked.verification.is_asked()),
                values
                    .iter()
                    .map(|tracked| tracked.verification.changed_bytes())
                    .sum::<usize>(),
                values
                    .iter()
                    .filter(|tracked| tracked.verification.open().is_none() || !tracked.target.kind.has_ranges())
                    .map(|tracked| tracked.bytes)
                    .sum::<u64>(),
                values.iter().map(|tracked| tracked.index_counts().built).sum::<u64>(),
                values.iter().filter(|tracked| !tracked.chunks.is_empty()).count(),
            );
            let coldest = values.iter().filter(|tracked| tracked.ranges.has_unread());
            let coldest = coldest.map(|tracked| (tracked.heat().to_bits(), std::cmp::Reverse(tracked.bytes)));
            let coldest = coldest.min();
            let is_due =
                |tracked: &&&CollectionProgress| is_done(tracked, at(step)) && tracked.verification.is_due(now);
            let any_due = values.iter().any(|tracked| is_due(&tracked));
            let is_again = |tracked: &&&CollectionProgress| {
                is_done(tracked, at(step)) && tracked.verification.is_due_again(now, false)
            };
            let any_again = values.iter().any(|tracked| is_again(&tracked));
            let states: HashMap<Uuid, _> = values.iter().map(|t| (t.target.id, t.to_checkpoint())).collect();
            let statuses: HashMap<Uuid, _> = values.iter().map(|t| (t.target.id, status_of(t))).collect();
            let found = (
                all.are_copied(),
                all.are_indexed(),
                all.are_settled(),
                all.any_asked(),
                all.changed_bytes(),
                all.cutover_work().open_bytes,
                all.index_counts().built,
                all.in_flight().len(),
            );
            assert_eq!(found, expected, "seed {seed}, step {step}");
            let next = all.next_unread().map(|id| all.get(&id).unwrap());
            let next = next.map(|tracked| (tracked.heat().to_bits(), std::cmp::Reverse(tracked.bytes)));
            assert_eq!(next, coldest, "seed {seed}, step {step}");
            assert_eq!(all.next_due(now, at(step), true, |_| true).is_some(), any_due);
            assert_eq!(
                all.next_due_again(now, at(step), (true, false), |_| true).is_some(),
                any_again
            );
            if random.below(5) == 0 {
                let saved: HashMap<Uuid, _> = all.states().iter().map(|state| (state.id, state.clone())).collect();
                assert_eq!(saved, states, "seed {seed}, step {step}");
            }
            if random.below(5) == 0 {
                let published = all.statuses();
                let published: HashMap<Uuid, _> = published.iter().map(|it| (it.id, (**it).clone())).collect();
                assert_eq!(published, statuses, "seed {seed}, step {step}");
            }
            tokio::time::advance(std::time::Duration::from_millis(random.next() % 2000)).await;
        }
    }
}

#[test]
fn collections_without_ranges_are_read_again() {
    let random = &mut Random::new(1);
    let mut all = Collections::default();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut tracked = tracked(random);
        tracked.ranges = Ranges::done(at(1));
        ids.push(tracked.target.id);
        all.insert(tracked.target.id, tracked);
    }
    let is_done = |states: States| -> HashMap<Uuid, bool> {
        let done = |state: &CollectionState| state.ranges.iter().all(|range| range.done.is_some());
        states.iter().map(|state| (state.id, done(state))).collect()
    };
    let without = is_done(all.states_without_ranges(&HashSet::from([ids[1]])));
    assert_eq!(
        ids.iter().map(|id| without[id]).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert!(
        is_done(all.states()).values().all(|done| *done),
        "the next checkpoint has them again"
    );
}
