//! Runs a migration: prepares a run, starts its tasks and waits for them to end.
//!
//! This is the only file that knows the order of a run's steps.

pub(crate) mod checkpointer;
pub(crate) mod copy;
pub(crate) mod expiry;
pub(crate) mod follow;
pub(crate) mod messages;
pub(crate) mod ownership;
pub(crate) mod start;
pub(crate) mod supervise;
mod tasks;
pub(crate) mod track;
pub(crate) mod users;
pub(crate) mod watch;
pub(crate) mod window;
pub(crate) mod write_block;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::checkpoint::Checkpoint;
use crate::engine::messages::Requests;
use crate::engine::ownership::Ownership;
use crate::engine::tasks::{Begun, ENDING, Tasks, end, until_first_end};
use crate::engine::watch::target::{ForeignWatch, open_foreign_watch};
use crate::error::{ErrorKind, Result};
use crate::model::{Amount, Position, Side};
use crate::report::Event;
use crate::runtime::cutover_estimate::ComparedAtCutover;
use crate::runtime::expiry::restore;
use crate::runtime::flush::SharedFlush;
use crate::runtime::job::{Job, already_complete};
use crate::runtime::lease::Lease;
use crate::runtime::limits::memory::RunMemory;
use crate::runtime::limits::resources::Resources;
use crate::runtime::progress::RunState;
use crate::runtime::tasks::flatten;
use crate::runtime::waiting::{report_waits, report_waits_within};

/// Timeout for the position up to which a run that ends may have written.
const LAST_LOOK: Duration = Duration::from_secs(2);

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
