//! Task that opens the cutover window, warns before it closes, and then ends the run.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::config::Clock;
use crate::engine::messages::{Request, Requests};
use crate::error::{Error, ErrorKind};
use crate::report::{Event, Phase};
use crate::runtime::progress::RunState;

/// Remaining times at which the host is warned.
const WARNINGS: [Duration; 4] = [
    Duration::from_secs(24 * HOUR),
    Duration::from_secs(4 * HOUR),
    Duration::from_secs(HOUR),
    Duration::from_secs(10 * 60),
];

const HOUR: u64 = 3600;

/// Interval at which the clock is read.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Opens the window when the run is ready, and emits warnings as it runs out. Returns the error that ends the run once the window has run
/// out. Does not return in the middle of a cutover.
pub(crate) async fn keep_window(progress: &RunState, requests: &Requests, clock: &Clock) -> Error {
    // A process that resumes from a checkpoint repeats the warning that is due.
    let mut before = Duration::MAX;
    loop {
        if progress.window.begin_if_ready(clock.now()) {
            before = left(progress, clock).unwrap_or(Duration::MAX);
            save(requests).await;
        }
        if let (Some(left), Some(deadline)) = (left(progress, clock), progress.window.deadline()) {
            if left.is_zero() && progress.phase() != Phase::Cutover {
                return Error::new(
                    ErrorKind::WindowClosed,
                    "follow the source",
                    "the cutover window has run out; the checkpoint is kept: start the migration again to get a new window",
                );
            }
            if is_warning_due(before, left) {
                progress.events.send(Event::CutoverWindowShort { deadline, left });
            }
            before = left;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Saves the state of the window in a checkpoint if a run is active. Otherwise the next run saves it.
pub(crate) async fn save(requests: &Requests) {
    let sender = requests.borrow().clone();
    let (reply, saved) = oneshot::channel();
    if let Some(sender) = sender
        && sender.send(Request::Save { reply }).await.is_ok()
    {
        // This fails if the run has ended meanwhile.
        let _ = saved.await;
    }
}

fn left(progress: &RunState, clock: &Clock) -> Option<Duration> {
    let deadline = progress.window.deadline()?;
    Some(deadline.duration_since(clock.now()).unwrap_or_default())
}

/// Whether a warning became due as the remaining time dropped from `before` to `left`.
fn is_warning_due(before: Duration, left: Duration) -> bool {
    WARNINGS.iter().any(|warning| before > *warning && left <= *warning)
}
