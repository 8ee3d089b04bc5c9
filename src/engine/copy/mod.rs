//! Walkers: copy documents to the sink or compare both sides, chunk by chunk.

pub(crate) mod verify_chunk;
pub(crate) mod walker;
