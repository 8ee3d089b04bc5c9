//! Watches the source during a run: position, lag and oplog window.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::report::{Event, Phase};
use crate::runtime::lag::{Behind, LagTrend, OplogWindow, Sample};
use crate::runtime::progress::RunState;
use crate::source::Source;

/// Polling interval for the source's newest position.
pub(crate) const POSITION_INTERVAL: Duration = Duration::from_millis(500);

/// Polling interval for the source's oldest position.
const WINDOW_INTERVAL: Duration = Duration::from_secs(10);

/// Polls the source's newest position, which the lag is computed from. Moves the run into and out of the ready phase, and emits an event
/// when the run falls behind.
///
/// # Errors
/// A permanent error of the source.
pub(crate) async fn watch_source(
    source: Arc<dyn Source>,
    progress: Arc<RunState>,
    max_lag: Duration,
    cancel: CancellationToken,
) -> Result<()> {
    let mut tick = interval(POSITION_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pace = LagTrend::new(max_lag);
    loop {
        let position = async {
            tick.tick().await;
            source.position().await
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            position = position => progress.set_source_position(position?),
        }
        if matches!(progress.phase(), Phase::CatchUp | Phase::Ready) {
            let ready = progress.lag().is_some_and(|lag| lag <= max_lag);
            progress.set_phase(match progress.copy.is_indexed_but_for(max_lag) {
                true if ready && progress.comparison.is_done_but_for(max_lag) => Phase::Ready,
                true => Phase::CatchUp,
                // A run copies again after it went back to its checkpoint, or after a collection was renamed into the selection.
                false if !progress.copy.is_copied() => Phase::Copy,
                false => Phase::Index,
            });
        }
        let Some(lag) = progress.lag() else { continue };
        let sample = Sample {
            lag,
            read: progress.read(),
            read_operations: progress.read_operations.load(Relaxed),
            applied: progress.applied.load(Relaxed) + progress.dropped.load(Relaxed),
        };
        if let Some(Behind {
            source_rate,
            applied_rate,
            lag,
        }) = pace.note(Instant::now(), sample)
        {
            progress.events.send(Event::FallingBehind {
                source_rate,
                applied_rate,
                lag,
            });
        }
    }
}

/// Measures the source's oplog window. It does so even while the run is paused or cannot continue, because the window matters most then.
pub(crate) async fn watch_window(source: &dyn Source, progress: &RunState) -> Infallible {
    let mut roll_off = OplogWindow::default();
    loop {
        if let Some(position) = progress.resume() {
            let window = match futures::try_join!(source.oldest_position(), source.position()) {
                Ok((oldest, newest)) => {
                    let window = roll_off.note(Instant::now(), oldest, newest, position);
                    if window.warn {
                        progress.events.send(Event::OplogWindowShort {
                            position,
                            oldest,
                            window: window.span,
                            time_left: window.left,
                        });
                    }
                    Some(window)
                }
                // Not a reason to end the run: the tasks that need the source detect what is wrong with it.
                Err(_) => None,
            };
            progress.set_oplog_window(window);
        }
        sleep(WINDOW_INTERVAL).await;
    }
}
