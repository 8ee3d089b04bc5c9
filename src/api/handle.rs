//! [`MigrationHandle`]: controls a running migration.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::stream::Stream;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::recording::RunRecorder;
use crate::api::verify::{self, DocumentPair, VerifyReport};
use crate::config::Throttle;
use crate::engine::messages::Requests;
use crate::engine::supervise::{State, Wanted};
use crate::engine::window;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::order::Key;
use crate::report::{Call, CollectionStatus, Event, Phase, Status, Summary};
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;

/// How long the lag must stay small before a run counts as ready.
const STEADY: Duration = Duration::from_secs(2);

/// A running migration.
///
/// All tasks of the run belong to the handle and its clones. Dropping the last of them stops the run and keeps the checkpoint. Starting the
/// same migration again resumes from that checkpoint.
#[must_use = "dropping the last handle stops the run"]
#[derive(Clone)]
pub struct MigrationHandle {
    pub(super) run: Arc<Run>,
}

/// What the clones of a handle share.
pub(super) struct Run {
    pub engine: Arc<Job>,
    pub progress: Arc<RunState>,
    pub requests: Arc<Requests>,
    pub recorder: Arc<RunRecorder>,
    pub wanted: watch::Sender<Wanted>,
    pub state: watch::Receiver<State>,
    /// Held by the one cutover that is in progress.
    pub cutover: Mutex<()>,
    pub cancel: CancellationToken,
    pub supervisor: AbortOnDropHandle<()>,
    /// Result of the last cutover that found differences.
    pub differing: std::sync::Mutex<Option<Summary>>,
    /// The last phase that was reported to the host's hook, and the task that reports it.
    pub told: watch::Receiver<Phase>,
    pub _phases: AbortOnDropHandle<()>,
    #[cfg(feature = "metrics")]
    pub _metrics: AbortOnDropHandle<()>,
}

impl MigrationHandle {
    /// What the run was built from.
    #[cfg(feature = "console")]
    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.run.engine
    }

    /// Returns the events from now on. The stream ends with the run.
    ///
    /// A slow reader misses events, and is notified by [`Event::Missed`]. It never slows down the run.
    ///
    /// ```no_run
    /// # use futures::StreamExt;
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// let mut events = run.events();
    /// while let Some(event) = events.next().await {
    ///     println!("{event}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.run.progress.events.subscribe(self.run.progress.phase().is_last())
    }

    /// Returns the current state of the run.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// let status = run.status();
    /// println!("{:?}, lag {:?}", status.phase, status.lag);
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(&self) -> Status {
        self.run.progress.status(self.run.engine.settings.max_lag)
    }

    /// Returns the current state of each collection, views not included, in no particular order.
    ///
    /// The state is a quarter of a second old at most. While the run is paused, and after its end, it is the last known; before the first
    /// run has listed the source, there is none. The call copies one pointer for each collection, so it is cheap with tens of thousands.
    pub fn collections(&self) -> Vec<Arc<CollectionStatus>> {
        self.run.progress.collections.all()
    }

    /// Waits until everything is copied and indexed, everything is compared that can be compared during the run, and the lag has stayed at
    /// or below [`max_lag`](crate::MigrationBuilder::max_lag) for two seconds. A cutover that begins then is short.
    ///
    /// Only [`Verification::Continuous`](crate::Verification::Continuous) compares anything during the run. A collection that cannot be
    /// compared, for example because too much of it keeps changing, is left to the cutover and does not delay this.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// run.ready_to_cut_over().await?;
    /// println!("{:?}", run.status().cutover_estimate);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error that ended the run in the meantime.
    ///
    /// # Cancellation
    /// Dropping the future has no effect on the run.
    pub async fn ready_to_cut_over(&self) -> Result<()> {
        let max_lag = self.run.engine.settings.max_lag;
        let mut since: Option<Instant> = None;
        loop {
            self.check_running()?;
            if self.run.progress.status(max_lag).can_cut_over && self.run.progress.comparison.is_done_but_for(max_lag) {
                if since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                    return Ok(());
                }
            } else {
                since = None;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops reading and writing, and keeps the checkpoint. Returns when everything has stopped. [`resume`](Self::resume) continues from
    /// the checkpoint.
    ///
    /// The copy of a capped collection, or of a collection with a collation, cannot be resumed. If such a copy is in progress, it is
    /// finished first.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// run.pause().await?;
    /// // Nothing is read or written now.
    /// run.resume()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) during a cutover, or the error that ended the run earlier.
    pub async fn pause(&self) -> Result<()> {
        self.run.recorder.call("pause", self.check(Call::Pause))?;
        self.run.wanted.send_replace(Wanted::Pause);
        let mut state = self.run.state.clone();
        let _ = state.wait_for(|state| !matches!(state, State::Running)).await;
        self.check_running()
    }

    /// Continues after a [`pause`](Self::pause).
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// run.pause().await?;
    /// run.resume()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) if the run is not paused, or the error that ended the run earlier.
    pub fn resume(&self) -> Result<()> {
        self.run.recorder.call("resume", self.check(Call::Resume))?;
        self.run.wanted.send_replace(Wanted::Run);
        Ok(())
    }

    /// Extends the cutover window by `by`. The window can be extended any number of times.
    ///
    /// Returns once the extension is in the checkpoint. While the run is paused, that happens only after [`resume`](Self::resume).
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// run.extend(Duration::from_secs(24 * 3600)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) if the run has not been ready yet, or the error that ended the run.
    pub async fn extend(&self, by: Duration) -> Result<()> {
        self.run.recorder.call("extend", self.check(Call::Extend))?;
        if !self.run.progress.window.extend(by) {
            return Err(Error::new(
                ErrorKind::WrongPhase,
                "extend the cutover window",
                "the window begins when the run is first ready; there is nothing to extend before that",
            ));
        }
        window::save(&self.run.requests).await;
        Ok(())
    }

    /// Compares the documents of these collections on both sides while both are being written to. An empty slice means all collections.
    ///
    /// Each range is compared at one exact position, so there are no false positives. The comparison waits until these collections are
    /// copied, while the copy of others may still be running. It respects the [throttle](Self::throttle), and emits an
    /// [event](Event::DocumentDiffers) for each difference.
    ///
    /// Capped collections and collections with a collation have no order in which ranges could be compared. They are left to the cutover,
    /// and the report lists them as not compared. Only documents are compared, not options and indexes.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// let report = run.verify(&["shop.orders".parse()?]).await?;
    /// println!("{} documents differ", report.difference_count());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, [`InvalidConfiguration`](ErrorKind::InvalidConfiguration)
    /// for a collection that is not migrated, or the error that ended the run.
    ///
    /// # Cancellation
    /// If the future is dropped, the comparison continues in the background. The next call starts a new one.
    pub async fn verify(&self, collections: &[Namespace]) -> Result<VerifyReport> {
        self.run.recorder.call("verify", self.check(Call::Verify))?;
        let report = verify::verify(&self.run.requests, collections, || self.check_running()).await?;
        self.run.recorder.record(&report);
        Ok(report)
    }

    /// Reads the current version of a document from both sides, to inspect a difference.
    ///
    /// Reports and events contain only hashes, to keep the contents of documents private. While the document is being written to, the
    /// version from the target may be a moment old.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// for collection in run.verify(&[]).await?.collections {
    ///     for difference in &collection.differences {
    ///         let both = run.read_both(&collection.namespace, &difference.key).await?;
    ///         println!("{:?}: {:?} is {:?}", difference.key, both.source, both.target);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, [`InvalidConfiguration`](ErrorKind::InvalidConfiguration)
    /// for a collection that is not migrated, a server error, or the error that ended the run.
    pub async fn read_both(&self, namespace: &Namespace, id: &Key) -> Result<DocumentPair> {
        self.check(Call::Verify)?;
        verify::read_both(&self.run.engine, &self.run.requests, namespace, id, || {
            self.check_running()
        })
        .await
    }

    /// Repairs the documents that a [`verify`](Self::verify) found to differ: writes them to the target as they are on the source now.
    ///
    /// Returns the number of these documents; a report lists at most 1000 per collection. The call returns when the writes are queued. Call
    /// `verify` again to see the result.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// let report = run.verify(&[]).await?;
    /// let repaired = run.repair(&report).await?;
    /// println!("{repaired} documents are written again");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, or the error that ended the run.
    pub async fn repair(&self, report: &VerifyReport) -> Result<u64> {
        self.check(Call::Verify)?;
        verify::repair(&self.run.requests, report, || self.check_running()).await
    }

    /// Changes the rate limits of the run, at any time. They stay in effect through pauses and restarts after errors.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// use mongoferry::Throttle;
    ///
    /// // At most 50 MB of documents a second from now on, and no limit on the oplog.
    /// run.throttle(Throttle::unlimited().with_copy_bytes_per_second(50_000_000));
    /// # Ok(())
    /// # }
    /// ```
    pub fn throttle(&self, throttle: Throttle) {
        // The status has the limits.
        let _ = self.run.recorder.call("throttle", Ok(()));
        self.run.progress.limits.set(throttle);
    }

    /// Ends the run at once. The checkpoint and the copied data stay, so that the migration can be started again.
    ///
    /// Returns when everything has stopped. A copy that [`pause`](Self::pause) would finish first starts over in the next run.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// run.abandon().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn abandon(&self) {
        let _ = self.run.recorder.call("abandon", Ok(()));
        self.run.wanted.send_replace(Wanted::Stop);
        self.ended().await;
        self.last_phase_told().await;
    }

    /// Ends the run for a program that is about to exit, and takes at most `deadline` for it. The checkpoint and the copied data stay, so
    /// that the migration can be started again, and nothing is lost.
    ///
    /// Like [`pause`](Self::pause), it finishes the copies that cannot be resumed, and lets a cutover in progress end. What is not finished
    /// in time is aborted, like everything that a killed process does.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// tokio::signal::ctrl_c().await.expect("no signal handler");
    /// run.shutdown(Duration::from_secs(30)).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancellation
    /// Dropping the future leaves the run paused or about to pause.
    pub async fn shutdown(&self, deadline: Duration) {
        let _ = self.run.recorder.call("shutdown", Ok(()));
        let end = Instant::now() + deadline;
        let run = &*self.run;
        let calmly = async {
            let mut phases = run.progress.phases();
            let _ = phases.wait_for(|phase| *phase != Phase::Cutover).await;
            if self.pause().await.is_ok() {
                self.abandon().await;
            } else {
                self.ended().await;
            }
        };
        // What remains for the run to stop, which takes at most a few seconds unless a server does not answer.
        let least = deadline / 4;
        if timeout_at(end - least, calmly).await.is_err() && timeout_at(end, self.abandon()).await.is_err() {
            run.supervisor.abort();
            self.ended().await;
            run.progress.set_phase(Phase::Stopped);
        }
    }

    /// The file in which the run is [recorded](crate::MigrationBuilder::recording); `None` if it is not.
    #[cfg(feature = "recorder")]
    pub fn recording(&self) -> Option<&std::path::Path> {
        self.run.recorder.path()
    }

    /// Returns the result of the last cutover of this handle and its clones that compared both sides; `None` if there was none. A cutover
    /// whose future was dropped after its point of no return has a result as well.
    ///
    /// ```no_run
    /// # fn example(run: &mongoferry::MigrationHandle) {
    /// if let Some(summary) = run.summary() {
    ///     println!("{summary}");
    /// }
    /// # }
    /// ```
    pub fn summary(&self) -> Option<Summary> {
        let differing = || {
            self.run
                .differing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        self.run.progress.completion.summary().or_else(differing)
    }

    /// Waits until the run ends. All callers get the same result.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// if let Err(error) = run.wait().await {
    ///     eprintln!("the run ended: {error}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error that ended the run, or [`Stopped`](ErrorKind::Stopped) after [`abandon`](Self::abandon) and [`shutdown`](Self::shutdown).
    /// A run ends without an error only after [`cutover`](Self::cutover); [`summary`](Self::summary) has its result.
    pub async fn wait(&self) -> Result<()> {
        self.ended().await;
        self.last_phase_told().await;
        match self.run.progress.phase() {
            Phase::Complete => Ok(()),
            _ => self.check_running(),
        }
    }

    /// Waits until the last phase has been reported to the host's hook. The call of the hook has its own timeout.
    pub(super) async fn last_phase_told(&self) {
        // This fails only if the reporting task has panicked or ended.
        let _ = self.run.told.clone().wait_for(|phase| phase.is_last()).await;
        self.run.recorder.flush().await;
        // A program that exits now leaves the metrics as they were at the end.
        #[cfg(feature = "metrics")]
        self.run.progress.metrics.publish(&self.status());
    }

    /// Waits until the run has ended.
    pub(super) async fn ended(&self) {
        let mut state = self.run.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Ended { .. })).await;
    }

    pub(super) fn check_running(&self) -> Result<()> {
        match &*self.run.state.borrow() {
            State::Ended { error: Some(error) } => Err(error.clone()),
            State::Ended { error: None } => Err(Error::stopped("run the migration")),
            // The run was aborted and could not say so.
            State::Running | State::Paused if self.run.state.has_changed().is_err() => {
                Err(Error::stopped("run the migration"))
            }
            State::Running | State::Paused => Ok(()),
        }
    }

    /// Checks that the run currently accepts `call`. If the run was ended by an error, returns that error.
    pub(super) fn check(&self, call: Call) -> Result<()> {
        if self.run.progress.phase() != Phase::Complete {
            self.check_running()?;
        }
        // The host's latest request counts already, although the run may need a moment to act on it.
        let phase = match (self.run.progress.phase(), *self.run.wanted.borrow()) {
            (Phase::Paused, Wanted::Run) => Phase::Preflight,
            (phase, Wanted::Pause) if phase.leads_to(Phase::Paused) => Phase::Paused,
            (phase, _) => phase,
        };
        phase.check(call)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl std::fmt::Debug for MigrationHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MigrationHandle")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
