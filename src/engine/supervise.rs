//! Keeps a run going as the host wants, and restarts it after transient errors.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::LostPosition;
use crate::engine::messages::Requests;
use crate::engine::watch::source::{POSITION_INTERVAL, watch_window};
use crate::engine::window::{self, keep_window};
use crate::engine::write_block::keep_write_block;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Position, Side};
use crate::mongo::retry::{RetryPolicy, retry};
use crate::report::{Event, Phase};
use crate::runtime::hooks::HostHooks;
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;
use crate::runtime::spans;
use crate::runtime::waiting::report_waits;
use crate::source::Source;

/// Maximum pause before a failed run resumes from its checkpoint.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What the host wants the run to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Run,
    Pause,
    Stop,
}

/// What the run is doing.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Running,
    Paused,
    /// The error is `None` if the migration is complete or was stopped by the host.
    Ended {
        error: Option<Error>,
    },
}

/// Runs the engine from its checkpoint again and again, for as long as the host wants it and errors are transient. A panic ends the run like
/// an error.
pub(crate) async fn supervise(
    engine: Arc<Job>,
    progress: Arc<RunState>,
    requests: Arc<Requests>,
    wanted: watch::Receiver<Wanted>,
    state: watch::Sender<State>,
    cancel: CancellationToken,
) {
    let run = run_to_its_end(&engine, &progress, &requests, wanted, &state, cancel);
    let result = AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
        let message = "a task panicked; the checkpoint is kept, and a new run can resume from it";
        Err(Error::new(ErrorKind::Panic, "run the migration", message))
    });
    if let Some(lease) = engine.started.take() {
        // The run was stopped before it began.
        lease.release(lease.written_until()).await;
    }
    let error = result.err();
    match &error {
        Some(error) => {
            engine.hooks.on_failure(&progress.events, error).await;
            progress.fail(error.clone());
        }
        None if progress.completion.summary().is_some() => {}
        None => {
            progress.set_phase(Phase::Stopped);
        }
    }
    state.send_replace(State::Ended { error });
}

async fn run_to_its_end(
    engine: &Arc<Job>,
    progress: &Arc<RunState>,
    requests: &Arc<Requests>,
    mut wanted: watch::Receiver<Wanted>,
    state: &watch::Sender<State>,
    cancel: CancellationToken,
) -> Result<()> {
    let mut run = pin!(run_as_wanted(engine, progress, requests, &mut wanted, state, &cancel));
    let mut write_block = pin!(keep_write_block(engine, progress, requests));
    let mut application = pin!(resume_application(&engine.hooks, progress));
    let result = tokio::select! {
        result = &mut run => result,
        never = &mut write_block => match never {},
        never = &mut application => match never {},
        closed = keep_window(progress, requests, &engine.settings.clock) => {
            cancel.cancel();
            run.await.and(Err(closed))
        }
        never = watch_window(&*engine.source, progress) => match never {},
    };
    if progress.completion.is_in_doubt() {
        // The run ended in the middle of saving the final checkpoint. Load it to find out whether it was saved.
        match retry(RetryPolicy::SERVER, || engine.load()).await {
            Ok(loaded) => progress.resolve_completion(loaded.is_some_and(|checkpoint| checkpoint.complete)),
            Err(_) => progress.leave_in_doubt(),
        }
    }
    let resumed = async {
        progress.write_block.lifted().await;
        progress.application.resumed().await;
    };
    tokio::select! {
        () = resumed => {}
        never = &mut write_block => match never {},
        never = &mut application => match never {},
    }
    engine.builds.lock().await.leave().await;
    // The hooks run here, where they cannot delay anything and are not cancelled together with the cutover's future.
    let Some(summary) = progress.completion.summary() else {
        return result;
    };
    engine.hooks.after_cutover(&progress.events, &summary).await;
    progress.set_phase(Phase::Complete);
    Ok(())
}

/// Tells the application to go on whenever a cutover that had stopped it does not complete. Never returns.
async fn resume_application(hooks: &HostHooks, progress: &RunState) -> Infallible {
    loop {
        progress.application.is_to_resume().await;
        progress.write_block.lifted().await;
        hooks.resume_application(&progress.events).await;
        progress.application.note_resumed();
    }
}

async fn run_as_wanted(
    engine: &Job,
    progress: &Arc<RunState>,
    requests: &Requests,
    wanted: &mut watch::Receiver<Wanted>,
    state: &watch::Sender<State>,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut failing: Option<(Instant, Option<Position>)> = None;
    let mut pause = Duration::from_millis(200);
    // Why the checkpoint's position is known to be lost.
    let mut lost: Option<String> = None;
    let mut number = 0;
    loop {
        let now = *wanted.borrow_and_update();
        match now {
            Wanted::Run => {}
            Wanted::Stop => return Ok(()),
            Wanted::Pause => {
                state.send_replace(State::Paused);
                progress.set_phase(Phase::Paused);
                // This fails if the handle was dropped.
                let changed = tokio::select! {
                    changed = wanted.changed() => changed,
                    () = cancel.cancelled() => return Ok(()),
                    never = follow_lag(&*engine.source, progress) => never,
                };
                if changed.is_err() {
                    return Ok(());
                }
                state.send_replace(State::Running);
                continue;
            }
        }
        if matches!(progress.phase(), Phase::Paused) {
            progress.set_phase(Phase::Preflight);
        }
        progress.whole_copies.open();
        let run_cancel = cancel.child_token();
        // If the resync does not happen, the next run detects the loss again.
        let reason = lost.take();
        number += 1;
        let run = engine.run(progress, requests, &run_cancel, reason.as_deref());
        let mut run = pin!(run.instrument(spans::run(number)));
        let result = tokio::select! {
            result = &mut run => result,
            () = until_it_may_end(wanted, progress, requests) => {
                run_cancel.cancel();
                run.await
            }
        };
        if progress.completion.summary().is_some() {
            return Ok(());
        }
        if cancel.is_cancelled() || *wanted.borrow() != Wanted::Run {
            if cancel.is_cancelled() {
                return Ok(());
            }
            continue;
        }
        let error = match result {
            Ok(()) => continue,
            Err(error) => error,
        };
        if error.kind() == ErrorKind::PositionLost && engine.settings.lost_position == LostPosition::Resync {
            lost = Some(error.report());
        } else if !(error.is_retryable() || matches!(error.kind(), ErrorKind::Stopped | ErrorKind::TargetBlocked)) {
            // `TargetBlocked` is retried as well: people have to unblock writes, and may need a while.
            return Err(error);
        }
        // If the run has moved the watermark since the last failure, the time starts over.
        let reached = *progress.watermark().borrow();
        let since = match failing {
            Some((since, before)) if before == reached => since,
            _ => {
                pause = Duration::from_millis(200);
                Instant::now()
            }
        };
        failing = Some((since, reached));
        if since.elapsed() > engine.settings.retry_timeout {
            return Err(error);
        }
        progress.note_retry();
        progress.events.send(Event::Retrying {
            cause: error.report(),
            delay: pause,
        });
        tokio::select! {
            () = sleep(pause) => {}
            () = cancel.cancelled() => return Ok(()),
            _ = wanted.changed() => {}
            never = follow_lag(&*engine.source, progress) => never,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until the host no longer wants the run to continue. Before a pause, also waits for copies that would otherwise start over.
async fn until_it_may_end(wanted: &mut watch::Receiver<Wanted>, progress: &RunState, requests: &Requests) {
    let _ = wanted.changed().await;
    if *wanted.borrow() != Wanted::Pause {
        return;
    }
    let finish = async {
        progress.whole_copies.close();
        if progress.whole_copies.are_running() {
            let ended = progress.whole_copies.ended();
            report_waits(
                &progress.events,
                Side::Source,
                "finish copies that cannot be resumed",
                ended,
            )
            .await;
            // Otherwise the next run would not know that they are finished.
            window::save(requests).await;
        }
    };
    tokio::select! {
        () = finish => {}
        _ = wanted.changed() => {}
    }
}

/// Updates the source's newest position while nothing is migrated, so that the lag does not appear frozen. Never returns.
async fn follow_lag<T>(source: &dyn Source, progress: &RunState) -> T {
    loop {
        // The source may be what the run is waiting for. The run reports when it is back.
        if let Ok(position) = source.position().await {
            progress.set_source_position(position);
        }
        sleep(POSITION_INTERVAL).await;
    }
}
