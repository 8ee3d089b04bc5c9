//! Tests of decisions. They need no server, no task and no clock.

mod barriers;
mod chunks;
mod comparisons;
mod documentation;
mod random;
mod relief;
mod stuck;
mod table;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bson::{RawBsonRef, rawdoc};

use super::actions::Holder;
use super::*;
use crate::config::Verification;
use crate::engine::messages::{BarrierReached, Check, Stuck, Unsettled, Work};
use crate::engine::track::ranges::Ranges;
use crate::model::{Collection, Operation};
use crate::runtime::index_builds::{EndedBuild, IndexJob};
use crate::sink::RefusalReason;
use crate::test_util::at;

/// A state, what it has decided so far, and a time.
struct Bench {
    state: RoutingState,
    actions: Vec<Action>,
    now: Instant,
}

/// What was done with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Ignored,
    Dropped,
    HeldForChunk,
    HeldForComparison,
    HeldForIndex,
    /// Held, and no longer held when the decision was complete, because there was no room.
    LetGo,
    Sent(usize),
}

const ORDERS: u8 = 1;
const ITEMS: u8 = 2;

fn id(collection: u8) -> Uuid {
    Uuid::from_bytes([collection; 16])
}

fn key(number: i32) -> Key {
    Key::from(RawBsonRef::Int32(number))
}

fn namespace(collection: u8) -> Namespace {
    Namespace::new("shop", &format!("c{collection}"))
}

/// A collection that is not copied, in ranges with these upper ends.
fn unread(collection: u8, kind: CollectionKind, cuts: &[i32]) -> CollectionProgress {
    let namespace = namespace(collection);
    let collection = Collection {
        id: id(collection),
        namespace: namespace.clone(),
        kind,
        options: rawdoc! {},
        indexes: vec![rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" }],
        documents: 0,
        bytes: 0,
    };
    CollectionProgress::unread(&collection, namespace, cuts.iter().map(|cut| key(*cut)).collect())
}

/// A collection that is on the sink as of a position. Its index is still to be built.
fn copied(collection: u8, time: u32) -> CollectionProgress {
    let mut tracked = unread(collection, CollectionKind::Plain, &[]);
    tracked.ranges = Ranges::done(at(time));
    tracked
}

/// Same as `copied`, with its index.
fn indexed(collection: u8, time: u32) -> CollectionProgress {
    let mut tracked = copied(collection, time);
    tracked.index_work = crate::engine::track::collection::IndexWork::Done;
    tracked
}

fn parts(collections: Vec<CollectionProgress>) -> RoutingParts {
    RoutingParts {
        selection: Selection::all(),
        rules: CollectionRules::all(Verification::Digest),
        appliers: 2,
        held_memory: Allowance::alone(100_000),
        chunk_bytes: 1 << 20,
        changed_memory: Allowance::alone(1 << 20),
        cancel: CancellationToken::new(),
        checkpoint: Checkpoint::begin("source", "sink", Selection::all(), at(1), at(1)),
        collections,
        replay_until: Position::ZERO,
    }
}

impl Bench {
    fn new(collections: Vec<CollectionProgress>) -> Self {
        Self::of(parts(collections))
    }

    /// Everything is copied, indexed and to be compared.
    fn verified(collections: Vec<CollectionProgress>) -> Self {
        Self::of(RoutingParts {
            rules: CollectionRules::all(Verification::Continuous),
            ..parts(collections)
        })
    }

    fn of(parts: RoutingParts) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            state: RoutingState::new(parts, now),
            actions: Vec::new(),
            now,
        };
        bench.state.advance();
        bench
    }

    fn outside(&self) -> Outside {
        Outside {
            now: self.now,
            newest: 0,
            is_handing_over: false,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn held_counts(&mut self) -> [u64; 3] {
        let tracked = self.state.tracked.values();
        let (mut chunks, mut comparisons) = (0, 0);
        for tracked in tracked {
            chunks += tracked.chunks.values().map(|chunk| chunk.held.count()).sum::<u64>();
            let running = tracked.verification.running();
            comparisons += running.map_or(0, |running| running.held_keys().count() as u64);
        }
        let held_back = self.state.held_back.values_mut();
        let indexes = held_back.map(|held_back| held_back.held_mut().count()).sum();
        [chunks, comparisons, indexes]
    }

    /// The memory that everything held takes.
    fn held_bytes(&self) -> usize {
        let of_collection = |tracked: &CollectionProgress| {
            let chunks: usize = tracked.chunks.values().map(|chunk| chunk.held.bytes()).sum();
            let running = tracked.verification.running();
            chunks + running.map_or(0, |running| running.held_bytes())
        };
        let held_back = self.state.held_back.values();
        self.state.tracked.values().map(of_collection).sum::<usize>()
            + held_back.map(|held_back| held_back.bytes()).sum::<usize>()
    }

    /// Decides about one change, which is an entry of its own. `size` is the size of its document.
    fn try_route(&mut self, collection: u8, document: i32, position: Position, size: usize) -> Result<Done> {
        let (before, dropped) = (self.held_counts(), self.state.dropped);
        assert!(self.state.begin_entry(position, position));
        let change = Change {
            position,
            collection: id(collection),
            namespace: Arc::new(namespace(collection)),
            write: Write {
                key: key(document),
                operation: Operation::Insert(rawdoc! { "_id": document, "text": "x".repeat(size) }),
            },
        };
        let routing = self.state.change(change, self.now, &mut self.actions)?;
        self.state.end_entry(position, position);
        let after = self.held_counts();
        let held: Vec<usize> = (0..3).filter(|place| after[*place] > before[*place]).collect();
        assert_eq!(self.state.held, self.held_bytes());
        Ok(match routing {
            Routing::Ignored => Done::Ignored,
            Routing::Dropped => {
                assert_eq!(self.state.dropped, dropped + 1);
                Done::Dropped
            }
            Routing::Held => match held[..] {
                [0] => Done::HeldForChunk,
                [1] => Done::HeldForComparison,
                [2] => Done::HeldForIndex,
                [] => Done::LetGo,
                _ => panic!("held in {held:?}"),
            },
            Routing::Send(applier, routed) => {
                assert_eq!((routed.position, &routed.write.key), (position, &key(document)));
                Done::Sent(applier)
            }
        })
    }

    fn route(&mut self, collection: u8, document: i32, time: u32) -> Done {
        self.try_route(collection, document, at(time), 0).unwrap()
    }

    /// Registers a chunk of a collection.
    fn assign(&mut self, collection: u8, majority: u32) -> crate::engine::messages::Assignment {
        self.state.assign(id(collection), at(majority)).unwrap()
    }

    /// Registers the comparison that is due.
    fn compare(&mut self) -> Check {
        let outside = self.outside();
        match self.state.next_work(at(1), &outside, &mut self.actions) {
            Some(Work::Check(check)) => check,
            other => panic!("{other:?} is no comparison"),
        }
    }

    /// Has an index of a collection refused, so that it is built again while the collection stands still.
    fn block(&mut self, collection: u8) -> IndexJob {
        let job = self.state.tracked.get_mut(&id(collection)).unwrap();
        let job = job.next_index(self.state.routed).unwrap();
        let ended = self.state.build_ended(refused(&job), &mut self.actions).unwrap();
        let Ended::Refused(job) = ended else {
            panic!("{ended:?}")
        };
        self.state.build_again(job, Position::ZERO).unwrap()
    }

    /// Has every applier reach a barrier.
    fn reach(&mut self, id: u64, last: BarrierReached) {
        let first = self.state.barrier_reached(reached(id), self.now, &mut self.actions);
        assert!(first.is_none(), "one applier has not reached it");
        let barrier = self.state.barrier_reached(last, self.now, &mut self.actions).unwrap();
        self.state.save_barrier(barrier, &mut self.actions);
    }

    /// Sends a barrier with a checkpoint, and returns its number.
    fn send_barrier(&mut self) -> u64 {
        let facts = CheckpointFacts::default();
        self.state.send_watermark_barrier(self.now, facts, &mut self.actions);
        self.barrier()
    }

    /// Returns the number of the barrier that was sent last.
    fn barrier(&mut self) -> u64 {
        let ids: Vec<u64> = self.decided(|action| match action {
            Action::SendBarrier { id, .. } => Some(*id),
            _ => None,
        });
        *ids.last().unwrap()
    }

    /// Returns a part of what was decided since the last call, and forgets the rest.
    fn decided<T>(&mut self, part: impl Fn(&Action) -> Option<T>) -> Vec<T> {
        self.actions.drain(..).filter_map(|action| part(&action)).collect()
    }

    /// Returns the watermarks of the checkpoints that are to be saved now.
    fn saves(&mut self) -> Vec<Position> {
        self.decided(|action| match action {
            Action::Save(checkpoint) => Some(checkpoint.head.watermark),
            _ => None,
        })
    }
}

fn reached(id: u64) -> BarrierReached {
    BarrierReached {
        id,
        stuck: Vec::new(),
        more_stuck: false,
        unsettled: Unsettled::default(),
        ahead: Position::ZERO,
    }
}

fn refused(job: &IndexJob) -> EndedBuild {
    EndedBuild {
        job: job.clone(),
        result: Err(Error::new(ErrorKind::TargetRefused, "create an index", "duplicate key")),
    }
}

fn stuck(collection: u8, document: i32, time: u32) -> Stuck {
    let tracked = indexed(collection, 1);
    Stuck {
        applier: 0,
        target: tracked.target,
        key: key(document),
        position: at(time),
        reason: RefusalReason::DuplicateKey("n_1".to_owned()),
    }
}

fn keys(documents: impl IntoIterator<Item = i32>) -> BTreeSet<Key> {
    documents.into_iter().map(key).collect()
}
