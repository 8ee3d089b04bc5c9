//! Cutover: the source stands still, the target catches up, both sides are compared.

pub(crate) mod compare;
pub(crate) mod hand_over;
pub(crate) mod open_transactions;
mod summary;
pub(crate) mod verified;
pub(crate) mod way_back;
