//! The cutover of a running migration.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::pin;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{Instrument, info_span};

use crate::api::handle::MigrationHandle;
use crate::cutover::hand_over;
use crate::engine::supervise::State;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Call, CutoverStep, Outcome, Phase, Summary, TARGET};
use crate::runtime::completion::Switch;
use crate::runtime::hooks::HookResult;
use crate::runtime::progress::RunState;
use crate::runtime::spans::cutover_step;

/// What the future that stops the writers of a cutover may return: `()` if it cannot fail, or a `Result<(), E>`.
///
/// ```no_run
/// async fn stop() -> std::io::Result<()> {
///     std::fs::write("/run/shop/read-only", "")
/// }
///
/// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
/// // If the file cannot be written, the cutover fails with `ErrorKind::Hook`, and the run continues.
/// run.cutover(stop()).await?;
/// # Ok(())
/// # }
/// ```
pub trait StopWritesResult {
    /// Returns the result. The error can be of any type of the host.
    ///
    /// # Errors
    /// The writers could not be stopped.
    fn into_result(self) -> HookResult;
}

impl StopWritesResult for () {
    fn into_result(self) -> HookResult {
        Ok(())
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> StopWritesResult for Result<(), E> {
    fn into_result(self) -> HookResult {
        self.map_err(Into::into)
    }
}

impl MigrationHandle {
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
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// use mongoferry::Outcome;
    ///
    /// let summary = run.cutover(async { /* stop the applications that write to the source */ }).await?;
    /// if summary.outcome == Outcome::Complete {
    ///     println!("the applications may use the target");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`WrongPhase`](ErrorKind::WrongPhase): the run is paused, or another cutover is in progress.
    /// - [`Hook`](ErrorKind::Hook): a hook of the host that runs before `stop_writes` failed, or `stop_writes` itself. Its error is the
    ///   [source](std::error::Error::source).
    /// - [`OperationsUnderWay`](ErrorKind::OperationsUnderWay): transactions that were open on the source when `stop_writes` returned did
    ///   not end within 10 seconds.
    /// - [`WritesAfterStop`](ErrorKind::WritesAfterStop): the source was written to after `stop_writes` returned.
    /// - A server error, or the error that ended the run.
    ///
    /// The checkpoint stays: the migration can be started again and cut over later.
    ///
    /// # Cancellation
    /// Dropping the future leaves the run running, and `cutover` may be called again. Once the run saves the checkpoint that marks the
    /// migration as complete, dropping the future has no effect. The run's own tasks then finish the migration, and [`wait`](Self::wait) and
    /// [`summary`](Self::summary) report the result. If the checkpoint cannot be saved, the run keeps following the source.
    ///
    /// A host that drops the future therefore must not let its applications write to the source by itself, for example when it is asked to
    /// exit: the target may have been handed over. [`Hooks::resume_application`](crate::Hooks::resume_application) is called when they may,
    /// and [`shutdown`](Self::shutdown) waits for a cutover in progress.
    pub async fn cutover(&self, stop_writes: impl Future<Output = impl StopWritesResult>) -> Result<Summary> {
        self.cutover_with(stop_writes, || None).await
    }

    /// Like [`cutover`](Self::cutover), but also switches clients. `switch` is called once the writers are stopped. The [`Switch`] that it
    /// returns takes effect when the checkpoint that marks the migration as complete is durable.
    pub(crate) async fn cutover_with(
        &self,
        stop_writes: impl Future<Output = impl StopWritesResult>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        self.run.recorder.call("cutover", self.check(Call::CutOver))?;
        self.ready_to_cut_over().await?;
        self.hand_over(stop_writes, switch).await
    }

    /// Like [`cutover`](Self::cutover), but does not wait for the run to be ready: it is enough that everything is copied and indexed and
    /// that the lag is small. What was not compared during the run is compared while the applications stand still;
    /// [`Status::cutover_estimate`](crate::Status::cutover_estimate) says how long that takes.
    ///
    /// ```no_run
    /// # async fn example(run: mongoferry::MigrationHandle) -> mongoferry::Result<()> {
    /// if run.status().can_cut_over {
    ///     let summary = run.cutover_now(async { /* stop the applications that write to the source */ }).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) if a cutover is not possible now; `stop_writes` is not awaited in this case. Otherwise the
    /// same as `cutover`.
    ///
    /// # Cancellation
    /// Same as `cutover`.
    pub async fn cutover_now(&self, stop_writes: impl Future<Output = impl StopWritesResult>) -> Result<Summary> {
        self.run.recorder.call("cutover_now", self.check(Call::CutOver))?;
        let status = self.status();
        if !status.can_cut_over {
            let (lag, most) = (status.lag, self.run.engine.settings.max_lag);
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
        stop_writes: impl Future<Output = impl StopWritesResult>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        let run = &*self.run;
        let Ok(_only) = run.cutover.try_lock() else {
            return Err(run.progress.phase().second_cutover());
        };
        let span = info_span!(target: TARGET, parent: run.progress.spans.migration(), "cutover");
        let handed_over = self.try_hand_over(stop_writes, switch).instrument(span).await;
        match &handed_over {
            Ok(summary) => {
                run.recorder.record(summary);
                let differing = (summary.outcome == Outcome::Differences).then(|| summary.clone());
                *run.differing.lock().unwrap_or_else(PoisonError::into_inner) = differing;
            }
            Err(_) => {
                let _ = run
                    .recorder
                    .call("hand_over", handed_over.as_ref().map_err(Clone::clone));
            }
        }
        let (hooks, events) = (&run.engine.hooks, &run.progress.events);
        match &handed_over {
            // The run itself reports its end to the host.
            Ok(summary) if summary.outcome == Outcome::Complete => self.ended().await,
            Ok(summary) => hooks.after_cutover(events, summary).await,
            Err(_) if run.progress.failure().is_some() => {}
            Err(error) => hooks.on_failure(events, error).await,
        }
        if matches!(&*run.state.borrow(), State::Ended { .. }) {
            self.last_phase_told().await;
        }
        handed_over
    }

    async fn try_hand_over(
        &self,
        stop_writes: impl Future<Output = impl StopWritesResult>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        let progress = &*self.run.progress;
        let before = self.run.engine.hooks.before_cutover();
        before.instrument(cutover_step("before_cutover")).await?;
        let back = BackToCatchUp(progress);
        let handed_over = self.stop_and_hand_over(stop_writes, switch).await;
        drop(back);
        if !matches!(&handed_over, Ok(summary) if summary.outcome == Outcome::Complete) {
            progress.write_block.lifted().await;
            progress.application.resumed().await;
        }
        handed_over
    }

    async fn stop_and_hand_over(
        &self,
        stop_writes: impl Future<Output = impl StopWritesResult>,
        switch: impl FnOnce() -> Option<Box<dyn Switch>>,
    ) -> Result<Summary> {
        let (engine, progress) = (&self.run.engine, &self.run.progress);
        // From here on nothing may pause the run, and a shutdown waits. A run that was paused and resumed starts within a moment.
        while !progress.set_phase(Phase::Cutover) {
            self.check(Call::CutOver)?;
            sleep(Duration::from_millis(20)).await;
        }
        progress.begin_step(CutoverStep::StopWrites);
        progress.application.stop();
        let quiesced = engine.hooks.quiesce_application();
        quiesced.instrument(cutover_step("quiesce_application")).await?;
        let stopped = pin!(stop_writes).instrument(cutover_step("stop_writes")).await;
        stopped.into_result().map_err(|error| {
            let message = "the writers of the source could not be stopped, so the applications stay there";
            Error::new(ErrorKind::Hook, "cut over", message)
                .with_context("hook", "stop_writes")
                .with_source(error)
        })?;
        // Kept until the end: held operations continue only when the source accepts writes again.
        let mut switch = switch();
        let hand_over = async {
            progress.begin_step(CutoverStep::Drain);
            if engine.settings.block_source_writes {
                let blocked = progress.write_block.block();
                blocked.instrument(cutover_step("block_source_writes")).await?;
            }
            hand_over::hand_over(engine, progress, &self.run.requests, &mut switch).await
        };
        let mut state = self.run.state.clone();
        tokio::select! {
            biased;
            summary = hand_over => summary,
            _ = state.wait_for(|state| matches!(state, State::Ended { .. })) => self.check_running().and(Err(Error::stopped("cut over"))),
        }
    }
}

/// Returns the run to catch-up, and the application to its work, when a cutover fails or is dropped, so that `cutover` may be called again.
/// Does nothing if the run is about to be complete.
struct BackToCatchUp<'a>(&'a RunState);

impl Drop for BackToCatchUp<'_> {
    fn drop(&mut self) {
        if self.0.completion.give_up() {
            self.0.back_to_catch_up();
        }
    }
}
