//! The cutover window: how long a run follows its source after it is first ready.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bson::DateTime;

use crate::checkpoint::CutoverWindow;

/// Cutover window of a run.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Whether the run was ever ready. It may be ready only for a moment.
    ready: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    length: Duration,
    kept: CutoverWindow,
}

impl Window {
    /// Restores the window from a checkpoint. A window that has ended begins anew, because a host that starts the migration again wants it
    /// to run.
    pub fn go_on(&self, length: Duration, kept: CutoverWindow, now: SystemTime) {
        let has_ended = kept.deadline(length).is_some_and(|deadline| deadline <= now);
        let kept = if has_ended { CutoverWindow::default() } else { kept };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { length, kept };
    }

    /// Records that the run is ready.
    pub fn note_ready(&self) {
        self.ready.store(true, Relaxed);
    }

    /// Begins the window if the run is ready for the first time. Returns `true` if the window begins now.
    pub fn begin_if_ready(&self, now: SystemTime) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = state.kept.first_ready.is_none() && self.ready.load(Relaxed);
        if begins {
            state.kept.first_ready = Some(DateTime::from_system_time(now));
        }
        begins
    }

    /// Extends the window. Returns `false` and changes nothing if the window has not begun.
    pub fn extend(&self, by: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = state.kept.first_ready.is_some();
        if begun {
            let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            // The checkpoint stores a signed number.
            let most = i64::MAX.unsigned_abs();
            state.kept.extended_millis = state.kept.extended_millis.saturating_add(millis).min(most);
        }
        begun
    }

    /// Returns the part of the window that a checkpoint stores.
    pub fn kept(&self) -> CutoverWindow {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).kept
    }

    /// Returns the time at which the run stops following, if there is one.
    pub fn deadline(&self) -> Option<SystemTime> {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.kept.deadline(state.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
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
        // A process that starts before the deadline continues the window. One that starts later gets a new window.
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
