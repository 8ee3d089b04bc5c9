//! Keeps the memory that held changes take within its limit (I3).

use bson::Uuid;
use tokio::time::Instant;

use super::RoutingState;
use super::actions::{Action, Holder};
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::ranges::ChunkId;

impl RoutingState {
    /// Decides what to do about the memory that held changes take.
    ///
    /// At half of the limit, chunks and comparisons are asked to finish. At the limit, comparisons are stopped, and changes held back for
    /// index builds move to files. If that is not enough, the chunk that holds most is cancelled and read again later in smaller parts. If
    /// its collection has no ranges, its held changes move to a file instead.
    pub fn relieve(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.share_memory();
        if self.held < self.held_limit / 2 {
            self.hurried = false;
            return;
        }
        if !std::mem::replace(&mut self.hurried, true) {
            self.hurry_chunks(actions);
            self.hurry_checks(actions);
        }
        if self.held < self.held_limit {
            return;
        }
        // A comparison can be repeated later. Giving up a chunk costs more.
        self.stop_checks(now, actions);
        let mut spilled = 0;
        for (id, held_back) in self.held_back.iter().filter(|(_, held_back)| held_back.bytes() > 0) {
            spilled += held_back.bytes();
            actions.push(Action::Spill(Holder::IndexBuild(*id)));
        }
        if self.held - spilled < self.held_limit {
            return;
        }
        let Some((id, chunk)) = self.largest_chunk() else {
            return;
        };
        let has_ranges = self
            .tracked
            .get(&id)
            .is_some_and(|tracked| tracked.target.kind.has_ranges());
        if has_ranges {
            self.give_up(id, chunk, actions);
        } else {
            actions.push(Action::Spill(Holder::Chunk(id, chunk)));
        }
    }

    /// Tells the other runs that share the memory how much this one uses, and adjusts its limits to what they leave.
    pub fn share_memory(&mut self) {
        self.held_limit = self.held_memory.update(self.held);
        let changed = self.changed_limit.saturating_sub(self.changed_room);
        self.changed_limit = self.changed_memory.update(changed);
        self.changed_room = self.changed_limit.saturating_sub(changed);
    }

    /// Takes out changes to move them to a file. They must be [put back](Self::put_back) before anything else is decided.
    pub fn take_out(&mut self, holder: Holder) -> Option<HeldChanges> {
        let held = std::mem::take(self.held_by(holder)?);
        self.held -= held.bytes();
        Some(held)
    }

    /// Puts back changes that were moved to a file.
    pub fn put_back(&mut self, holder: Holder, held: HeldChanges) {
        let bytes = held.bytes();
        if let Some(place) = self.held_by(holder) {
            *place = held;
            self.held += bytes;
        }
    }

    fn held_by(&mut self, holder: Holder) -> Option<&mut HeldChanges> {
        match holder {
            Holder::Chunk(id, chunk) => Some(&mut self.tracked.get_mut(&id)?.chunks.get_mut(&chunk)?.held),
            Holder::IndexBuild(id) => self.held_back.get_mut(&id).map(|held_back| held_back.held_mut()),
        }
    }

    /// Asks every chunk to finish.
    fn hurry_chunks(&mut self, actions: &mut Vec<Action>) {
        for id in self.tracked.in_flight() {
            let tracked = self.tracked.get(&id);
            let chunks = tracked.into_iter().flat_map(|tracked| tracked.chunks.values());
            actions.extend(chunks.map(|chunk| Action::Hurry(chunk.hurry.clone())));
        }
    }

    /// Returns the chunk whose held changes take the most memory.
    fn largest_chunk(&mut self) -> Option<(Uuid, ChunkId)> {
        let in_flight = self.tracked.in_flight();
        let collections = in_flight.iter().filter_map(|id| Some((id, self.tracked.get(id)?)));
        let chunks = collections.flat_map(|(id, tracked)| tracked.chunks.iter().map(move |chunk| (*id, chunk)));
        chunks
            .max_by_key(|(_, (_, chunk))| chunk.held.bytes())
            .map(|(id, (chunk, _))| (id, *chunk))
    }
}
