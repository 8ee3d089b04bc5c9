//! History of the lag, and the rate of applied changes.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use crate::model::format;

/// Minimum time between two samples. It keeps their number small.
const SAMPLE: Duration = Duration::from_secs(5);

/// How long samples are kept.
const KEPT: Duration = Duration::from_secs(600);

/// Period over which the rate is averaged.
const RATE: Duration = Duration::from_secs(30);

/// The lag at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LagSample {
    /// When the sample was taken, by the clock of this process.
    #[serde(serialize_with = "format::time")]
    pub at: SystemTime,
    /// How far the target was behind the source.
    #[serde(rename = "lag_ms", serialize_with = "format::milliseconds")]
    pub lag: Duration,
}

/// Number of indexes, without those on `_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexCounts {
    /// Indexes built on the target.
    pub built: u64,
    /// Indexes that are being built on the target.
    pub building: u64,
    /// Indexes that could not be built on the target. They make the comparison at cutover fail.
    pub failed: u64,
    /// Indexes on the source, in migrated collections.
    pub total: u64,
}

/// The samples of the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    taken: Instant,
    lag: LagSample,
    /// Number of changes applied since this process began.
    applied: u64,
}

impl Recent {
    /// Takes a sample, unless the last one is too recent.
    pub fn note(&self, lag: Duration, applied: u64) {
        let taken = Instant::now();
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.back().is_some_and(|last| taken - last.taken < SAMPLE) {
            return;
        }
        let at = SystemTime::now();
        let lag = LagSample { at, lag };
        samples.push_back(Sample { taken, lag, applied });
        while samples.front().is_some_and(|first| taken - first.taken > KEPT) {
            samples.pop_front();
        }
    }

    /// Returns the lag samples, oldest first.
    pub fn lags(&self) -> Vec<LagSample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().map(|sample| sample.lag).collect()
    }

    /// Returns the number of changes applied per second. `applied` is their current total. `None` if no sample is recent enough, or if less
    /// than a second has passed since the first one.
    pub fn rate(&self, applied: u64) -> Option<f64> {
        let now = Instant::now();
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = samples.iter().find(|sample| now - sample.taken <= RATE)?;
        let seconds = (now - first.taken).as_secs_f64();
        (seconds >= 1.0).then(|| applied.saturating_sub(first.applied) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn samples_are_few_and_of_the_last_ten_minutes() {
        let recent = Recent::default();
        assert_eq!((recent.lags(), recent.rate(7)), (Vec::new(), None));
        for half_second in 0..4000u64 {
            recent.note(Duration::from_secs(half_second / 2), half_second * 50);
            advance(Duration::from_millis(500)).await;
        }
        let lags: Vec<u64> = recent.lags().iter().map(|sample| sample.lag.as_secs()).collect();
        // The last sample was taken at 1995 s.
        let expected: Vec<u64> = (1395..=1995).step_by(5).collect();
        assert_eq!(lags, expected);
        let rate = recent.rate(4000 * 50).unwrap();
        assert!((99.0..101.0).contains(&rate), "{rate}");
        // A stopped run takes no samples and applies nothing.
        advance(RATE * 2).await;
        assert_eq!(recent.rate(4000 * 50), None);
    }
}
