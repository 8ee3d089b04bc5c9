//! State and services that the tasks of a run share.

pub(crate) mod application;
pub(crate) mod collections;
pub(crate) mod completion;
pub(crate) mod cutover_estimate;
pub(crate) mod expiry;
pub(crate) mod fence;
pub(crate) mod flush;
pub(crate) mod hooks;
pub(crate) mod index_builds;
pub(crate) mod job;
pub(crate) mod lag;
pub(crate) mod lease;
pub(crate) mod left_selection;
pub(crate) mod limits;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod progress;
pub(crate) mod register;
pub(crate) mod seen;
pub(crate) mod spans;
pub(crate) mod tasks;
pub(crate) mod waiting;
pub(crate) mod whole_copies;
pub(crate) mod window;
pub(crate) mod write_block;
