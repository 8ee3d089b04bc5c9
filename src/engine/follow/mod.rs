//! The source's changes go to the sink: a reader, the router that decides, and the appliers.

pub(crate) mod applier;
pub(crate) mod ddl;
pub(crate) mod reader;
pub(crate) mod router;
