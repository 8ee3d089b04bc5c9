//! How a run begins: what is checked, claimed and spawned before the host gets its handle.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

use crate::api::handle::{MigrationHandle, Run};
use crate::api::recording::RunRecorder;
use crate::checkpoint::CutoverWindow;
use crate::engine::messages::Requests;
use crate::engine::supervise::{State, Wanted, supervise};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::model::Side;
use crate::preflight;
use crate::report::Event;
use crate::runtime::job::{Job, already_complete};
use crate::runtime::lease::{self, Lease};
use crate::runtime::limits::allocator::keep_freed_memory;
#[cfg(feature = "metrics")]
use crate::runtime::metrics::publish_metrics;
use crate::runtime::progress::RunState;
use crate::runtime::register;
use crate::runtime::spans;
use crate::runtime::waiting::LONGEST_CALL;

impl MigrationHandle {
    pub(crate) async fn start(engine: Arc<Job>) -> Result<Self> {
        let span = spans::migration(engine.settings.id.as_str());
        Self::start_in(&span, engine).instrument(span.clone()).await
    }

    async fn start_in(span: &Span, engine: Arc<Job>) -> Result<Self> {
        let hooks = engine.hooks.clone();
        let events = engine.events.clone();
        let recorder = Arc::new(RunRecorder::start(&engine));
        let started = match hooks.before_start().await {
            Ok(()) => {
                let started = Self::start_allowed(span, engine, Arc::clone(&recorder)).await;
                if let Err(error) = &started {
                    hooks.on_failure(&events, error).await;
                }
                started
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &started {
            events.send(Event::Failed { error: error.clone() });
            recorder.flush().await;
        }
        started
    }

    async fn start_allowed(span: &Span, engine: Arc<Job>, recorder: Arc<RunRecorder>) -> Result<Self> {
        // An error that exists from the beginning fails the start, not the run.
        let loaded = engine.load();
        let waits = &engine.settings.on_wait;
        let loaded = waits.report_waits(Side::Target, "load the checkpoint", Some(LONGEST_CALL), loaded);
        let kept = match loaded.await? {
            Some(checkpoint) if checkpoint.complete => {
                // The process may have ended between the last checkpoint and this mark. It is made good without the lease, because the
                // checkpoint says the same whoever has it.
                register::complete(&engine.unfenced.records(&engine.settings.id)).await?;
                return Err(already_complete());
            }
            Some(checkpoint) => {
                preflight::check_again(&engine).await?;
                checkpoint.window
            }
            None => {
                check(&engine, &recorder).await?;
                CutoverWindow::default()
            }
        };
        let claimed = waits.report_waits(Side::Target, "take the lease", Some(LONGEST_CALL), claim(&engine));
        claimed.await?;
        keep_freed_memory();
        let engine = Arc::new(engine.waiting());
        let mut progress = RunState::of(engine.settings.id.as_str(), span.clone(), engine.events.clone());
        progress.shaping = Arc::clone(&engine.shaping);
        if let Some(resources) = &engine.resources {
            progress.limits = resources.limiters();
        }
        let progress = Arc::new(progress);
        progress.limits.set(engine.settings.throttle);
        progress.walker_slots.set(engine.settings.walkers_at_first());
        let (length, now) = (engine.settings.cutover_window, engine.settings.clock.now());
        progress.window.go_on(length, kept, now);
        recorder.observe(&progress, engine.settings.max_lag);
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
        let supervisor = AbortOnDropHandle::new(tokio::spawn(supervisor.instrument(span.clone())));
        let (tell, told) = watch::channel(progress.phase());
        let phases = engine.hooks.clone().follow_phases(Arc::clone(&progress), tell);
        let phases = phases.instrument(span.clone());
        #[cfg(feature = "metrics")]
        let metrics = publish_metrics(Arc::clone(&progress), engine.settings.max_lag);
        let run = Run {
            engine,
            progress,
            requests,
            recorder,
            wanted,
            state,
            cutover: Mutex::new(()),
            cancel,
            supervisor,
            differing: std::sync::Mutex::default(),
            told,
            _phases: AbortOnDropHandle::new(tokio::spawn(phases)),
            #[cfg(feature = "metrics")]
            _metrics: AbortOnDropHandle::new(tokio::spawn(metrics)),
        };
        Ok(Self { run: Arc::new(run) })
    }
}

/// Checks both sides before the first start.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) with every blocker, [`LeaseHeld`](ErrorKind::LeaseHeld) if there are some because another process runs the
/// migration, or a server error.
async fn check(engine: &Job, recorder: &RunRecorder) -> Result<()> {
    let plan = preflight::check(engine, preflight::Purpose::Start).await?;
    recorder.record(&plan);
    let Err(refused) = plan.refuse() else { return Ok(()) };
    match lease::holder(&engine.unfenced.records(&engine.settings.id)).await {
        Ok(Some(holder)) => Err(lease::held_by(&holder)),
        _ => Err(refused),
    }
}

/// Takes the lease for the first run, and registers the migration on the target.
async fn claim(engine: &Job) -> Result<()> {
    let records = engine.unfenced.records(&engine.settings.id);
    let lease = Lease::acquire(records.clone(), engine.fence.clone()).await?;
    let register = async {
        let source = engine.source.describe().await?;
        register::enter(&records, (&source.identity, &source.name), &engine.settings.selection).await
    };
    match lease.while_kept(register).await {
        Ok(()) => {
            engine.started.put(lease);
            Ok(())
        }
        Err(error) => {
            lease.release(lease.written_until()).await;
            Err(error)
        }
    }
}
