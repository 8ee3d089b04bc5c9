//! What a host does around a run.

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

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What a hook answers: an error of the host's own, of any type.
pub type HookResult = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

/// What a host does around a run: mute alerts, pause backups, open and close network access, make users and remove them.
///
/// # Order
/// [`before_start`](Hooks::before_start) is the first thing that [`start`](crate::Migration::start) does. A
/// [`cutover`](crate::MigrationHandle::cutover) waits until the run is ready, and then awaits [`before_cutover`](Hooks::before_cutover),
/// [`quiesce_application`](Hooks::quiesce_application) and the `stop_writes` it was given, in this order; at its end
/// [`after_cutover`](Hooks::after_cutover). [`phase_changed`](Hooks::phase_changed) is called beside all this, one call after the other.
///
/// # Errors
/// An error of the three hooks that come before something keeps that from being done, as [`ErrorKind::Hook`] with the hook's name. An error
/// of the others changes nothing, since what they follow has happened; [`Event::HookFailed`] tells it. A panic is an error like any other,
/// and so is a call that takes longer than 10 minutes.
///
/// # Cancellation
/// The calls are made by the run's own tasks and by the futures of `start` and `cutover`, never by others: dropping one of these futures,
/// or the [`MigrationHandle`](crate::MigrationHandle), drops the call that it is making. That to `after_cutover` when the migration is complete
/// is one of the run's own, which the cutover only waits for. A cutover that is dropped before is followed by no call but that for the phase to
/// which the run goes back.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// Called before a migration is started or goes on from its checkpoint, and before preflight looks at anything.
    ///
    /// # Errors
    /// The start is refused, and nothing is changed.
    async fn before_start(&self) -> HookResult {
        Ok(())
    }

    /// The run has gone on to another phase. The last phase is always told; of those before, some may be passed over while a call is being
    /// made.
    ///
    /// # Errors
    /// They are told by an event.
    async fn phase_changed(&self, phase: Phase) -> HookResult {
        let _ = phase;
        Ok(())
    }

    /// Called when the run is ready and a cutover is about to begin.
    ///
    /// # Errors
    /// The cutover fails, and the run goes on following.
    async fn before_cutover(&self) -> HookResult {
        Ok(())
    }

    /// Stops what writes to the source, or puts the application into a state in which it does not.
    ///
    /// # Errors
    /// The cutover fails before the `stop_writes` that was given to it is awaited, and the run goes on following.
    async fn quiesce_application(&self) -> HookResult {
        Ok(())
    }

    /// Called when a cutover has come to its end. Its [`outcome`](Summary::outcome) says whether the migration was handed over or
    /// differences were found.
    ///
    /// # Errors
    /// They are told by an event.
    async fn after_cutover(&self, summary: &Summary) -> HookResult {
        let _ = summary;
        Ok(())
    }

    /// Called when a start has failed that [`before_start`](Hooks::before_start) had let pass, when a cutover has failed, or when the run
    /// was ended by an error.
    ///
    /// # Errors
    /// They are told by an event.
    async fn on_failure(&self, error: &Error) -> HookResult {
        let _ = error;
        Ok(())
    }
}

/// The host's hooks, if there are any.
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
        self.call("before_cutover", |hooks| hooks.before_cutover()).await?;
        self.call("quiesce_application", |hooks| hooks.quiesce_application())
            .await
    }

    pub async fn after_cutover(&self, events: &Events, summary: &Summary) {
        let called = self.call("after_cutover", |hooks| hooks.after_cutover(summary));
        tell("after_cutover", events, called.await);
    }

    pub async fn on_failure(&self, events: &Events, error: &Error) {
        let called = self.call("on_failure", |hooks| hooks.on_failure(error));
        tell("on_failure", events, called.await);
    }

    /// Tells the host each phase, until the last. `told` is the one that it was told last.
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
        // Also what panics before it has made a future.
        let called = AssertUnwindSafe(async { hook(&**hooks).await }).catch_unwind();
        let failure = |message: &str| {
            let error = Error::new(ErrorKind::Hook, "go on past a hook of the host", message);
            error.with_context("hook", name)
        };
        match timeout(LIMIT, called).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(failure("it answered with an error").with_source(error)),
            Ok(Err(_)) => Err(failure("it panicked")),
            Err(_) => Err(failure("it did not end within 10 minutes")),
        }
    }
}

fn tell(hook: &'static str, events: &Events, called: Result<()>) {
    if let Err(error) = called {
        let reason = error.to_string();
        events.send(Event::HookFailed { hook, reason });
    }
}
