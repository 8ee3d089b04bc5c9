//! What is known of a collection's documents being the same on both sides. Pure.
//!
//! A collection is compared range by range while it is written to. What changes in a range afterwards is noted, so that at any time a
//! comparison of these documents alone says whether all are the same.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::difference::Difference;
use crate::document::{Change, Position, Write};
use crate::namespace::Namespace;
use crate::order::Key;
use crate::ranges::ChunkId;

/// How long a collection rests that has changed by so much, or whose comparison has failed for good.
const REST: Duration = Duration::from_secs(600);

/// How long it rests after a comparison that was given up, at first; each further time twice as long, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);

/// The longest such rest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After so many failures in a row the host is told that a collection cannot be compared at present.
const PATIENCE: u32 = 20;

/// So many differences are named for a collection.
const NAMED: usize = 1000;

/// How far the comparison of a collection's documents is.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    wanted: bool,
    through: Through,
    running: Option<Running>,
    /// Documents that have changed since their range was compared.
    changed: HashSet<Key>,
    changed_bytes: usize,
    failures: u32,
    /// Why the last comparison failed.
    failure: Option<String>,
    not_before: Option<Instant>,
    tally: Tally,
}

/// Up to which `_id` everything was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Through {
    #[default]
    Nothing,
    Key(Key),
    All,
}

/// A range that is being compared.
#[derive(Debug)]
pub(crate) struct Running {
    pub id: ChunkId,
    /// The range begins above it and has no end.
    pub lower: Option<Key>,
    /// The position at which both sides are compared, and where the history would have to be read from to go on there.
    pub low: Position,
    pub resume: Position,
    pub since: Instant,
    /// Changes after `low`, in order.
    held: Vec<(Position, Write)>,
    held_bytes: usize,
    /// Stops the walker; what it has found does not count.
    pub cancel: CancellationToken,
    /// Asks the walker to finish with what it has compared so far.
    pub hurry: CancellationToken,
    /// The marker behind everything up to `low`, and whom to tell when all lanes have applied it.
    pub marker: u64,
    pub applied: Option<oneshot::Sender<()>>,
}

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub documents: u64,
    pub bytes: u64,
    /// The position of the range that was compared last.
    pub position: Option<Position>,
    /// The documents that differ, up to a number of them.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub count: u64,
}

/// What a walker found in a range.
#[derive(Debug)]
pub(crate) struct Compared {
    /// A position at or after the opening of the source's read: a rename or drop up to here may have misled it.
    pub opened: Position,
    /// The last `_id` that was compared; `None` when everything was.
    pub last: Option<Key>,
    pub documents: u64,
    pub bytes: u64,
    pub differences: Vec<Difference>,
    pub count: u64,
}

/// How far a proof is, for whoever waits for it.
#[derive(Clone, Debug)]
pub(crate) enum ProofState {
    /// Nobody has asked for one, or the run has begun again since.
    NotWanted,
    Pending,
    /// It fails again and again for this reason.
    Failing(String),
    Done(Tally),
    /// Its documents have no order in which ranges could be compared while it is written to.
    NoRanges,
}

/// How far the proof of a collection is.
#[derive(Clone, Debug)]
pub(crate) struct CollectionProof {
    pub namespace: Namespace,
    pub target: Namespace,
    pub state: ProofState,
}

impl Running {
    pub fn new(
        id: ChunkId,
        lower: Option<Key>,
        (low, resume): (Position, Position),
        (cancel, hurry): (CancellationToken, CancellationToken),
        (marker, applied): (u64, oneshot::Sender<()>),
    ) -> Self {
        Self {
            id,
            lower,
            low,
            resume,
            since: Instant::now(),
            held: Vec::new(),
            held_bytes: 0,
            cancel,
            hurry,
            marker,
            applied: Some(applied),
        }
    }
}

impl Proof {
    /// Of a collection that was made just now on both sides, and is empty.
    pub fn of_empty(wanted: bool) -> Self {
        Self {
            wanted,
            through: if wanted { Through::All } else { Through::Nothing },
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

    pub fn state(&self) -> ProofState {
        match (&self.failure, &self.through) {
            _ if !self.wanted => ProofState::NotWanted,
            (_, Through::All) => ProofState::Done(self.tally.clone()),
            (Some(failure), _) if self.is_failing() => ProofState::Failing(failure.clone()),
            _ => ProofState::Pending,
        }
    }

    /// Whether nothing more will come of it for now: everything was compared, or it fails again and again.
    pub fn is_settled(&self) -> bool {
        self.wanted && (self.through == Through::All || self.is_failing())
    }

    fn is_failing(&self) -> bool {
        self.failure.is_some() && self.failures >= PATIENCE
    }

    /// The documents that may differ although everything else is known to be the same; `None` when that is not known.
    pub fn open(&self) -> Option<Vec<Key>> {
        (self.wanted && self.through == Through::All && self.tally.count == 0)
            .then(|| self.changed.iter().cloned().collect())
    }

    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }

    /// Whether a range should be compared now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.wanted
            && self.running.is_none()
            && self.through != Through::All
            && self.not_before.is_none_or(|not_before| not_before <= now)
    }

    /// Where the next range begins.
    pub fn lower(&self) -> Option<Key> {
        match &self.through {
            Through::Key(key) => Some(key.clone()),
            Through::Nothing | Through::All => None,
        }
    }

    pub fn run(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// Whether a change has to wait until the range of its document is compared.
    pub fn must_hold(&self, key: &Key, position: Position) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| position > running.low && running.lower.as_ref().is_none_or(|lower| key > lower))
    }

    /// Keeps a change until its range is compared; answers its bytes.
    pub fn hold(&mut self, change: Change) -> usize {
        let Some(running) = &mut self.running else { return 0 };
        let bytes = size_of::<Position>() + change.write.size_in_bytes();
        running.held.push((change.position, change.write));
        running.held_bytes += bytes;
        bytes
    }

    /// Notes that a document changes, where its range has been compared. When these are more than `limit` bytes of `_id`s the collection
    /// will be compared again.
    pub fn note(&mut self, key: &Key, limit: usize) {
        if !self.covers(key) || self.changed.contains(key) {
            return;
        }
        // A set has about as much room again.
        self.changed_bytes += key.size_in_bytes() * 2;
        self.changed.insert(key.clone());
        if self.changed_bytes > limit {
            *self = Self {
                wanted: true,
                running: self.running.take(),
                not_before: Some(Instant::now() + REST),
                ..Self::default()
            };
        }
    }

    fn covers(&self, key: &Key) -> bool {
        match &self.through {
            Through::Nothing => false,
            Through::Key(through) => key <= through,
            Through::All => true,
        }
    }

    /// Ends what is being compared, without a result. Answers the changes that waited, and their bytes.
    pub fn take(&mut self) -> Option<(Vec<(Position, Write)>, usize)> {
        let running = self.running.take()?;
        running.cancel.cancel();
        Some((running.held, running.held_bytes))
    }

    /// Takes over what was found in the range that is being compared; it has to be [taken](Self::take) next.
    pub fn add(&mut self, compared: Compared) {
        let Some(running) = &self.running else { return };
        if running.lower != self.lower() {
            // So much has changed meanwhile that everything is compared again.
            return;
        }
        self.tally.position = Some(running.low);
        self.tally.documents += compared.documents;
        self.tally.bytes += compared.bytes;
        self.tally.count += compared.count;
        let room = NAMED.saturating_sub(self.tally.differences.len());
        self.tally
            .differences
            .extend(compared.differences.into_iter().take(room));
        self.through = compared.last.map_or(Through::All, Through::Key);
        self.failures = 0;
        self.failure = None;
        self.not_before = None;
    }

    /// The range could not be compared. A pause comes before it is tried again, by which time it has to be [taken](Self::take).
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
        self.not_before = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_compared_is_tried_ever_more_seldom() {
        let mut proof = Proof::default();
        proof.begin();
        let begun = Instant::now();
        let mut failures = 0;
        while begun.elapsed() < 3 * REST {
            if proof.is_due(Instant::now()) {
                proof.fail(Some("there is no snapshot".to_owned()));
                failures += 1;
            }
            tokio::time::advance(PAUSE).await;
        }
        assert!((PATIENCE..PATIENCE + 4).contains(&failures), "{failures}");
        assert!(matches!(proof.state(), ProofState::Failing(_)));
        // Whoever asks for a comparison does not wait for that.
        proof.begin();
        assert!(proof.is_due(Instant::now()));
    }
}
