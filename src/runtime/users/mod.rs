//! State of carrying users and roles.

mod record;

use std::sync::PoisonError;

use tokio::sync::{Mutex, watch};

use crate::report::UsersStatus;

pub(crate) use self::record::Record;

/// Shared by the task that carries users, the reader of the oplog, the cutover and the handle.
#[derive(Debug, Default)]
pub(crate) struct UsersState {
    /// Held while users and roles are read, changed and compared, so that a cutover does not do the same at the same time.
    pub turn: Mutex<()>,
    /// Counts the entries of the source's oplog that say that users or roles have changed.
    changes: watch::Sender<u64>,
    /// `None` if users are not carried, or were not compared yet.
    status: std::sync::Mutex<Option<UsersStatus>>,
}

impl UsersState {
    /// Notes that users or roles of the source have changed.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Number of changes that were noted.
    pub fn count(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Receives each change that is noted from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn set(&self, status: UsersStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// Notes that users could not be carried. Returns `true` unless the problem is known.
    pub fn set_problem(&self, problem: &str) -> bool {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let status = status.get_or_insert_default();
        let is_new = status.problem.as_deref() != Some(problem);
        status.problem = Some(problem.to_owned());
        is_new
    }

    pub fn status(&self) -> Option<UsersStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
