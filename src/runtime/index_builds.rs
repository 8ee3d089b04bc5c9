//! Index builds that are running on the target.
//!
//! A build can take hours and outlast a run: a run ends at a pause, with a new primary on the target, and after an outage of either side,
//! and another run resumes from the checkpoint. Builds therefore belong to the migration as a whole. A run that requests a build that an
//! earlier run has begun joins it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::future::try_join_all;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, info_span};

use crate::error::Result;
use crate::model::CollectionMapping;
use crate::report::TARGET;
use crate::runtime::tasks::flatten;
use crate::sink::{CatalogCommand, Sink};

/// Minimum age of a build before it is cancelled. A younger one's command could still be on its way, and would take effect after whatever
/// comes next.
const ARRIVED: Duration = Duration::from_secs(1);

/// All builds of a migration. One run at a time manages them.
#[derive(Default)]
pub(crate) struct IndexBuilds {
    tasks: JoinSet<Result<()>>,
    running: HashMap<Id, Build>,
    ended: VecDeque<EndedBuild>,
    /// Builds that nobody waits for any more, and that may still be running on the target.
    left: Vec<IndexJob>,
}

struct Build {
    job: IndexJob,
    since: Instant,
    task: AbortHandle,
}

/// A build that ended without being cancelled.
#[derive(Debug)]
pub(crate) struct EndedBuild {
    pub job: IndexJob,
    pub result: Result<()>,
}

impl IndexBuilds {
    /// Number of running builds.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Starts a build, unless the same one is already running. It replaces a different build of the same name.
    pub fn begin(&mut self, mut job: IndexJob, sink: &Arc<dyn Sink>) {
        let same_name = |(_, build): &(&Id, &Build)| build.job.target.id == job.target.id && build.job.name == job.name;
        if let Some((id, build)) = self.running.iter().find(same_name) {
            if build.job.is_same(&job) {
                return;
            }
            build.task.abort();
            let id = *id;
            self.running.remove(&id);
            job.anew = true;
        }
        let span = info_span!(target: TARGET, "index_build", namespace = %job.target.namespace, index = job.name);
        let task = self.tasks.spawn(build(Arc::clone(sink), job.clone()).instrument(span));
        let since = Instant::now();
        self.running.insert(task.id(), Build { job, since, task });
    }

    /// Returns the next build that ends without being cancelled, or `None` if none is running.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn ended(&mut self) -> Option<EndedBuild> {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return Some(ended);
            }
            let joined = self.tasks.join_next_with_id().await?;
            self.note(joined);
        }
    }

    /// Cancels all builds of a collection, so that its catalog can be changed. Returns those that ended by themselves in the meantime.
    /// Waits up to a second for a build that has only just begun.
    ///
    /// # Errors
    /// A server error.
    ///
    /// # Cancellation
    /// Dropping the future leaves some of the builds running.
    pub async fn stop(&mut self, collection: Uuid, sink: &dyn Sink) -> Result<Vec<EndedBuild>> {
        let is_of_it = |job: &IndexJob| job.target.id == collection;
        loop {
            let builds = || self.running.values().filter(|build| is_of_it(&build.job));
            let Some(last) = builds().map(|build| build.since + ARRIVED).max() else {
                break;
            };
            let have_arrived = last <= Instant::now();
            if have_arrived {
                builds().for_each(|build| build.task.abort());
            }
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id() => self.note(joined),
                () = sleep_until(last), if !have_arrived => {}
            }
        }
        self.drop_left(sink).await?;
        let (of_it, others) = self.ended.drain(..).partition(|ended| is_of_it(&ended.job));
        self.ended = others;
        Ok(Vec::from(of_it))
    }

    /// Stops waiting for builds of collections that have changed since the builds were requested. Changes nothing on the target, because
    /// another program may own what exists there now.
    pub fn keep(&mut self, is_as_it_was: impl Fn(&IndexJob) -> bool) {
        self.left.clear();
        self.running.retain(|_, build| {
            let is_kept = is_as_it_was(&build.job);
            if !is_kept {
                build.task.abort();
            }
            is_kept
        });
    }

    /// Cancels all builds.
    ///
    /// # Errors
    /// A server error.
    pub async fn stop_all(&mut self, sink: &dyn Sink) -> Result<()> {
        let collections: HashSet<Uuid> = self.running.values().map(|build| build.job.target.id).collect();
        for collection in collections {
            self.stop(collection, sink).await?;
        }
        self.ended.clear();
        Ok(())
    }

    /// Stops waiting for all builds. A run that requests them again joins those that are still running on the target.
    pub async fn leave(&mut self) {
        self.tasks.shutdown().await;
        self.running.clear();
        self.ended.clear();
    }

    async fn drop_left(&mut self, sink: &dyn Sink) -> Result<()> {
        // Concurrently, because a server can refuse to drop one index while another is being built.
        try_join_all(self.left.iter().map(|job| drop_index(sink, job))).await?;
        self.left.clear();
        Ok(())
    }

    fn note(&mut self, joined: std::result::Result<(Id, Result<()>), tokio::task::JoinError>) {
        let (id, result) = match joined {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(build) = self.running.remove(&id) else { return };
        if result.as_ref().is_err_and(tokio::task::JoinError::is_cancelled) {
            self.left.push(build.job);
        } else {
            let result = flatten(result);
            self.ended.push_back(EndedBuild { job: build.job, result });
        }
    }
}

async fn build(sink: Arc<dyn Sink>, job: IndexJob) -> Result<()> {
    if job.anew {
        drop_index(&*sink, &job).await?;
    }
    sink.create_index(&job.target.target, &job.specification).await
}

async fn drop_index(sink: &dyn Sink, job: &IndexJob) -> Result<()> {
    let command = CatalogCommand::DropIndex {
        namespace: job.target.target.clone(),
        name: job.name.clone(),
    };
    sink.execute(&command).await
}

/// An index to build.
#[derive(Clone, Debug)]
pub(crate) struct IndexJob {
    pub target: Arc<CollectionMapping>,
    /// The same as [`CollectionState::made`](crate::checkpoint::CollectionState::made).
    pub made: Option<Uuid>,
    pub name: String,
    pub specification: RawDocumentBuf,
    /// Whether to drop an index of the same name first. An earlier run can have left one.
    pub anew: bool,
}

impl IndexJob {
    /// Whether both request the same index of the same collection on the target.
    pub fn is_same(&self, other: &Self) -> bool {
        let names = |job: &Self| (job.target.id, job.target.target.clone(), job.made, job.name.clone());
        names(self) == names(other) && self.specification == other.specification
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::model::CollectionKind;
    use crate::model::CollectionMapping;
    use crate::model::Namespace;
    use crate::sink::{MemorySink, SinkCall};

    fn orders() -> Namespace {
        "shop.orders".parse().unwrap()
    }

    fn job(direction: i32) -> IndexJob {
        IndexJob {
            target: Arc::new(CollectionMapping {
                id: Uuid::from_bytes([1; 16]),
                namespace: orders(),
                target: orders(),
                kind: CollectionKind::Plain,
            }),
            made: None,
            name: "n".to_owned(),
            specification: rawdoc! { "v": 2, "key": { "n": direction }, "name": "n" },
            anew: false,
        }
    }

    async fn bench() -> (MemorySink, Arc<dyn Sink>, IndexBuilds) {
        let sink = MemorySink::new();
        let create = CatalogCommand::Create {
            namespace: orders(),
            kind: CollectionKind::Plain,
            options: rawdoc! {},
        };
        sink.execute(&create).await.unwrap();
        let shared = Arc::new(sink.clone());
        (sink, shared, IndexBuilds::default())
    }

    async fn indexes(sink: &MemorySink) -> usize {
        sink.collections().await.unwrap()[0].indexes.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_that_replaces_another_is_not_dropped_with_it() {
        let (sink, shared, mut builds) = bench().await;
        let held = sink.hold(SinkCall::CreateIndex);
        builds.begin(job(1), &shared);
        held.reached().await;
        builds.begin(job(-1), &shared);
        held.release();
        assert!(builds.ended().await.unwrap().result.is_ok());
        assert_eq!(indexes(&sink).await, 2);
        builds.stop(Uuid::from_bytes([1; 16]), &sink).await.unwrap();
        assert_eq!(indexes(&sink).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_dropped_is_no_concern_of_the_next_run() {
        let (sink, shared, mut builds) = bench().await;
        let held = sink.hold(SinkCall::CreateIndex);
        builds.begin(job(1), &shared);
        held.reached().await;
        sink.fail_next(
            SinkCall::Execute,
            Error::new(ErrorKind::Connection, "drop", "the connection broke"),
        );
        builds.stop(Uuid::from_bytes([1; 16]), &sink).await.unwrap_err();
        held.release();
        builds.keep(|_| true);
        builds.begin(job(1), &shared);
        assert!(builds.ended().await.unwrap().result.is_ok());
        builds.stop(Uuid::from_bytes([1; 16]), &sink).await.unwrap();
        assert_eq!(indexes(&sink).await, 2);
    }
}
