//! What a checkpoint says (I4).

use std::collections::{HashMap, HashSet};

use bson::Uuid;

use super::RoutingState;
use super::builds::BlockedByIndex;
use crate::checkpoint::{Checkpoint, ComparedUntil, PendingCheckpoint, States, UnsettledDocuments};
use crate::engine::messages::Unsettled;
use crate::model::{Namespace, Position};
use crate::order::Key;

/// Limit in bytes for the `_id`s of changed documents that a checkpoint keeps. The next run compares collections with more from the
/// beginning.
const KEPT_BYTES: usize = 512 << 10;

/// What a checkpoint says and the router does not know.
#[derive(Debug, Default)]
pub(crate) struct CheckpointFacts {
    pub copied_documents: u64,
    pub copied_bytes: u64,
    /// The position in the sink's history up to which writes of other programs were watched for. `None` if some may have been missed.
    pub watched: Option<Position>,
    /// The collections that other programs have written to.
    pub foreign: HashSet<Namespace>,
}

impl RoutingState {
    /// The states of all collections and views.
    pub fn states(&mut self) -> States {
        if self.views.may_have_changed() {
            self.tracked.set_views(self.views.values());
        }
        self.tracked.states()
    }

    /// Returns a checkpoint of what is routed now. It may be saved once all of that is applied.
    pub fn checkpoint_now(&mut self, facts: CheckpointFacts) -> PendingCheckpoint {
        let (watermark, resume) = self.applied_until();
        let (copied_documents, copied_bytes) = (facts.copied_documents, facts.copied_bytes);
        let compared = self.compared_until(facts);
        // The names are of use only if all are known.
        let gone = self.ghosts.keys().copied().collect();
        let gone_names: Option<Vec<Namespace>> = self.ghosts.values().cloned().collect();
        let gone_names = gone_names.unwrap_or_default();
        let head = Checkpoint {
            watermark,
            resume,
            collections: Vec::new(),
            watched: compared.as_ref().map(|compared| compared.watched),
            durable: None,
            renaming: None,
            left_over: Vec::new(),
            gone,
            gone_names,
            created: true,
            copied: self.is_indexed,
            copied_documents,
            copied_bytes,
            ..self.checkpoint.clone()
        };
        PendingCheckpoint {
            head,
            states: self.states(),
            compared,
        }
    }

    /// Returns a checkpoint of everything routed. All appliers have applied it, except for what is `unsettled`.
    pub fn checkpoint_of_all(&mut self, unsettled: Unsettled, facts: CheckpointFacts) -> PendingCheckpoint {
        let Unsettled { documents, collections } = unsettled;
        let unsettled = by_collection(self.with_given_up(documents));
        // An older checkpoint must not be saved after this one.
        self.next_save = None;
        let mut checkpoint = self.checkpoint_now(facts);
        checkpoint.head.unsettled = unsettled;
        if !collections.is_empty() {
            // A run that resumes from here compares these collections as a whole.
            checkpoint.states = self.tracked.states_without_ranges(&collections);
        }
        checkpoint
    }

    /// Returns the position up to which a checkpoint may say that everything is applied, and the position to read the history from to
    /// resume there. Changes that are held for a comparison or an index build come after it.
    pub(super) fn applied_until(&mut self) -> (Position, Position) {
        let compared = self.tracked.compared();
        let running = compared
            .iter()
            .filter_map(|id| self.tracked.get(id)?.verification.running());
        running
            .map(|running| (running.low, running.resume))
            .chain(self.held_back.values().map(BlockedByIndex::since))
            .min()
            .unwrap_or((self.routed, self.resume))
    }

    /// Returns the verification state for a checkpoint. `None` if other programs may have written to any of the collections.
    fn compared_until(&mut self, facts: CheckpointFacts) -> Option<ComparedUntil> {
        Some(ComparedUntil {
            watched: facts.watched?,
            foreign: facts.foreign,
            changed: self.tracked.changed_states(KEPT_BYTES),
        })
    }

    pub(super) fn with_given_up(&self, mut unsettled: Vec<(Uuid, Key)>) -> Vec<(Uuid, Key)> {
        unsettled.extend(self.given_up.documents().cloned());
        unsettled
    }
}

pub(super) fn by_collection(documents: Vec<(Uuid, Key)>) -> Vec<UnsettledDocuments> {
    let mut all: HashMap<Uuid, Vec<Key>> = HashMap::new();
    for (collection, id) in documents {
        all.entry(collection).or_default().push(id);
    }
    all.into_iter()
        .map(|(collection, ids)| UnsettledDocuments { collection, ids })
        .collect()
}
