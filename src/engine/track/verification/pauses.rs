//! Pauses of a verification whose comparisons fail, or that too much has changed for.

use std::time::Duration;

use tokio::time::Instant;

/// Pause before a collection is compared again, if too much of it has changed or its comparison keeps failing.
pub(super) const REST: Duration = Duration::from_secs(600);

/// Pause before an abandoned comparison is tried again. It doubles with each consecutive failure, up to [`LONGEST_PAUSE`].
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Number of consecutive failures after which the verification is reported as failing.
pub(super) const PATIENCE: u32 = 20;

/// Until when nothing is compared, and why.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
    /// Why the last comparison failed.
    failure: Option<String>,
    not_before: Option<Instant>,
}

impl Pauses {
    /// A long pause, without a failure.
    pub fn resting(now: Instant) -> Self {
        Self {
            not_before: Some(now + REST),
            ..Self::default()
        }
    }

    /// Time before which nothing is compared.
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Why comparisons fail, if they do so repeatedly.
    pub fn failing(&self) -> Option<&String> {
        self.failure.as_ref().filter(|_| self.failures >= PATIENCE)
    }

    /// Ends the pause after a comparison that succeeded.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Begins the next pause after a comparison that was abandoned. It failed if there is a reason.
    pub fn begin(&mut self, reason: Option<String>, now: Instant) {
        if reason.is_some() {
            self.failures += 1;
            self.failure = reason;
        }
        let pause = if self.failures >= PATIENCE {
            // Otherwise a source that gives no snapshots would be asked for one again and again, for each of its collections.
            REST
        } else {
            PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE)
        };
        self.not_before = self.not_before.max(Some(now + pause));
    }
}
