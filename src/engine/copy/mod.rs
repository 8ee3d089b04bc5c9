//! Source documents go to the sink, or are compared with it, one chunk at a time.

pub(crate) mod verify_chunk;
pub(crate) mod walker;
