//! Runs a migration: starts the tasks of a run and waits for them to end.
//!
//! This is the only file that knows the order of a run's steps. It owns the run's tasks.

pub(crate) mod checkpointer;
pub(crate) mod copy;
pub(crate) mod expiry;
pub(crate) mod follow;
pub(crate) mod messages;
pub(crate) mod ownership;
pub(crate) mod start;
pub(crate) mod supervise;
pub(crate) mod track;
pub(crate) mod users;
pub(crate) mod watch;
pub(crate) mod window;
pub(crate) mod write_block;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::checkpoint::Checkpoint;
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
use crate::engine::watch::target::{ForeignWatch, open_foreign_watch, watch_deployments, watch_foreign_writes};
use crate::engine::watch::write_latency::yield_to_writes;
use crate::error::{ErrorKind, Result};
use crate::model::{Amount, Position, Side};
use crate::report::Event;
use crate::runtime::cutover_estimate::ComparedAtCutover;
use crate::runtime::expiry::restore;
use crate::runtime::flush::SharedFlush;
use crate::runtime::index_builds::IndexBuilds;
use crate::runtime::job::{Job, already_complete};
use crate::runtime::lease::Lease;
use crate::runtime::limits::memory::RunMemory;
use crate::runtime::limits::resources::Resources;
use crate::runtime::progress::RunState;
use crate::runtime::tasks::flatten;
use crate::runtime::waiting::{report_waits, report_waits_within};

/// Maximum time for the tasks of a run to finish their writes when the run ends.
const ENDING: Duration = Duration::from_secs(15);

/// Timeout for the position up to which a run that ends may have written.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Capacity of an applier's message queue. The byte budget is the limit that matters. Many small messages come from a source that writes
/// little at a time.
const APPLIER_MESSAGES: usize = 1024;

/// What the tasks of a run start with.
struct Begun {
    beginning: StartPoint,
    foreign_writes: Option<ForeignWatch>,
    durability: SharedFlush,
    ownership: Arc<Ownership>,
    builds: OwnedMutexGuard<IndexBuilds>,
}

impl Job {
    /// Runs from the checkpoint, or from the beginning if there is none, until the run is cancelled or fails. If the checkpoint's position
    /// is known to be lost, `lost` says why. Everything then has to be compared with the source.
    ///
    /// # Errors
    /// The error that ended the run. Cancellation alone is not an error.
    pub async fn run(
        &self,
        progress: &Arc<RunState>,
        requests: &Requests,
        cancel: &CancellationToken,
        lost: Option<&str>,
    ) -> Result<()> {
        let lease = report_waits(&progress.events, Side::Target, "take the lease", self.lease(progress)).await?;
        let cancel = cancel.child_token();
        // Tasks may still write after the run is cancelled. The lease is kept until all of them have ended.
        let ended = CancellationToken::new();
        let keeper = {
            let (lease, ended, cancel) = (lease.clone(), ended.clone(), cancel.clone());
            let keep = async move {
                let kept = lease.keep(ended).await;
                cancel.cancel();
                kept
            };
            AbortOnDropHandle::new(tokio::spawn(keep.in_current_span()))
        };
        let mut tasks = JoinSet::new();
        // A command that is dropped in flight may still be executed during the next run. So `begin` gets some time to finish.
        let patience = async {
            cancel.cancelled().await;
            sleep(ENDING).await;
        };
        let began = tokio::select! {
            () = patience => Ok(()),
            began = self.begin(progress, lost, lease.written_until()) => match began {
                Ok(begun) if !cancel.is_cancelled() => {
                    let mut tasks = Tasks {
                        job: self,
                        tasks: &mut tasks,
                        progress,
                        cancel: &cancel,
                        memory: RunMemory::of(&self.settings, self.resources.as_ref().map(Resources::pools)),
                    };
                    tasks.spawn(begun, requests);
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
        };
        let result = match began {
            Ok(()) => until_first_end(&mut tasks, &cancel).await,
            Err(error) => Err(error),
        };
        requests.send_replace(None);
        // The next run reports its own verification state.
        progress.comparison.set_done(false);
        cancel.cancel();
        let result = end(&mut tasks, result).await;
        // After an error the next run is careful instead: it takes all that the source has by then for something that may be applied already.
        let written_until = match &result {
            Ok(()) => self.written_until(progress).await,
            Err(_) => None,
        };
        ended.cancel();
        let kept = flatten(keeper.await);
        match kept {
            Ok(()) => lease.release(written_until).await,
            // The lease belongs to another process, or the target does not answer. There is nothing to release or to wait for.
            Err(_) => lease.abandon(),
        }
        // Without the lease everything else fails too, so this error comes first.
        kept.and(result)
    }

    /// Returns the lease that the start has acquired, or acquires it again after the previous run.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) if another process has it now, or a server error.
    async fn lease(&self, progress: &Arc<RunState>) -> Result<Lease> {
        let records = self.unfenced.records(&self.settings.id);
        let lease = match self.started.take() {
            Some(lease) => lease,
            None => Lease::acquire(records.clone(), self.fence.clone())
                .await
                .map_err(|error| match error.kind() {
                    ErrorKind::LeaseHeld => error.with_kind(ErrorKind::LeaseLost),
                    _ => error,
                })?,
        };
        Ok(lease.of_run(records, Arc::clone(progress)))
    }

    /// A position of the source that nothing which the run has written is newer than, if the source names one in time.
    async fn written_until(&self, progress: &RunState) -> Option<Position> {
        match timeout(LAST_LOOK, self.source.read_position()).await {
            Ok(Ok(position)) => Some(position.max(progress.read())),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    async fn begin(
        &self,
        progress: &Arc<RunState>,
        lost: Option<&str>,
        written_until: Option<Position>,
    ) -> Result<Begun> {
        let durability = SharedFlush::new(Arc::clone(&self.sink));
        // The previous holder of the lease may have been cut off in the middle of a write.
        let events = &progress.events;
        self.sink.quiesce(&self.settings.selection).await?;
        self.store.claim().await?;
        self.prepare_way_back().await?;
        let mut loaded = self.load().await?;
        if loaded
            .as_ref()
            .is_some_and(|checkpoint| checkpoint.source_writes_blocked)
        {
            progress.write_block.found();
        }
        let is_complete = loaded.as_ref().is_some_and(|checkpoint| checkpoint.complete);
        progress.resolve_completion(is_complete);
        if let Some(checkpoint) = &mut loaded
            && checkpoint.expiry_final
            && !is_complete
        {
            restore(&*self.sink, checkpoint, |name| self.settings.selection.target(name)).await?;
            checkpoint.expiry_final = false;
        }
        progress.expiry.restored();
        let watch = self.watch_on(loaded.as_mut(), progress).await;
        let ownership = Ownership::load(self.records(), durability.clone(), self.settings.existing_data).await?;
        let mut builds = Arc::clone(&self.builds).lock_owned().await;
        let known = loaded.as_ref().map(|checkpoint| &checkpoint.collections[..]);
        builds.keep(|job| {
            let of_job = known.unwrap_or_default().iter().find(|state| state.id == job.target.id);
            of_job.is_some_and(|state| state.target == job.target.target && state.made == job.made)
        });
        if lost.is_some() || loaded.as_ref().is_none_or(|checkpoint| !checkpoint.created) {
            // The target's catalog will be created again.
            builds.stop_all(&*self.sink).await?;
        }
        let beginning = match loaded {
            Some(checkpoint) if checkpoint.complete => {
                return Err(already_complete());
            }
            Some(checkpoint) => match lost {
                Some(reason) => self.resync(checkpoint, &ownership, progress, reason).await?,
                None => {
                    let begun = self.go_on(checkpoint, &ownership, progress, written_until);
                    report_waits_within(events, Side::Source, "find the position to resume from", None, begun).await?
                }
            },
            None => {
                let begun = self.begin_anew(&ownership);
                report_waits_within(
                    events,
                    Side::Source,
                    "list the collections and create them on the target",
                    None,
                    begun,
                )
                .await?
            }
        };
        let already = Amount {
            documents: beginning.checkpoint.copied_documents,
            bytes: beginning.checkpoint.copied_bytes,
        };
        let mut total = Amount::default();
        for collection in &beginning.collections {
            total.documents += collection.documents;
            total.bytes += collection.bytes;
        }
        progress.copy.begin(total, already);
        let (while_running, at_cutover) = self.comparison();
        progress.comparison.begin(while_running, at_cutover);
        progress.set_watermark(beginning.checkpoint.watermark);
        progress.set_read(progress.read().max(beginning.checkpoint.watermark));
        progress.set_resume(beginning.checkpoint.resume);
        progress.set_resyncs(beginning.checkpoint.resyncs);
        progress.left_selection.go_on(&beginning.checkpoint.left_selection);
        let (resumed, position) = (beginning.resumed, beginning.checkpoint.watermark);
        progress.events.send(Event::Started { resumed, position });
        Ok(Begun {
            beginning,
            foreign_writes: watch,
            durability,
            ownership: Arc::new(ownership),
            builds,
        })
    }

    /// Whether a cutover can rely on comparisons made during the run, and what it compares itself.
    fn comparison(&self) -> (bool, ComparedAtCutover) {
        match (
            self.settings.collections.any_continuous(),
            self.settings.watch_foreign_writes,
        ) {
            (true, true) => (true, ComparedAtCutover::Open(self.settings.cross_check_bytes)),
            (true, false) => (false, ComparedAtCutover::Everything),
            (false, _) => (false, ComparedAtCutover::Open(0)),
        }
    }

    /// Starts watching for writes to the target made by other programs, from the position up to which the checkpoint says that they were
    /// watched. If the watch cannot resume there, or the target was restored from a backup, the checkpoint's verification results are
    /// discarded.
    async fn watch_on(&self, checkpoint: Option<&mut Checkpoint>, progress: &RunState) -> Option<ForeignWatch> {
        if !self.settings.watch_foreign_writes {
            checkpoint.map(Checkpoint::forget_compared);
            return None;
        }
        let until = checkpoint.as_ref().and_then(|checkpoint| checkpoint.watched);
        let durable = checkpoint.as_ref().and_then(|checkpoint| checkpoint.durable);
        let is_whole = durable.is_none() || self.sink.foreign_writes(durable).await.is_ok();
        let (watch, goes_on) = open_foreign_watch(&*self.sink, until, progress).await;
        if let Some(checkpoint) = checkpoint
            && !(goes_on && is_whole)
        {
            checkpoint.forget_compared();
        }
        watch
    }
}

/// The tasks of a run, as they are started.
struct Tasks<'a> {
    job: &'a Job,
    tasks: &'a mut JoinSet<Result<()>>,
    progress: &'a Arc<RunState>,
    cancel: &'a CancellationToken,
    memory: RunMemory<'a>,
}

impl Tasks<'_> {
    /// Starts all of them. `requests` receives the router's queue.
    fn spawn(&mut self, begun: Begun, requests: &Requests) {
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
async fn until_first_end(tasks: &mut JoinSet<Result<()>>, cancel: &CancellationToken) -> Result<()> {
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
async fn end(tasks: &mut JoinSet<Result<()>>, mut result: Result<()>) -> Result<()> {
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
