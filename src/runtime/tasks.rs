//! The ends of a run's tasks.

use crate::error::{Error, ErrorKind, Result};

pub(crate) fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|error| {
        if error.is_panic() {
            Err(Error::new(
                ErrorKind::Panic,
                "run the migration",
                "a task panicked; the checkpoint is good to go on from",
            )
            .with_source(error))
        } else {
            Err(Error::stopped("run the migration"))
        }
    })
}
