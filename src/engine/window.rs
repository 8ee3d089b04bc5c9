//! The task that begins the cutover window, warns as it runs out, and ends the run when it has.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::config::Clock;
use crate::engine::messages::{Request, Requests};
use crate::error::{Error, ErrorKind};
use crate::report::{Event, Phase};
use crate::runtime::progress::RunState;

/// The host is warned when so much is left.
const WARNINGS: [Duration; 4] = [
    Duration::from_secs(24 * HOUR),
    Duration::from_secs(4 * HOUR),
    Duration::from_secs(HOUR),
    Duration::from_secs(10 * 60),
];

const HOUR: u64 = 3600;

/// How often the clock is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Begins the window when the run is ready, and warns as it runs out. Answers when it has, but not in the midst of a cutover, with the error
/// that ends the run.
pub(crate) async fn keep_window(progress: &RunState, requests: &Requests, clock: &Clock) -> Error {
    // The warning that is due is told again to a process that goes on from a checkpoint.
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
                    "the cutover window has run out; the checkpoint is kept: start the migration again, which gives it a new window",
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

/// Brings what is known of the window into the checkpoint, if there is a run that can save one; else the next one does.
pub(crate) async fn save(requests: &Requests) {
    let sender = requests.borrow().clone();
    let (reply, saved) = oneshot::channel();
    if let Some(sender) = sender
        && sender.send(Request::Save { reply }).await.is_ok()
    {
        // It fails when the run has ended meanwhile.
        let _ = saved.await;
    }
}

fn left(progress: &RunState, clock: &Clock) -> Option<Duration> {
    let deadline = progress.window.deadline()?;
    Some(deadline.duration_since(clock.now()).unwrap_or_default())
}

/// Whether one of the warnings has come due since so much was left as `before`.
fn is_warning_due(before: Duration, left: Duration) -> bool {
    WARNINGS.iter().any(|warning| before > *warning && left <= *warning)
}
