//! A running migration in the hands of its host.

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

/// How long the lag must have stayed small before a run counts as ready.
const STEADY: Duration = Duration::from_secs(2);

/// A running migration.
///
/// All its tasks belong to the handle: dropping it stops them, and the checkpoint stays. Starting the same migration again goes on from it.
pub struct MigrationHandle {
    engine: Arc<Job>,
    progress: Arc<RunState>,
    requests: Arc<Requests>,
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<State>,
    cancel: CancellationToken,
    supervisor: AbortOnDropHandle<Result<()>>,
    /// The phase that the host's hook was told last, and the task that tells it.
    told: watch::Receiver<Phase>,
    _phases: AbortOnDropHandle<()>,
}

impl MigrationHandle {
    pub(crate) async fn start(engine: Arc<Job>) -> Result<Self> {
        engine.hooks.before_start().await?;
        let hooks = engine.hooks.clone();
        let started = Self::start_allowed(engine).await;
        if let Err(error) = &started {
            // There is no run yet whose events could tell what goes wrong here.
            hooks.on_failure(&Events::new(), error).await;
        }
        started
    }

    async fn start_allowed(engine: Arc<Job>) -> Result<Self> {
        // What is wrong from the beginning is an error of the start, not of the run.
        let loaded = engine.load();
        let waits = &engine.settings.on_wait;
        let loaded = waits.telling(Side::Target, "load the checkpoint", Some(LONGEST_CALL), loaded);
        let kept = match loaded.await? {
            Some(checkpoint) if checkpoint.complete => {
                return Err(Error::new(
                    ErrorKind::CheckpointMismatch,
                    "start the migration",
                    "it is complete; to run it again remove its checkpoint first",
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
        progress.places.set(engine.settings.walkers_at_first());
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

    /// The events from now on. A reader that is slow misses some, and is told so; it never slows the run. The stream ends with the run.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.progress.events.subscribe(self.progress.phase().is_last())
    }

    /// The state of the run now.
    pub fn status(&self) -> Status {
        self.progress.status(self.engine.settings.max_lag)
    }

    /// Waits until everything is copied and indexed, and the lag has stayed at or below `max_lag` for two seconds.
    ///
    /// # Errors
    /// The error that ended the run meanwhile.
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
    pub async fn ready_to_cut_over(&self, max_lag: Duration) -> Result<()> {
        let mut since: Option<Instant> = None;
        loop {
            self.check_running()?;
            if self.progress.status(max_lag).can_cut_over {
                if since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                    return Ok(());
                }
            } else {
                since = None;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Hands over: waits until the copy is complete and the lag small, then awaits `stop_writes`, by the end of which nothing may write to
    /// the source any more; applies what is left, compares both sides, gives indexes their final form and ends the run.
    ///
    /// The answer says for each collection and index whether both sides are identical. Only when its outcome is
    /// [`Complete`](crate::Outcome::Complete) may the applications go to the target. With any other the run goes on following, as it does
    /// after an error that did not end it, and `cutover` may be called again.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or another cutover is under way, [`Hook`](ErrorKind::Hook) when a hook of
    /// the host fails that comes before `stop_writes`,
    /// [`OperationsUnderWay`](ErrorKind::OperationsUnderWay) when transactions that were open on the source when `stop_writes` returned have
    /// not ended within 10 seconds, [`WritesAfterStop`](ErrorKind::WritesAfterStop) when the source was written to after that, a server error, or
    /// the error that ended the run. The checkpoint stays: the migration can be started again and cut over later.
    ///
    /// # Cancellation
    /// Dropping the future leaves the run going on; `cutover` may be called again. From the moment in which the checkpoint is saved that says
    /// that the migration is complete this changes nothing any more: the run's own tasks bring it to its end, which
    /// [`status`](Self::status) and [`wait`](Self::wait) tell, or go on following where the checkpoint could not be saved.
    pub async fn cutover(&self, stop_writes: impl Future<Output = ()>) -> Result<Summary> {
        self.cutover_with(stop_writes, || None).await
    }

    /// As [`cutover`](Self::cutover). What `switch` answers, once the writers are stopped, goes over in the moment in which the checkpoint is
    /// durable that says that the migration is complete.
    pub(crate) async fn cutover_with(
        &self,
        stop_writes: impl Future<Output = ()>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        self.check(Call::CutOver)?;
        self.ready_to_cut_over(self.engine.settings.max_lag).await?;
        self.hand_over(stop_writes, switch).await
    }

    /// As [`cutover`](Self::cutover), but does not wait for the run to be ready.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) when a cutover is not possible now, before `stop_writes` is awaited; else as `cutover`.
    ///
    /// # Cancellation
    /// As `cutover`.
    pub async fn cutover_now(&self, stop_writes: impl Future<Output = ()>) -> Result<Summary> {
        self.check(Call::CutOver)?;
        let status = self.status();
        if !status.can_cut_over {
            let (lag, most) = (status.lag, self.engine.settings.max_lag);
            let message = match lag.filter(|lag| status.copy_complete && *lag > most) {
                Some(lag) => {
                    format!("the lag is {lag:?}, and has to be {most:?} at most: wait until the run has caught up")
                }
                None => "not everything is copied and indexed yet: wait until the run is ready".to_owned(),
            };
            return Err(Error::new(ErrorKind::WrongPhase, "cut over", message).with_context("phase", status.phase));
        }
        self.hand_over(stop_writes, || None).await
    }

    /// Tells the host's hooks how it ends.
    async fn hand_over(
        &self,
        stop_writes: impl Future<Output = ()>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        let handed_over = self.try_hand_over(stop_writes, switch).await;
        match &handed_over {
            // The host is told of the end of the run by the run.
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
        // What is held goes on only when the source can be written to again.
        let mut switch = switch();
        // A run that was paused and resumed meanwhile begins within a moment.
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

    /// Stops reading and writing, and keeps the checkpoint. [`resume`](Self::resume) goes on from it. Returns when everything has stopped.
    ///
    /// The copy of a capped collection, or of one with a collation, cannot be gone on with: one that is under way is finished first.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) during a cutover, or the error that ended the run before.
    pub async fn pause(&self) -> Result<()> {
        self.check(Call::Pause)?;
        self.wanted.send_replace(Wanted::Pause);
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| *state != State::Running).await;
        self.check_running()
    }

    /// Goes on after a [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) when the run is not paused, or the error that ended the run before.
    pub fn resume(&self) -> Result<()> {
        self.check(Call::Resume)?;
        self.wanted.send_replace(Wanted::Run);
        Ok(())
    }

    /// Makes the cutover window longer, any number of times. Returns once that is in the checkpoint; while the run is paused it comes there
    /// only after [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) before the run was ready for the first time, or the error that ended the run.
    pub async fn extend(&self, by: Duration) -> Result<()> {
        self.check(Call::Extend)?;
        if !self.progress.window.extend(by) {
            return Err(Error::new(
                ErrorKind::WrongPhase,
                "extend the cutover window",
                "it begins when the run is ready for the first time; until then there is nothing to extend",
            ));
        }
        crate::engine::window::save(&self.requests).await;
        Ok(())
    }

    /// Compares the documents of these collections on both sides, of all when none are named, while both are written to: each range at one
    /// exact position, so that nothing is a false alarm. It waits until these collections have been copied, while others still may be, keeps
    /// to the [throttle](Self::throttle), and counts each difference as an [event](Event::DocumentDiffers), too.
    ///
    /// Collections whose documents have no order in which ranges could be compared, capped ones and those with a collation, are left to the
    /// cutover, and named so in the report. Only documents are compared, not options and indexes.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a collection
    /// that is not migrated, or the error that ended the run.
    ///
    /// # Cancellation
    /// Dropping the future leaves the comparison going on in the background; the next one begins anew.
    pub async fn verify(&self, collections: &[Namespace]) -> Result<VerifyReport> {
        self.check(Call::Verify)?;
        let keep = self.engine.settings.verification == Verification::Continuous;
        verify::verify(&self.requests, collections, keep, || self.check_running()).await
    }

    /// A document as both sides have it now, to look at what differs: reports and events have the hashes alone, since what is in a document is
    /// nobody's business but yours. While it is written to, the target's is that of a moment ago.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a collection
    /// that is not migrated, a server error, or the error that ended the run.
    pub async fn both_sides(&self, namespace: &Namespace, id: &Key) -> Result<BothSides> {
        self.check(Call::Verify)?;
        verify::both_sides(&self.engine, &self.requests, namespace, id, || self.check_running()).await
    }

    /// Writes the documents that a [`verify`](Self::verify) found to differ as the source has them by now. Answers how many these are; a
    /// report names at most 1000 of a collection. Returns when they are on their way: another `verify` says what came of it.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) while the run is paused or cut over, or the error that ended the run.
    pub async fn repair(&self, report: &VerifyReport) -> Result<u64> {
        self.check(Call::Verify)?;
        verify::repair(&self.requests, report, || self.check_running()).await
    }

    /// Changes how fast the run may go, at any time. It stays through pauses and through restarts after errors.
    pub fn throttle(&self, throttle: Throttle) {
        self.progress.limits.set(throttle);
    }

    /// Ends the run. The checkpoint and what has been copied stay, so that the migration can be started again.
    pub async fn abandon(self) {
        self.end().await;
        self.progress.set_phase(Phase::Failed);
        self.last_phase_told().await;
    }

    /// Waits until the run ends.
    ///
    /// # Errors
    /// The error that ended it. It ends without one only after `cutover`.
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

    /// Waits until the host's hook knows that the run is over. The call has its own limit.
    async fn last_phase_told(&self) {
        // It fails when the task that tells it has panicked or ended.
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

    /// Whether a call fits what the run does now. Of a run that has ended by an error that one is told.
    fn check(&self, call: Call) -> Result<()> {
        if self.progress.phase() != Phase::Complete {
            self.check_running()?;
        }
        // What the host has asked for last counts already, though the run may need a moment for it.
        let phase = match (self.progress.phase(), *self.wanted.borrow()) {
            (Phase::Paused, Wanted::Run) => Phase::Preflight,
            (phase, Wanted::Pause) if phase.leads_to(Phase::Paused) => Phase::Paused,
            (phase, _) => phase,
        };
        phase.check(call)
    }
}

/// A cutover that fails or is dropped leaves the run catching up, so that it may be called again, unless it is about to be complete.
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
