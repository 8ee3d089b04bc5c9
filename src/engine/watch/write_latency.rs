//! Spares the source's own writers: fewer ranges are copied at the same time while more of them would slow writes down.
//!
//! How long the source's writes take is measured with some number of walkers at work and then with twice or half as many, each for a
//! second. The higher number is taken unless writes take noticeably longer with it. A change of what applications do, or of how
//! fast the servers are, is found by the next trial.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorKind, Result};
use crate::runtime::progress::RunState;
use crate::source::{Source, WriteLoad};

/// How often the source is asked.
const WINDOW: Duration = Duration::from_millis(500);

/// So many windows after a change of the number are not counted: walkers that are too many end with their next batch.
const SETTLING: u32 = 1;

/// So many windows are a measurement.
const MEASURED: u32 = 2;

/// How long the number stays before the first trial, and after one that has ended with nothing to change.
const HOLD: Duration = Duration::from_secs(30);

/// Writes that take this many times as long with more walkers are slowed down by them.
const SLOWER: f64 = 1.25;

/// Applications wait for the source's writes in this part of the time, at least, where it matters how long they take.
const BUSY: f64 = 0.05;

/// Fewer writes in a window say nothing of how long writes take.
const FEWEST: u64 = 5;

/// After so many windows without enough writes there is nobody to spare.
const QUIET: u32 = 6;

/// After so many windows in which no walker has got on the source is not asked until one does. A batch may take long on a slow network.
const UNUSED: u32 = 60;

/// Sets how many walkers may be at work by how long the source's writes take, until the run is cancelled.
///
/// # Errors
/// None.
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
            unused = if progress.places.were_used() { 0 } else { unused + 1 };
            if unused > UNUSED {
                progress.places.set(yielding.forget());
                continue;
            }
            match source.write_load().await {
                Ok(Some(load)) => progress.places.set(yielding.note(Instant::now(), load)),
                Ok(None) => break,
                // It is not told to this user, and never will be.
                Err(error) if error.kind() == ErrorKind::Unauthorized => break,
                // Not a reason to end anything: what is wrong with the source is found out where it is needed.
                Err(_) => {}
            }
        }
        progress.places.set(yielding.forget());
    };
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = watch => {}
    }
    // No task of a run ends before it.
    cancel.cancelled().await;
    Ok(())
}

/// Finds how many walkers may be at work. Pure.
#[derive(Debug)]
struct ConcurrencyController {
    most: usize,
    level: usize,
    /// What was told last, and when.
    before: Option<(Instant, WriteLoad)>,
    /// Whether applications write so much that walkers are held back at all.
    busy: bool,
    quiet: u32,
    /// Windows since the level was set.
    windows: u32,
    /// What was written in those that count.
    measured: WriteLoad,
    /// The level before the trial that is under way, and how long a write took then.
    reference: Option<(usize, f64)>,
    /// Whether the next trial is one with more walkers, where both are possible.
    upward: bool,
    hold_until: Option<Instant>,
}

impl ConcurrencyController {
    /// Until it is known whether applications write, one walker is enough.
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

    /// Starts from nothing, as nobody has to be spared. Answers how many may be at work.
    fn forget(&mut self) -> usize {
        *self = Self::new(self.most);
        self.level = self.most;
        self.level
    }

    /// As [`forget`](Self::forget), but for what the source has told last.
    fn start_over(&mut self) -> usize {
        let before = self.before;
        self.forget();
        self.before = before;
        self.level
    }

    /// Takes in what the source has written since it was started. Answers how many may be at work from now on.
    fn note(&mut self, now: Instant, load: WriteLoad) -> usize {
        let Some((since, before)) = self.before.replace((now, load)) else {
            return self.level;
        };
        let (Some(operations), Some(time)) = (
            load.operations.checked_sub(before.operations),
            load.time.checked_sub(before.time),
        ) else {
            // Another server answers, or it was started again.
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
            // From below, and not for a moment more at first: a small copy is not worth a trial.
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

    /// Ends the trial that is under way, or begins one when it is time.
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
            // Further in the same direction where that was good, else the other way next time.
            self.upward = (level > other) == (better == level);
            self.set(better);
            return;
        }
        if self.hold_until.is_some_and(|until| now < until) {
            // Goes on measuring, so that what a trial is compared with is fresh.
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

    /// A source that is written to without end; how long a write takes depends on how many walkers are at work.
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

        /// Goes on for some seconds, with so many writes a second, and answers how many walkers were at work in each window.
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
        // A larger machine, say.
        assert_eq!(applications.go_on(70, 1_000, |_| 1.0).pop(), Some(4));
        assert_eq!(applications.go_on(100, 1_000, suffering).pop(), Some(1));
        // At night.
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
        // What is tried with two walkers is not compared with what the slow server took with one.
        applications.load = WriteLoad::default();
        let levels = applications.go_on(10, 1_000, |level| level as f64);
        assert!(levels[2..].iter().all(|&level| level <= 2), "{levels:?}");
        assert_eq!(levels.last(), Some(&1), "{levels:?}");
    }
}
