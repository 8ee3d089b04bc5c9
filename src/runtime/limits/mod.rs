//! Limits of a run: memory, rates, tasks at a time.

pub(crate) mod allocator;
pub(crate) mod memory;
pub(crate) mod throttle;
pub(crate) mod walker_slots;
