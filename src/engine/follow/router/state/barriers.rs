//! Barriers through the appliers: when they are sent, and what follows once all appliers have reached one.
//!
//! A barrier tells what is applied for certain and which documents are stuck.

use std::time::Duration;

use tokio::time::Instant;

use super::RoutingState;
use super::actions::Action;
use super::checkpoints::{CheckpointFacts, by_collection};
use crate::checkpoint::PendingCheckpoint;
use crate::engine::messages::{BarrierReached, Stuck, Unsettled};
use crate::model::Position;

/// Minimum time between barriers while appliers have not reached the last one.
///
/// A barrier ends the batch that an applier applies at once, and larger batches are better. With slow appliers the watermark still moves in
/// small steps. This does not apply during the copy, where each barrier is one more checkpoint that knows what is copied.
const BUSY_BARRIER_INTERVAL: Duration = Duration::from_secs(2);

/// With this many barriers in flight, no other is sent to move the watermark.
const MOST_BARRIERS: usize = 8;

/// With this many barriers in flight, no other is sent for a comparison.
pub(super) const MAX_VERIFICATION_BARRIERS: usize = 16;

/// Maximum number of barriers in flight. The additional one is for a barrier that the router sends and waits for at once.
pub(crate) const BARRIERS_PER_APPLIER: usize = MAX_VERIFICATION_BARRIERS + 1;

/// Limit in bytes for the `_id`s of documents that a checkpoint names to be read again. A document holds at most 16 MiB.
const UNSETTLED_BYTES: usize = 4 << 20;

/// A barrier that not every applier has reached yet.
#[derive(Debug)]
pub(crate) struct Barrier {
    waiting: usize,
    pub stuck: Vec<Stuck>,
    pub more_stuck: bool,
    pub unsettled: Unsettled,
    /// A position at or after the newest document state on the sink.
    pub ahead: Position,
    checkpoint: Option<PendingCheckpoint>,
}

impl RoutingState {
    /// A regular moment to see what is due: comparisons that take too long, and a checkpoint that waits to be saved.
    pub fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let progress = self.advance();
        actions.push(Action::ShowProgress(progress));
        actions.push(Action::ShowIndexes(self.tracked.index_counts()));
        self.stop_slow_checks(now, actions);
        if !self.is_saving
            && let Some(checkpoint) = self.next_save.take()
        {
            self.save(checkpoint, actions);
        }
    }

    /// Whether it is time for a barrier that moves the watermark.
    pub fn is_barrier_due(&self, now: Instant) -> bool {
        let is_busy = self.barriers.len() >= MOST_BARRIERS
            || (self.is_indexed
                && !self.barriers.is_empty()
                && now.duration_since(self.last_barrier_at) < BUSY_BARRIER_INTERVAL);
        !is_busy && (self.routed != self.marked || self.dirty)
    }

    /// Sends a barrier that carries a checkpoint.
    pub fn send_watermark_barrier(&mut self, now: Instant, facts: CheckpointFacts, actions: &mut Vec<Action>) {
        (self.marked, self.last_barrier_at) = (self.routed, now);
        self.tracked.join_ranges(self.routed);
        let checkpoint = self.checkpoint_now(facts);
        self.dirty = false;
        self.send_barrier(Some(checkpoint), UNSETTLED_BYTES / self.appliers, actions);
    }

    /// Sends a barrier without a checkpoint, to wait for it. Returns its number.
    pub fn send_awaited_barrier(&mut self, actions: &mut Vec<Action>) -> u64 {
        self.send_barrier(None, UNSETTLED_BYTES / self.appliers, actions)
    }

    /// Sends a barrier to every applier. Each one answers with its unsettled documents, unless their `_id`s take more than
    /// `unsettled_bytes`.
    pub(super) fn send_barrier(
        &mut self,
        checkpoint: Option<PendingCheckpoint>,
        unsettled_bytes: usize,
        actions: &mut Vec<Action>,
    ) -> u64 {
        let id = self.next_barrier;
        self.next_barrier += 1;
        self.barriers.insert(
            id,
            Barrier {
                waiting: self.appliers,
                stuck: Vec::new(),
                more_stuck: false,
                unsettled: Unsettled::default(),
                ahead: Position::ZERO,
                checkpoint,
            },
        );
        actions.push(Action::SendBarrier { id, unsettled_bytes });
        id
    }

    /// Notes that one applier has reached a barrier. Returns the barrier once all have.
    pub fn note(&mut self, reached: BarrierReached) -> Option<Barrier> {
        let barrier = self.barriers.get_mut(&reached.id)?;
        barrier.waiting -= 1;
        barrier.stuck.extend(reached.stuck);
        barrier.ahead = barrier.ahead.max(reached.ahead);
        barrier.more_stuck |= reached.more_stuck;
        barrier.unsettled.documents.extend(reached.unsettled.documents);
        barrier.unsettled.collections.extend(reached.unsettled.collections);
        if barrier.waiting > 0 {
            return None;
        }
        self.barriers.remove(&reached.id)
    }

    /// As [`note`](Self::note), while the task waits for the barrier `awaited` and handles no other.
    pub fn note_awaited(&mut self, reached: BarrierReached, awaited: u64) -> Option<Barrier> {
        let id = reached.id;
        let barrier = self.note(reached)?;
        if id == awaited {
            return Some(barrier);
        }
        // This is an older barrier. What is stuck there is still stuck at the new one. Its checkpoint is replaced by a later one.
        self.dirty = true;
        None
    }

    /// Handles an applier's acknowledgement of a barrier. Returns the barrier once all appliers have reached it. Its stuck documents are to
    /// be resolved next, and then its [checkpoint](Self::save_barrier) is to be saved.
    pub fn barrier_reached(
        &mut self,
        reached: BarrierReached,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Option<Barrier> {
        let id = reached.id;
        let barrier = self.note(reached)?;
        self.let_compare(id, &barrier, now, actions);
        if barrier.stuck.is_empty() {
            self.stuck_since.clear();
        } else {
            self.dirty = true;
        }
        Some(barrier)
    }

    /// Saves the checkpoint of a barrier that all appliers have reached.
    ///
    /// It names the documents that are stuck, and those that were refetched when a rename may have come in between. These may not be on the
    /// sink as of the watermark.
    pub fn save_barrier(&mut self, barrier: Barrier, actions: &mut Vec<Action>) {
        let Some(mut checkpoint) = barrier.checkpoint else {
            return;
        };
        if !barrier.unsettled.collections.is_empty() {
            // They become fewer as the watermark passes the positions at which they were read. A later barrier tries again.
            self.dirty = true;
            return;
        }
        checkpoint.head.unsettled = by_collection(self.with_given_up(barrier.unsettled.documents));
        // While a checkpoint is being saved, only the newest one after it is kept.
        if self.is_saving {
            self.next_save = Some(checkpoint);
        } else {
            self.save(checkpoint, actions);
        }
    }

    /// The checkpoint that was being saved is dealt with. `is_saved` is `false` if that was left to a later one.
    pub fn saved(&mut self, is_saved: bool) {
        self.is_saving = false;
        self.note_saved(is_saved);
    }

    /// Notes whether a checkpoint was saved. If not, a later one has to record what it contained.
    pub fn note_saved(&mut self, is_saved: bool) {
        self.dirty |= !is_saved;
    }

    fn save(&mut self, checkpoint: PendingCheckpoint, actions: &mut Vec<Action>) {
        self.is_saving = true;
        actions.push(Action::Save(Box::new(checkpoint)));
    }
}
