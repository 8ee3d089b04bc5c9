//! Limits concurrent walkers while more of them would slow down the source's own writes.
//!
//! A controller measures the write latency of the source with some number of walkers, and then with twice or half as many, for a second
//! each. It keeps the higher number unless writes take noticeably longer with it. The next trial detects changes in what applications do,
//! or in how fast the servers are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorKind, Result};
use crate::runtime::progress::RunState;
use crate::source::{Source, WriteLoad};

/// Polling interval for the source's write load. It is also the length of one window.
const WINDOW: Duration = Duration::from_millis(500);

/// Number of windows that are not counted after the number of walkers changes: surplus walkers end with their next batch.
const SETTLING: u32 = 1;

/// Number of windows in a measurement.
const MEASURED: u32 = 2;

/// How long the number of walkers stays fixed before the first trial, and after trials that have come to their end.
const HOLD: Duration = Duration::from_secs(30);

/// Additional walkers slow writes down if writes take this many times as long with them.
const SLOWER: f64 = 1.25;

/// Minimum share of the time that applications wait for the source's writes. Below it, the latency of writes does not matter.
const BUSY: f64 = 0.05;

/// Minimum number of writes in a window. Fewer say nothing about the latency.
const FEWEST: u64 = 5;

/// Number of windows without enough writes after which no applications need protection.
const QUIET: u32 = 6;

/// Number of windows without an active walker after which the source is not polled until a walker is active again. A batch may take long on
/// a slow network.
const UNUSED: u32 = 60;

/// Adjusts the number of walker slots to the source's write latency until the run is cancelled.
///
/// # Errors
/// Never fails.
pub(crate) async fn yield_to_writes(
    source: Arc<dyn Source>,
    progress: Arc<RunState>,
    walkers: usize,
    cancel: CancellationToken,
) -> Result<()> {
    let watch = async {
        let mut yielding = ConcurrencyController::new(walkers);
        let mut tick = interval(WINDOW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unused = 0;
        loop {
            tick.tick().await;
            unused = if progress.walker_slots.were_used() {
                0
            } else {
                unused + 1
            };
            if unused > UNUSED {
                progress.walker_slots.set(yielding.forget());
                continue;
            }
            match source.write_load().await {
                Ok(Some(load)) => progress.walker_slots.set(yielding.note(Instant::now(), load)),
                Ok(None) => break,
                // This user lacks the privilege, so that further attempts are pointless.
                Err(error) if error.kind() == ErrorKind::Unauthorized => break,
                // Not a reason to end the run: the tasks that need the source detect what is wrong with it.
                Err(_) => {}
            }
        }
        progress.walker_slots.set(yielding.forget());
    };
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = watch => {}
    }
    // No task of a run may end before the run does.
    cancel.cancelled().await;
    Ok(())
}

/// Controls how many walkers may be active. Pure.
#[derive(Debug)]
struct ConcurrencyController {
    most: usize,
    level: usize,
    /// The last reported load, and its time.
    before: Option<(Instant, WriteLoad)>,
    /// Whether applications write so much that walkers are limited at all.
    busy: bool,
    quiet: u32,
    /// Windows since the level was set.
    windows: u32,
    /// The load in the windows that count.
    measured: WriteLoad,
    /// The level before the current trial, and the latency of a write at that level.
    reference: Option<(usize, f64)>,
    /// Whether the next trial uses more walkers, if both directions are possible.
    upward: bool,
    hold_until: Option<Instant>,
}

impl ConcurrencyController {
    /// Starts with one walker, which is enough until it is known whether applications write.
    fn new(most: usize) -> Self {
        Self {
            most,
            level: 1,
            before: None,
            busy: false,
            quiet: 0,
            windows: 0,
            measured: WriteLoad::default(),
            reference: None,
            upward: true,
            hold_until: None,
        }
    }

    /// Resets everything, because no applications need protection. Returns how many walkers may be active.
    fn forget(&mut self) -> usize {
        *self = Self::new(self.most);
        self.level = self.most;
        self.level
    }

    /// Same as [`forget`](Self::forget), but keeps the last load that the source reported.
    fn start_over(&mut self) -> usize {
        let before = self.before;
        self.forget();
        self.before = before;
        self.level
    }

    /// Takes in the source's write load since the server started. Returns how many walkers may be active from now on.
    fn note(&mut self, now: Instant, load: WriteLoad) -> usize {
        let Some((since, before)) = self.before.replace((now, load)) else {
            return self.level;
        };
        let (Some(operations), Some(time)) = (
            load.operations.checked_sub(before.operations),
            load.time.checked_sub(before.time),
        ) else {
            // Another server has answered, or the server was restarted.
            return self.start_over();
        };
        let busy = operations >= FEWEST && time.as_secs_f64() >= BUSY * (now - since).as_secs_f64();
        if !busy {
            self.quiet += 1;
            return match self.busy && self.quiet < QUIET {
                true => self.level,
                false => self.start_over(),
            };
        }
        self.quiet = 0;
        if !self.busy {
            self.busy = true;
            // Start with one walker, and do not exceed it at first: a small copy is not worth a trial.
            self.set(1);
            self.hold_until = Some(now + HOLD);
            return self.level;
        }
        self.windows += 1;
        if self.windows > SETTLING {
            self.measured.operations += operations;
            self.measured.time += time;
        }
        if self.windows >= SETTLING + MEASURED {
            self.decide(now);
        }
        self.level
    }

    /// Ends the current trial, or begins one when it is time.
    fn decide(&mut self, now: Instant) {
        let latency = self.measured.time.as_secs_f64() / self.measured.operations.max(1) as f64;
        let level = self.level;
        if let Some((other, reference)) = self.reference.take() {
            let (fewer, more) = match other < level {
                true => ((other, reference), (level, latency)),
                false => ((level, latency), (other, reference)),
            };
            let better = if more.1 > fewer.1 * SLOWER { fewer.0 } else { more.0 };
            let is_end = better == other || better == 1 || better == self.most;
            self.hold_until = is_end.then_some(now + HOLD);
            // Continue in the same direction if that was good. Otherwise try the other one next time.
            self.upward = (level > other) == (better == level);
            self.set(better);
            return;
        }
        if self.hold_until.is_some_and(|until| now < until) {
            // Continue to measure, so that the next trial is compared with fresh numbers.
            (self.windows, self.measured) = (SETTLING, WriteLoad::default());
            return;
        }
        self.reference = Some((level, latency));
        let upward = level == 1 || (self.upward && level < self.most);
        self.set(match upward {
            true => (level * 2).min(self.most),
            false => level / 2,
        });
    }

    fn set(&mut self, level: usize) {
        self.level = level;
        (self.windows, self.measured) = (0, WriteLoad::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source with constant writes, whose latency depends on the number of active walkers.
    struct Applications {
        yielding: ConcurrencyController,
        now: Instant,
        load: WriteLoad,
    }

    impl Applications {
        fn new(walkers: usize) -> Self {
            Self {
                yielding: ConcurrencyController::new(walkers),
                now: Instant::now(),
                load: WriteLoad::default(),
            }
        }

        /// Continues for some seconds with `rate` writes a second. Returns how many walkers were active in each window.
        fn go_on(&mut self, seconds: u32, rate: u32, milliseconds: impl Fn(usize) -> f64) -> Vec<usize> {
            let mut levels = Vec::new();
            for _ in 0..seconds * 2 {
                let level = self.yielding.note(self.now, self.load);
                levels.push(level);
                self.now += WINDOW;
                self.load.operations += u64::from(rate / 2);
                self.load.time += Duration::from_secs_f64(milliseconds(level) / 1e3).mul_f64(f64::from(rate / 2));
            }
            levels
        }
    }

    fn mean(levels: &[usize]) -> f64 {
        levels.iter().sum::<usize>() as f64 / levels.len() as f64
    }

    #[test]
    fn a_source_that_does_not_feel_the_walkers_gets_all_of_them() {
        for walkers in [1, 2, 3, 4, 16, 100] {
            let mut applications = Applications::new(walkers);
            let levels = applications.go_on(300, 1_000, |_| 2.0);
            assert!(mean(&levels[90..]) > 0.9 * walkers as f64, "{walkers}: {levels:?}");
        }
    }

    #[test]
    fn a_source_that_suffers_from_each_of_them_keeps_one() {
        for walkers in [2, 4, 16, 100] {
            let mut applications = Applications::new(walkers);
            let levels = applications.go_on(300, 1_000, |level| 1.0 + level as f64);
            assert!(mean(&levels) < 1.1 + walkers as f64 / 600.0, "{walkers}: {levels:?}");
            assert!(levels.iter().all(|&level| level >= 1), "{levels:?}");
        }
    }

    #[test]
    fn a_source_with_room_for_some_keeps_about_those() {
        let mut applications = Applications::new(32);
        let milliseconds = |level: usize| if level <= 8 { 2.0 } else { level as f64 / 3.0 };
        applications.go_on(90, 1_000, milliseconds);
        let levels = applications.go_on(600, 1_000, milliseconds);
        let kept = levels.iter().filter(|&&level| level == 8).count();
        assert!(kept as f64 > 0.9 * levels.len() as f64, "{levels:?}");
    }

    #[test]
    fn what_changes_is_noticed() {
        let mut applications = Applications::new(4);
        let suffering = |level: usize| level as f64;
        assert_eq!(applications.go_on(40, 1_000, suffering).pop(), Some(1));
        // For example, a larger machine.
        assert_eq!(applications.go_on(70, 1_000, |_| 1.0).pop(), Some(4));
        assert_eq!(applications.go_on(100, 1_000, suffering).pop(), Some(1));
        // For example, at night.
        assert_eq!(applications.go_on(4, 0, suffering).pop(), Some(4));
    }

    #[test]
    fn writes_that_are_few_or_quick_are_not_spared() {
        let slow = |level: usize| 500.0 * level as f64;
        let quick = |level: usize| 0.005 * level as f64;
        for levels in [
            Applications::new(4).go_on(100, 4, slow),
            Applications::new(4).go_on(100, 1_000, quick),
        ] {
            assert_eq!(levels[0], 1, "not known yet");
            assert!(levels[1..].iter().all(|&level| level == 4), "{levels:?}");
        }
    }

    #[test]
    fn a_new_primary_counts_from_nothing() {
        let mut applications = Applications::new(4);
        while applications.go_on(1, 1_000, |level| 100.0 * level as f64).pop() != Some(2) {}
        // The latency with two walkers must not be compared with what the slow server took with one.
        applications.load = WriteLoad::default();
        let levels = applications.go_on(10, 1_000, |level| level as f64);
        assert!(levels[2..].iter().all(|&level| level <= 2), "{levels:?}");
        assert_eq!(levels.last(), Some(&1), "{levels:?}");
    }
}
