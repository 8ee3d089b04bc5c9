//! Has indexes built, and ends their builds where the catalogue changes.

use super::*;
use crate::runtime::index_builds::{EndedBuild, IndexJob};

/// What is held back of a collection that stands still while an index is built that was refused before.
///
/// Appliers run apart, so that two documents can hold one unique key for a moment. While nothing of the collection is applied its documents are
/// those of one position, and an index is refused for what is wrong with them alone. Other collections go on.
#[derive(Debug)]
pub(super) struct BlockedByIndex {
    /// Everything up to here is applied, and where a tail would have to start again.
    low: Position,
    resume: Position,
    held: HeldChanges,
    /// The indexes that it has stood still for since their builds began.
    builds: BTreeSet<String>,
}

impl BlockedByIndex {
    /// Keeps a change; answers the bytes of memory it takes.
    pub fn push(&mut self, change: Change) -> usize {
        self.held.push(change.position, change.write)
    }

    /// The position up to which everything is applied, and where a tail would have to start again.
    pub fn since(&self) -> (Position, Position) {
        (self.low, self.resume)
    }
}

impl Router {
    /// Has indexes built once nothing is left to be copied, beside the chunks that are in flight.
    pub(super) fn begin_builds(&mut self) {
        if self.routed < self.replay_until || self.tracked.next_unread().is_some() {
            return;
        }
        while self.builds.count() < self.most_builds {
            let Some(job) = self.tracked.next_index(self.routed) else {
                return;
            };
            self.builds.begin(job, &self.sink);
        }
    }

    pub(super) async fn build_ended(&mut self, ended: EndedBuild) -> Result<()> {
        let EndedBuild { job, result } = ended;
        let id = job.target.id;
        let is_awaited = |tracked: &CollectionProgress| tracked.is_being_built(&job.name);
        if !self.tracked.get(&id).is_some_and(is_awaited) {
            // An earlier run has begun it. This one asks for it once it has come so far.
            return Ok(());
        }
        let stood_still = self.end_standing_still(id, &job.name).await?;
        match result {
            Ok(()) => self.end_build(&job, None),
            Err(error) if error.kind() == ErrorKind::TargetRefused && stood_still => {
                if let Some(tracked) = self.tracked.get_mut(&id) {
                    tracked.failed_indexes.insert(job.name.clone());
                }
                self.end_build(&job, Some(&error));
            }
            Err(error) if error.kind() == ErrorKind::TargetRefused => self.build_again(job).await?,
            Err(error) => return Err(error),
        }
        self.dirty = true;
        self.update_progress();
        Ok(())
    }

    /// Builds an index that was refused once more, when all documents are at one position.
    async fn build_again(&mut self, job: IndexJob) -> Result<()> {
        let id = job.target.id;
        let drained = self.drain().await?;
        let Some(tracked) = self.tracked.get_mut(&id) else {
            return Ok(());
        };
        if drained.ahead > self.routed {
            tracked.end_build(&job.name, Some(drained.ahead));
            return Ok(());
        }
        let held_back = self.held_back.entry(id).or_insert_with(|| BlockedByIndex {
            low: self.routed,
            resume: self.resume,
            held: HeldChanges::default(),
            builds: BTreeSet::new(),
        });
        held_back.builds.insert(job.name.clone());
        self.builds.begin(IndexJob { anew: true, ..job }, &self.sink);
        Ok(())
    }

    fn end_build(&mut self, job: &IndexJob, refusal: Option<&Error>) {
        let (namespace, name) = (job.target.namespace.clone(), job.name.clone());
        if let Some(tracked) = self.tracked.get_mut(&job.target.id) {
            tracked.end_build(&name, None);
            tracked.advance_index_work(self.routed);
        }
        self.events.send(match refusal {
            None => Event::IndexBuilt { namespace, name },
            Some(error) => Event::IndexFailed {
                namespace,
                name,
                reason: format!("{error}; put that right and start again: the index is tried anew then"),
            },
        });
    }

    /// Ends the index builds of a collection. They begin again when what follows is done.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn stop_builds(&mut self, collection: Uuid) -> Result<()> {
        for ended in self.builds.stop(collection, &*self.sink).await? {
            if ended.result.is_ok() {
                self.build_ended(ended).await?;
            }
        }
        if let Some(tracked) = self.tracked.get_mut(&collection) {
            tracked.put_back_builds();
        }
        self.send_held_back(collection).await
    }

    /// A collection need not stand still any more for this index. Returns `true` if it has done so all the time.
    async fn end_standing_still(&mut self, collection: Uuid, index: &str) -> Result<bool> {
        let Some(held_back) = self.held_back.get_mut(&collection) else {
            return Ok(false);
        };
        let stood_still = held_back.builds.remove(index);
        if held_back.builds.is_empty() {
            self.send_held_back(collection).await?;
        }
        Ok(stood_still)
    }

    async fn send_held_back(&mut self, collection: Uuid) -> Result<()> {
        let Some(held_back) = self.held_back.remove(&collection) else {
            return Ok(());
        };
        self.held -= held_back.held.bytes();
        self.progress.held_bytes.store(self.held as u64, Relaxed);
        self.dirty = true;
        let mut held = held_back.held.read().await?;
        while let Some((position, write)) = held.next().await? {
            self.send_on(collection, position, write).await?;
        }
        Ok(())
    }

    /// Sends on everything that is held back. An index that is refused meanwhile is built once more.
    pub(super) async fn send_all_held_back(&mut self) -> Result<()> {
        let collections: Vec<Uuid> = self.held_back.keys().copied().collect();
        for collection in collections {
            self.send_held_back(collection).await?;
        }
        Ok(())
    }

    /// Moves what is held back to files.
    pub(super) async fn spill_held_back(&mut self) -> Result<()> {
        for held_back in self
            .held_back
            .values_mut()
            .filter(|held_back| held_back.held.bytes() > 0)
        {
            self.held -= held_back.held.spill().await?;
        }
        self.progress.held_bytes.store(self.held as u64, Relaxed);
        Ok(())
    }
}
