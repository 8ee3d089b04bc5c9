//! Random inputs, on a model of the source, the appliers and the target.

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

    /// A walker ends its chunk, one way or the other.
    fn end_chunk(&mut self, is_last: bool) {
        if self.chunks.is_empty() {
            return;
        }
        let at_random = self.random.below(self.chunks.len());
        let chunk = self.chunks.swap_remove(at_random);
        let collection = chunk.target.id.bytes()[0];
        let is_cancelled = chunk.cancel.is_cancelled();
        if is_cancelled || (!is_last && self.random.below(6) == 0) {
            if is_cancelled {
                self.see("given up");
            }
            return self.bench.state.release(chunk.target.id, chunk.chunk, !is_cancelled);
        }
        let low = version(chunk.at);
        let high = match chunk.mode {
            ReadMode::Snapshot => low,
            _ => self.between(low, (low + 8).min(CHANGES)),
        };
        let mut in_range = self.documents(collection);
        in_range.retain(|(_, document)| {
            let key = key(*document);
            chunk.range.lower.as_ref().is_none_or(|lower| key > *lower)
                && chunk.range.upper.as_ref().is_none_or(|upper| key <= *upper)
        });
        let is_part = collection != CAPPED && !is_last && self.random.below(3) == 0;
        let last = in_range.get(self.random.below(in_range.len())).filter(|_| is_part);
        let last = last.map(|(_, document)| key(*document));
        let mut refused = Vec::new();
        for document in in_range {
            if last.as_ref().is_some_and(|last| key(document.1) > *last) {
                continue;
            }
            if collection != CAPPED && self.random.below(20) == 0 {
                refused.push(key(document.1));
                continue;
            }
            let read_at = self.between(low, high);
            self.target.insert(document, self.newest(document, read_at));
        }
        if high > low {
            self.see("read as an interval");
        }
        let opened = self.between(low, (low + 3).min(CHANGES));
        let finished = Finished {
            collection: chunk.target.id,
            chunk: chunk.chunk,
            made: None,
            copied: crate::model::Amount::default(),
            last,
            repair: true,
            opened: position(opened),
            high: (high > low).then(|| position(high)),
            refused,
        };
        let (reply, _) = oneshot::channel();
        self.bench.state.finishing.push((finished, reply));
        self.finish();
    }

    fn finish(&mut self) {
        let bench = &mut self.bench;
        bench.state.finish_chunks(&mut bench.actions);
        bench.state.finish_checks(bench.now, &mut bench.actions);
    }

    /// The target must be exactly as of the position while a walker may compare.
    fn look_at_checks(&mut self) {
        self.checks.retain(|(check, _)| !check.cancel.is_cancelled());
        for at_check in 0..self.checks.len() {
            let (check, is_allowed) = &mut self.checks[at_check];
            *is_allowed |= check.applied.try_recv().is_ok();
            if !*is_allowed {
                continue;
            }
            let (check, _) = &self.checks[at_check];
            for document in self.documents(check.target.id.bytes()[0]) {
                let is_compared = match &check.what {
                    Portion::Above(lower) => lower.as_ref().is_none_or(|lower| key(document.1) > *lower),
                    Portion::Documents(documents) => documents.contains(&key(document.1)),
                };
                let expected = self.newest(document, version(check.at));
                assert!(!is_compared || self.on_target(document) == expected, "{document:?}");
            }
            self.see("compared");
        }
    }

    fn end_check(&mut self) {
        self.look_at_checks();
        let Some(found) = self.checks.iter().position(|(_, is_allowed)| *is_allowed) else {
            return;
        };
        let (check, _) = self.checks.swap_remove(found);
        let last = matches!(check.what, Portion::Above(_)).then(|| key(self.random.below(40) as i32));
        let low = version(check.at);
        let opened = self.between(low, (low + 3).min(CHANGES));
        let compared = Compared {
            is_at_position: true,
            opened: position(opened),
            last: last.filter(|last| number(last) < 30),
            left: HashSet::new(),
            documents: 1,
            bytes: 1,
            differences: Vec::new(),
            count: 0,
        };
        let result = match self.random.below(4) {
            0 => Err(Error::stopped("compare")),
            _ => Ok(compared),
        };
        let bench = &mut self.bench;
        let chunk = (check.target.id, check.chunk);
        bench.state.checked(chunk, result, bench.now, &mut bench.actions);
    }

    fn begin_build(&mut self) {
        if let Some(job) = self.bench.state.next_build() {
            self.builds.push((job, None));
        }
    }

    fn end_build(&mut self, is_last: bool) {
        if self.builds.is_empty() {
            return;
        }
        let (job, stood_still_at) = self.builds.swap_remove(0);
        if let Some(low) = stood_still_at {
            // Unless everything was sent on meanwhile, nothing has changed.
            if self.bench.state.held_back.contains_key(&job.target.id) {
                for document in self.documents(job.target.id.bytes()[0]) {
                    assert_eq!(self.on_target(document), self.newest(document, low), "{document:?}");
                }
            }
        }
        let bench = &mut self.bench;
        let ended = match self.random.below(3) {
            0 if !is_last => EndedBuild { job, result: Ok(()) },
            _ if is_last => EndedBuild { job, result: Ok(()) },
            _ => refused(&job),
        };
        let ended = bench.state.build_ended(ended, &mut bench.actions).unwrap();
        self.perform();
        if let Ended::Refused(job) = ended {
            self.drain();
            let ahead = self.ahead.iter().max().copied().unwrap_or_default();
            let low = self.routed();
            if let Some(job) = self.bench.state.build_again(job, position(ahead)) {
                self.builds.push((job, Some(low)));
            }
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

    /// An applier handles its next message.
    fn apply(&mut self, applier: usize) {
        let Some(message) = self.appliers[applier].pop_front() else {
            return;
        };
        match message {
            Message::Change(document, change) => {
                if self.read_until.get(&document).is_some_and(|read| change <= *read) {
                    return;
                }
                let (before, expected) = (self.on_target(document), self.newest(document, change - 1));
                // What is inserted into a capped collection during its read may come twice.
                let is_again = document.0 == CAPPED && before == change;
                assert!(
                    before == expected || is_again,
                    "{document:?} is at {before} before {change}"
                );
                self.target.insert(document, change);
            }
            Message::Refetch(documents) => {
                let read = self.between(self.routed(), CHANGES.min(self.routed() + 5));
                self.ahead[applier] = self.ahead[applier].max(read);
                for document in documents {
                    self.target.insert(document, self.newest(document, read));
                    self.read_until.insert(document, read);
                }
                self.see("refetched");
            }
            Message::Barrier(barrier) => self.reach(barrier, applier),
        }
    }

    fn reach(&mut self, barrier: u64, applier: usize) {
        let reached = BarrierReached {
            ahead: position(self.ahead[applier]),
            ..reached(barrier)
        };
        let bench = &mut self.bench;
        let Some(passed) = bench.state.barrier_reached(reached, bench.now, &mut bench.actions) else {
            return;
        };
        bench.state.save_barrier(passed, &mut bench.actions);
        if let Some(vouched) = self.vouched.remove(&barrier) {
            for document in vouched.documents {
                let (has, needs) = (self.on_target(document), self.newest(document, vouched.watermark));
                assert!(has >= needs, "I4: {document:?} is at {has}, not at {needs}");
            }
            self.see("checkpoint");
        }
    }

    fn drain(&mut self) {
        let bench = &mut self.bench;
        bench.state.stop_checks(bench.now, &mut bench.actions);
        self.perform();
        for applier in 0..self.appliers.len() {
            while !self.appliers[applier].is_empty() {
                self.apply(applier);
                self.perform();
            }
        }
    }

    fn perform(&mut self) {
        for action in std::mem::take(&mut self.bench.actions) {
            match action {
                Action::Cancel(token) | Action::Hurry(token) => token.cancel(),
                Action::AllowComparison(applied) => drop(applied.send(())),
                Action::EndComparison { target, running } => {
                    running.cancel.cancel();
                    for (position, write) in running.into_held() {
                        self.send(target.id, position, write);
                    }
                }
                Action::Replay(replay) => self.replay(*replay),
                Action::SendHeldBack { collection, held } => {
                    let file = self.files.remove(&(collection, false)).unwrap_or_default();
                    for (position, write) in file.into_iter().chain(all(held)) {
                        let now = self.bench.now;
                        let routing = self.bench.state.send_on(collection, position, write, now);
                        self.push(routing);
                    }
                }
                Action::Spill(holder) => {
                    let held = self.bench.state.take_out(holder).unwrap();
                    let place = match holder {
                        Holder::Chunk(collection, _) => (collection, true),
                        Holder::IndexBuild(collection) => (collection, false),
                    };
                    self.files.entry(place).or_default().extend(all(held));
                    self.bench.state.put_back(holder, HeldChanges::default());
                    self.see("spilled");
                }
                Action::Refetch { target, keys } => self.refetch(&target, keys),
                Action::SendBarrier { id, .. } => {
                    for applier in &mut self.appliers {
                        applier.push_back(Message::Barrier(id));
                    }
                }
                _ => {}
            }
        }
        assert_eq!(self.bench.state.held, self.bench.held_bytes(), "I3");
    }

    fn replay(&mut self, replay: Replay) {
        let Replay {
            target,
            held,
            mut rules,
        } = replay;
        let file = self.files.remove(&(target.id, true)).unwrap_or_default();
        for (position, write) in file.into_iter().chain(all(held)) {
            match rules.step(position, write) {
                ReplayStep::Nothing => {}
                ReplayStep::Refetch(keys) => self.refetch(&target, keys),
                ReplayStep::Send { refetch, write } => {
                    self.refetch(&target, refetch);
                    self.send(target.id, position, write);
                }
            }
        }
        self.refetch(&target, rules.end());
    }

    fn refetch(&mut self, target: &CollectionMapping, keys: BTreeSet<Key>) {
        for (applier, keys) in self.bench.state.by_applier(target, keys) {
            let documents = keys.iter().map(|key| (target.id.bytes()[0], number(key)));
            self.appliers[applier].push_back(Message::Refetch(documents.collect()));
        }
    }

    fn send(&mut self, collection: Uuid, position: Position, write: Write) {
        let target = Arc::clone(&self.bench.state.tracked.get(&collection).unwrap().target);
        let routing = self.bench.state.send(target, position, write);
        self.push(routing);
    }

    fn push(&mut self, routing: Routing) {
        let Routing::Send(applier, routed) = routing else {
            panic!("{routing:?}")
        };
        let document = (routed.target.id.bytes()[0], number(&routed.write.key));
        let message = Message::Change(document, version(routed.position));
        self.appliers[applier].push_back(message);
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
