//! All collections of a run, and queries over all of them.
//!
//! A run can have tens of thousands of collections, and an event concerns only a few of them. So the answers to queries over all are kept
//! as counts and ordered sets. To update these, a query examines only the collections that were touched since the last one.

mod facts;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::{Deref, DerefMut};

use bson::Uuid;
use tokio::time::Instant;

use self::facts::{Facts, Totals};
use self::status::status_of;
use crate::checkpoint::{CollectionState, Compared, ComparedState, State, States};
use crate::config::{CollectionRule, CollectionRules};
use crate::engine::track::collection::CollectionProgress;
use crate::engine::track::ranges::{RangeStatus, Ranges};
use crate::model::Namespace;
use crate::model::{Position, SharedSlots};
use crate::report::{CollectionStatus, IndexCounts};
use crate::runtime::cutover_estimate::CutoverWork;
use crate::runtime::index_builds::IndexJob;

/// Maximum number of collections that are examined for one that can be compared again now, those with the most changed documents first.
const LARGEST_LOOKED_AT: usize = 64;

/// The collections that are migrated, without views.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    slots_by_id: HashMap<Uuid, usize>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Slots whose facts must be computed again.
    touched: Vec<usize>,
    /// Slots whose checkpoint state must be written again.
    unsaved: Vec<usize>,
    /// Slots whose status must be published again.
    unpublished: Vec<usize>,
    totals: Totals,
    states: States,
    statuses: SharedSlots<CollectionStatus>,
    rules: CollectionRules,
    /// Number of times that a collection was examined so far.
    #[cfg(test)]
    looks: std::sync::atomic::AtomicU64,
}

/// A value that records whether it may have changed since the last query.
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
    is_unpublished: bool,
}

impl Collections {
    /// No collections. Those that are inserted get their settings from `rules`.
    pub fn new(rules: CollectionRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// The host's settings for a collection with this name on the source.
    pub fn rule(&self, namespace: &Namespace) -> CollectionRule {
        self.rules.of(namespace)
    }

    pub fn contains_key(&self, id: &Uuid) -> bool {
        self.slots_by_id.contains_key(id)
    }

    pub fn get(&self, id: &Uuid) -> Option<&CollectionProgress> {
        self.at(*self.slots_by_id.get(id)?)
    }

    /// Returns a collection for changes of any kind.
    pub fn get_mut(&mut self, id: &Uuid) -> Option<&mut CollectionProgress> {
        let slot = *self.slots_by_id.get(id)?;
        self.touch(slot, true)
    }

    /// Returns a collection for changes that a checkpoint does not keep, except which documents have changed since they were compared.
    pub fn get_routed(&mut self, id: &Uuid) -> Option<&mut CollectionProgress> {
        let slot = *self.slots_by_id.get(id)?;
        self.touch(slot, false)
    }

    pub fn insert(&mut self, id: Uuid, mut tracked: CollectionProgress) {
        self.remove(&id);
        tracked.rule = self.rules.of(&tracked.target.namespace);
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
            is_unpublished: true,
        });
        self.unsaved.push(slot);
        self.unpublished.push(slot);
    }

    pub fn remove(&mut self, id: &Uuid) -> Option<CollectionProgress> {
        let slot = self.slots_by_id.remove(id)?;
        let removed = self.slots[slot].take()?;
        self.totals.take(slot, &removed.facts);
        self.states.set(slot, None);
        self.statuses.set(slot, None);
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

    /// Whether every index of every collection is built or was abandoned.
    pub fn are_indexed(&mut self) -> bool {
        self.refresh();
        self.totals.not_indexed == 0
    }

    /// Whether no collection has anything more to compare for now.
    pub fn are_settled(&mut self) -> bool {
        self.refresh();
        self.totals.not_settled == 0
    }

    pub fn index_counts(&mut self) -> IndexCounts {
        self.refresh();
        self.totals.indexes
    }

    /// Memory taken by the `_id`s of documents that have changed since they were compared, in bytes.
    pub fn changed_bytes(&mut self) -> usize {
        self.refresh();
        self.totals.changed_bytes
    }

    /// What a cutover would have to examine.
    pub fn cutover_work(&mut self) -> CutoverWork {
        self.refresh();
        CutoverWork {
            collections: self.slots_by_id.len() as u64,
            bytes: self.totals.bytes,
            open_bytes: self.totals.open_bytes,
        }
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

    /// Advances the index work of collections that have nothing more to wait for.
    pub fn advance_index_work(&mut self, routed: Position) {
        self.refresh();
        let mut next = (false, 0);
        while let Some((is_later, slot)) = first_from(&self.totals.can_begin_indexes, next) {
            next = (is_later, slot + 1);
            if let Some(tracked) = self.touch(slot, true) {
                tracked.advance_index_work(routed);
            }
        }
    }

    /// Returns the next index to build.
    pub fn next_index(&mut self, routed: Position) -> Option<IndexJob> {
        self.refresh();
        for are_waiting in [true, false] {
            let mut next = (false, 0);
            loop {
                let candidates = match are_waiting {
                    true => &self.totals.has_waiting_indexes,
                    false => &self.totals.can_begin_indexes,
                };
                let found = first_from(candidates, next);
                let Some((is_later, slot)) = found.filter(|(is_later, _)| !is_later || self.totals.not_copied == 0)
                else {
                    break;
                };
                next = (is_later, slot + 1);
                let index = self.touch(slot, true).and_then(|tracked| tracked.next_index(routed));
                if index.is_some() {
                    return index;
                }
            }
        }
        None
    }

    /// Returns the collection to copy next, of those with the highest priority. Collections that change most come last: changes to unread ranges are dropped, while changes to
    /// copied ranges have to be applied.
    pub fn next_unread(&mut self) -> Option<Uuid> {
        self.refresh();
        let (_, slot) = *self.totals.unread.first()?;
        self.id(slot)
    }

    /// Returns the collections with chunks in flight.
    pub fn in_flight(&mut self) -> Vec<Uuid> {
        self.refresh();
        self.ids(&self.totals.in_flight)
    }

    /// Returns the collections with a comparison in flight.
    pub fn compared(&mut self) -> Vec<Uuid> {
        self.refresh();
        self.ids(&self.totals.compared)
    }

    /// Whether a caller waits for the comparison of any collection.
    pub fn any_asked(&mut self) -> bool {
        self.refresh();
        self.totals.asked > 0
    }

    /// Returns a collection with a range that can be compared now, for which `may` is `true`. Without `others`, returns only one that a
    /// caller waits for.
    pub fn next_due(
        &mut self,
        now: Instant,
        routed: Position,
        others: bool,
        may: impl Fn(&Uuid) -> bool,
    ) -> Option<Uuid> {
        self.refresh();
        let due = self.totals.due.until(now, others);
        let mut due = due.filter_map(|slot| self.at(slot));
        due.find(|tracked| is_done(tracked, routed) && may(&tracked.target.id))
            .map(|tracked| tracked.target.id)
    }

    /// Returns a collection whose changed documents can be compared again now, for which `may` is `true`. With `hurry` it is the one with the
    /// most of them, otherwise the one whose turn came first.
    pub fn next_due_again(
        &mut self,
        now: Instant,
        routed: Position,
        (others, hurry): (bool, bool),
        may: impl Fn(&Uuid) -> bool,
    ) -> Option<Uuid> {
        self.refresh();
        let is_due = |tracked: &&CollectionProgress| {
            is_done(tracked, routed)
                && may(&tracked.target.id)
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

    /// Returns the collection with the most changed documents.
    pub fn most_changed(&mut self) -> Option<&mut CollectionProgress> {
        self.refresh();
        let (_, slot) = *self.totals.changed.last()?;
        self.touch(slot, true)
    }

    /// Returns the verification states of collections whose documents have changed since they were compared. Collections with the fewest
    /// changed documents come first. `room` limits the size of all their `_id`s in bytes.
    pub fn changed_states(&mut self, mut room: usize) -> HashMap<Uuid, ComparedState> {
        self.refresh();
        let mut states = HashMap::new();
        // Documents that are being compared again count as changed, too, and are not among those that wait.
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

    /// Returns the states of all collections. Only those that have changed are written again.
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

    /// Returns the status of all collections. Only those that were touched are looked at again.
    pub fn statuses(&mut self) -> SharedSlots<CollectionStatus> {
        self.refresh();
        for slot in std::mem::take(&mut self.unpublished) {
            self.note_look();
            let Some(Some(entry)) = self.slots.get_mut(slot) else {
                continue;
            };
            if std::mem::take(&mut entry.is_unpublished) {
                self.statuses.set(slot, Some(status_of(&entry.tracked)));
            }
        }
        self.statuses.clone()
    }

    /// Same as `states`, with these collections as if none of their documents had been copied.
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

    /// Number of times that a collection was examined so far.
    #[cfg(test)]
    pub fn looks(&self) -> u64 {
        self.looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Updates counts and sets.
    fn refresh(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            self.note_look();
            let Some(Some(entry)) = self.slots.get_mut(slot) else {
                continue;
            };
            if !std::mem::take(&mut entry.is_touched) {
                continue;
            }
            if !std::mem::replace(&mut entry.is_unpublished, true) {
                self.unpublished.push(slot);
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

    /// Returns a collection without marking its facts as outdated. The caller must [touch](Self::touch) it if they change.
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

/// Whether the whole collection is on the sink as of a position that is routed.
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

    /// Whether the value may have changed since the last call.
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

/// Returns the first slot at or after `from`. The sets do not change before the next update, so a caller can iterate over one while its
/// collections change.
fn first_from<T: Copy + Ord>(slots: &BTreeSet<T>, from: T) -> Option<T> {
    slots.range(from..).next().copied()
}
