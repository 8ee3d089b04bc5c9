//! Tells whether a run keeps up with its source, and how long its position will still be in the source's history. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Position;

/// For how long the lag has to grow until the run counts as falling behind.
const WINDOW: Duration = Duration::from_secs(30);

/// How often a sample is taken, so that few are kept.
const SAMPLE: Duration = Duration::from_secs(1);

/// The lag has to grow by at least so much: it is known in whole seconds only.
const GROWTH: Duration = Duration::from_secs(2);

/// How often it is said again while it lasts.
const AGAIN: Duration = Duration::from_secs(60);

/// The state of a run at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// How far the watermark is behind the source.
    pub lag: Duration,
    /// How far the source's history was read, and how many operations that were.
    pub read: Position,
    pub read_operations: u64,
    /// How many operations were dealt with: applied, or dropped since a copy has them.
    pub applied: u64,
}

/// What is said of a run that falls behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Behind {
    pub source_rate: f64,
    pub applied_rate: f64,
    pub lag: Duration,
}

/// The samples of the last [`WINDOW`].
#[derive(Debug)]
pub(crate) struct LagTrend {
    max_lag: Duration,
    samples: VecDeque<(Instant, Sample)>,
    /// The source's rate when it was last known: when nothing is read for a while, nothing is learned of it.
    source_rate: f64,
    said: Option<Instant>,
}

impl LagTrend {
    /// A lag up to `max_lag` is no reason for concern.
    pub fn new(max_lag: Duration) -> Self {
        Self {
            max_lag,
            samples: VecDeque::new(),
            source_rate: 0.0,
            said: None,
        }
    }

    /// Takes a sample in. Answers when the run falls behind, at most once a minute.
    pub fn note(&mut self, now: Instant, sample: Sample) -> Option<Behind> {
        if self.samples.back().is_some_and(|(at, _)| now - *at < SAMPLE) {
            return None;
        }
        self.samples.push_back((now, sample));
        // The first one that is kept is as old as the window, or a little older.
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.samples.pop_front();
        }
        let (since, first) = *self.samples.front()?;
        let wall = (now - since).as_secs_f64();
        let history = f64::from(sample.read.time.saturating_sub(first.read.time));
        let read = sample.read_operations.saturating_sub(first.read_operations) as f64;
        if history >= 1.0 {
            // By the source's own clock: it has written so many in so many of its seconds.
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

/// For how long the roll-off of the source's history is looked back at.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// The speed of the roll-off is never counted over less: servers cut the oplog in large pieces.
const LEAST: Duration = Duration::from_secs(60);

/// It is warned when less than this share of the history's span is left, and again only after the more was left.
const SHORT: f64 = 0.25;
const ENOUGH: f64 = 0.5;

/// How the source's history rolls off, as it was seen in the last [`LOOK_BACK`].
#[derive(Debug, Default)]
pub(crate) struct OplogWindow {
    samples: VecDeque<(Instant, Position)>,
    warned: bool,
}

/// What is known of it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OplogSpan {
    /// The time that the history spans.
    pub span: Duration,
    /// When the position will be gone at the present speed; `None` when nothing has rolled off meanwhile.
    pub left: Option<Duration>,
    /// Whether it is time to warn.
    pub warn: bool,
}

impl OplogWindow {
    /// Takes the oldest and the newest position of the history in, and the one that must not be lost.
    pub fn note(&mut self, now: Instant, oldest: Position, newest: Position, needed: Position) -> OplogSpan {
        if self.samples.back().is_some_and(|(_, before)| *before > oldest) {
            // Another history: the source was restored.
            self.samples.clear();
        }
        self.samples.push_back((now, oldest));
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= LOOK_BACK) {
            self.samples.pop_front();
        }
        // Nothing can be learned from the time in which the history was not full yet, or not written.
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

    /// Samples each half second for so many seconds: the source writes `source` operations each second, and so many are applied of them.
    fn behind(pace: &mut LagTrend, from: Instant, seconds: u32, source: f64, applied: f64) -> Vec<Behind> {
        let mut said = Vec::new();
        for step in 0..=seconds * 2 {
            let elapsed = f64::from(step) / 2.0;
            // What was applied so far the source had written by then.
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
        // After half a minute, and each minute since.
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
        // A lag that is large and does not grow: it is being caught up with.
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
        // An hour of history that rolls off as fast as time goes, and a run that stands still, catches up and stands still again.
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
        // A burst: in 20 seconds 1000 seconds of history have gone.
        let later = now + Duration::from_secs(20);
        let left = roll_off.note(later, at(2000), newest, needed).left.unwrap();
        assert_eq!(left.as_secs(), 420);
        // The source was restored.
        let later = now + Duration::from_secs(30);
        assert_eq!(roll_off.note(later, at(500), newest, needed).left, None);
    }
}
