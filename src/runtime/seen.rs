//! What was seen of both sides when a run of this process first looked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::model::Side;

/// Last known state of both sides. It outlives a run, so that a change is not missed if the same change makes the run resume from its
/// checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    sides: Mutex<BTreeMap<Side, Known>>,
}

impl Seen {
    pub fn replace(&self, side: Side, now: Known) -> Option<Known> {
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        sides.insert(side, now)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    pub feature_compatibility: [u32; 2],
    pub members: Vec<String>,
}
