//! Everything that talks to a MongoDB server.

pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod digest;
pub(crate) mod error_codes;
pub(crate) mod foreign_writes;
pub(crate) mod identify;
pub(crate) mod inspect;
#[cfg(feature = "legacy")]
pub(crate) mod legacy;
pub(crate) mod listing;
pub(crate) mod oplog;
pub(crate) mod range_query;
pub(crate) mod retry;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod transactions;
