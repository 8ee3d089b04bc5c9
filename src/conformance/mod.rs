//! A conformance suite for every implementation of [`Source`](crate::Source), [`Sink`] and [`CheckpointStore`], and for filters and
//! transforms.
//!
//! Each sentence of their contracts that can be observed from outside is a check with a name.
//!
//! Run it in a test of your own implementation:
//!
//! ```
//! # async fn example() -> Result<(), mongoferry::conformance::ConformanceFailure> {
//! let sink = mongoferry::sink::MemorySink::new();
//! mongoferry::conformance::check_sink(&sink).await
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap();
//! ```

mod data;
mod fixture;
mod rules;
mod sink_catalog;
mod sink_data;
mod sink_records;
mod source_catalog;
mod source_read;
mod source_tail;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::checkpoint::CheckpointStore;
use crate::error::Error;
use crate::sink::Sink;

pub use self::fixture::{FixtureWrite, SourceFixture};
pub use self::rules::{check_predicate, check_transform};

/// Timeout for one check. Far more than a healthy machine needs.
const PATIENCE: Duration = Duration::from_secs(90);

/// The database that the checks write to. It must not exist.
const DATABASE: &str = "conformance";

/// Runs every check of a source and stops at the first that fails.
///
/// The checks write to the database `conformance`. It must not exist, and is left behind. Other programs may write elsewhere meanwhile.
///
/// # Errors
/// The first check that fails.
pub async fn check_source(fixture: &dyn SourceFixture) -> Result<(), ConformanceFailure> {
    source_catalog::run(fixture).await?;
    source_tail::run(fixture).await?;
    source_read::run(fixture).await
}

/// Runs every check of a sink and stops at the first that fails.
///
/// The checks write to the database `conformance` and to records whose names begin with `conformance`. Neither may exist, and both are left
/// behind.
///
/// # Errors
/// The first check that fails.
pub async fn check_sink(sink: &dyn Sink) -> Result<(), ConformanceFailure> {
    sink_catalog::run(sink).await?;
    sink_data::run(sink).await?;
    sink_records::run(sink).await
}

/// Runs every check of a checkpoint store and stops at the first that fails. The store is empty afterwards.
///
/// # Errors
/// The first check that fails.
pub async fn check_checkpoint_store(store: &dyn CheckpointStore) -> Result<(), ConformanceFailure> {
    store::run(store).await
}

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConformanceFailure {
    /// The check's name.
    pub check: &'static str,
    /// What was found, and what the contract requires.
    pub message: String,
}

impl fmt::Display for ConformanceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the check `{}` failed: {}", self.check, self.message)
    }
}

impl std::error::Error for ConformanceFailure {}

/// Result of a check: nothing, or what was found to be wrong.
type Outcome<T = ()> = Result<T, Found>;

/// What a check found to be wrong.
#[derive(Debug)]
struct Found(String);

impl From<Error> for Found {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {error:#}"))
    }
}

impl From<bson::error::Error> for Found {
    fn from(error: bson::error::Error) -> Self {
        Self(format!("unexpected BSON: {error}"))
    }
}

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Found(format!($($message)+)));
        }
    };
}
use ensure;

/// Runs one check and fails it after `PATIENCE`.
async fn check(name: &'static str, body: impl Future<Output = Outcome>) -> Result<(), ConformanceFailure> {
    let failed = |message| ConformanceFailure { check: name, message };
    match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Found(message))) => Err(failed(message)),
        Err(_) => Err(failed(format!("it timed out after {PATIENCE:?}"))),
    }
}
