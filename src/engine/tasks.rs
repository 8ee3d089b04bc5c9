//! The tasks of a run: what each gets, how they are started, and how they end.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::engine::checkpointer::save_checkpoints;
use crate::engine::copy::walker::Walker;
use crate::engine::expiry::keep_expiry;
use crate::engine::follow::applier::{Applier, ApplierParts};
use crate::engine::follow::reader::{READ_AHEAD, read_oplog};
use crate::engine::follow::router::{BARRIERS_PER_APPLIER, Router, RouterParts};
use crate::engine::messages::{ApplierMessage, BarrierReached, Request, Requests};
use crate::engine::ownership::Ownership;
use crate::engine::start::begin::StartPoint;
use crate::engine::users::Carrier;
use crate::engine::watch::source::watch_source;
use crate::engine::watch::target::{ForeignWatch, watch_deployments, watch_foreign_writes};
use crate::engine::watch::write_latency::yield_to_writes;
use crate::error::{ErrorKind, Result};
use crate::model::Position;
use crate::runtime::flush::SharedFlush;
use crate::runtime::index_builds::IndexBuilds;
use crate::runtime::job::Job;
use crate::runtime::limits::memory::RunMemory;
use crate::runtime::progress::RunState;
use crate::runtime::tasks::flatten;

/// Maximum time for the tasks of a run to finish their writes when the run ends.
pub(super) const ENDING: Duration = Duration::from_secs(15);

/// Capacity of an applier's message queue. The byte budget is the limit that matters. Many small messages come from a source that writes
/// little at a time.
const APPLIER_MESSAGES: usize = 1024;

/// What the tasks of a run start with.
pub(super) struct Begun {
    pub beginning: StartPoint,
    pub foreign_writes: Option<ForeignWatch>,
    pub durability: SharedFlush,
    pub ownership: Arc<Ownership>,
    pub builds: OwnedMutexGuard<IndexBuilds>,
}

/// The tasks of a run, as they are started.
pub(super) struct Tasks<'a> {
    pub job: &'a Job,
    pub tasks: &'a mut JoinSet<Result<()>>,
    pub progress: &'a Arc<RunState>,
    pub cancel: &'a CancellationToken,
    pub memory: RunMemory<'a>,
}

impl Tasks<'_> {
    /// Starts all of them. `requests` receives the router's queue.
    pub fn spawn(&mut self, begun: Begun, requests: &Requests) {
        let Begun {
            beginning,
            foreign_writes,
            durability,
            ownership,
            builds,
        } = begun;
        let (job, settings) = (self.job, &self.job.settings);
        let (send_entries, entries) = mpsc::channel(READ_AHEAD);
        let (send_requests, received) = mpsc::channel(settings.walkers * 2);
        // Large enough that an applier never waits to send.
        let (reached, barriers) = mpsc::channel(settings.appliers * BARRIERS_PER_APPLIER);
        let (saves, save_requests) = mpsc::channel(1);
        let router = Router::new(RouterParts {
            source: Arc::clone(&job.source),
            shaping: Arc::clone(&job.shaping),
            sink: Arc::clone(&job.sink),
            ownership: Arc::clone(&ownership),
            builds,
            most_builds: settings.walkers,
            selection: settings.selection.clone(),
            ddl: settings.ddl,
            rules: settings.collections.clone(),
            progress: Arc::clone(self.progress),
            entries,
            requests: received,
            appliers: self.spawn_appliers(beginning.replay_until, &reached),
            applier_memory: self.memory.appliers(),
            held_memory: self.memory.held(),
            chunk_bytes: settings.chunk_bytes,
            changed_memory: self.memory.changed(),
            reached: barriers,
            saves,
            cancel: self.cancel.clone(),
            checkpoint: beginning.checkpoint,
            collections: beginning.collections,
            replay_until: beginning.replay_until,
        });
        self.start(router.run());
        self.start(save_checkpoints(
            durability.clone(),
            Arc::clone(&job.store),
            job.records(),
            Arc::clone(&ownership),
            beginning.replay_until,
            (Arc::clone(self.progress), Arc::clone(&job.shaping)),
            save_requests,
        ));
        self.start(read_oplog(
            beginning.tail,
            send_entries,
            self.memory.read_ahead(),
            Arc::clone(self.progress),
            self.cancel.clone(),
        ));
        self.start(keep_expiry(
            Arc::clone(&job.sink),
            Arc::clone(self.progress),
            send_requests.clone(),
            self.cancel.clone(),
        ));
        if let Some(carrier) = Carrier::of(job, self.progress) {
            self.start(carrier.follow(self.cancel.clone()));
        }
        self.spawn_watchers(foreign_writes);
        self.spawn_walkers(&ownership, &durability, &send_requests);
        requests.send_replace(Some(send_requests));
    }

    /// Starts a task in the span of the run. It is boxed, so that the code around a task is compiled once.
    fn start(&mut self, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(task.boxed().in_current_span());
    }

    /// Starts the appliers, and returns where their messages go.
    fn spawn_appliers(
        &mut self,
        replay_until: Position,
        reached: &mpsc::Sender<BarrierReached>,
    ) -> Vec<mpsc::Sender<ApplierMessage>> {
        let count = self.job.settings.appliers;
        let mut appliers = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, messages) = mpsc::channel(APPLIER_MESSAGES);
            appliers.push(sender);
            let applier = Applier::new(ApplierParts {
                index,
                source: Arc::clone(&self.job.writing_source),
                shaping: Arc::clone(&self.job.shaping),
                sink: Arc::clone(&self.job.sink),
                progress: Arc::clone(self.progress),
                messages,
                reached: reached.clone(),
                refetched: self.memory.settled(count),
                refused: self.memory.settled(count),
                batch_bytes: self.memory.applier_batch(),
                replay_until,
            });
            self.start(applier.run(self.cancel.clone()));
        }
        appliers
    }

    /// Starts what watches both sides.
    fn spawn_watchers(&mut self, foreign_writes: Option<ForeignWatch>) {
        let (job, settings) = (self.job, &self.job.settings);
        self.start(watch_source(
            Arc::clone(&job.source),
            Arc::clone(self.progress),
            settings.max_lag,
            self.cancel.clone(),
        ));
        self.start(watch_deployments(
            Arc::clone(&job.source),
            Arc::clone(&job.sink),
            Arc::clone(&job.seen),
            Arc::clone(self.progress),
            self.cancel.clone(),
        ));
        if let Some(writes) = foreign_writes {
            self.start(watch_foreign_writes(
                writes,
                settings.selection.clone(),
                Arc::clone(self.progress),
                self.cancel.clone(),
            ));
        }
        // At least one walker always runs.
        if settings.adaptive_walkers && settings.walkers > 1 {
            self.start(yield_to_writes(
                Arc::clone(&job.source),
                Arc::clone(self.progress),
                settings.walkers,
                self.cancel.clone(),
            ));
        }
    }

    fn spawn_walkers(
        &mut self,
        ownership: &Arc<Ownership>,
        durability: &SharedFlush,
        requests: &mpsc::Sender<Request>,
    ) {
        let batches = self.memory.batches();
        for _ in 0..self.job.settings.walkers {
            let walker = Walker {
                source: Arc::clone(&self.job.source),
                writing_source: Arc::clone(&self.job.writing_source),
                sink: Arc::clone(&self.job.sink),
                ownership: Arc::clone(ownership),
                durability: durability.clone(),
                progress: Arc::clone(self.progress),
                requests: requests.clone(),
                batch_bytes: self.memory.batch(),
                batches: batches.clone(),
                cancel: self.cancel.clone(),
            };
            self.start(walker.run());
        }
    }
}

/// Waits until the run is cancelled or a task fails. No task ends on its own before the run is over.
pub(super) async fn until_first_end(tasks: &mut JoinSet<Result<()>>, cancel: &CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            ended = tasks.join_next() => match ended {
                Some(ended) => flatten(ended)?,
                None => return Ok(()),
            },
        }
    }
}

/// Lets the tasks finish their writes. Returns the error that caused the others.
pub(super) async fn end(tasks: &mut JoinSet<Result<()>>, mut result: Result<()>) -> Result<()> {
    let collect = async {
        while let Some(ended) = tasks.join_next().await {
            let secondary = matches!(&result, Err(error) if error.kind() == ErrorKind::Stopped);
            if let Err(error) = flatten(ended)
                && (secondary && error.kind() != ErrorKind::Stopped)
            {
                result = Err(error);
            }
        }
    };
    // A task that has not ended by now is waiting for a server that does not answer.
    if timeout(ENDING, collect).await.is_err() {
        tasks.shutdown().await;
    }
    result
}
