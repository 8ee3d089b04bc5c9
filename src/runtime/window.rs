//! The cutover window: for how long a run follows its source after it was first ready.

use crate::config::Clock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bson::DateTime;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::engine::Requests;
use crate::engine::follow::router::Request;
use crate::error::{Error, ErrorKind};
use crate::report::event::Event;
use crate::report::phase::Phase;
use crate::runtime::progress::Progress;

/// The host is warned when so much is left.
const WARNINGS: [Duration; 4] = [
    Duration::from_secs(24 * HOUR),
    Duration::from_secs(4 * HOUR),
    Duration::from_secs(HOUR),
    Duration::from_secs(10 * 60),
];

const HOUR: u64 = 3600;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a checkpoint keeps of the cutover window, so that it goes on through restarts of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CutoverWindow {
    /// When the migration was ready for the first time, by the clock of the host.
    pub first_ready: Option<DateTime>,
    /// By how many milliseconds the window was extended.
    pub extended_millis: u64,
}

impl CutoverWindow {
    /// When a window of this length ends; `None` before it has begun, and for one that never ends.
    fn deadline(&self, length: Duration) -> Option<SystemTime> {
        let first = self.first_ready?.to_system_time();
        first
            .checked_add(length)?
            .checked_add(Duration::from_millis(self.extended_millis))
    }
}

/// The window of a run.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Whether the run was ready at any time. It may be so for a moment only.
    ready: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    length: Duration,
    kept: CutoverWindow,
}

impl Window {
    /// Goes on with what a checkpoint has kept. A window that has ended begins anew: whoever starts the migration again wants it to run.
    pub fn go_on(&self, length: Duration, kept: CutoverWindow, now: SystemTime) {
        let has_ended = kept.deadline(length).is_some_and(|deadline| deadline <= now);
        let kept = if has_ended { CutoverWindow::default() } else { kept };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { length, kept };
    }

    /// Notes that the run is ready.
    pub fn note_ready(&self) {
        self.ready.store(true, Relaxed);
    }

    /// Begins the window if the run is ready for the first time. Answers whether it did.
    fn begin_if_ready(&self, now: SystemTime) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = state.kept.first_ready.is_none() && self.ready.load(Relaxed);
        if begins {
            state.kept.first_ready = Some(DateTime::from_system_time(now));
        }
        begins
    }

    /// Makes the window longer. Answers whether it has begun, without which nothing is changed.
    pub fn extend(&self, by: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = state.kept.first_ready.is_some();
        if begun {
            let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            // A signed number in the checkpoint.
            let most = i64::MAX.unsigned_abs();
            state.kept.extended_millis = state.kept.extended_millis.saturating_add(millis).min(most);
        }
        begun
    }

    /// What a checkpoint keeps.
    pub fn kept(&self) -> CutoverWindow {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).kept
    }

    /// When the run stops following.
    pub fn deadline(&self) -> Option<SystemTime> {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.kept.deadline(state.length)
    }
}

/// Begins the window when the run is ready, and warns as it runs out. Answers when it has, but not in the midst of a cutover, with the error
/// that ends the run.
pub(crate) async fn keep_window(progress: &Progress, requests: &Requests, clock: &Clock) -> Error {
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
        sleep(LOOK).await;
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

fn left(progress: &Progress, clock: &Clock) -> Option<Duration> {
    let deadline = progress.window.deadline()?;
    Some(deadline.duration_since(clock.now()).unwrap_or_default())
}

/// Whether one of the warnings has come due since so much was left as `before`.
fn is_warning_due(before: Duration, left: Duration) -> bool {
    WARNINGS.iter().any(|warning| before > *warning && left <= *warning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_CUTOVER_WINDOW;

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * HOUR)
    }

    fn at(time: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + hours(time)
    }

    #[test]
    fn it_begins_when_the_run_is_first_ready_and_can_be_extended() {
        let window = Window::default();
        window.go_on(DEFAULT_CUTOVER_WINDOW, CutoverWindow::default(), at(0));
        assert!(!window.begin_if_ready(at(1)) && !window.extend(hours(24)));
        assert_eq!(window.deadline(), None);
        window.note_ready();
        assert!(window.begin_if_ready(at(2)) && !window.begin_if_ready(at(3)));
        assert_eq!(window.deadline(), Some(at(122)));
        assert!(window.extend(hours(24)) && window.extend(hours(1)));
        assert_eq!(window.deadline(), Some(at(147)));
        // A process that starts before its end goes on with it; one that starts afterwards has a new one.
        let next = Window::default();
        next.go_on(DEFAULT_CUTOVER_WINDOW, window.kept(), at(146));
        assert_eq!(next.deadline(), Some(at(147)));
        next.go_on(DEFAULT_CUTOVER_WINDOW, window.kept(), at(147));
        assert_eq!(next.kept(), CutoverWindow::default());
    }

    #[test]
    fn a_window_can_be_without_end() {
        let window = Window::default();
        window.go_on(Duration::MAX, CutoverWindow::default(), at(0));
        window.note_ready();
        assert!(window.begin_if_ready(at(2)));
        assert_eq!(window.deadline(), None);
        assert!(window.extend(Duration::MAX));
        assert_eq!(window.kept().extended_millis, i64::MAX.unsigned_abs());
    }
}
