//! Limits of a run: memory, rates and concurrency.

pub(crate) mod allocator;
pub(crate) mod allowance;
pub(crate) mod memory;
pub(crate) mod resources;
pub(crate) mod throttle;
pub(crate) mod walker_slots;
