//! All collections of a run, and what the router asks of them as a whole.
//!
//! There can be tens of thousands, of which what happens concerns a few at a time. So what is asked of all is kept as counts and ordered sets,
//! which are brought up to date by looking at those collections alone that were touched since they were last asked.

mod facts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::{Deref, DerefMut};

use bson::Uuid;
use tokio::time::Instant;

use self::facts::{Facts, Totals};
use crate::checkpoint::{CollectionState, Compared, ComparedState, State, States};
use crate::engine::track::collection::CollectionProgress;
use crate::engine::track::ranges::{RangeStatus, Ranges};
use crate::model::Position;
use crate::report::IndexCounts;
use crate::runtime::index_builds::IndexJob;

/// Of the collections with most changed documents so many are looked at for one that can be compared again now.
const LARGEST_LOOKED_AT: usize = 64;

/// The collections that are migrated, views left out.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    slots_by_id: HashMap<Uuid, usize>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Slots whose facts have to be found anew.
    touched: Vec<usize>,
    /// Slots whose state has to be written anew.
    unsaved: Vec<usize>,
    totals: Totals,
    states: States,
    /// How many collections were looked at so far.
    #[cfg(test)]
    looks: std::sync::atomic::AtomicU64,
}

/// Something of which it is known whether it may have changed since it was last looked at.
#[derive(Debug)]
pub(crate) struct Noticed<T> {
    value: T,
    may_have_changed: bool,
}

#[derive(Debug)]
struct Slot {
    tracked: CollectionProgress,
    facts: Facts,
    is_touched: bool,
    is_unsaved: bool,
}

impl Collections {
    pub fn contains_key(&self, id: &Uuid) -> bool {
        self.slots_by_id.contains_key(id)
    }

    pub fn get(&self, id: &Uuid) -> Option<&CollectionProgress> {
        self.at(*self.slots_by_id.get(id)?)
    }

    /// A collection that may be changed in any way.
    pub fn get_mut(&mut self, id: &Uuid) -> Option<&mut CollectionProgress> {
        let slot = *self.slots_by_id.get(id)?;
        self.touch(slot, true)
    }

    /// A collection in which nothing is changed that a checkpoint keeps, but for which documents have changed since they were compared.
    pub fn get_routed(&mut self, id: &Uuid) -> Option<&mut CollectionProgress> {
        let slot = *self.slots_by_id.get(id)?;
        self.touch(slot, false)
    }

    pub fn insert(&mut self, id: Uuid, tracked: CollectionProgress) {
        self.remove(&id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let facts = Facts::of(&tracked);
        self.totals.add(slot, &facts);
        self.slots_by_id.insert(id, slot);
        self.slots[slot] = Some(Slot {
            tracked,
            facts,
            is_touched: false,
            is_unsaved: true,
        });
        self.unsaved.push(slot);
    }

    pub fn remove(&mut self, id: &Uuid) -> Option<CollectionProgress> {
        let slot = self.slots_by_id.remove(id)?;
        let removed = self.slots[slot].take()?;
        self.totals.take(slot, &removed.facts);
        self.states.set(slot, None);
        self.free.push(slot);
        Some(removed.tracked)
    }

    pub fn values(&self) -> impl Iterator<Item = &CollectionProgress> {
        self.slots.iter().flatten().map(|slot| {
            self.note_look();
            &slot.tracked
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &CollectionProgress)> {
        self.values().map(|tracked| (&tracked.target.id, tracked))
    }

    /// Whether every range of every collection is done.
    pub fn are_copied(&mut self) -> bool {
        self.refresh();
        self.totals.not_copied == 0
    }

    /// Whether every index of every collection is built, or was given up.
    pub fn are_indexed(&mut self) -> bool {
        self.refresh();
        self.totals.not_indexed == 0
    }

    /// Whether of no collection anything more will be compared for now.
    pub fn are_settled(&mut self) -> bool {
        self.refresh();
        self.totals.not_settled == 0
    }

    pub fn index_counts(&mut self) -> IndexCounts {
        self.refresh();
        self.totals.indexes
    }

    /// The memory that the `_id`s of what has changed since it was compared take, in bytes.
    pub fn changed_bytes(&mut self) -> usize {
        self.refresh();
        self.totals.changed_bytes
    }

    /// Joins ranges whose positions are routed.
    pub fn join_ranges(&mut self, routed: Position) {
        self.refresh();
        let mut next = 0;
        while let Some(slot) = first_from(&self.totals.can_join, next) {
            next = slot + 1;
            if self.look_at(slot).is_some_and(|tracked| tracked.ranges.join(routed)) {
                self.touch(slot, true);
            }
        }
    }

    /// Goes on with the indexes of collections for which there is nothing more to wait for.
    pub fn advance_index_work(&mut self, routed: Position) {
        self.refresh();
        let mut next = 0;
        while let Some(slot) = first_from(&self.totals.can_begin_indexes, next) {
            next = slot + 1;
            if let Some(tracked) = self.touch(slot, true) {
                tracked.advance_index_work(routed);
            }
        }
    }

    /// The next index to be built.
    pub fn next_index(&mut self, routed: Position) -> Option<IndexJob> {
        self.refresh();
        for are_waiting in [true, false] {
            let mut next = 0;
            loop {
                let candidates = match are_waiting {
                    true => &self.totals.has_waiting_indexes,
                    false => &self.totals.can_begin_indexes,
                };
                let Some(slot) = first_from(candidates, next) else {
                    break;
                };
                next = slot + 1;
                let index = self.touch(slot, true).and_then(|tracked| tracked.next_index(routed));
                if index.is_some() {
                    return index;
                }
            }
        }
        None
    }

    /// The collection to be copied next. What is changed most comes last: changes of what was not read yet are dropped, while those of what was
    /// have to be applied.
    pub fn next_unread(&mut self) -> Option<Uuid> {
        self.refresh();
        let (_, slot) = *self.totals.unread.first()?;
        self.id(slot)
    }

    /// The collections of which ranges are being copied.
    pub fn in_flight(&mut self) -> Vec<Uuid> {
        self.refresh();
        self.ids(&self.totals.in_flight)
    }

    /// The collections of which something is being compared.
    pub fn compared(&mut self) -> Vec<Uuid> {
        self.refresh();
        self.ids(&self.totals.compared)
    }

    /// Whether somebody waits for the comparison of a collection.
    pub fn any_asked(&mut self) -> bool {
        self.refresh();
        self.totals.asked > 0
    }

    /// A collection of which a range can be compared now; without `others` only one that somebody waits for.
    pub fn next_due(&mut self, now: Instant, routed: Position, others: bool) -> Option<Uuid> {
        self.refresh();
        let due = self.totals.due.until(now, others);
        let mut due = due.filter_map(|slot| self.at(slot));
        due.find(|tracked| is_done(tracked, routed))
            .map(|tracked| tracked.target.id)
    }

    /// A collection whose changed documents can be compared again now: with hurry the one with most, else the one whose turn came first.
    pub fn next_due_again(&mut self, now: Instant, routed: Position, others: bool, hurry: bool) -> Option<Uuid> {
        self.refresh();
        let is_due = |tracked: &&CollectionProgress| {
            is_done(tracked, routed)
                && (others || tracked.verification.is_asked())
                && tracked.verification.is_due_again(now, hurry)
        };
        let found = if hurry {
            let largest = self.totals.changed.iter().rev().take(LARGEST_LOOKED_AT);
            largest.filter_map(|(_, slot)| self.at(*slot)).find(is_due)
        } else {
            let again = self.totals.again.until(now, others);
            again.filter_map(|slot| self.at(slot)).find(is_due)
        };
        found.map(|tracked| tracked.target.id)
    }

    /// The collection with most changed documents.
    pub fn most_changed(&mut self) -> Option<&mut CollectionProgress> {
        self.refresh();
        let (_, slot) = *self.totals.changed.last()?;
        self.touch(slot, true)
    }

    /// What is known of collections of which documents have changed since they were compared, those with fewest first, within so many bytes of
    /// `_id`s.
    pub fn changed_states(&mut self, mut room: usize) -> HashMap<Uuid, ComparedState> {
        self.refresh();
        let mut states = HashMap::new();
        // What is being compared again counts as changed, too, and is not among those that wait.
        let (compared, changed) = (self.totals.compared.iter(), self.totals.changed.iter());
        for slot in compared.chain(changed.map(|(_, slot)| slot)) {
            let Some(tracked) = self.at(*slot) else { continue };
            let bytes = tracked.verification.changed_bytes();
            if bytes == 0 || states.contains_key(&tracked.target.id) {
                continue;
            }
            let Some(rest) = room.checked_sub(bytes) else { break };
            if let Some(state) = tracked.verification.to_checkpoint() {
                room = rest;
                states.insert(tracked.target.id, state);
            }
        }
        states
    }

    /// The states of all collections, of which those alone are written anew that have changed.
    pub fn states(&mut self) -> States {
        self.refresh();
        for slot in std::mem::take(&mut self.unsaved) {
            let Some(Some(entry)) = self.slots.get_mut(slot) else {
                continue;
            };
            if !std::mem::take(&mut entry.is_unsaved) {
                continue;
            }
            let (state, compared) = (entry.tracked.to_checkpoint(), entry.tracked.verification.compared());
            if !self.states.get(slot).is_some_and(|before| before.is(&state, &compared)) {
                self.states.set(slot, Some(State::new(state, compared)));
            }
        }
        self.states.clone()
    }

    /// The same with these collections as if nothing of them had been copied.
    pub fn states_without_ranges(&mut self, collections: &HashSet<Uuid>) -> States {
        let mut states = self.states();
        for slot in collections.iter().filter_map(|id| self.slots_by_id.get(id)) {
            if let Some(tracked) = self.at(*slot) {
                let state = CollectionState {
                    ranges: Ranges::unread_again().to_checkpoint(),
                    ..tracked.to_checkpoint()
                };
                states.set(*slot, Some(State::new(state, Compared::No)));
            }
        }
        states
    }

    /// Replaces the states of all views.
    pub fn set_views<'a>(&mut self, views: impl Iterator<Item = &'a CollectionProgress>) {
        self.states.set_views(views.map(CollectionProgress::to_checkpoint));
    }

    /// How many collections were looked at so far.
    #[cfg(test)]
    pub fn looks(&self) -> u64 {
        self.looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Brings counts and sets up to date.
    fn refresh(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            self.note_look();
            let Some(Some(entry)) = self.slots.get_mut(slot) else {
                continue;
            };
            if !std::mem::take(&mut entry.is_touched) {
                continue;
            }
            let facts = Facts::of(&entry.tracked);
            if facts == entry.facts {
                continue;
            }
            if facts.has_changed() != entry.facts.has_changed() && !entry.is_unsaved {
                entry.is_unsaved = true;
                self.unsaved.push(slot);
            }
            self.totals.take(slot, &entry.facts);
            self.totals.add(slot, &facts);
            entry.facts = facts;
        }
    }

    fn at(&self, slot: usize) -> Option<&CollectionProgress> {
        self.note_look();
        self.slots.get(slot)?.as_ref().map(|slot| &slot.tracked)
    }

    fn id(&self, slot: usize) -> Option<Uuid> {
        self.at(slot).map(|tracked| tracked.target.id)
    }

    fn ids(&self, slots: &BTreeSet<usize>) -> Vec<Uuid> {
        slots.iter().filter_map(|slot| self.id(*slot)).collect()
    }

    /// A collection whose facts need not be found anew unless it is [touched](Self::touch) afterwards.
    fn look_at(&mut self, slot: usize) -> Option<&mut CollectionProgress> {
        self.note_look();
        self.slots.get_mut(slot)?.as_mut().map(|slot| &mut slot.tracked)
    }

    fn touch(&mut self, slot: usize, is_saved: bool) -> Option<&mut CollectionProgress> {
        self.note_look();
        let entry = self.slots.get_mut(slot)?.as_mut()?;
        if !std::mem::replace(&mut entry.is_touched, true) {
            self.touched.push(slot);
        }
        if is_saved && !std::mem::replace(&mut entry.is_unsaved, true) {
            self.unsaved.push(slot);
        }
        Some(&mut entry.tracked)
    }

    fn note_look(&self) {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Whether everything of the collection is on the sink as of a position that is routed.
fn is_done(tracked: &CollectionProgress, routed: Position) -> bool {
    matches!(tracked.ranges.only(), Some(RangeStatus::Done(at)) if at <= routed)
}

impl<T> Noticed<T> {
    pub fn new(value: T) -> Self {
        Self {
            value,
            may_have_changed: true,
        }
    }

    /// Whether it may have changed since this was last asked.
    pub fn may_have_changed(&mut self) -> bool {
        std::mem::take(&mut self.may_have_changed)
    }
}

impl<T> Deref for Noticed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Noticed<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.may_have_changed = true;
        &mut self.value
    }
}

/// The first slot from this one on. The sets stay as they are until they are brought up to date, so that one can be walked through while its
/// collections change.
fn first_from(slots: &BTreeSet<usize>, from: usize) -> Option<usize> {
    slots.range(from..).next().copied()
}
