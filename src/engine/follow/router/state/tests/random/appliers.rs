//! What the router's actions do to the appliers of the model, and these to the target.

use super::*;

impl World {
    /// An applier handles its next message.
    pub fn apply(&mut self, applier: usize) {
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

    pub fn reach(&mut self, barrier: u64, applier: usize) {
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

    pub fn drain(&mut self) {
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

    pub fn perform(&mut self) {
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

    pub fn replay(&mut self, replay: Replay) {
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

    pub fn refetch(&mut self, target: &CollectionMapping, keys: BTreeSet<Key>) {
        for (applier, keys) in self.bench.state.by_applier(target, keys) {
            let documents = keys.iter().map(|key| (target.id.bytes()[0], number(key)));
            self.appliers[applier].push_back(Message::Refetch(documents.collect()));
        }
    }

    pub fn send(&mut self, collection: Uuid, position: Position, write: Write) {
        let target = Arc::clone(&self.bench.state.tracked.get(&collection).unwrap().target);
        let routing = self.bench.state.send(target, position, write);
        self.push(routing);
    }

    pub fn push(&mut self, routing: Routing) {
        let Routing::Send(applier, routed) = routing else {
            panic!("{routing:?}")
        };
        let document = (routed.target.id.bytes()[0], number(&routed.write.key));
        let message = Message::Change(document, version(routed.position));
        self.appliers[applier].push_back(message);
    }
}
