//! The way back: how a finished hand-over can be reversed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::model::Position;

/// The way back of a finished hand-over. It is the first checkpoint of the migration that reverses the hand-over.
///
/// The [`Summary`](crate::Summary) and the checkpoint of the finished migration both contain it, so it is still available after the process
/// restarts.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WayBack {
    pub(crate) first: Box<Checkpoint>,
}

impl WayBack {
    /// Returns the position of the hand-over in the history of the target.
    pub fn position(&self) -> Position {
        self.first.watermark
    }
}

/// Omits the catalog, which may be too large to print.
impl fmt::Debug for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayBack")
            .field("position", &self.first.watermark)
            .field("collections", &self.first.collections.len())
            .finish_non_exhaustive()
    }
}
