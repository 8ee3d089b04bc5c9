//! Hooks that the host implements to act around a run.

use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};
use crate::report::{Event, Events, Phase, Summary};
use crate::runtime::progress::RunState;

/// Timeout for one call.
const LIMIT: Duration = Duration::from_secs(600);

/// Result of a hook. The error can be of any type of the host.
pub type HookResult = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

/// Actions of the host around a run: mute alerts, pause backups, open and close network access, create users and remove them.
///
/// # Order
/// [`start`](crate::Migration::start) calls [`before_start`](Hooks::before_start) before it does anything else. A
/// [`cutover`](crate::MigrationHandle::cutover) waits until the run is ready. It then awaits [`before_cutover`](Hooks::before_cutover),
/// [`quiesce_application`](Hooks::quiesce_application) and the `stop_writes` future that it was given, in this order. If it does not
/// complete after that, [`resume_application`](Hooks::resume_application) is called. At its end it awaits
/// [`after_cutover`](Hooks::after_cutover). Calls of [`phase_changed`](Hooks::phase_changed) run concurrently with all this, one at a time.
///
/// # Errors
/// If one of the three hooks that precede an action fails, the action does not take place and the caller gets [`ErrorKind::Hook`] with the
/// hook's name. An error of any other hook changes nothing, because the action has already happened. It is reported by
/// [`Event::HookFailed`]. A panic and a call that takes longer than 10 minutes count as errors.
///
/// # Cancellation
/// Only the run's own tasks and the futures of `start` and `cutover` call hooks. Dropping one of these futures, or the
/// [`MigrationHandle`](crate::MigrationHandle), drops the call that it is making. The call of `after_cutover` for a complete migration
/// belongs to the run, and the cutover only waits for it. The same is true of `resume_application`: it is also called if the cutover is
/// dropped. The only other call that follows then is the one for the phase to which the run returns.
///
/// # How to
/// Implement the hooks that the host needs, and pass the value to [`MigrationBuilder::hooks`](crate::MigrationBuilder::hooks).
///
/// ```no_run
/// use async_trait::async_trait;
/// use mongoferry::{HookResult, Hooks};
///
/// struct Shop;
/// # impl Shop {
/// #     async fn set_read_only(&self, _: bool) -> std::io::Result<()> { Ok(()) }
/// # }
///
/// #[async_trait]
/// impl Hooks for Shop {
///     async fn quiesce_application(&self) -> HookResult {
///         self.set_read_only(true).await?;
///         Ok(())
///     }
///
///     async fn resume_application(&self) -> HookResult {
///         self.set_read_only(false).await?;
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// Called before a migration starts or resumes from its checkpoint, and before preflight examines anything.
    ///
    /// # Errors
    /// The start is refused and nothing is changed.
    async fn before_start(&self) -> HookResult {
        Ok(())
    }

    /// Called when the run has entered another phase. The last phase is always reported. Earlier ones may be skipped while a call is in
    /// progress.
    ///
    /// # Errors
    /// Reported by [`Event::HookFailed`].
    async fn phase_changed(&self, phase: Phase) -> HookResult {
        let _ = phase;
        Ok(())
    }

    /// Called when the run is ready and a cutover is about to begin.
    ///
    /// # Errors
    /// The cutover fails, and the run continues to follow the source.
    async fn before_cutover(&self) -> HookResult {
        Ok(())
    }

    /// Stops the programs that write to the source, or switches the application to a mode in which it does not write.
    ///
    /// # Errors
    /// The cutover fails before it awaits `stop_writes`, and the run continues to follow the source.
    async fn quiesce_application(&self) -> HookResult {
        Ok(())
    }

    /// Lets the application write to the source again, because a cutover that had begun to stop it did not complete: a call of
    /// `quiesce_application` or `stop_writes` failed, there are differences, an error occurred, or the cutover's future was dropped. Writes
    /// that were [blocked](crate::MigrationBuilder::block_source_writes) are possible again by then, unless an event says otherwise.
    ///
    /// # Errors
    /// Reported by [`Event::HookFailed`].
    async fn resume_application(&self) -> HookResult {
        Ok(())
    }

    /// Called when a cutover has ended. The [`outcome`](Summary::outcome) tells whether the migration was handed over or differences were
    /// found.
    ///
    /// # Errors
    /// Reported by [`Event::HookFailed`].
    async fn after_cutover(&self, summary: &Summary) -> HookResult {
        let _ = summary;
        Ok(())
    }

    /// Called when a start fails after [`before_start`](Hooks::before_start) succeeded, when a cutover fails, or when an error ends the
    /// run.
    ///
    /// # Errors
    /// Reported by [`Event::HookFailed`].
    async fn on_failure(&self, error: &Error) -> HookResult {
        let _ = error;
        Ok(())
    }
}

/// The host's hooks, if any.
#[derive(Clone, Default)]
pub(crate) struct HostHooks(Option<Arc<dyn Hooks>>);

impl HostHooks {
    pub fn new(hooks: impl Hooks) -> Self {
        Self(Some(Arc::new(hooks)))
    }

    pub async fn before_start(&self) -> Result<()> {
        self.call("before_start", |hooks| hooks.before_start()).await
    }

    pub async fn before_cutover(&self) -> Result<()> {
        self.call("before_cutover", |hooks| hooks.before_cutover()).await
    }

    pub async fn quiesce_application(&self) -> Result<()> {
        self.call("quiesce_application", |hooks| hooks.quiesce_application())
            .await
    }

    pub async fn resume_application(&self, events: &Events) {
        let called = self.call("resume_application", |hooks| hooks.resume_application());
        tell("resume_application", events, called.await);
    }

    pub async fn after_cutover(&self, events: &Events, summary: &Summary) {
        let called = self.call("after_cutover", |hooks| hooks.after_cutover(summary));
        tell("after_cutover", events, called.await);
    }

    pub async fn on_failure(&self, events: &Events, error: &Error) {
        let called = self.call("on_failure", |hooks| hooks.on_failure(error));
        tell("on_failure", events, called.await);
    }

    /// Calls the hook for each phase, until the last. `told` holds the phase that was reported last.
    pub async fn follow_phases(self, progress: Arc<RunState>, told: watch::Sender<Phase>) {
        let mut phases = progress.phases();
        loop {
            let phase = *phases.borrow_and_update();
            if phase != *told.borrow() {
                let called = self.call("phase_changed", |hooks| hooks.phase_changed(phase));
                tell("phase_changed", &progress.events, called.await);
                told.send_replace(phase);
            }
            if phase.is_last() || phases.changed().await.is_err() {
                return;
            }
        }
    }

    async fn call<'a>(
        &'a self,
        name: &'static str,
        hook: impl FnOnce(&'a dyn Hooks) -> BoxFuture<'a, HookResult>,
    ) -> Result<()> {
        let Some(hooks) = &self.0 else { return Ok(()) };
        // The async block also catches a panic of the call that creates the future.
        let called = AssertUnwindSafe(async { hook(&**hooks).await }).catch_unwind();
        let failure = |message: &str| {
            let error = Error::new(ErrorKind::Hook, "go on past a hook of the host", message);
            error.with_context("hook", name)
        };
        match timeout(LIMIT, called).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(failure("the hook returned an error").with_source(error)),
            Ok(Err(_)) => Err(failure("the hook panicked")),
            Err(_) => Err(failure("the hook did not return within 10 minutes")),
        }
    }
}

fn tell(hook: &'static str, events: &Events, called: Result<()>) {
    if let Err(error) = called {
        let reason = error.report();
        events.send(Event::HookFailed { hook, reason });
    }
}
