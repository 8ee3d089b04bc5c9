//! The source's changes go to the sink: a reader, the router that decides, and the appliers.

pub(crate) mod ddl;
