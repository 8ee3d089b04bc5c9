//! The cutover window as a checkpoint keeps it.

use std::time::{Duration, SystemTime};

use bson::DateTime;
use serde::{Deserialize, Serialize};

/// The cutover window as a checkpoint keeps it. It continues across restarts of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CutoverWindow {
    /// When the migration was ready for the first time, by the host's clock.
    pub first_ready: Option<DateTime>,
    /// Number of milliseconds by which the window was extended.
    pub extended_millis: u64,
}

impl CutoverWindow {
    /// Returns when a window of this length ends. Returns `None` if it has not begun, or if it never ends.
    pub(crate) fn deadline(&self, length: Duration) -> Option<SystemTime> {
        let first = self.first_ready?.to_system_time();
        first
            .checked_add(length)?
            .checked_add(Duration::from_millis(self.extended_millis))
    }
}
