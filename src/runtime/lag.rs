//! Lag trend of a run, and the time until its position leaves the source's oplog.
//!
//! Everything here is pure: it performs no I/O and takes the time as an argument.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Position;

/// Period over which the lag has to grow before the run counts as falling behind.
const WINDOW: Duration = Duration::from_secs(30);

/// Minimum interval between two samples, which bounds their number.
const SAMPLE: Duration = Duration::from_secs(1);

/// Minimum growth of the lag. The lag is known in whole seconds only.
const GROWTH: Duration = Duration::from_secs(2);

/// Interval at which the report is repeated while the run keeps falling behind.
const AGAIN: Duration = Duration::from_secs(60);

/// State of a run at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Distance of the watermark from the source's newest position.
    pub lag: Duration,
    /// Position up to which the source's oplog was read, and the number of operations read.
    pub read: Position,
    pub read_operations: u64,
    /// Number of operations that are settled: applied, or dropped because a copy already contains them.
    pub applied: u64,
}

/// Report of a run that falls behind. Rates are in operations per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Behind {
    pub source_rate: f64,
    pub applied_rate: f64,
    pub lag: Duration,
}

/// Samples of the last [`WINDOW`].
#[derive(Debug)]
pub(crate) struct LagTrend {
    max_lag: Duration,
    samples: VecDeque<(Instant, Sample)>,
    /// Last known rate of the source. While nothing is read, the rate cannot be measured.
    source_rate: f64,
    said: Option<Instant>,
}

impl LagTrend {
    /// Creates an empty trend. A lag up to `max_lag` is never reported.
    pub fn new(max_lag: Duration) -> Self {
        Self {
            max_lag,
            samples: VecDeque::new(),
            source_rate: 0.0,
            said: None,
        }
    }

    /// Adds a sample. Returns a report if the run falls behind, at most once a minute.
    pub fn note(&mut self, now: Instant, sample: Sample) -> Option<Behind> {
        if self.samples.back().is_some_and(|(at, _)| now - *at < SAMPLE) {
            return None;
        }
        self.samples.push_back((now, sample));
        // The first sample kept is as old as the window, or a little older.
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.samples.pop_front();
        }
        let (since, first) = *self.samples.front()?;
        let wall = (now - since).as_secs_f64();
        let history = f64::from(sample.read.time.saturating_sub(first.read.time));
        let read = sample.read_operations.saturating_sub(first.read_operations) as f64;
        if history >= 1.0 {
            // Measured by the source's own clock: operations read, divided by the seconds of history that they cover.
            self.source_rate = read / history;
        }
        if now - since < WINDOW || sample.lag <= self.max_lag || sample.lag < first.lag + GROWTH {
            return None;
        }
        if self.said.is_some_and(|said| now - said < AGAIN) {
            return None;
        }
        self.said = Some(now);
        Some(Behind {
            source_rate: self.source_rate.max(read / wall),
            applied_rate: sample.applied.saturating_sub(first.applied) as f64 / wall,
            lag: sample.lag,
        })
    }
}

/// Period over which the roll-off of the source's history is measured.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// Minimum period for the speed of the roll-off. Servers truncate the oplog in large pieces.
const LEAST: Duration = Duration::from_secs(60);

/// A warning is due when less than the share `SHORT` of the history's span is left. The next one is due only after more than `ENOUGH` was
/// left.
const SHORT: f64 = 0.25;
const ENOUGH: f64 = 0.5;

/// Roll-off of the source's history during the last [`LOOK_BACK`].
#[derive(Debug, Default)]
pub(crate) struct OplogWindow {
    samples: VecDeque<(Instant, Position)>,
    warned: bool,
}

/// Time span of the source's history at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OplogSpan {
    /// Time between the oldest and the newest entry of the history.
    pub span: Duration,
    /// Time until the position rolls off at the present speed. `None` if nothing has rolled off yet.
    pub left: Option<Duration>,
    /// Whether a warning is due.
    pub warn: bool,
}

impl OplogWindow {
    /// Records the oldest and the newest position of the history, and the position that must not be lost.
    pub fn note(&mut self, now: Instant, oldest: Position, newest: Position, needed: Position) -> OplogSpan {
        if self.samples.back().is_some_and(|(_, before)| *before > oldest) {
            // The history is a different one: the source was restored.
            self.samples.clear();
        }
        self.samples.push_back((now, oldest));
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= LOOK_BACK) {
            self.samples.pop_front();
        }
        // Skip the time in which nothing rolled off: the history was not full yet, or nothing was written.
        while self.samples.len() > 2
            && self.samples.get(1).map(|(_, next)| next) == self.samples.front().map(|(_, first)| first)
        {
            self.samples.pop_front();
        }
        let seconds = |to: Position, from: Position| f64::from(to.time.saturating_sub(from.time));
        let (span, ahead) = (seconds(newest, oldest), seconds(needed, oldest));
        let left = self.samples.front().and_then(|(since, first)| {
            let rolled = seconds(oldest, *first) / (now - *since).max(LEAST).as_secs_f64();
            (rolled > 0.0).then(|| Duration::try_from_secs_f64(ahead / rolled).ok())?
        });
        let short = ahead < span * SHORT;
        let warn = short && !self.warned;
        self.warned = short || (self.warned && ahead < span * ENOUGH);
        OplogSpan {
            span: Duration::from_secs_f64(span),
            left,
            warn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::at;

    /// Takes a sample each half second for `seconds`. The source writes `source` operations a second, of which `applied` are applied.
    fn behind(pace: &mut LagTrend, from: Instant, seconds: u32, source: f64, applied: f64) -> Vec<Behind> {
        let mut said = Vec::new();
        for step in 0..=seconds * 2 {
            let elapsed = f64::from(step) / 2.0;
            // Second of the source's history at which everything applied so far had been written.
            let reached = elapsed * applied / source;
            let sample = Sample {
                lag: Duration::from_secs((elapsed - reached).max(0.0) as u64),
                read: at(1000 + reached as u32),
                read_operations: (elapsed * applied) as u64,
                applied: (elapsed * applied) as u64,
            };
            said.extend(pace.note(from + Duration::from_secs_f64(elapsed), sample));
            assert!(pace.samples.len() <= 32, "{}", pace.samples.len());
        }
        said
    }

    #[test]
    fn a_run_that_falls_behind_says_so_with_both_rates() {
        let mut pace = LagTrend::new(Duration::from_secs(2));
        let said = behind(&mut pace, Instant::now(), 200, 1000.0, 250.0);
        // After half a minute, and once a minute after that.
        assert_eq!(said.len(), 3, "{said:?}");
        for behind in said {
            assert!((900.0..1200.0).contains(&behind.source_rate), "{behind:?}");
            assert!((240.0..260.0).contains(&behind.applied_rate), "{behind:?}");
            assert!(behind.lag >= Duration::from_secs(20), "{behind:?}");
        }
    }

    #[test]
    fn a_run_that_keeps_up_says_nothing() {
        let mut pace = LagTrend::new(Duration::from_secs(2));
        assert_eq!(behind(&mut pace, Instant::now(), 300, 1000.0, 1000.0), []);
        // A large lag that does not grow: the run is catching up.
        let (mut pace, now) = (LagTrend::new(Duration::from_secs(2)), Instant::now());
        for second in 0..300 {
            let sample = Sample {
                lag: Duration::from_secs(600 - second),
                read: at(5000),
                read_operations: 0,
                applied: 0,
            };
            assert_eq!(pace.note(now + Duration::from_secs(second), sample), None);
        }
    }

    #[test]
    fn a_run_that_stands_still_says_the_rate_that_was_known() {
        let mut pace = LagTrend::new(Duration::from_secs(2));
        let now = Instant::now();
        assert_eq!(behind(&mut pace, now, 60, 500.0, 500.0), []);
        let stopped = |second: u64| Sample {
            lag: Duration::from_secs(second),
            read: at(1060),
            read_operations: 30_000,
            applied: 30_000,
        };
        let said: Vec<_> = (1..60)
            .filter_map(|second| pace.note(now + Duration::from_secs(60 + second), stopped(second)))
            .collect();
        assert_eq!(said.len(), 1);
        assert!((450.0..550.0).contains(&said[0].source_rate), "{said:?}");
    }

    #[test]
    fn it_is_warned_once_while_there_is_time() {
        let mut roll_off = OplogWindow::default();
        let now = Instant::now();
        let mut warned = Vec::new();
        // An hour of history that rolls off in real time, and a run that stands still, catches up and stands still again.
        for step in 0..1000u32 {
            let time = 10_000 + step * 10;
            let needed = match step {
                0..400 => 10_000,
                400..500 => time - 10,
                _ => 10_000 + 5000,
            };
            let (oldest, newest) = (at(time - 3600), at(time));
            let window = roll_off.note(
                now + Duration::from_secs(u64::from(step) * 10),
                oldest,
                newest,
                at(needed.max(time - 3600)),
            );
            assert_eq!(window.span, Duration::from_secs(3600));
            assert!(roll_off.samples.len() <= 62);
            if step >= 6 {
                let left = window.left.unwrap().as_secs_f64();
                let expected = f64::from(needed.max(time - 3600) - (time - 3600));
                assert!((left - expected).abs() < 1.0, "{left} {expected}");
            }
            if window.warn {
                warned.push((step, window.left.unwrap().as_secs()));
            }
        }
        assert_eq!(warned, [(271, 890), (771, 890)], "with a quarter of the hour left");
    }

    #[test]
    fn the_time_left_goes_by_the_speed_of_the_roll_off() {
        let mut roll_off = OplogWindow::default();
        let now = Instant::now();
        let (newest, needed) = (at(10_000), at(9000));
        assert_eq!(roll_off.note(now, at(1000), newest, needed).left, None);
        let later = now + Duration::from_secs(10);
        assert_eq!(
            roll_off.note(later, at(1000), newest, needed).left,
            None,
            "nothing rolls off"
        );
        // A burst: 1000 seconds of history roll off within 20 seconds.
        let later = now + Duration::from_secs(20);
        let left = roll_off.note(later, at(2000), newest, needed).left.unwrap();
        assert_eq!(left.as_secs(), 420);
        // The source was restored.
        let later = now + Duration::from_secs(30);
        assert_eq!(roll_off.note(later, at(500), newest, needed).left, None);
    }
}
