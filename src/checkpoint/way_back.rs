//! How a finished hand-over can be taken back: the first checkpoint of the migration that does it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::model::Position;

/// How a finished hand-over can be taken back: the first checkpoint of the migration that does it.
///
/// It is in the [`Summary`](crate::Summary) and in the checkpoint of the finished migration, so that it is there after a restart of the process.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WayBack {
    pub(crate) first: Box<Checkpoint>,
}

impl WayBack {
    /// The moment of the hand-over, in the history of the target.
    pub fn position(&self) -> Position {
        self.first.watermark
    }
}

/// The size of a large catalogue is nothing to print.
impl fmt::Debug for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayBack")
            .field("position", &self.first.watermark)
            .field("collections", &self.first.collections.len())
            .finish_non_exhaustive()
    }
}
