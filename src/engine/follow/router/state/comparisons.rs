//! Comparisons of parts of collections while they are written to: when each begins, what is held for it, and how it ends.
//!
//! A comparison needs the target at exactly the position at which the source is read. A barrier behind everything up to that position says
//! when it is there, and later changes of the part are held until the comparison ends.

use std::sync::Arc;
use std::time::Duration;

use bson::Uuid;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::actions::Action;
use super::barriers::{Barrier, MAX_VERIFICATION_BARRIERS};
use super::{Outside, RoutingState};
use crate::engine::messages::Check;
use crate::engine::track::collection::CollectionProgress;
use crate::engine::track::ranges::ChunkId;
use crate::engine::track::verification::{Compared, Portion, VerificationInFlight};
use crate::error::{Error, ErrorKind, Result};
use crate::report::Event;

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

/// Comparing changed documents again takes one part in this many of one walker's time.
const TIME_SHARE: u32 = 10;

impl RoutingState {
    /// Returns the next part to compare, if one is due.
    pub(super) fn next_check(&mut self, outside: &Outside, actions: &mut Vec<Action>) -> Option<Check> {
        if self.routed < self.replay_until
            || self.routed.time.saturating_add(MOST_BEHIND) < outside.newest
            || self.is_any_stuck()
            // During a cutover the digests read the same documents, and the applications wait for the digests.
            || outside.is_handing_over
            || self.held >= self.held_limit / 4
            || self.barriers.len() >= MAX_VERIFICATION_BARRIERS
        {
            return None;
        }
        let (id, is_again) = self.next_due(outside.now)?;
        let (low, resume) = (self.routed, self.resume);
        // The barrier passes through the appliers behind everything up to here. No change of the range follows it.
        let barrier = self.send_barrier(None, 0, actions);
        let chunk = ChunkId(self.next_chunk);
        let tracked = self.tracked.get_mut(&id)?;
        self.next_chunk += 1;
        let (applied, wait) = oneshot::channel();
        let (cancel, hurry) = (self.cancel.child_token(), CancellationToken::new());
        let what = if is_again {
            // One at a time. When it ends, the time of the next one is set.
            self.compare_again_at = outside.now + LONGEST;
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
            outside.now,
        ));
        Some(Check {
            chunk,
            target: Arc::clone(&tracked.target),
            what,
            at: low,
            chunk_bytes: self.chunk_bytes.min(CHUNK_BYTES),
            document_bytes: tracked.document_bytes(),
            applied: wait,
            cancel,
            hurry,
        })
    }

    /// Whether a comparison that somebody waits for comes before what is still to be copied. It does so every other time, for one
    /// comparison at a time.
    pub(super) fn is_turn_of_asked(&mut self) -> bool {
        !self.asked_last && !self.is_indexed && self.tracked.any_asked() && self.tracked.compared().is_empty()
    }

    /// All appliers have reached a barrier. If a comparison waits for it, its walker can read the target now.
    pub(super) fn let_compare(&mut self, id: u64, barrier: &Barrier, now: Instant, actions: &mut Vec<Action>) {
        let is_of_barrier = |tracked: &CollectionProgress| {
            tracked
                .verification
                .running()
                .is_some_and(|running| running.barrier == id)
        };
        let Some(collection) = self.compared_where(is_of_barrier).pop() else {
            return;
        };
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return;
        };
        let Some(running) = tracked.verification.running_mut() else {
            return;
        };
        // Documents that were refetched may be newer than the position.
        if barrier.stuck.is_empty() && barrier.ahead <= running.low {
            actions.extend(running.applied.take().map(Action::AllowComparison));
            return;
        }
        self.fail_check(collection, None, now, actions);
    }

    /// Handles the result of a comparison.
    pub fn checked(
        &mut self,
        (collection, chunk): (Uuid, ChunkId),
        result: Result<Compared>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let result = match result {
            // Which of the others have changed meanwhile is not known.
            Ok(compared) if !compared.is_at_position && compared.count > compared.differences.len() as u64 => {
                Err(Error::new(
                    ErrorKind::SnapshotUnavailable,
                    "compare a range",
                    "too many documents differ to tell whether they have changed meanwhile",
                ))
            }
            result => result,
        };
        match result {
            Ok(compared) => {
                self.compared.push((collection, chunk, compared));
                self.finish_checks(now, actions);
            }
            Err(error) => {
                if let Some(tracked) = self.checked_by(collection, chunk) {
                    actions.push(Action::NoteError {
                        target: Arc::clone(&tracked.target),
                        error: error.report(),
                    });
                    self.fail_check(collection, Some(error.report()), now, actions);
                }
            }
        }
    }

    /// Records results that no entry can contradict any more: a rename or drop would have stopped the comparison.
    pub fn finish_checks(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut at = 0;
        while at < self.compared.len() {
            if self.routed < self.compared[at].2.opened {
                at += 1;
                continue;
            }
            let (collection, chunk, compared) = self.compared.swap_remove(at);
            let Some(tracked) = self.checked_by(collection, chunk) else {
                continue;
            };
            let (documents, bytes) = (compared.documents, compared.bytes);
            let (found, differences) = tracked.verification.add(compared);
            actions.extend(found.into_iter().map(|difference| {
                Action::Report(Event::DocumentDiffers {
                    namespace: tracked.target.namespace.clone(),
                    difference,
                })
            }));
            actions.push(Action::CountVerified {
                documents,
                bytes,
                differences,
            });
            self.stop_check(collection, now, actions);
        }
    }

    /// Stops all comparisons, so that everything routed goes to the appliers again.
    pub fn stop_checks(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for id in self.tracked.compared() {
            self.fail_check(id, None, now, actions);
        }
    }

    /// Stops comparisons that take too long because the servers are slow. They would keep the run from becoming ready for the cutover.
    pub(super) fn stop_slow_checks(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let routed = self.routed.time;
        let is_slow = |running: &VerificationInFlight| {
            routed > running.low.time.saturating_add(MOST_BEHIND) || now.duration_since(running.since) > LONGEST
        };
        for id in self.compared_where(|tracked| tracked.verification.running().is_some_and(is_slow)) {
            let reason = "the servers take too long to read a range".to_owned();
            self.fail_check(id, Some(reason), now, actions);
        }
    }

    /// Asks all comparisons to finish.
    pub(super) fn hurry_checks(&mut self, actions: &mut Vec<Action>) {
        for id in self.tracked.compared() {
            let tracked = self.tracked.get(&id);
            let running = tracked.and_then(|tracked| tracked.verification.running());
            actions.extend(running.map(|running| Action::Hurry(running.hurry.clone())));
        }
    }

    /// Counts noted bytes. When they exceed the limit, the collection with the most will be compared from the beginning.
    pub(super) fn noted(&mut self, bytes: usize, now: Instant) {
        if bytes == 0 {
            return;
        }
        self.changed_room = self.changed_room.saturating_sub(bytes);
        if self.changed_room == 0 {
            self.count_changed();
        }
        if self.changed_room == 0 {
            if let Some(largest) = self.tracked.most_changed() {
                largest.verification.begin_later(now);
            }
            self.count_changed();
        }
    }

    /// Recomputes how many more bytes can be noted: collections may be gone, or have started over.
    pub(super) fn count_changed(&mut self) {
        let changed = self.tracked.changed_bytes();
        self.changed_limit = self.changed_memory.update(changed);
        self.changed_room = self.changed_limit.saturating_sub(changed);
    }

    /// Returns the collection to compare now, and `true` if it is its changed documents that are to be compared again.
    fn next_due(&mut self, now: Instant) -> Option<(Uuid, bool)> {
        let is_indexed = self.is_indexed;
        // The target lacks the changes that are held back, and changes held for a comparison must not overtake them.
        let may = |id: &Uuid| !self.held_back.contains_key(id);
        let hurry = self.changed_room < self.changed_limit / 2;
        if self.changed_room < self.changed_limit
            && (hurry || self.compare_again_at <= now)
            && let Some(id) = self.tracked.next_due_again(now, self.routed, (is_indexed, hurry), may)
        {
            return Some((id, true));
        }
        let due = self.tracked.next_due(now, self.routed, is_indexed, may);
        due.map(|id| (id, false))
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

    /// Ends the comparison in a collection without a result. `reason` counts as a failure.
    fn fail_check(&mut self, collection: Uuid, reason: Option<String>, now: Instant, actions: &mut Vec<Action>) {
        if let Some(tracked) = self.tracked.get_mut(&collection) {
            tracked.verification.fail(reason, now);
        }
        self.stop_check(collection, now, actions);
    }

    /// Ends the comparison in a collection and sends on the changes held for it.
    fn stop_check(&mut self, collection: Uuid, now: Instant, actions: &mut Vec<Action>) {
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return;
        };
        let Some(running) = tracked.verification.take(now) else {
            return;
        };
        if matches!(running.what, Portion::Documents(_)) {
            self.compare_again_at = now + now.duration_since(running.since) * (TIME_SHARE - 1);
        }
        self.held -= running.held_bytes();
        // The comparison held the watermark back.
        self.dirty = true;
        for key in running.held_keys() {
            let tracked = self.tracked.get_mut(&collection);
            let noted = tracked.map_or(0, |tracked| tracked.verification.note(key, now));
            self.noted(noted, now);
        }
        if let Some(tracked) = self.tracked.get(&collection) {
            actions.push(Action::EndComparison {
                target: Arc::clone(&tracked.target),
                running: Box::new(running),
            });
        }
    }

    /// Returns the collections with a running comparison for which `is_meant` is `true`.
    fn compared_where(&mut self, is_meant: impl Fn(&CollectionProgress) -> bool) -> Vec<Uuid> {
        let mut ids = self.tracked.compared();
        ids.retain(|id| self.tracked.get(id).is_some_and(&is_meant));
        ids
    }
}
