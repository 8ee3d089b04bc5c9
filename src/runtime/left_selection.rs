//! Collections that have left the selection, as far as this migration knows.

use std::sync::{Mutex, PoisonError};

use crate::model::{LeftSelection, Namespace, Position};
use crate::report::{Event, Events};

/// Those of a migration, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct AllLeft(Mutex<Vec<LeftSelection>>);

impl AllLeft {
    /// Goes on with what a checkpoint has kept, unless more is known already.
    pub fn go_on(&self, kept: &[LeftSelection]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            all.extend_from_slice(kept);
        }
    }

    /// Notes one, and tells the host. A run that goes on from its checkpoint meets the same rename again.
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

    /// A collection is selected again, which had this name meanwhile.
    pub fn came_back(&self, from: &Namespace) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|left| left.to != *from);
    }

    pub fn all(&self) -> Vec<LeftSelection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// So many are named.
pub(crate) const MOST: usize = 1000;
