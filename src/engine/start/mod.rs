//! Start of a run: from the checkpoint, or from a listing of the source.

pub(crate) mod begin;
pub(crate) mod listing;
pub(crate) mod prepare_target;
pub(crate) mod resync;
mod rules;
pub(crate) mod way_back;
