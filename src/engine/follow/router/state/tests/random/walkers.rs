//! What walkers and index builds of the model do: end their chunks, comparisons and builds.

use super::*;

impl World {
    /// A walker ends its chunk, one way or the other.
    pub fn end_chunk(&mut self, is_last: bool) {
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

    pub fn finish(&mut self) {
        let bench = &mut self.bench;
        bench.state.finish_chunks(&mut bench.actions);
        bench.state.finish_checks(bench.now, &mut bench.actions);
    }

    /// The target must be exactly as of the position while a walker may compare.
    pub fn look_at_checks(&mut self) {
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

    pub fn end_check(&mut self) {
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

    pub fn begin_build(&mut self) {
        if let Some(job) = self.bench.state.next_build() {
            self.builds.push((job, None));
        }
    }

    pub fn end_build(&mut self, is_last: bool) {
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
}
