//! [`MigrationHandle`]: controls a running migration.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::verify::{self, BothSides, VerifyReport};
use crate::checkpoint::CutoverWindow;
use crate::config::{Throttle, Verification};
use crate::cutover::hand_over;
use crate::engine::messages::Requests;
use crate::engine::supervise::{State, Wanted, supervise};
use crate::engine::window;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Side};
use crate::order::Key;
use crate::preflight;
use crate::report::{Call, Event, Events, Outcome, Phase, Status, Summary};
use crate::runtime::completion::Switch;
use crate::runtime::job::Job;
use crate::runtime::limits::allocator::keep_freed_memory;
use crate::runtime::progress::RunState;
use crate::runtime::waiting::LONGEST_CALL;

/// How long the lag must stay small before a run counts as ready.
const STEADY: Duration = Duration::from_secs(2);

/// A running migration.
///
/// All tasks of the run belong to the handle. Dropping the handle stops them and keeps the checkpoint. Starting the same migration again
/// resumes from that checkpoint.
pub struct MigrationHandle {
    engine: Arc<Job>,
    progress: Arc<RunState>,
    requests: Arc<Requests>,
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<State>,
    cancel: CancellationToken,
    supervisor: AbortOnDropHandle<Result<()>>,
    /// The last phase that was reported to the host's hook, and the task that reports it.
    told: watch::Receiver<Phase>,
    _phases: AbortOnDropHandle<()>,
}

impl MigrationHandle {
    pub(crate) async fn start(engine: Arc<Job>) -> Result<Self> {
        engine.hooks.before_start().await?;
        let hooks = engine.hooks.clone();
        let started = Self::start_allowed(engine).await;
        if let Err(error) = &started {
            // No run exists yet that could emit an event about this error.
            hooks.on_failure(&Events::new(), error).await;
        }
        started
    }

    async fn start_allowed(engine: Arc<Job>) -> Result<Self> {
        // An error that exists from the beginning fails the start, not the run.
        let loaded = engine.load();
        let waits = &engine.settings.on_wait;
        let loaded = waits.report_waits(Side::Target, "load the checkpoint", Some(LONGEST_CALL), loaded);
        let kept = match loaded.await? {
            Some(checkpoint) if checkpoint.complete => {
                return Err(Error::new(
                    ErrorKind::CheckpointMismatch,
                    "start the migration",
                    "it is already complete; to run it again, remove its checkpoint first",
                ));
            }
            Some(checkpoint) => {
                preflight::check_again(&engine).await?;
                checkpoint.window
            }
            None => {
                preflight::check(&engine, preflight::Purpose::Start).await?.refuse()?;
                CutoverWindow::default()
            }
        };
        keep_freed_memory();
        let events = Events::new();
        let engine = Arc::new(engine.waiting(&events));
        let progress = Arc::new(RunState::new(events));
        progress.limits.set(engine.settings.throttle);
        progress.walker_slots.set(engine.settings.walkers_at_first());
        let (length, now) = (engine.settings.cutover_window, engine.settings.clock.now());
        progress.window.go_on(length, kept, now);
        let requests: Arc<Requests> = Arc::new(watch::Sender::new(None));
        let wanted = watch::Sender::new(Wanted::Run);
        let (report, state) = watch::channel(State::Running);
        let cancel = CancellationToken::new();
        let supervisor = supervise(
            Arc::clone(&engine),
            Arc::clone(&progress),
            Arc::clone(&requests),
            wanted.subscribe(),
            report,
            cancel.clone(),
        );
        let supervisor = AbortOnDropHandle::new(tokio::spawn(supervisor));
        let (tell, told) = watch::channel(progress.phase());
        let phases = engine.hooks.clone().follow_phases(Arc::clone(&progress), tell);
        Ok(Self {
            engine,
            progress,
            requests,
            wanted,
            state,
            cancel,
            supervisor,
            told,
            _phases: AbortOnDropHandle::new(tokio::spawn(phases)),
        })
    }

    /// Returns the events from now on. The stream ends with the run.
    ///
    /// A slow reader misses events, and is notified by [`Event::Missed`]. It never slows down the run.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.progress.events.subscribe(self.progress.phase().is_last())
    }

    /// Returns the current state of the run.
    pub fn status(&self) -> Status {
        self.progress.status(self.engine.settings.max_lag)
    }

    /// Waits until everything is copied and indexed, everything is compared that can be compared during the run, and the lag has stayed at
    /// or below `max_lag` for two seconds. A cutover that begins then is short.
    ///
    /// Only [`Verification::Continuous`](crate::Verification::Continuous) compares anything during the run. A collection that cannot be
    /// compared, for example because too much of it keeps changing, is left to the cutover and does not delay this.
    ///
    /// # Errors
    /// The error that ended the run in the meantime.
    ///
    /// # Cancellation
    /// Dropping the future has no effect on the run.
    pub async fn ready_to_cut_over(&self, max_lag: Duration) -> Result<()> {
        let mut since: Option<Instant> = None;
        loop {
            self.check_running()?;
            if self.progress.status(max_lag).can_cut_over && self.progress.is_compared_but_for(max_lag) {
                if since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                    return Ok(());
                }
            } else {
                since = None;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Performs the cutover and ends the run.
    ///
    /// The call waits until the run is [ready](Self::ready_to_cut_over), then awaits `stop_writes`. Once `stop_writes` has returned, nothing
    /// may write to the source any more. The call then applies the remaining changes, compares both sides, gives indexes their final form
    /// and ends the run.
    ///
    /// The summary says for each collection and index whether both sides are identical. Applications may use the target only if the outcome
    /// is [`Complete`](crate::Outcome::Complete). With any other outcome, and after an error that did not end the run, the run keeps
    /// following the source, and `cutover` may be called again.
    ///
    /// # Errors
    /// - [`WrongPhase`](ErrorKind::WrongPhase): the run is paused, or another cutover is in progress.
    /// - [`Hook`](ErrorKind::Hook): a hook of the host that runs before `stop_writes` failed.
    /// - [`OperationsUnderWay`](ErrorKind::OperationsUnderWay): transactions that were open on the source when `stop_writes` returned did
    ///   not end within 10 seconds.
    /// - [`WritesAfterStop`](ErrorKind::WritesAfterStop): the source was written to after `stop_writes` returned.
    /// - A server error, or the error that ended the run.
    ///
    /// The checkpoint stays: the migration can be started again and cut over later.
    ///
    /// # Cancellation
    /// Dropping the future leaves the run running, and `cutover` may be called again. Once the run saves the checkpoint that marks the
    /// migration as complete, dropping the future has no effect. The run's own tasks then finish the migration, and
    /// [`status`](Self::status) and [`wait`](Self::wait) report the result. If the checkpoint cannot be saved, the run keeps following the
    /// source.
    pub async fn cutover(&self, stop_writes: impl Future<Output = ()>) -> Result<Summary> {
        self.cutover_with(stop_writes, || None).await
    }

    /// Like [`cutover`](Self::cutover), but also switches clients. `switch` is called once the writers are stopped. The [`Switch`] that it
    /// returns takes effect when the checkpoint that marks the migration as complete is durable.
    pub(crate) async fn cutover_with(
        &self,
        stop_writes: impl Future<Output = ()>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        self.check(Call::CutOver)?;
        self.ready_to_cut_over(self.engine.settings.max_lag).await?;
        self.hand_over(stop_writes, switch).await
    }

    /// Like [`cutover`](Self::cutover), but does not wait for the run to be ready: it is enough that everything is copied and indexed and
    /// that the lag is small. What was not compared during the run is compared while the applications stand still;
    /// [`Status::cutover_estimate`] says how long that takes.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) if a cutover is not possible now; `stop_writes` is not awaited in this case. Otherwise the
    /// same as `cutover`.
    ///
    /// # Cancellation
    /// Same as `cutover`.
    pub async fn cutover_now(&self, stop_writes: impl Future<Output = ()>) -> Result<Summary> {
        self.check(Call::CutOver)?;
        let status = self.status();
        if !status.can_cut_over {
            let (lag, most) = (status.lag, self.engine.settings.max_lag);
            let message = match lag.filter(|lag| status.copy_complete && *lag > most) {
                Some(lag) => {
                    format!("the lag is {lag:?}, and must not exceed {most:?}: wait until the run has caught up")
                }
                None => "not everything is copied and indexed yet: wait until the run is ready".to_owned(),
            };
            return Err(Error::new(ErrorKind::WrongPhase, "cut over", message).with_context("phase", status.phase));
        }
        self.hand_over(stop_writes, || None).await
    }

    /// Runs the hand-over, and reports its result to the host's hooks.
    async fn hand_over(
        &self,
        stop_writes: impl Future<Output = ()>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        let handed_over = self.try_hand_over(stop_writes, switch).await;
        match &handed_over {
            // The run itself reports its end to the host.
            Ok(summary) if summary.outcome == Outcome::Complete => self.ended().await,
            Ok(summary) => self.engine.hooks.after_cutover(&self.progress.events, summary).await,
            Err(_)
                if self
                    .check_running()
                    .is_err_and(|ended| ended.kind() != ErrorKind::Stopped) => {}
            Err(error) => self.engine.hooks.on_failure(&self.progress.events, error).await,
        }
        if matches!(&*self.state.borrow(), State::Ended { .. }) {
            self.last_phase_told().await;
        }
        handed_over
    }

    async fn try_hand_over(
        &self,
        stop_writes: impl Future<Output = ()>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        self.engine.hooks.before_cutover().await?;
        pin!(stop_writes).await;
        // Kept until the end: held operations continue only when the source accepts writes again.
        let mut switch = switch();
        // A run that was paused and resumed in the meantime starts within a moment.
        while !self.progress.set_phase(Phase::Cutover) {
            self.check(Call::CutOver)?;
            sleep(Duration::from_millis(20)).await;
        }
        let _back = BackToCatchUp(&self.progress);
        let hand_over = async {
            if self.engine.settings.block_source_writes {
                self.progress.write_block.block().await?;
            }
            hand_over::hand_over(&self.engine, &self.progress, &self.requests, &mut switch).await
        };
        let mut state = self.state.clone();
        let handed_over = tokio::select! {
            biased;
            summary = hand_over => summary,
            _ = state.wait_for(|state| matches!(state, State::Ended { .. })) => self.check_running().and(Err(Error::stopped("cut over"))),
        };
        if !matches!(&handed_over, Ok(summary) if summary.outcome == Outcome::Complete) {
            self.progress.write_block.lifted().await;
        }
        handed_over
    }

    /// Stops reading and writing, and keeps the checkpoint. Returns when everything has stopped. [`resume`](Self::resume) continues from
    /// the checkpoint.
    ///
    /// The copy of a capped collection, or of a collection with a collation, cannot be resumed. If such a copy is in progress, it is
    /// finished first.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) during a cutover, or the error that ended the run earlier.
    pub async fn pause(&self) -> Result<()> {
        self.check(Call::Pause)?;
        self.wanted.send_replace(Wanted::Pause);
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| *state != State::Running).await;
        self.check_running()
    }

    /// Continues after a [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) if the run is not paused, or the error that ended the run earlier.
    pub fn resume(&self) -> Result<()> {
        self.check(Call::Resume)?;
        self.wanted.send_replace(Wanted::Run);
        Ok(())
    }

    /// Extends the cutover window by `by`. The window can be extended any number of times.
    ///
    /// Returns once the extension is in the checkpoint. While the run is paused, that happens only after [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) if the run has not been ready yet, or the error that ended the run.
    pub async fn extend(&self, by: Duration) -> Result<()> {
        self.check(Call::Extend)?;
        if !self.progress.window.extend(by) {
            return Err(Error::new(
                ErrorKind::WrongPhase,
                "extend the cutover window",
                "the window begins when the run is first ready; there is nothing to extend before that",
            ));
        }
        window::save(&self.requests).await;
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
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, [`InvalidConfiguration`](ErrorKind::InvalidConfiguration)
    /// for a collection that is not migrated, or the error that ended the run.
    ///
    /// # Cancellation
    /// If the future is dropped, the comparison continues in the background. The next call starts a new one.
    pub async fn verify(&self, collections: &[Namespace]) -> Result<VerifyReport> {
        self.check(Call::Verify)?;
        let keep = self.engine.settings.verification == Verification::Continuous;
        verify::verify(&self.requests, collections, keep, || self.check_running()).await
    }

    /// Reads the current version of a document from both sides, to inspect a difference.
    ///
    /// Reports and events contain only hashes, to keep the contents of documents private. While the document is being written to, the
    /// version from the target may be a moment old.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, [`InvalidConfiguration`](ErrorKind::InvalidConfiguration)
    /// for a collection that is not migrated, a server error, or the error that ended the run.
    pub async fn both_sides(&self, namespace: &Namespace, id: &Key) -> Result<BothSides> {
        self.check(Call::Verify)?;
        verify::both_sides(&self.engine, &self.requests, namespace, id, || self.check_running()).await
    }

    /// Repairs the documents that a [`verify`](Self::verify) found to differ: writes them to the target as they are on the source now.
    ///
    /// Returns the number of these documents; a report lists at most 1000 per collection. The call returns when the writes are queued. Call
    /// `verify` again to see the result.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, or the error that ended the run.
    pub async fn repair(&self, report: &VerifyReport) -> Result<u64> {
        self.check(Call::Verify)?;
        verify::repair(&self.requests, report, || self.check_running()).await
    }

    /// Changes the rate limits of the run, at any time. They stay in effect through pauses and restarts after errors.
    pub fn throttle(&self, throttle: Throttle) {
        self.progress.limits.set(throttle);
    }

    /// Ends the run. The checkpoint and the copied data stay, so that the migration can be started again.
    pub async fn abandon(self) {
        self.end().await;
        self.progress.set_phase(Phase::Failed);
        self.last_phase_told().await;
    }

    /// Waits until the run ends.
    ///
    /// # Errors
    /// The error that ended the run. A run ends without an error only after `cutover`.
    pub async fn wait(mut self) -> Result<()> {
        let ended = (&mut self.supervisor).await;
        if self.progress.phase().is_last() {
            self.last_phase_told().await;
        }
        ended.unwrap_or_else(|error| {
            Err(Error::new(
                ErrorKind::Panic,
                "run the migration",
                "its task panicked; the checkpoint is kept",
            )
            .with_source(error))
        })
    }

    /// Waits until the last phase has been reported to the host's hook. The call of the hook has its own timeout.
    async fn last_phase_told(&self) {
        // This fails only if the reporting task has panicked or ended.
        let _ = self.told.clone().wait_for(|phase| phase.is_last()).await;
    }

    /// Stops the run and waits until it has ended.
    async fn end(&self) {
        self.wanted.send_replace(Wanted::Stop);
        self.ended().await;
    }

    /// Waits until the run has ended.
    async fn ended(&self) {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Ended { .. })).await;
    }

    fn check_running(&self) -> Result<()> {
        match &*self.state.borrow() {
            State::Ended {
                error: Some((kind, message)),
            } => Err(Error::new(*kind, "run the migration", message.clone())),
            State::Ended { error: None } => Err(Error::stopped("run the migration")),
            State::Running | State::Paused => Ok(()),
        }
    }

    /// Checks that the run currently accepts `call`. If the run was ended by an error, returns that error.
    fn check(&self, call: Call) -> Result<()> {
        if self.progress.phase() != Phase::Complete {
            self.check_running()?;
        }
        // The host's latest request counts already, although the run may need a moment to act on it.
        let phase = match (self.progress.phase(), *self.wanted.borrow()) {
            (Phase::Paused, Wanted::Run) => Phase::Preflight,
            (phase, Wanted::Pause) if phase.leads_to(Phase::Paused) => Phase::Paused,
            (phase, _) => phase,
        };
        phase.check(call)
    }
}

/// Returns the run to catch-up when a cutover fails or is dropped, so that `cutover` may be called again. Does nothing if the run is about
/// to be complete.
struct BackToCatchUp<'a>(&'a RunState);

impl Drop for BackToCatchUp<'_> {
    fn drop(&mut self) {
        if self.0.completion.give_up() {
            self.0.back_to_catch_up();
        }
    }
}

impl Drop for MigrationHandle {
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
