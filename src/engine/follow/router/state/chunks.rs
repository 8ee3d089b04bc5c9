//! Gives ranges to walkers, and takes finished chunks back.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::Uuid;
use tokio_util::sync::CancellationToken;

use super::actions::{Action, Reply};
use super::replay::{Replay, ReplayRules};
use super::{Outside, RoutingState};
use crate::catalog::to_create;
use crate::checkpoint::UnsettledDocuments;
use crate::engine::messages::{Assignment, Finished, Work};
use crate::engine::track::collection::Chunk;
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::ranges::{ChunkId, RangeStatus};
use crate::model::{CollectionKind, CollectionMapping, Position};
use crate::order::Key;
use crate::report::Event;
use crate::source::ReadMode;

/// Number of refused snapshots in a row after which a chunk is read as an interval.
const SNAPSHOT_ATTEMPTS: u32 = 3;

impl RoutingState {
    /// Returns work for a walker: first chunks, then comparisons. A comparison that somebody waits for can come before chunks.
    pub fn next_work(&mut self, majority: Position, outside: &Outside, actions: &mut Vec<Action>) -> Option<Work> {
        let asked = match self.is_turn_of_asked() {
            true => self.next_check(outside, actions),
            false => None,
        };
        self.asked_last = asked.is_some();
        if let Some(check) = asked {
            return Some(Work::Check(check));
        }
        if let Some(chunk) = self.next_chunk(majority) {
            return Some(Work::Chunk(chunk));
        }
        self.next_check(outside, actions).map(Work::Check)
    }

    fn next_chunk(&mut self, majority: Position) -> Option<Assignment> {
        if self.routed < self.replay_until {
            // An earlier run may have carried out a rename whose entry is still to be replayed. Until then, a walker would create a
            // collection with the old name, which would then replace the renamed one.
            return None;
        }
        let id = self.tracked.next_unread()?;
        self.assign(id, majority)
    }

    /// Registers a chunk. Its position is never before what has been routed (I1): changes that were dropped because the range was not read
    /// yet are in its snapshot.
    pub fn assign(&mut self, collection: Uuid, majority: Position) -> Option<Assignment> {
        let at = majority.max(self.routed);
        let chunk = ChunkId(self.next_chunk);
        let tracked = self.tracked.get_mut(&collection)?;
        let (range, repair) = tracked.ranges.take(chunk)?;
        self.next_chunk += 1;
        // The new chunk has not been asked to finish yet.
        self.hurried = false;
        let (cancel, hurry) = (self.cancel.child_token(), CancellationToken::new());
        tracked.chunks.insert(
            chunk,
            Chunk {
                low: at,
                held: HeldChanges::default(),
                cancel: cancel.clone(),
                hurry: hurry.clone(),
                is_given_up: false,
            },
        );
        // A smaller chunk may finish before its snapshot expires. An interval read need not be small.
        let interval = tracked.target.kind == CollectionKind::Capped || tracked.snapshots_refused >= SNAPSHOT_ATTEMPTS;
        let shrunk = if interval { 1 } else { 1 << tracked.snapshots_refused };
        Some(Assignment {
            chunk,
            target: Arc::clone(&tracked.target),
            made: tracked.made,
            options: to_create(&tracked.options, &tracked.indexes),
            range,
            repair,
            at,
            mode: if interval {
                ReadMode::Interval
            } else {
                ReadMode::Snapshot
            },
            chunk_bytes: (self.chunk_bytes / tracked.chunk_divisor / shrunk).max(1),
            document_bytes: tracked.document_bytes(),
            cancel,
            hurry,
        })
    }

    /// Takes back the range of a chunk that did not finish. It is read again.
    pub fn release(&mut self, collection: Uuid, chunk: ChunkId, snapshot_refused: bool) {
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return;
        };
        tracked.ranges.release(chunk);
        if let Some(chunk) = tracked.chunks.remove(&chunk) {
            self.held -= chunk.held.bytes();
        }
        if snapshot_refused {
            tracked.snapshots_refused += 1;
        }
    }

    /// Cancels a chunk and drops its held changes. Its range will be read again at a newer position.
    pub fn give_up(&mut self, collection: Uuid, chunk: ChunkId, actions: &mut Vec<Action>) {
        if let Some(tracked) = self.tracked.get_mut(&collection)
            && let Some(chunk) = tracked.chunks.get_mut(&chunk)
        {
            chunk.is_given_up = true;
            actions.push(Action::Cancel(chunk.cancel.clone()));
            let held = std::mem::take(&mut chunk.held);
            self.held -= held.bytes();
            self.dropped += held.count();
            tracked.chunk_divisor = (tracked.chunk_divisor * 2).min(64);
        }
    }

    /// Cancels all chunks of a collection that are in flight.
    pub fn give_up_all(&mut self, collection: Uuid, actions: &mut Vec<Action>) {
        let tracked = self.tracked.get(&collection);
        let chunks: Vec<ChunkId> = tracked.map_or_else(Vec::new, |tracked| tracked.chunks.keys().copied().collect());
        for chunk in chunks {
            self.give_up(collection, chunk, actions);
        }
    }

    /// Whether chunks of a collection are in flight.
    pub fn has_chunks(&self, collection: Uuid) -> bool {
        let tracked = self.tracked.get(&collection);
        tracked.is_some_and(|tracked| !tracked.chunks.is_empty())
    }

    /// Finishes chunks whose reads no entry can contradict any more, and sends on the changes held for them (I2).
    pub fn finish_chunks(&mut self, actions: &mut Vec<Action>) {
        let mut at = 0;
        while at < self.finishing.len() {
            let (finished, _) = &self.finishing[at];
            let is_given_up = self
                .tracked
                .get(&finished.collection)
                .and_then(|tracked| tracked.chunks.get(&finished.chunk))
                .is_none_or(|chunk| chunk.is_given_up);
            if !is_given_up && self.routed < finished.opened.max(finished.high.unwrap_or(finished.opened)) {
                at += 1;
                continue;
            }
            let (finished, reply) = self.finishing.swap_remove(at);
            if is_given_up {
                self.release(finished.collection, finished.chunk, false);
            } else {
                self.finish_chunk(finished, actions);
            }
            actions.push(Action::Reply(Reply::Done(reply)));
        }
    }

    /// Marks a chunk's range as done. From now on, changes of its documents are sent behind those that were held.
    pub fn finish_chunk(&mut self, finished: Finished, actions: &mut Vec<Action>) {
        let Some(tracked) = self.tracked.get_mut(&finished.collection) else {
            return;
        };
        let Some(chunk) = tracked.chunks.remove(&finished.chunk) else {
            return;
        };
        tracked.snapshots_refused = 0;
        tracked.made = finished.made.or(tracked.made);
        tracked.copied.documents += finished.copied.documents;
        tracked.copied.bytes += finished.copied.bytes;
        // Let chunks grow again. Otherwise a range would never end if the application adds more to it than a small chunk in the time that
        // the chunk takes.
        tracked.chunk_divisor = (tracked.chunk_divisor / 2).max(1);
        tracked
            .ranges
            .finish(finished.chunk, finished.last.clone(), chunk.low, finished.repair);
        tracked.ranges.join(self.routed);
        self.held -= chunk.held.bytes();
        self.dirty = true;
        let target = Arc::clone(&tracked.target);
        let is_copied = tracked.ranges.all_done();
        actions.push(Action::Replay(Box::new(Replay {
            rules: ReplayRules::new(finished, target.kind),
            held: chunk.held,
            target: Arc::clone(&target),
        })));
        if is_copied {
            actions.push(Action::Report(Event::CollectionCopied {
                namespace: target.namespace.clone(),
            }));
        }
        let progress = self.advance();
        actions.push(Action::ShowProgress(progress));
    }

    /// Refetches the documents that the checkpoint could not vouch for. Those in a range that is not done are read with that range.
    pub fn refetch_again(&mut self, actions: &mut Vec<Action>) {
        for UnsettledDocuments { collection, ids } in std::mem::take(&mut self.checkpoint.unsettled) {
            let Some(tracked) = self.tracked.get(&collection) else {
                continue;
            };
            let is_done = |key: &Key| matches!(tracked.ranges.status(key), RangeStatus::Done(_));
            actions.push(Action::Refetch {
                target: Arc::clone(&tracked.target),
                keys: ids.into_iter().filter(is_done).collect(),
            });
        }
    }

    /// Groups documents by the applier that they belong to.
    pub fn by_applier(&self, target: &CollectionMapping, keys: BTreeSet<Key>) -> Vec<(usize, Vec<Key>)> {
        let mut of_applier: Vec<Vec<Key>> = vec![Vec::new(); self.appliers];
        for key in keys {
            of_applier[self.applier_of(target, &key)].push(key);
        }
        let of_applier = of_applier.into_iter().enumerate();
        of_applier.filter(|(_, keys)| !keys.is_empty()).collect()
    }
}
