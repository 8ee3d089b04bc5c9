//! Random inputs, on a model of the source, the appliers and the target.

mod appliers;
mod walkers;

use std::collections::VecDeque;

use futures::FutureExt;
use tokio::sync::oneshot;

use super::*;
use crate::config::Verification;
use crate::engine::messages::Assignment;
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::verification::Portion;
use crate::source::ReadMode;
use crate::test_util::Random;

const CAPPED: u8 = 3;

/// Number of changes of the source.
const CHANGES: u32 = 400;

/// Changes of the source in one second.
const PER_SECOND: u32 = 50;

type Document = (u8, i32);

enum Message {
    Change(Document, u32),
    Refetch(Vec<Document>),
    Barrier(u64),
}

/// What a checkpoint would say: the watermark, and the documents in ranges that are done.
struct Vouched {
    watermark: u32,
    documents: Vec<Document>,
}

/// A position is the number of the change that is made there, from 1.
struct World {
    bench: Bench,
    random: Random,
    history: Vec<Document>,
    documents: HashMap<u8, Vec<Document>>,
    /// The change that every document on the target is as of.
    target: HashMap<Document, u32>,
    /// Documents were read from the source as of this change. The appliers drop what is older.
    read_until: HashMap<Document, u32>,
    appliers: Vec<VecDeque<Message>>,
    /// How far the appliers have read ahead.
    ahead: Vec<u32>,
    chunks: Vec<Assignment>,
    checks: Vec<(Check, bool)>,
    builds: Vec<(IndexJob, Option<u32>)>,
    files: HashMap<(Uuid, bool), Vec<(Position, Write)>>,
    vouched: HashMap<u64, Vouched>,
    seen: HashMap<&'static str, u32>,
}

fn position(version: u32) -> Position {
    Position {
        time: 1 + version / PER_SECOND,
        increment: 1 + version % PER_SECOND,
        term: 1,
    }
}

fn version(position: Position) -> u32 {
    (position.time - 1) * PER_SECOND + position.increment - 1
}

fn number(key: &Key) -> i32 {
    match key.to_bson_ref() {
        Ok(RawBsonRef::Int32(number)) => number,
        other => panic!("{other:?}"),
    }
}

fn all(held: HeldChanges) -> Vec<(Position, Write)> {
    // Nothing is in a file, so there is nothing to wait for.
    let mut reader = held.read().now_or_never().unwrap().unwrap();
    std::iter::from_fn(|| reader.next().now_or_never().unwrap().unwrap()).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut history = vec![(0, 0)];
        let mut documents: HashMap<u8, Vec<Document>> = HashMap::new();
        for change in 1..=CHANGES {
            history.push(match random.below(8) {
                0..4 => (ORDERS, random.below(30) as i32),
                4..7 => (ITEMS, random.below(8) as i32),
                // Documents of capped collections are inserted and not changed.
                _ => (CAPPED, change as i32),
            });
        }
        for document in history[1..].iter().collect::<BTreeSet<_>>() {
            documents.entry(document.0).or_default().push(*document);
        }
        let mut bench = Bench::of(RoutingParts {
            rules: CollectionRules::all(Verification::Continuous),
            held_memory: Allowance::alone(1000),
            ..parts(vec![
                unread(ORDERS, CollectionKind::Plain, &[10, 20]),
                unread(ITEMS, CollectionKind::Plain, &[]),
                unread(CAPPED, CollectionKind::Capped, &[]),
            ])
        });
        bench.state.routed = position(0);
        let asked = bench.state.tracked.get_mut(&id(ITEMS)).unwrap();
        asked.verification.ask();
        Self {
            bench,
            random,
            history,
            documents,
            target: HashMap::new(),
            read_until: HashMap::new(),
            appliers: vec![VecDeque::new(), VecDeque::new()],
            ahead: vec![0, 0],
            chunks: Vec::new(),
            checks: Vec::new(),
            builds: Vec::new(),
            files: HashMap::new(),
            vouched: HashMap::new(),
            seen: HashMap::new(),
        }
    }

    fn routed(&self) -> u32 {
        version(self.bench.state.routed)
    }

    /// A number between both, inclusive.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.random.below((high.max(low) - low + 1) as usize) as u32
    }

    /// The newest change of a document up to `until`; 0 if there is none.
    fn newest(&self, document: Document, until: u32) -> u32 {
        let until = &self.history[..=until as usize];
        until.iter().rposition(|of| *of == document).unwrap_or(0) as u32
    }

    fn on_target(&self, document: Document) -> u32 {
        self.target.get(&document).copied().unwrap_or(0)
    }

    /// The documents of a collection in order.
    fn documents(&self, collection: u8) -> Vec<Document> {
        self.documents.get(&collection).cloned().unwrap_or_default()
    }

    fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn route(&mut self) {
        let next = self.routed() + 1;
        if next > CHANGES {
            return;
        }
        let document = self.history[next as usize];
        let done = self.bench.try_route(document.0, document.1, position(next), 0).unwrap();
        match done {
            Done::Sent(applier) => {
                self.appliers[applier].push_back(Message::Change(document, next));
                self.see("sent");
            }
            Done::Dropped => self.see("dropped"),
            Done::HeldForChunk => self.see("held for a chunk"),
            Done::HeldForComparison => self.see("held for a comparison"),
            Done::HeldForIndex => self.see("held for an index"),
            Done::LetGo => self.see("let go"),
            Done::Ignored => panic!("{document:?} is ignored"),
        }
    }

    fn work(&mut self) {
        // The position was read a moment before the request.
        let majority = self.between(self.routed().saturating_sub(3), CHANGES);
        let outside = self.bench.outside();
        let bench = &mut self.bench;
        match bench.state.next_work(position(majority), &outside, &mut bench.actions) {
            Some(Work::Chunk(chunk)) => {
                assert!(chunk.at >= self.bench.state.routed, "I1");
                self.chunks.push(chunk);
            }
            Some(Work::Check(check)) => self.checks.push((check, false)),
            None => {}
        }
    }

    fn tick(&mut self) {
        let time = Duration::from_millis(self.random.below(2000) as u64);
        self.bench.pass(time);
        let is_saved = self.random.below(2) == 0;
        let bench = &mut self.bench;
        if bench.state.is_saving && is_saved {
            bench.state.saved(is_saved);
        }
        bench.state.tick(bench.now, &mut bench.actions);
        self.perform();
        let bench = &mut self.bench;
        if bench.state.is_barrier_due(bench.now) {
            let watermark = version(bench.state.applied_until().0);
            let facts = CheckpointFacts::default();
            bench.state.send_watermark_barrier(bench.now, facts, &mut bench.actions);
            let is_done = |(collection, document): &Document| {
                use crate::engine::track::ranges::RangeStatus;
                let tracked = bench.state.tracked.get(&id(*collection)).unwrap();
                matches!(tracked.ranges.status(&key(*document)), RangeStatus::Done(_))
            };
            let documents = self.history[1..].iter().copied().filter(is_done).collect();
            let vouched = Vouched { watermark, documents };
            let barrier = bench.state.next_barrier - 1;
            self.vouched.insert(barrier, vouched);
        }
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..8 => self.route(),
            8..10 => self.work(),
            10 if self.random.below(2) == 0 => self.end_chunk(false),
            11 => self.end_check(),
            12 => self.begin_build(),
            13 => self.end_build(false),
            14..16 => self.tick(),
            16 => self.finish(),
            _ => {
                let applier = self.random.below(2);
                self.apply(applier);
            }
        }
        self.perform();
        self.look_at_checks();
    }

    /// Ends everything that has begun, and compares the target with the source.
    fn end(&mut self) {
        for _ in 0..2 * CHANGES {
            self.route();
            self.perform();
        }
        for _ in 0..50 {
            self.drain();
            self.begin_build();
            self.end_build(true);
            self.end_chunk(true);
            self.finish();
            self.perform();
            self.work();
        }
        self.drain();
        assert!(self.chunks.is_empty() && self.builds.is_empty());
        assert_eq!((self.bench.state.held, self.bench.held_bytes()), (0, 0));
        assert!(self.bench.state.advance().is_indexed);
        for document in self.history[1..].iter().copied() {
            assert_eq!(self.on_target(document), self.newest(document, CHANGES), "{document:?}");
        }
    }
}

/// No change is lost or comes twice or out of order, no watermark is ahead of the target, what is compared stands still, and what is held is
/// counted.
#[test]
fn random_inputs_keep_the_invariants() {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for seed in 0..40 {
        let mut world = World::new(seed);
        while world.routed() < CHANGES {
            world.step();
        }
        world.end();
        for (what, count) in world.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    for what in [
        "sent",
        "dropped",
        "held for a chunk",
        "held for a comparison",
        "held for an index",
        "let go",
        "given up",
        "spilled",
        "refetched",
        "read as an interval",
        "compared",
        "checkpoint",
    ] {
        assert!(
            seen.get(what).is_some_and(|count| *count > 2),
            "{what} is rare: {seen:?}"
        );
    }
}
