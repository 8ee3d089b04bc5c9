//! What the copy asks of the process's allocator.

/// As large as glibc takes into account.
const LARGE: usize = (32 << 20) - (64 << 10);

/// Has the allocator keep the memory of batches that are freed, for those that follow.
///
/// Each batch of a copy becomes a handful of buffers of some MB, in the driver as well as here, that live for milliseconds. By default
/// glibc gives such memory back to the system as soon as it is freed, and a fifth of a copy's CPU time goes into getting it again, cleared,
/// page by page. From one large block that was freed it learns that large blocks come and go, and keeps up to twice as much. The block is
/// never touched, so that it costs nothing; nor does it with another allocator.
pub(crate) fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}
