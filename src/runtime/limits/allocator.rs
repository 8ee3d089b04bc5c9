//! Tuning of the process's allocator for the copy.

/// Size of the largest block that glibc takes into account.
const LARGE: usize = (32 << 20) - (64 << 10);

/// Makes the allocator keep the memory of freed batches for the next ones.
///
/// Each batch of a copy needs a handful of buffers of some MB, in the driver as well as here, that live for milliseconds. By default glibc
/// returns such memory to the system as soon as it is freed. Getting it back, page by page and zeroed, takes a fifth of a copy's CPU time.
/// After glibc has seen one large block freed, it expects large blocks to come and go, and keeps up to twice as much. The block is never
/// touched, so it costs nothing. With other allocators this has no effect and no cost.
pub(crate) fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}
