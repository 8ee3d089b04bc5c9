//! Facts about each collection, and their totals over all of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::config::{IndexPolicy, Verification};
use crate::engine::track::collection::{CollectionProgress, IndexWork};
use crate::engine::track::ranges::RangeStatus;
use crate::report::IndexCounts;

/// Facts about one collection.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    is_copied: bool,
    is_indexed: bool,
    is_settled: bool,
    is_asked: bool,
    /// Rank among the collections with unread ranges.
    unread: Option<Rank>,
    /// Whether neighbouring ranges are done, so that they can be joined once their positions are routed.
    can_join: bool,
    /// Whether its indexes are built only after all collections are copied.
    is_later: bool,
    /// Whether its index work advances without a build once everything is routed.
    can_begin_indexes: bool,
    has_waiting_indexes: bool,
    is_in_flight: bool,
    is_compared: bool,
    /// When a range of it can be compared.
    due: Option<Turn>,
    /// When its changed documents can be compared again without hurry. With hurry, `Totals::changed` counts instead.
    again: Option<Turn>,
    changed_bytes: usize,
    /// Bytes of its documents, if a cutover may compare them, otherwise 0.
    bytes: u64,
    /// The same if a cutover has to compare them all, otherwise 0.
    open_bytes: u64,
    /// Same as `changed_bytes`, without documents that are being compared.
    waiting_bytes: usize,
    indexes: IndexCounts,
}

/// Order of the copy: the highest priority comes first, then the least changed for its size, then the largest.
pub(super) type Rank = (Reverse<i32>, u64, Reverse<u64>);

/// When a collection's turn comes, at once if there is no time; and whether a caller waits for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Turn {
    is_asked: bool,
    time: Option<Instant>,
}

impl Facts {
    pub fn of(tracked: &CollectionProgress) -> Self {
        let (verification, ranges) = (&tracked.verification, &tracked.ranges);
        let is_copied = ranges.all_done();
        let is_continuous = tracked.rule.is_continuous();
        let turn = |time| Turn {
            is_asked: verification.is_asked(),
            time,
        };
        let is_whole = tracked.target.kind.has_ranges() && matches!(ranges.only(), Some(RangeStatus::Done(_)));
        Self {
            is_copied,
            is_indexed: tracked.is_indexed(),
            is_settled: !is_continuous || !tracked.target.kind.has_ranges() || verification.is_settled(),
            is_asked: verification.is_asked(),
            // The heat is never negative, so its bits are in the same order.
            unread: ranges.has_unread().then(|| {
                (
                    Reverse(tracked.rule.priority),
                    tracked.heat().to_bits(),
                    Reverse(tracked.bytes),
                )
            }),
            can_join: ranges.can_join(),
            is_later: tracked.rule.indexes == IndexPolicy::Later,
            can_begin_indexes: match &tracked.index_work {
                IndexWork::NotBegun => is_copied,
                IndexWork::Building { waiting, running, .. } => waiting.is_empty() && running.is_empty(),
                IndexWork::Done => false,
            },
            has_waiting_indexes: matches!(&tracked.index_work, IndexWork::Building { waiting, .. } if !waiting.is_empty()),
            is_in_flight: !tracked.chunks.is_empty(),
            is_compared: verification.running().is_some(),
            due: verification.due_at().filter(|_| is_whole).map(turn),
            again: verification.due_again_at().filter(|_| is_whole).map(turn),
            changed_bytes: verification.changed_bytes(),
            bytes: match tracked.rule.verification {
                Verification::None => 0,
                _ => tracked.bytes,
            },
            open_bytes: match tracked.rule.verification {
                Verification::None => 0,
                Verification::Continuous if tracked.target.kind.has_ranges() && !verification.is_open_as_a_whole() => 0,
                _ => tracked.bytes,
            },
            waiting_bytes: verification.waiting_bytes(),
            indexes: tracked.index_counts(),
        }
    }

    /// Whether documents have changed since they were compared.
    pub fn has_changed(&self) -> bool {
        self.changed_bytes > 0
    }
}

/// Totals over the facts of all collections. Collections are identified by slot.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub not_copied: usize,
    pub not_indexed: usize,
    pub not_settled: usize,
    pub asked: usize,
    pub changed_bytes: usize,
    pub bytes: u64,
    pub open_bytes: u64,
    pub indexes: IndexCounts,
    pub unread: BTreeSet<(Rank, usize)>,
    pub can_join: BTreeSet<usize>,
    /// Those whose indexes are built only after all collections are copied have `true`, and come last.
    pub can_begin_indexes: BTreeSet<(bool, usize)>,
    pub has_waiting_indexes: BTreeSet<(bool, usize)>,
    pub in_flight: BTreeSet<usize>,
    pub compared: BTreeSet<usize>,
    pub due: Queue,
    pub again: Queue,
    /// Collections whose changed documents wait to be compared again, by the size of the `_id`s in bytes.
    pub changed: BTreeSet<(usize, usize)>,
}

/// Collections ordered by the time of their turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    asked: BTreeSet<(Option<Instant>, usize)>,
    others: BTreeSet<(Option<Instant>, usize)>,
}

impl Queue {
    /// Returns the collections whose turn has come. Those that a caller waits for come first, and are the only ones without `others`.
    /// Within each group, the longest wait comes first.
    pub fn until(&self, now: Instant, others: bool) -> impl Iterator<Item = usize> {
        let is_past = move |(time, _): &&(Option<Instant>, usize)| time.is_none_or(|time| time <= now);
        let others = self.others.iter().filter(move |_| others);
        let (asked, others) = (self.asked.iter().take_while(is_past), others.take_while(is_past));
        asked.chain(others).map(|(_, slot)| *slot)
    }

    fn of(&mut self, turn: &Turn) -> &mut BTreeSet<(Option<Instant>, usize)> {
        if turn.is_asked {
            &mut self.asked
        } else {
            &mut self.others
        }
    }
}

impl Totals {
    pub fn add(&mut self, slot: usize, facts: &Facts) {
        self.not_copied += usize::from(!facts.is_copied);
        self.not_indexed += usize::from(!facts.is_indexed);
        self.not_settled += usize::from(!facts.is_settled);
        self.asked += usize::from(facts.is_asked);
        self.changed_bytes += facts.changed_bytes;
        self.bytes += facts.bytes;
        self.open_bytes += facts.open_bytes;
        self.indexes.built += facts.indexes.built;
        self.indexes.building += facts.indexes.building;
        self.indexes.failed += facts.indexes.failed;
        self.indexes.total += facts.indexes.total;
        if let Some(place) = facts.unread {
            self.unread.insert((place, slot));
        }
        for (is_in, set) in self.sets(facts) {
            if is_in {
                set.insert(slot);
            }
        }
        for (is_in, set) in self.index_sets(facts) {
            if is_in {
                set.insert((facts.is_later, slot));
            }
        }
        if let Some(turn) = &facts.due {
            self.due.of(turn).insert((turn.time, slot));
        }
        if let Some(turn) = &facts.again {
            self.again.of(turn).insert((turn.time, slot));
        }
        if facts.waiting_bytes > 0 {
            self.changed.insert((facts.waiting_bytes, slot));
        }
    }

    pub fn take(&mut self, slot: usize, facts: &Facts) {
        self.not_copied -= usize::from(!facts.is_copied);
        self.not_indexed -= usize::from(!facts.is_indexed);
        self.not_settled -= usize::from(!facts.is_settled);
        self.asked -= usize::from(facts.is_asked);
        self.changed_bytes -= facts.changed_bytes;
        self.bytes -= facts.bytes;
        self.open_bytes -= facts.open_bytes;
        self.indexes.built -= facts.indexes.built;
        self.indexes.building -= facts.indexes.building;
        self.indexes.failed -= facts.indexes.failed;
        self.indexes.total -= facts.indexes.total;
        if let Some(place) = facts.unread {
            self.unread.remove(&(place, slot));
        }
        for (is_in, set) in self.sets(facts) {
            if is_in {
                set.remove(&slot);
            }
        }
        for (is_in, set) in self.index_sets(facts) {
            if is_in {
                set.remove(&(facts.is_later, slot));
            }
        }
        if let Some(turn) = &facts.due {
            self.due.of(turn).remove(&(turn.time, slot));
        }
        if let Some(turn) = &facts.again {
            self.again.of(turn).remove(&(turn.time, slot));
        }
        if facts.waiting_bytes > 0 {
            self.changed.remove(&(facts.waiting_bytes, slot));
        }
    }

    fn sets(&mut self, facts: &Facts) -> [(bool, &mut BTreeSet<usize>); 3] {
        [
            (facts.can_join, &mut self.can_join),
            (facts.is_in_flight, &mut self.in_flight),
            (facts.is_compared, &mut self.compared),
        ]
    }

    fn index_sets(&mut self, facts: &Facts) -> [(bool, &mut BTreeSet<(bool, usize)>); 2] {
        [
            (facts.can_begin_indexes, &mut self.can_begin_indexes),
            (facts.has_waiting_indexes, &mut self.has_waiting_indexes),
        ]
    }
}
