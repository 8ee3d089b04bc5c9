//! Verifies collections part by part while they are written to.
//!
//! The router makes sure that the target is at exactly the position at which the source is read.

use super::barriers::MAX_VERIFICATION_BARRIERS;
use super::*;
use crate::engine::messages::Check;
use crate::engine::track::verification::{Compared, Portion, RangeVerification, VerificationInFlight};
use crate::model::Write;

/// Maximum lag, in seconds of the source's history, at which a comparison starts. Beyond it the routed position may be too old for a
/// snapshot, and the tail comes first. A comparison that holds the watermark back by more than this is stopped.
const MOST_BEHIND: u32 = 2;

/// Maximum duration of a comparison. Sources up to 4.4 are read in a transaction: a catalog change would wait for its end, and everybody
/// who uses the collection would wait for that change.
const LONGEST: Duration = Duration::from_secs(5);

/// Maximum size in bytes of a range to compare. It is small because changes to the range are held meanwhile, and the watermark with them.
const CHUNK_BYTES: u64 = 16 << 20;

/// Maximum number of changed documents that are compared again at once. A comparison that runs out of time gives the rest back.
const CHANGED_AT_ONCE: usize = 4096;

/// Limit in bytes for the `_id`s of changed documents that a checkpoint keeps. The next run compares collections with more from the
/// beginning.
const KEPT_BYTES: usize = 512 << 10;

/// Comparing changed documents again takes one part in this many of one walker's time.
const TIME_SHARE: u32 = 10;

impl Router {
    /// Returns the next part to compare, if one is due.
    pub(super) async fn next_check(&mut self) -> Result<Option<Check>> {
        let newest = self.progress.source_position().map_or(0, |position| position.time);
        if self.routed < self.replay_until
            || self.routed.time.saturating_add(MOST_BEHIND) < newest
            || !self.stuck_since.is_empty()
            // During a cutover the digests read the same documents, and the applications wait for the digests.
            || self.progress.late_writes.is_on()
            || self.held >= self.held_limit / 4
            || self.barriers.len() >= MAX_VERIFICATION_BARRIERS
        {
            return Ok(None);
        }
        let Some((id, is_again)) = self.next_due() else {
            return Ok(None);
        };
        let (low, resume) = (self.routed, self.resume);
        // The barrier passes through the appliers behind everything up to here. No change of the range follows it.
        let barrier = self.send_barrier(None, 0).await?;
        let Some(tracked) = self.tracked.get_mut(&id) else {
            return Ok(None);
        };
        let chunk = ChunkId(self.next_chunk);
        self.next_chunk += 1;
        let (applied, wait) = oneshot::channel();
        let (cancel, hurry) = (self.cancel.child_token(), CancellationToken::new());
        let what = if is_again {
            // One at a time. When it ends, the time of the next one is set.
            self.compare_again_at = Instant::now() + LONGEST;
            tracked.verification.next_changed(CHANGED_AT_ONCE)
        } else {
            tracked.verification.next_range()
        };
        tracked.verification.run(VerificationInFlight::new(
            chunk,
            what.clone(),
            (low, resume),
            (cancel.clone(), hurry.clone()),
            (barrier, applied),
        ));
        Ok(Some(Check {
            chunk,
            target: Arc::clone(&tracked.target),
            what,
            at: low,
            chunk_bytes: self.chunk_bytes.min(CHUNK_BYTES),
            document_bytes: tracked.document_bytes(),
            applied: wait,
            cancel,
            hurry,
        }))
    }

    /// Whether a comparison that somebody waits for comes before what is still to be copied. It does so every other time, for one
    /// comparison at a time.
    pub(super) fn is_turn_of_asked(&mut self) -> bool {
        !self.asked_last
            && !self.progress.is_indexed()
            && self.tracked.any_asked()
            && self.tracked.compared().is_empty()
    }

    /// Returns the collection to compare now, and `true` if it is its changed documents that are to be compared again.
    fn next_due(&mut self) -> Option<(Uuid, bool)> {
        let now = Instant::now();
        let is_indexed = self.progress.is_indexed();
        let hurry = self.changed_room < self.changed_limit / 2;
        if self.changed_room < self.changed_limit
            && (hurry || self.compare_again_at <= now)
            && let Some(id) = self.tracked.next_due_again(now, self.routed, is_indexed, hurry)
        {
            return Some((id, true));
        }
        let due = self.tracked.next_due(now, self.routed, is_indexed);
        due.map(|id| (id, false))
    }

    /// Counts noted bytes. When they exceed the limit, the collection with the most will be compared from the beginning.
    pub(super) fn noted(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.changed_room = self.changed_room.saturating_sub(bytes);
        if self.changed_room == 0 {
            self.count_changed();
        }
        if self.changed_room == 0 {
            if let Some(largest) = self.tracked.most_changed() {
                largest.verification.begin_later();
            }
            self.count_changed();
        }
    }

    /// Recomputes how many more bytes can be noted: collections may be gone, or have started over.
    pub(super) fn count_changed(&mut self) {
        self.changed_room = self.changed_limit.saturating_sub(self.tracked.changed_bytes());
    }

    /// All appliers have reached a barrier. If a comparison waits for it, its walker can read the target now.
    pub(super) async fn let_compare(&mut self, id: u64, barrier: &Barrier) -> Result<()> {
        let is_of_barrier = |tracked: &CollectionProgress| {
            tracked
                .verification
                .running()
                .is_some_and(|running| running.barrier == id)
        };
        let Some(collection) = self.compared_where(is_of_barrier).pop() else {
            return Ok(());
        };
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return Ok(());
        };
        let Some(running) = tracked.verification.running_mut() else {
            return Ok(());
        };
        // Documents that were refetched may be newer than the position.
        if barrier.stuck.is_empty() && barrier.ahead <= running.low {
            if let Some(applied) = running.applied.take() {
                let _ = applied.send(());
            }
            return Ok(());
        }
        tracked.verification.fail(None);
        self.stop_check(collection).await
    }

    /// Handles the result of a comparison.
    pub(super) async fn checked(&mut self, collection: Uuid, chunk: ChunkId, result: Result<Compared>) -> Result<()> {
        match result {
            Ok(compared) => {
                self.compared.push((collection, chunk, compared));
                self.finish_checks().await
            }
            Err(error) => {
                if let Some(tracked) = self.checked_by(collection, chunk) {
                    tracked.verification.fail(Some(error.to_string()));
                    self.stop_check(collection).await?;
                }
                Ok(())
            }
        }
    }

    /// Records results that no entry can contradict any more: a rename or drop would have stopped the comparison.
    pub(super) async fn finish_checks(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.compared.len() {
            if self.routed < self.compared[at].2.opened {
                at += 1;
                continue;
            }
            let (collection, chunk, compared) = self.compared.swap_remove(at);
            let events = self.events.clone();
            let Some(tracked) = self.checked_by(collection, chunk) else {
                continue;
            };
            let (documents, bytes) = (compared.documents, compared.bytes);
            let (differences, count) = tracked.verification.add(compared);
            for difference in differences {
                events.send(Event::DocumentDiffers {
                    namespace: tracked.target.namespace.clone(),
                    difference,
                });
            }
            self.progress.note_verified(documents, bytes, count);
            self.stop_check(collection).await?;
        }
        Ok(())
    }

    /// Returns the collection of a comparison that is still running. One that was stopped meanwhile may have been misled.
    fn checked_by(&mut self, collection: Uuid, chunk: ChunkId) -> Option<&mut CollectionProgress> {
        let tracked = self.tracked.get_mut(&collection)?;
        tracked
            .verification
            .running()
            .is_some_and(|running| running.id == chunk)
            .then_some(tracked)
    }

    /// Stops all comparisons, so that everything routed goes to the appliers again.
    pub(crate) async fn stop_checks(&mut self) -> Result<()> {
        for id in self.tracked.compared() {
            if let Some(tracked) = self.tracked.get_mut(&id) {
                tracked.verification.fail(None);
            }
            self.stop_check(id).await?;
        }
        Ok(())
    }

    /// Stops comparisons that take too long because the servers are slow. They would keep the run from becoming ready for the cutover.
    pub(super) async fn stop_slow_checks(&mut self) -> Result<()> {
        let routed = self.routed.time;
        let is_slow = |running: &VerificationInFlight| {
            routed > running.low.time.saturating_add(MOST_BEHIND) || running.since.elapsed() > LONGEST
        };
        for id in self.compared_where(|tracked| tracked.verification.running().is_some_and(is_slow)) {
            if let Some(tracked) = self.tracked.get_mut(&id) {
                tracked
                    .verification
                    .fail(Some("the servers take too long to read a range".to_owned()));
            }
            self.stop_check(id).await?;
        }
        Ok(())
    }

    /// Ends the comparison in a collection and sends on the changes held for it.
    async fn stop_check(&mut self, collection: Uuid) -> Result<()> {
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return Ok(());
        };
        if let Some(VerificationInFlight {
            what: Portion::Documents(_),
            since,
            ..
        }) = tracked.verification.running()
        {
            self.compare_again_at = Instant::now() + since.elapsed() * (TIME_SHARE - 1);
        }
        let Some((held, bytes)) = tracked.verification.take() else {
            return Ok(());
        };
        self.held -= bytes;
        self.progress.held_bytes.store(self.held as u64, Relaxed);
        // The comparison held the watermark back.
        self.dirty = true;
        for (position, write) in held {
            self.send_on(collection, position, write).await?;
        }
        Ok(())
    }

    /// Sends a change that was held, and notes that its document has changed since it was compared.
    pub(super) async fn send_on(&mut self, collection: Uuid, position: Position, write: Write) -> Result<()> {
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return Ok(());
        };
        let target = Arc::clone(&tracked.target);
        let noted = tracked.verification.note(&write.key);
        self.noted(noted);
        self.send(Routed {
            target,
            position,
            write,
        })
        .await
    }

    /// Returns the collections with a running comparison for which `is_meant` is `true`.
    fn compared_where(&mut self, is_meant: impl Fn(&CollectionProgress) -> bool) -> Vec<Uuid> {
        let mut ids = self.tracked.compared();
        ids.retain(|id| self.tracked.get(id).is_some_and(&is_meant));
        ids
    }

    /// Returns the position up to which a checkpoint may say that everything is applied, and the position to read the history from to
    /// resume there.
    pub(super) fn applied_until(&mut self) -> (Position, Position) {
        let compared = self.tracked.compared();
        let running = compared
            .iter()
            .filter_map(|id| self.tracked.get(id)?.verification.running());
        running
            .map(|running| (running.low, running.resume))
            .chain(self.held_back.values().map(BlockedByIndex::since))
            .min()
            .unwrap_or((self.routed, self.resume))
    }

    /// Returns the verification state for a checkpoint. `None` if other programs may have written to any of the collections.
    pub(super) fn compared_until(&mut self) -> Option<ComparedUntil> {
        // Read the position first: writes seen after this come after it.
        let watched = self.progress.foreign_writes_until()?;
        let foreign = self.progress.foreign_writes().into_iter();
        Some(ComparedUntil {
            watched,
            foreign: foreign.map(|writes| writes.namespace).collect(),
            changed: self.tracked.changed_states(KEPT_BYTES),
        })
    }

    /// Asks all comparisons to finish.
    pub(super) fn hurry_checks(&mut self) {
        for id in self.tracked.compared() {
            if let Some(running) = self.tracked.get(&id).and_then(|tracked| tracked.verification.running()) {
                running.hurry.cancel();
            }
        }
    }

    pub(super) async fn verify(&mut self, request: VerificationRequest) -> Result<()> {
        // The requester may have stopped waiting.
        match request {
            VerificationRequest::Begin { collections, reply } => {
                self.each_verification(&collections, RangeVerification::ask).await?;
                let _ = reply.send(());
            }
            VerificationRequest::End { collections, reply } => {
                self.each_verification(&collections, |verification| {
                    *verification = RangeVerification::default()
                })
                .await?;
                let _ = reply.send(());
            }
            VerificationRequest::State { collections, reply } => {
                let _ = reply.send(self.verification_states(&collections));
            }
            VerificationRequest::Open { collection, reply } => {
                let open = self
                    .tracked
                    .get(&collection)
                    .and_then(|tracked| tracked.verification.open());
                let _ = reply.send(open);
            }
            VerificationRequest::Repair { namespace, keys, reply } => {
                self.repair_documents(&namespace, keys).await?;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    /// Applies `change` to the verifications of these collections, or of all collections if none are given.
    async fn each_verification(
        &mut self,
        collections: &[Namespace],
        change: impl Fn(&mut RangeVerification),
    ) -> Result<()> {
        self.stop_checks().await?;
        let is_meant =
            |tracked: &&CollectionProgress| collections.is_empty() || collections.contains(&tracked.target.namespace);
        let meant = self.tracked.values().filter(is_meant);
        for id in meant.map(|tracked| tracked.target.id).collect::<Vec<_>>() {
            if let Some(tracked) = self.tracked.get_mut(&id) {
                change(&mut tracked.verification);
            }
        }
        Ok(())
    }

    fn verification_states(&self, collections: &[Namespace]) -> Vec<CollectionVerification> {
        self.tracked
            .values()
            .filter(|tracked| collections.is_empty() || collections.contains(&tracked.target.namespace))
            .map(|tracked| CollectionVerification {
                namespace: tracked.target.namespace.clone(),
                target: tracked.target.target.clone(),
                state: if tracked.target.kind.has_ranges() {
                    tracked.verification.state()
                } else {
                    VerificationState::NoRanges
                },
            })
            .collect()
    }

    /// Refetches documents, so that the sink has them as the source does.
    async fn repair_documents(&mut self, namespace: &Namespace, keys: Vec<Key>) -> Result<()> {
        self.stop_checks().await?;
        let found = self
            .tracked
            .values()
            .find(|tracked| tracked.target.namespace == *namespace);
        let Some(tracked) = found else { return Ok(()) };
        let target = Arc::clone(&tracked.target);
        self.refetch(&target, keys.into_iter().collect()).await
    }
}
