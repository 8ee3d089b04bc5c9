//! Carries the source's changes to the sink: a reader, a router that decides, and appliers.

pub(crate) mod applier;
pub(crate) mod ddl;
pub(crate) mod reader;
pub(crate) mod router;
