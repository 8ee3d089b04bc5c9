//! Collections that were renamed out of the selection, as far as this migration knows.

use std::sync::{Mutex, PoisonError};

use crate::model::{LeftSelection, Namespace, Position};
use crate::report::{Event, Events};

/// All known collections of a migration that have left the selection.
#[derive(Debug, Default)]
pub(crate) struct AllLeft(Mutex<Vec<LeftSelection>>);

impl AllLeft {
    /// Restores the list from a checkpoint, unless entries exist already.
    pub fn go_on(&self, kept: &[LeftSelection]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            all.extend_from_slice(kept);
        }
    }

    /// Records a collection and emits an event. A run that resumes from its checkpoint meets the same rename again.
    pub fn note(&self, events: &Events, from: &Namespace, to: &Namespace, position: Position) {
        let left = LeftSelection {
            from: from.clone(),
            to: to.clone(),
            position,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&left) && all.len() < MOST {
            all.push(left);
        }
        drop(all);
        events.send(Event::LeftSelection {
            from: from.clone(),
            to: to.clone(),
            position,
        });
    }

    /// Removes the entry of a collection that is renamed back into the selection. `from` is its name before that rename.
    pub fn came_back(&self, from: &Namespace) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|left| left.to != *from);
    }

    pub fn all(&self) -> Vec<LeftSelection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Maximum number of collections recorded.
pub(crate) const MOST: usize = 1000;
