//! Samples of a whole run, few enough for a chart.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::console::lock;
use crate::model::format;
use crate::report::{Phase, Status};

/// Maximum number of samples. When there are more, every second one is dropped, and further ones are taken half as often.
const SAMPLES: usize = 600;

/// Interval between the first samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much too early a timer may be.
const EARLY: Duration = Duration::from_millis(100);

/// State of a run at one moment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Sample {
    /// When it was taken.
    #[serde(serialize_with = "format::time")]
    #[schema(value_type = String, format = DateTime)]
    pub at: SystemTime,
    /// How far the target was behind the source.
    pub lag_ms: Option<u64>,
    /// Changes applied per second.
    pub applied_per_second: Option<f64>,
    /// Bytes copied since the migration began.
    pub copied_bytes: u64,
    #[schema(schema_with = super::http::openapi::phase)]
    pub phase: Phase,
}

/// The samples so far.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Samples>);

#[derive(Debug)]
struct Samples {
    samples: Vec<Sample>,
    interval: Duration,
    last: Option<Instant>,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            interval: INTERVAL,
            last: None,
        }
    }
}

impl History {
    /// Takes a sample unless the last one is too recent.
    pub fn note(&self, status: &Status) {
        let now = Instant::now();
        let mut samples = lock(&self.0);
        let least = samples.interval.saturating_sub(EARLY);
        if samples.last.is_some_and(|last| now - last < least) {
            return;
        }
        samples.last = Some(now);
        samples.samples.push(Sample {
            at: SystemTime::now(),
            lag_ms: status.lag.map(crate::console::view::milliseconds),
            applied_per_second: status.applied_per_second.filter(|rate| rate.is_finite()),
            copied_bytes: status.copied.bytes,
            phase: status.phase,
        });
        if samples.samples.len() > SAMPLES {
            let mut index = 0;
            samples.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            samples.interval *= 2;
        }
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        lock(&self.0).samples.clone()
    }

    /// Forgets an earlier run.
    pub fn begin_run(&self) {
        *lock(&self.0) = Samples::default();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn samples_span_the_whole_run_and_are_few() {
        let history = History::default();
        let mut status = Status::default();
        for second in 0..10_000 {
            status.copied.bytes = second;
            history.note(&status);
            advance(INTERVAL).await;
        }
        let samples = history.samples();
        assert!((SAMPLES / 2..=SAMPLES).contains(&samples.len()), "{}", samples.len());
        assert_eq!(samples[0].copied_bytes, 0);
        let last = samples.last().unwrap().copied_bytes;
        assert!(last > 9_900, "{last}");
        let steps: Vec<u64> = samples
            .windows(2)
            .map(|pair| pair[1].copied_bytes - pair[0].copied_bytes)
            .collect();
        assert!(steps.iter().all(|step| *step == 32), "{steps:?}");
    }
}
