//! What a checkpoint keeps of the cutover window.

use std::time::{Duration, SystemTime};

use bson::DateTime;
use serde::{Deserialize, Serialize};

/// What a checkpoint keeps of the cutover window, so that it goes on through restarts of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CutoverWindow {
    /// When the migration was ready for the first time, by the clock of the host.
    pub first_ready: Option<DateTime>,
    /// By how many milliseconds the window was extended.
    pub extended_millis: u64,
}

impl CutoverWindow {
    /// When a window of this length ends; `None` before it has begun, and for one that never ends.
    pub(crate) fn deadline(&self, length: Duration) -> Option<SystemTime> {
        let first = self.first_ready?.to_system_time();
        first
            .checked_add(length)?
            .checked_add(Duration::from_millis(self.extended_millis))
    }
}
