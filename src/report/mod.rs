//! What a host is told about a run: events, status, summary, certificate.

pub(crate) mod summary;
pub(crate) mod status;
pub(crate) mod certificate;
pub(crate) mod event;
pub(crate) mod lag_history;
pub(crate) mod late_writes;
pub(crate) mod phase;
