//! Documents whose changes the sink refused: the steps to resolve them, and when they are given up.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bson::Uuid;
use tokio::time::Instant;

use super::RoutingState;
use crate::engine::messages::{ResolveStep, Stuck};
use crate::model::Position;
use crate::order::Key;

/// A document that stays refused for this long, through many attempts, is reported and abandoned.
const STUCK_PATIENCE: Duration = Duration::from_secs(30);

/// Limit in bytes for the `_id`s of abandoned documents that are remembered. The comparison at the cutover names all of them.
const GIVEN_UP_BYTES: usize = 1 << 20;

/// The steps, each taken for all documents that are still stuck before the next begins.
const STEPS: [ResolveStep; 4] = [
    ResolveStep::Retry,
    ResolveStep::Clear,
    ResolveStep::Retry,
    ResolveStep::Refetch,
];

/// When a document was first found to be stuck.
#[derive(Clone, Copy, Debug)]
pub(super) struct StuckSince {
    time: Instant,
    /// The source's newest position at that time. Until it is routed, the document as read from the source can be refused because of
    /// another document whose change is still to come.
    position: Position,
}

/// Documents that the target refused for good, as far as there is room for their `_id`s.
#[derive(Debug, Default)]
pub(crate) struct GivenUp {
    documents: HashSet<(Uuid, Key)>,
    bytes: usize,
}

/// An attempt to resolve stuck documents. Every applier has applied everything else.
#[derive(Debug)]
pub(crate) struct Resolution {
    /// Documents that the current step is still to be taken for.
    waiting: VecDeque<Stuck>,
    /// Documents that were still stuck after the current step.
    still: Vec<Stuck>,
    steps: std::slice::Iter<'static, ResolveStep>,
    step: Option<ResolveStep>,
}

impl Resolution {
    pub fn new(mut stuck: Vec<Stuck>) -> Self {
        stuck.sort_by_key(|stuck| stuck.position);
        Self {
            waiting: VecDeque::new(),
            still: stuck,
            steps: STEPS.iter(),
            step: None,
        }
    }

    /// Returns the next document and the step to take for it. The result of the step must be passed to [`answered`](Self::answered).
    pub fn next(&mut self) -> Option<(&Stuck, ResolveStep)> {
        if self.waiting.is_empty() {
            self.step = self.steps.next().copied();
            if self.step.is_some() {
                self.waiting = std::mem::take(&mut self.still).into();
            }
        }
        Some((self.waiting.front()?, self.step?))
    }

    /// Notes the result of a step.
    pub fn answered(&mut self, is_resolved: bool) {
        if let Some(stuck) = self.waiting.pop_front()
            && !is_resolved
        {
            self.still.push(stuck);
        }
    }

    /// Returns the documents that are still stuck after all steps.
    pub fn into_stuck(self) -> Vec<Stuck> {
        self.still
    }
}

impl GivenUp {
    /// Adds a document. Returns `true` if it was added.
    pub fn insert(&mut self, document: (Uuid, Key)) -> bool {
        let bytes = document.1.size_in_bytes();
        let is_new = self.bytes + bytes <= GIVEN_UP_BYTES && self.documents.insert(document);
        if is_new {
            self.bytes += bytes;
        }
        is_new
    }

    /// Forgets the documents of a collection.
    pub fn forget(&mut self, collection: Uuid) {
        self.documents.retain(|(id, _)| *id != collection);
        self.bytes = self.documents.iter().map(|(_, key)| key.size_in_bytes()).sum();
    }

    pub fn documents(&self) -> impl Iterator<Item = &(Uuid, Key)> {
        self.documents.iter()
    }
}

impl RoutingState {
    /// Whether a document is stuck.
    pub fn is_any_stuck(&self) -> bool {
        !self.stuck_since.is_empty()
    }

    /// Notes that no document is stuck.
    pub fn none_is_stuck(&mut self) {
        self.stuck_since.clear();
    }

    /// Notes documents that are stuck after all steps. `newest` is the source's newest position. Returns those that are given up. A run
    /// that resumes from a checkpoint reads these again.
    pub fn still_stuck(&mut self, stuck: Vec<Stuck>, now: Instant, newest: Position) -> Vec<Stuck> {
        let first = StuckSince {
            time: now,
            position: newest,
        };
        let before = std::mem::take(&mut self.stuck_since);
        let mut given_up = Vec::new();
        for document in stuck {
            let name = (document.target.id, document.key.clone());
            let since = before.get(&name).copied().unwrap_or(first);
            if self.is_hopeless(&since, now) {
                self.dirty |= self.given_up.insert(name);
                given_up.push(document);
            } else {
                self.stuck_since.insert(name, since);
            }
        }
        given_up
    }

    /// Whether waiting at a barrier with stuck documents is over, although some may still be stuck. `is_resolved` says that those that the
    /// barrier named are not.
    pub fn is_drained(&self, is_resolved: bool, more_stuck: bool, now: Instant) -> bool {
        if is_resolved {
            return !more_stuck;
        }
        // A unique key may belong to a document whose own change is not routed yet. Nothing more can be done at this position then.
        self.stuck_since.values().any(|since| !self.is_hopeless(since, now))
    }

    fn is_hopeless(&self, since: &StuckSince, now: Instant) -> bool {
        now.duration_since(since.time) >= STUCK_PATIENCE && self.routed >= since.position
    }
}
