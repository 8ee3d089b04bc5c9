//! The data types that everything else uses: namespaces, collections, positions, ranges, batches and changes. Pure.

pub(crate) mod amount;
pub(crate) mod batch;
pub(crate) mod by_name;
pub(crate) mod change;
pub(crate) mod collection;
pub(crate) mod deployment;
pub(crate) mod inspection;
pub(crate) mod left_selection;
pub(crate) mod mapping;
pub(crate) mod namespace;
pub(crate) mod position;
pub(crate) mod range;
pub(crate) mod raw;
pub(crate) mod selection;
pub(crate) mod side;
pub(crate) mod wait;
