//! The data types that everything else uses: namespaces, collections, positions, ranges, batches and changes. Pure.

pub(crate) mod document;
pub(crate) mod inspection;
pub(crate) mod left_selection;
pub(crate) mod namespace;
pub(crate) mod raw;
