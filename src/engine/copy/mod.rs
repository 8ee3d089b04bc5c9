//! Walkers: copy documents to the sink or compare both sides, chunk by chunk.

mod copy_chunk;
pub(crate) mod verify_chunk;
pub(crate) mod walker;
