//! Conversion of a task's outcome into the run's result.

use crate::error::{Error, ErrorKind, Result};

pub(crate) fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|error| {
        if error.is_panic() {
            Err(Error::new(
                ErrorKind::Panic,
                "run the migration",
                "a task panicked; the migration can resume from its checkpoint",
            )
            .with_source(error))
        } else {
            Err(Error::stopped("run the migration"))
        }
    })
}
