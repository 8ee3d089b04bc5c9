//! Tasks that watch both sides during a run.

pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod write_latency;
