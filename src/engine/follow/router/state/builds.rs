//! Which indexes are built, and which changes are held back for a build.

use std::collections::BTreeSet;

use bson::Uuid;

use super::RoutingState;
use super::actions::Action;
use crate::engine::track::collection::CollectionProgress;
use crate::engine::track::held_changes::HeldChanges;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, Position};
use crate::report::Event;
use crate::runtime::index_builds::{EndedBuild, IndexJob};

/// Changes of a collection that are held back while a refused index is built again.
///
/// Appliers run independently, so two documents can have the same unique key for a moment. While nothing is applied to the collection, its
/// documents are those of one position. The index can then be refused only for what is wrong with the documents themselves. Other
/// collections continue.
#[derive(Debug)]
pub(super) struct BlockedByIndex {
    /// Position up to which everything is applied.
    low: Position,
    /// Position from which a tail would have to start again.
    resume: Position,
    held: HeldChanges,
    /// Indexes whose builds have run with changes held back from their start.
    builds: BTreeSet<String>,
}

/// What follows from the end of a build.
#[derive(Debug)]
#[must_use]
pub(crate) enum Ended {
    /// Nothing more.
    Done,
    /// The index was refused while changes were applied. Once everything is applied, it is to be [built again](RoutingState::build_again).
    Refused(IndexJob),
}

impl BlockedByIndex {
    /// Holds a change. Returns the bytes of memory that it takes.
    pub fn push(&mut self, change: Change) -> usize {
        self.held.push(change.position, change.write)
    }

    /// Returns the position up to which everything is applied, and the position from which a tail would have to start again.
    pub fn since(&self) -> (Position, Position) {
        (self.low, self.resume)
    }

    /// Memory taken by the changes, in bytes.
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    pub fn held_mut(&mut self) -> &mut HeldChanges {
        &mut self.held
    }
}

impl RoutingState {
    /// Returns the next index to build. There is none before every range is given to a walker. Builds run alongside the chunks that are
    /// still in flight.
    pub fn next_build(&mut self) -> Option<IndexJob> {
        if self.routed < self.replay_until || self.tracked.next_unread().is_some() {
            return None;
        }
        self.tracked.next_index(self.routed)
    }

    /// Handles the end of a build.
    ///
    /// # Errors
    /// The build failed for another reason than the documents.
    pub fn build_ended(&mut self, ended: EndedBuild, actions: &mut Vec<Action>) -> Result<Ended> {
        let EndedBuild { job, result } = ended;
        let id = job.target.id;
        let is_awaited = |tracked: &CollectionProgress| tracked.is_being_built(&job.name);
        if !self.tracked.get(&id).is_some_and(is_awaited) {
            // An earlier run started this build. This run asks for it when it has come that far.
            return Ok(Ended::Done);
        }
        let stood_still = self.end_standing_still(id, &job.name, actions);
        match result {
            Ok(()) => self.end_build(&job, None, actions),
            Err(error) if error.kind() == ErrorKind::TargetRefused && stood_still => {
                if let Some(tracked) = self.tracked.get_mut(&id) {
                    tracked.failed_indexes.insert(job.name.clone());
                }
                self.end_build(&job, Some(&error), actions);
            }
            Err(error) if error.kind() == ErrorKind::TargetRefused => return Ok(Ended::Refused(job)),
            Err(error) => return Err(error),
        }
        self.dirty = true;
        let progress = self.advance();
        actions.push(Action::ShowProgress(progress));
        Ok(Ended::Done)
    }

    /// Prepares building a refused index once more, while all documents are at one position. Everything routed is applied, and `ahead` is a
    /// position at or after the newest document on the sink. Returns the build to start, or `None` if it has to wait for that position.
    pub fn build_again(&mut self, job: IndexJob, ahead: Position) -> Option<IndexJob> {
        self.dirty = true;
        let id = job.target.id;
        let tracked = self.tracked.get_mut(&id)?;
        if ahead > self.routed {
            tracked.end_build(&job.name, Some(ahead));
            return None;
        }
        let held_back = self.held_back.entry(id).or_insert_with(|| BlockedByIndex {
            low: self.routed,
            resume: self.resume,
            held: HeldChanges::default(),
            builds: BTreeSet::new(),
        });
        held_back.builds.insert(job.name.clone());
        Some(IndexJob { anew: true, ..job })
    }

    /// The builds of a collection were stopped. They start again once the change that follows is done.
    pub fn builds_stopped(&mut self, collection: Uuid, actions: &mut Vec<Action>) {
        if let Some(tracked) = self.tracked.get_mut(&collection) {
            tracked.put_back_builds();
        }
        self.send_held_back(collection, actions);
    }

    /// Sends on everything that is held back. An index that is refused meanwhile is built once more.
    pub fn send_all_held_back(&mut self, actions: &mut Vec<Action>) {
        let collections: Vec<Uuid> = self.held_back.keys().copied().collect();
        for collection in collections {
            self.send_held_back(collection, actions);
        }
    }

    fn send_held_back(&mut self, collection: Uuid, actions: &mut Vec<Action>) {
        let Some(held_back) = self.held_back.remove(&collection) else {
            return;
        };
        self.held -= held_back.bytes();
        self.dirty = true;
        let held = held_back.held;
        actions.push(Action::SendHeldBack { collection, held });
    }

    /// Stops holding changes back for one index. Returns `true` if they were held back during its whole build.
    fn end_standing_still(&mut self, collection: Uuid, index: &str, actions: &mut Vec<Action>) -> bool {
        let Some(held_back) = self.held_back.get_mut(&collection) else {
            return false;
        };
        let stood_still = held_back.builds.remove(index);
        if held_back.builds.is_empty() {
            self.send_held_back(collection, actions);
        }
        stood_still
    }

    fn end_build(&mut self, job: &IndexJob, refusal: Option<&Error>, actions: &mut Vec<Action>) {
        let (namespace, name) = (job.target.namespace.clone(), job.name.clone());
        if let Some(tracked) = self.tracked.get_mut(&job.target.id) {
            tracked.end_build(&name, None);
            tracked.advance_index_work(self.routed);
        }
        actions.push(Action::Report(match refusal {
            None => Event::IndexBuilt { namespace, name },
            Some(error) => Event::IndexFailed {
                namespace,
                name,
                reason: format!("{error:#}; correct that and start again: the index is then built again"),
            },
        }));
    }
}
