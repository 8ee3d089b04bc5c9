//! Starts index builds, and stops them when the catalog changes.

use super::*;
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

impl BlockedByIndex {
    /// Holds a change. Returns the bytes of memory that it takes.
    pub fn push(&mut self, change: Change) -> usize {
        self.held.push(change.position, change.write)
    }

    /// Returns the position up to which everything is applied, and the position from which a tail would have to start again.
    pub fn since(&self) -> (Position, Position) {
        (self.low, self.resume)
    }
}

impl Router {
    /// Starts index builds once nothing is left to be copied, alongside the chunks that are in flight.
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
            // An earlier run started this build. This run asks for it when it has come that far.
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

    /// Builds a refused index once more, while all documents are at one position.
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
                reason: format!("{error}; correct that and start again: the index is then built again"),
            },
        });
    }

    /// Stops the index builds of a collection. They start again once the change that follows is done.
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

    /// Stops holding changes back for one index. Returns `true` if they were held back during its whole build.
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

    /// Moves the changes that are held back to files.
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
