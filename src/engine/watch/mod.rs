//! Tasks that watch both sides while a run goes on.

pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod write_latency;
