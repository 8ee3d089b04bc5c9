//! Specifications of servers from 2.6 to 4.0.
//!
//! These servers stored options and fields that they did not know. A later version gives some of them a meaning: a 2.6 server ignores the
//! `partialFilterExpression` of an index, and a target would leave documents out. So what has no meaning on the source is removed here. What
//! every version ignores is left to the comparison, which reports it.

mod indexes;
mod options;
#[cfg(test)]
mod tests;

use bson::raw::RawDocumentBuf;
use bson::rawdoc;

use super::Series;

pub(crate) use self::indexes::{index_as_created, index_as_listed};
pub(crate) use self::options::{modification, options};

/// First series that logs the creation of every collection.
pub(crate) const LOGS_CREATIONS: Series = [3, 0];

/// The index on `_id` in format 1, which all servers before 3.4 create.
pub(crate) fn id_index() -> RawDocumentBuf {
    rawdoc! { "v": 1, "key": { "_id": 1 }, "name": "_id_" }
}
