//! Estimates how long a cutover takes.

use std::time::Duration;

/// What a cutover takes however small the migration is: some commands on both sides, one after the other, and a checkpoint.
const LEAST: Duration = Duration::from_millis(300);

/// What each collection adds. Both sides are listed, which takes two commands for each collection on either side.
const PER_COLLECTION: Duration = Duration::from_micros(400);

/// Bytes per second at which documents are compared, if no documents were copied by this process. It is less than most servers read.
const BYTES_PER_SECOND: f64 = 50e6;

/// What a cutover has to examine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CutoverWork {
    /// Number of collections.
    pub collections: u64,
    /// Bytes of all collections that it may compare.
    pub bytes: u64,
    /// Bytes of those that are not compared yet, or not during the run.
    pub open_bytes: u64,
}

/// The documents that a cutover compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ComparedAtCutover {
    Everything,
    /// What was not compared during the run, and at most this many bytes of the rest.
    Open(u64),
}

impl Default for ComparedAtCutover {
    fn default() -> Self {
        Self::Open(0)
    }
}

impl CutoverWork {
    /// Returns an estimate of the time from the last write to the end of the cutover.
    ///
    /// `lag` is the time that the target is behind: a run that keeps up needs less than that to apply the rest. `bytes_per_second` is the
    /// measured speed of the copy. Digests on both sides at once are faster.
    pub fn estimate(&self, compared: ComparedAtCutover, lag: Duration, bytes_per_second: Option<f64>) -> Duration {
        let bytes = match compared {
            ComparedAtCutover::Everything => self.bytes,
            ComparedAtCutover::Open(more) => self.open_bytes.saturating_add(more).min(self.bytes),
        };
        let listing = PER_COLLECTION.as_secs_f64() * self.collections as f64;
        let comparing = bytes as f64 / bytes_per_second.unwrap_or(BYTES_PER_SECOND);
        let seconds = Duration::try_from_secs_f64(listing + comparing).unwrap_or(Duration::MAX);
        LEAST.saturating_add(lag).saturating_add(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::ComparedAtCutover::{Everything, Open};
    use super::*;

    #[test]
    fn each_part_adds_its_own() {
        let work = |collections, bytes, open_bytes| CutoverWork {
            collections,
            bytes,
            open_bytes,
        };
        let mb = 1_000_000;
        for (work, compared, lag, rate, milliseconds) in [
            (work(0, 0, 0), Everything, 0, None, 300),
            (work(0, 0, 0), Everything, 2, None, 2_300),
            (work(10_000, 0, 0), Open(0), 0, None, 4_300),
            (work(0, 100 * mb, 0), Everything, 0, None, 2_300),
            (work(0, 100 * mb, 0), Everything, 0, Some(1e6), 100_300),
            (work(0, 100 * mb, 0), Open(0), 0, None, 300),
            (work(0, 100 * mb, 50 * mb), Open(0), 0, None, 1_300),
            (work(0, 100 * mb, 50 * mb), Open(10 * mb), 0, None, 1_500),
            (work(0, 100 * mb, 50 * mb), Open(90 * mb), 0, None, 2_300),
        ] {
            let estimate = work.estimate(compared, Duration::from_secs(lag), rate);
            assert_eq!(estimate, Duration::from_millis(milliseconds), "{work:?} {compared:?}");
        }
        let longest = work(u64::MAX, u64::MAX, 0).estimate(Everything, Duration::MAX, Some(f64::MIN_POSITIVE));
        assert_eq!(longest, Duration::MAX);
    }
}
