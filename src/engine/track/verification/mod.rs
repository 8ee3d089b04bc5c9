//! What is known of a collection's documents being the same on both sides. Pure.
//!
//! A collection is compared range by range while it is written to. What changes in a range afterwards is noted, so that at any time a
//! comparison of these documents alone says whether all are the same. Now and then they are compared again, so that they stay few.

mod changed;
mod in_flight;

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use self::changed::ChangedDocuments;
use crate::checkpoint::{self, ComparedState};
use crate::compare::difference::Difference;
use crate::model::{Namespace, Position, Write};
use crate::order::Key;

pub(crate) use self::in_flight::{Portion, VerificationInFlight};

/// How long a collection rests that has changed by so much, or whose comparison has failed for good.
const REST: Duration = Duration::from_secs(600);

/// How long it rests after a comparison that was given up, at first; each further time twice as long, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);

/// The longest such rest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What has changed is compared again after so long, so that what changes all the time is not compared all the time.
const REST_BETWEEN: Duration = Duration::from_secs(5);

/// After so many failures in a row the host is told that a collection cannot be compared at present.
const PATIENCE: u32 = 20;

/// So many differences are named for a collection.
const NAMED: usize = 1000;

/// How far the comparison of a collection's documents is.
#[derive(Debug, Default)]
pub(crate) struct RangeVerification {
    wanted: bool,
    /// Whether somebody waits for it, so that it does not wait for other collections to be copied.
    asked: bool,
    through: VerifiedUpTo,
    running: Option<VerificationInFlight>,
    /// Documents of what was compared that have changed since.
    changed: ChangedDocuments,
    /// They are not compared again before.
    rest_until: Option<Instant>,
    /// Whether that was done last, so that it is a range's turn.
    was_again: bool,
    failures: u32,
    /// Why the last comparison failed.
    failure: Option<String>,
    not_before: Option<Instant>,
    tally: VerifiedTotals,
}

/// Up to which `_id` everything was compared.
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

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VerifiedTotals {
    pub documents: u64,
    pub bytes: u64,
    /// The position of the range that was compared last.
    pub position: Option<Position>,
    /// The documents that differ, up to a number of them.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub count: u64,
}

/// What a walker has found.
#[derive(Debug)]
pub(crate) struct Compared {
    /// A position at or after the opening of the source's read: a rename or drop up to here may have misled it.
    pub opened: Position,
    /// The last `_id` of a range that was compared; `None` when all of it was.
    pub last: Option<Key>,
    /// The documents that were to be compared by their `_id`s, and were not.
    pub left: HashSet<Key>,
    /// What was compared for the first time.
    pub documents: u64,
    pub bytes: u64,
    pub differences: Vec<Difference>,
    pub count: u64,
}

/// How far a verification is, for whoever waits for it.
#[derive(Clone, Debug)]
pub(crate) enum VerificationState {
    /// Nobody has asked for one, or the run has begun again since.
    NotWanted,
    Pending,
    /// It fails again and again for this reason.
    Failing(String),
    Done(VerifiedTotals),
    /// Its documents have no order in which ranges could be compared while it is written to.
    NoRanges,
}

/// How far the verification of a collection is.
#[derive(Clone, Debug)]
pub(crate) struct CollectionVerification {
    pub namespace: Namespace,
    pub target: Namespace,
    pub state: VerificationState,
}

impl RangeVerification {
    /// Of a collection that was made just now on both sides, and is empty.
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

    /// Begins anew. What is being compared must have been [taken](Self::take) before.
    pub fn begin(&mut self) {
        *self = Self {
            wanted: true,
            ..Self::default()
        };
    }

    /// The same for somebody who waits for it.
    pub fn ask(&mut self) {
        self.begin();
        self.asked = true;
    }

    /// What a checkpoint has kept of it.
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

    /// What a checkpoint keeps of it. What was found to differ is looked for anew.
    pub fn to_checkpoint(&self) -> Option<ComparedState> {
        (self.wanted && self.through != VerifiedUpTo::Nothing && self.tally.count == 0).then(|| ComparedState {
            upper: self.through.key().cloned(),
            changed: self.all_changed().cloned().collect(),
            position: self.tally.position,
            documents: self.tally.documents,
            bytes: self.tally.bytes,
        })
    }

    /// The same without the documents that have changed.
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

    /// Whether somebody waits for more of it.
    pub fn is_asked(&self) -> bool {
        self.asked && self.through != VerifiedUpTo::All
    }

    pub fn state(&self) -> VerificationState {
        match (&self.failure, &self.through) {
            _ if !self.wanted => VerificationState::NotWanted,
            (_, VerifiedUpTo::All) => VerificationState::Done(self.tally.clone()),
            (Some(failure), _) if self.is_failing() => VerificationState::Failing(failure.clone()),
            _ => VerificationState::Pending,
        }
    }

    /// Whether nothing more will come of it for now: everything was compared, or it fails again and again.
    pub fn is_settled(&self) -> bool {
        self.wanted && (self.through == VerifiedUpTo::All || self.is_failing())
    }

    fn is_failing(&self) -> bool {
        self.failure.is_some() && self.failures >= PATIENCE
    }

    /// The documents that may differ although everything else is known to be the same; `None` when that is not known.
    pub fn open(&self) -> Option<Vec<Key>> {
        (self.wanted && self.through == VerifiedUpTo::All && self.tally.count == 0)
            .then(|| self.all_changed().cloned().collect())
    }

    /// Those that are being compared again are among them.
    fn all_changed(&self) -> impl Iterator<Item = &Key> {
        let running = self.running.iter().filter_map(|running| match &running.what {
            Portion::Documents(documents) => Some(documents),
            Portion::Above(_) => None,
        });
        self.changed.iter().chain(running.flatten())
    }

    /// The memory that the `_id`s of what has changed take, in bytes.
    pub fn changed_bytes(&self) -> usize {
        let running = self.running.as_ref().map_or(0, |running| running.what.changed_bytes());
        self.changed.bytes() + running
    }

    /// The same without those that are being compared.
    pub fn waiting_bytes(&self) -> usize {
        self.changed.bytes()
    }

    pub fn running(&self) -> Option<&VerificationInFlight> {
        self.running.as_ref()
    }

    pub fn running_mut(&mut self) -> Option<&mut VerificationInFlight> {
        self.running.as_mut()
    }

    /// When a range should be compared, at once where there is no time; `None` when none should.
    pub fn due_at(&self) -> Option<Option<Instant>> {
        (self.wanted && self.running.is_none() && self.through != VerifiedUpTo::All).then_some(self.not_before)
    }

    /// When what has changed should be compared again, at once where there is no time; `None` when it should not, or a range comes first.
    pub fn due_again_at(&self) -> Option<Option<Instant>> {
        let is_turn_of_range = self.was_again && self.through != VerifiedUpTo::All;
        (self.wanted && self.running.is_none() && self.changed.bytes() > 0 && !is_turn_of_range)
            .then(|| self.not_before.max(self.rest_until))
    }

    /// Whether a range should be compared now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|time| time.is_none_or(|time| time <= now))
    }

    /// Whether what has changed should be compared again now; `hurry` says that it has no rest.
    pub fn is_due_again(&self, now: Instant, hurry: bool) -> bool {
        let has_passed = |time: Option<Instant>| time.is_none_or(|time| time <= now);
        self.wanted
            && self.running.is_none()
            && self.changed.bytes() > 0
            && has_passed(self.not_before)
            && (hurry || has_passed(self.rest_until))
            && !(self.was_again && self.is_due(now))
    }

    /// The range that is to be compared next.
    pub fn next_range(&self) -> Portion {
        Portion::Above(self.through.key().cloned())
    }

    /// Up to so many of the documents that have changed, to be compared again.
    pub fn next_changed(&mut self, most: usize) -> Portion {
        Portion::Documents(self.changed.take(most).into_iter().collect())
    }

    pub fn run(&mut self, running: VerificationInFlight) {
        self.was_again = matches!(running.what, Portion::Documents(_));
        self.running = Some(running);
    }

    /// Whether a change has to wait until its document is compared.
    pub fn must_hold(&self, key: &Key, position: Position) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.must_hold(key, position))
    }

    /// Notes that a document changes, where it has been compared; answers how many bytes more are kept.
    pub fn note(&mut self, key: &Key) -> usize {
        if !self.covers(key) {
            return 0;
        }
        if self.changed.bytes() == 0 {
            self.rest_until = Some(Instant::now() + REST_BETWEEN);
        }
        self.changed.insert(key)
    }

    /// So much has changed that everything will be compared anew.
    pub fn begin_later(&mut self) {
        *self = Self {
            wanted: true,
            asked: self.asked,
            running: self.running.take(),
            not_before: Some(Instant::now() + REST),
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

    /// Ends what is being compared; what has no result will be compared again. Answers the changes that waited, and their bytes.
    pub fn take(&mut self) -> Option<(Vec<(Position, Write)>, usize)> {
        let mut running = self.running.take()?;
        running.cancel.cancel();
        if let Portion::Documents(documents) = &mut running.what {
            // Others begin anew by now.
            documents.retain(|key| self.covers(key));
            self.changed.give_back(documents.drain());
            if !self.changed.is_in_turn() {
                self.rest_until = Some(Instant::now() + REST_BETWEEN);
            }
        }
        Some(running.into_held())
    }

    /// Takes over what was found in what is being compared; it has to be [taken](Self::take) next. Answers what of the differences was not
    /// known before, and how many these are.
    pub fn add(&mut self, mut compared: Compared) -> (Vec<Difference>, u64) {
        let nothing = (Vec::new(), 0);
        let Some(running) = &mut self.running else {
            return nothing;
        };
        let mut known = HashSet::new();
        match &mut running.what {
            // So much has changed meanwhile that everything is compared again.
            Portion::Documents(_) if self.through == VerifiedUpTo::Nothing => return nothing,
            Portion::Documents(documents) => {
                documents.retain(|key| !compared.left.contains(key));
                // What differed before does so still, or was put right.
                self.tally.differences.retain(|difference| {
                    let is_compared = documents.contains(&difference.key);
                    if is_compared {
                        known.insert(difference.key.clone());
                    }
                    !is_compared
                });
                self.tally.count -= known.len() as u64;
                *documents = std::mem::take(&mut compared.left);
            }
            Portion::Above(lower) => {
                if lower.as_ref() != self.through.key() {
                    return nothing;
                }
                self.tally.position = Some(running.low);
                self.through = compared.last.map_or(VerifiedUpTo::All, VerifiedUpTo::Key);
            }
        }
        let named = compared.differences.len();
        self.tally.documents += compared.documents;
        self.tally.bytes += compared.bytes;
        self.tally.count += compared.count;
        let room = NAMED.saturating_sub(self.tally.differences.len());
        self.tally
            .differences
            .extend(compared.differences.iter().take(room).cloned());
        self.failures = 0;
        self.failure = None;
        self.not_before = None;
        let mut new = compared.differences;
        new.retain(|difference| !known.remove(&difference.key));
        let count = compared.count - (named - new.len()) as u64;
        (new, count)
    }

    /// It could not be compared. A pause comes before it is tried again, by which time it has to be [taken](Self::take).
    pub fn fail(&mut self, reason: Option<String>) {
        if reason.is_some() {
            self.failures += 1;
            self.failure = reason;
        }
        let pause = if self.failures >= PATIENCE {
            // A source that gives no snapshot would else be asked for one again and again, for each of its collections.
            REST
        } else {
            PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE)
        };
        self.not_before = self.not_before.max(Some(Instant::now() + pause));
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::engine::track::ranges::ChunkId;

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_compared_is_tried_ever_more_seldom() {
        let mut verification = RangeVerification::default();
        verification.begin();
        let begun = Instant::now();
        let mut failures = 0;
        while begun.elapsed() < 3 * REST {
            if verification.is_due(Instant::now()) {
                verification.fail(Some("there is no snapshot".to_owned()));
                failures += 1;
            }
            tokio::time::advance(PAUSE).await;
        }
        assert!((PATIENCE..PATIENCE + 4).contains(&failures), "{failures}");
        assert!(matches!(verification.state(), VerificationState::Failing(_)));
        // Whoever asks for a comparison does not wait for that.
        verification.begin();
        assert!(verification.is_due(Instant::now()));
    }

    /// However much changes, there is time for what was not compared yet.
    #[tokio::test(start_paused = true)]
    async fn ranges_and_what_has_changed_take_turns() {
        let key = |id: i32| Key::from(bson::RawBsonRef::Int32(id));
        let mut verification = RangeVerification::default();
        verification.begin();
        let mut turns = String::new();
        for turn in 0..8 {
            let again = verification.is_due_again(Instant::now(), true);
            assert!(again || verification.is_due(Instant::now()));
            let what = if again {
                verification.next_changed(1)
            } else {
                verification.next_range()
            };
            turns.push(if again { 'c' } else { 'r' });
            let (applied, _) = tokio::sync::oneshot::channel();
            let tokens = (CancellationToken::new(), CancellationToken::new());
            verification.run(VerificationInFlight::new(
                ChunkId(turn),
                what,
                (Position::ZERO, Position::ZERO),
                tokens,
                (turn, applied),
            ));
            let compared = Compared {
                opened: Position::ZERO,
                last: Some(key(turn as i32)),
                left: HashSet::new(),
                documents: 1,
                bytes: 1,
                differences: Vec::new(),
                count: 0,
            };
            verification.add(compared);
            verification.take();
            for id in 0..turn as i32 + 1 {
                verification.note(&key(id));
            }
        }
        assert_eq!(turns, "rcrcrcrc");
    }
}
