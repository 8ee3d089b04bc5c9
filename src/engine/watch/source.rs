//! Watches the source beside a run: its newest position, whether the run keeps up, and how long its position will still be in the oplog.

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

/// How often the source is asked for its newest position.
pub(crate) const POSITION_INTERVAL: Duration = Duration::from_millis(500);

/// How often the source is asked for its oldest position.
const WINDOW_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the source's newest position, from which the lag is counted, and says when the run is ready, when no longer, and when it falls
/// behind.
///
/// # Errors
/// What the source answered for good.
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
            progress.set_phase(match progress.is_indexed_but_for(max_lag) {
                true if ready => Phase::Ready,
                true => Phase::CatchUp,
                // A run that went back to its checkpoint, or that a collection was renamed into, copies again.
                false if !progress.is_copied() => Phase::Copy,
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

/// Measures the source's oplog window, also while the run is paused or cannot go on, which is when it matters.
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
                // Not a reason to end anything: what is wrong with the source is found out where it is needed.
                Err(_) => None,
            };
            progress.set_oplog_window(window);
        }
        sleep(WINDOW_INTERVAL).await;
    }
}
