//! Verification state of one collection. Does no I/O.
//!
//! A collection is compared range by range while it is written to. Documents that change in a compared range are recorded. So at any time,
//! comparing these documents alone tells whether all are the same. They are compared again from time to time, so that they stay few.

mod changed;
mod in_flight;
mod pauses;
#[cfg(test)]
mod tests;
mod totals;

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use self::changed::ChangedDocuments;
use self::pauses::Pauses;
use crate::checkpoint::{self, ComparedState};
use crate::compare::difference::Difference;
use crate::model::{Amount, Namespace, Position};
use crate::order::Key;

pub(crate) use self::in_flight::{Portion, VerificationInFlight};
pub(crate) use self::totals::VerifiedTotals;

/// Pause before changed documents are compared again, so that documents that change all the time are not compared all the time.
const REST_BETWEEN: Duration = Duration::from_secs(5);

/// Verification state of a collection's documents.
#[derive(Debug, Default)]
pub(crate) struct RangeVerification {
    wanted: bool,
    /// Whether a caller waits for the verification. If so, it does not wait for other collections to be copied.
    asked: bool,
    through: VerifiedUpTo,
    running: Option<VerificationInFlight>,
    /// Compared documents that have changed since.
    changed: ChangedDocuments,
    /// The changed documents are not compared again before this time.
    rest_until: Option<Instant>,
    /// Whether changed documents were compared last, so that it is a range's turn.
    was_again: bool,
    pauses: Pauses,
    /// Whether too much has changed to keep track of, so that the comparison started over after a long pause.
    put_off: bool,
    tally: VerifiedTotals,
}

/// The `_id` up to which everything was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum VerifiedUpTo {
    #[default]
    Nothing,
    Key(Key),
    All,
}

impl VerifiedUpTo {
    fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Nothing | Self::All => None,
        }
    }
}

/// Result of one comparison by a walker.
#[derive(Debug)]
pub(crate) struct Compared {
    /// Whether the source was read at the position of the comparison. Otherwise each document may be as of a later moment, up to `opened`.
    pub is_at_position: bool,
    /// A position at or after the start of the source's read. A rename or drop up to here may have misled the read.
    pub opened: Position,
    /// The last `_id` of a range that was compared; `None` if the whole range was.
    pub last: Option<Key>,
    /// Documents that were to be compared by `_id` and were not.
    pub left: HashSet<Key>,
    /// Number of documents compared for the first time.
    pub documents: u64,
    pub bytes: u64,
    pub differences: Vec<Difference>,
    pub count: u64,
}

/// Progress of a verification, for callers that wait for it.
#[derive(Clone, Debug)]
pub(crate) enum VerificationState {
    /// Not requested, or the run has restarted since the request.
    NotWanted,
    Pending,
    /// Fails repeatedly for this reason.
    Failing(String),
    Done(VerifiedTotals),
    /// The documents have no order by which ranges could be compared while the collection is written to.
    NoRanges,
}

/// Progress of one collection's verification.
#[derive(Clone, Debug)]
pub(crate) struct CollectionVerification {
    pub namespace: Namespace,
    pub target: Namespace,
    pub state: VerificationState,
}

impl RangeVerification {
    /// Returns the state of a collection that was just created on both sides and is empty.
    pub fn of_empty(wanted: bool) -> Self {
        Self {
            wanted,
            through: if wanted {
                VerifiedUpTo::All
            } else {
                VerifiedUpTo::Nothing
            },
            ..Self::default()
        }
    }

    /// The state of a collection of which nothing is compared yet.
    pub fn wanted_if(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Starts over. A comparison in flight must have been [taken](Self::take) before.
    pub fn begin(&mut self) {
        *self = Self {
            wanted: true,
            ..Self::default()
        };
    }

    /// Starts over for a caller that waits for the result.
    pub fn ask(&mut self) {
        self.begin();
        self.asked = true;
    }

    /// Restores the state from a checkpoint.
    pub fn from_checkpoint(state: ComparedState) -> Self {
        let mut changed = ChangedDocuments::default();
        for key in &state.changed {
            changed.insert(key);
        }
        Self {
            wanted: true,
            through: state.upper.map_or(VerifiedUpTo::All, VerifiedUpTo::Key),
            changed,
            tally: VerifiedTotals {
                documents: state.documents,
                bytes: state.bytes,
                position: state.position,
                ..VerifiedTotals::default()
            },
            ..Self::default()
        }
    }

    /// Returns the state for a checkpoint. Returns `None` if nothing was compared, or if differences were found: the next run searches for
    /// these again.
    pub fn to_checkpoint(&self) -> Option<ComparedState> {
        (self.wanted && self.through != VerifiedUpTo::Nothing && self.tally.count == 0).then(|| ComparedState {
            upper: self.through.key().cloned(),
            changed: self.all_changed().cloned().collect(),
            position: self.tally.position,
            documents: self.tally.documents,
            bytes: self.tally.bytes,
        })
    }

    /// Returns the state for a checkpoint, without the list of changed documents.
    pub fn compared(&self) -> checkpoint::Compared {
        if !self.wanted || self.through == VerifiedUpTo::Nothing || self.tally.count > 0 {
            checkpoint::Compared::No
        } else if self.changed_bytes() > 0 {
            checkpoint::Compared::Changed
        } else {
            self.to_checkpoint()
                .map_or(checkpoint::Compared::No, checkpoint::Compared::Unchanged)
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether a caller waits for more of it.
    pub fn is_asked(&self) -> bool {
        self.asked && self.through != VerifiedUpTo::All
    }

    pub fn state(&self) -> VerificationState {
        match (self.pauses.failing(), &self.through) {
            _ if !self.wanted => VerificationState::NotWanted,
            (_, VerifiedUpTo::All) => VerificationState::Done(self.tally.clone()),
            (Some(failure), _) => VerificationState::Failing(failure.clone()),
            _ => VerificationState::Pending,
        }
    }

    /// Documents and bytes that were compared for the first time.
    pub fn compared_amount(&self) -> Amount {
        self.tally.amount()
    }

    /// Number of documents that differ.
    pub fn differences(&self) -> u64 {
        self.tally.count
    }

    /// Whether every range was compared.
    pub fn has_compared_all(&self) -> bool {
        self.wanted && self.through == VerifiedUpTo::All
    }

    /// Whether no more progress is expected for now: everything was compared, or the comparison fails repeatedly, or it was put off.
    pub fn is_settled(&self) -> bool {
        self.wanted && (self.through == VerifiedUpTo::All || self.pauses.failing().is_some() || self.put_off)
    }

    /// Whether a cutover has to compare the whole collection.
    pub fn is_open_as_a_whole(&self) -> bool {
        !self.wanted || self.through != VerifiedUpTo::All || self.tally.count > 0
    }

    /// Returns the documents that may differ when all others are known to be the same; `None` if that is not known.
    pub fn open(&self) -> Option<Vec<Key>> {
        (!self.is_open_as_a_whole()).then(|| self.all_changed().cloned().collect())
    }

    /// Returns all changed documents, including those that are being compared again.
    fn all_changed(&self) -> impl Iterator<Item = &Key> {
        let running = self.running.iter().filter_map(|running| match &running.what {
            Portion::Documents(documents) => Some(documents),
            Portion::Above(_) => None,
        });
        self.changed.iter().chain(running.flatten())
    }

    /// Memory taken by the `_id`s of changed documents, in bytes.
    pub fn changed_bytes(&self) -> usize {
        let running = self.running.as_ref().map_or(0, |running| running.what.changed_bytes());
        self.changed.bytes() + running
    }

    /// Same as `changed_bytes`, without documents that are being compared.
    pub fn waiting_bytes(&self) -> usize {
        self.changed.bytes()
    }

    pub fn running(&self) -> Option<&VerificationInFlight> {
        self.running.as_ref()
    }

    pub fn running_mut(&mut self) -> Option<&mut VerificationInFlight> {
        self.running.as_mut()
    }

    /// Returns when a range should be compared; the inner `None` means at once, the outer one that none should.
    pub fn due_at(&self) -> Option<Option<Instant>> {
        (self.wanted && self.running.is_none() && self.through != VerifiedUpTo::All).then_some(self.pauses.not_before())
    }

    /// Returns when the changed documents should be compared again. The inner `None` means at once, the outer one that they should not, or
    /// that a range comes first.
    pub fn due_again_at(&self) -> Option<Option<Instant>> {
        let is_turn_of_range = self.was_again && self.through != VerifiedUpTo::All;
        (self.wanted && self.running.is_none() && self.changed.bytes() > 0 && !is_turn_of_range)
            .then(|| self.pauses.not_before().max(self.rest_until))
    }

    /// Whether a range should be compared now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|time| time.is_none_or(|time| time <= now))
    }

    /// Whether the changed documents should be compared again now. `hurry` skips the pause between comparisons.
    pub fn is_due_again(&self, now: Instant, hurry: bool) -> bool {
        let has_passed = |time: Option<Instant>| time.is_none_or(|time| time <= now);
        self.wanted
            && self.running.is_none()
            && self.changed.bytes() > 0
            && has_passed(self.pauses.not_before())
            && (hurry || has_passed(self.rest_until))
            && !(self.was_again && self.is_due(now))
    }

    /// Returns the range to compare next.
    pub fn next_range(&self) -> Portion {
        Portion::Above(self.through.key().cloned())
    }

    /// Takes up to `most` changed documents, to be compared again.
    pub fn next_changed(&mut self, most: usize) -> Portion {
        Portion::Documents(self.changed.take(most).into_iter().collect())
    }

    pub fn run(&mut self, running: VerificationInFlight) {
        self.was_again = matches!(running.what, Portion::Documents(_));
        self.running = Some(running);
    }

    /// Whether a change must be held until its document is compared.
    pub fn must_hold(&self, key: &Key, position: Position) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.must_hold(key, position))
    }

    /// Records a change of a document that has been compared. Returns the additional memory in bytes.
    pub fn note(&mut self, key: &Key, now: Instant) -> usize {
        if !self.covers(key) {
            return 0;
        }
        if self.changed.bytes() == 0 {
            self.rest_until = Some(now + REST_BETWEEN);
        }
        self.changed.insert(key)
    }

    /// Starts over after a pause, because too much has changed.
    pub fn begin_later(&mut self, now: Instant) {
        *self = Self {
            wanted: true,
            asked: self.asked,
            running: self.running.take(),
            pauses: Pauses::resting(now),
            put_off: true,
            ..Self::default()
        };
    }

    fn covers(&self, key: &Key) -> bool {
        match &self.through {
            VerifiedUpTo::Nothing => false,
            VerifiedUpTo::Key(through) => key <= through,
            VerifiedUpTo::All => true,
        }
    }

    /// Ends the comparison in flight and returns it. What has no result is compared again later. The caller cancels the walker and sends
    /// on the held changes.
    pub fn take(&mut self, now: Instant) -> Option<VerificationInFlight> {
        let mut running = self.running.take()?;
        if let Portion::Documents(documents) = &mut running.what {
            // Documents that are no longer covered are compared with their ranges.
            documents.retain(|key| self.covers(key));
            self.changed.give_back(documents.drain());
            if !self.changed.is_in_turn() {
                self.rest_until = Some(now + REST_BETWEEN);
            }
        }
        Some(running)
    }

    /// Adds the result of the comparison in flight, which must be [taken](Self::take) next. Returns the differences that were not known
    /// before, and their total number.
    pub fn add(&mut self, mut compared: Compared) -> (Vec<Difference>, u64) {
        let nothing = (Vec::new(), 0);
        let Some(running) = &mut self.running else {
            return nothing;
        };
        if !compared.is_at_position {
            // A document that has changed since the position is compared again anyway.
            let held: HashSet<&Key> = running.held_keys().collect();
            let named = compared.differences.len();
            compared
                .differences
                .retain(|difference| !held.contains(&difference.key));
            compared.count -= (named - compared.differences.len()) as u64;
        }
        let mut known = HashSet::new();
        match &mut running.what {
            // Too much has changed meanwhile, so everything is compared again.
            Portion::Documents(_) if self.through == VerifiedUpTo::Nothing => return nothing,
            Portion::Documents(documents) => {
                documents.retain(|key| !compared.left.contains(key));
                known = self.tally.take_out(documents);
                *documents = std::mem::take(&mut compared.left);
            }
            Portion::Above(lower) => {
                if lower.as_ref() != self.through.key() {
                    return nothing;
                }
                self.tally.position = Some(running.low);
                self.through = compared.last.take().map_or(VerifiedUpTo::All, VerifiedUpTo::Key);
                self.put_off &= self.through != VerifiedUpTo::All;
            }
        }
        let named = compared.differences.len();
        self.tally.add(&compared);
        self.pauses.end();
        let mut new = compared.differences;
        new.retain(|difference| !known.remove(&difference.key));
        let count = compared.count - (named - new.len()) as u64;
        (new, count)
    }

    /// Records that the comparison failed. It is tried again after a pause, and must be [taken](Self::take) before that.
    pub fn fail(&mut self, reason: Option<String>, now: Instant) {
        self.pauses.begin(reason, now);
    }
}
