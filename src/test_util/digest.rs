use bson::raw::RawDocument;

/// A hash (FNV-1a) over documents and their order.
pub(crate) fn digest<'a>(documents: impl IntoIterator<Item = &'a RawDocument>) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut count = 0_u64;
    for document in documents {
        // A document begins with its length, so the concatenated bytes have only one split into documents.
        for byte in document.as_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        count += 1;
    }
    format!("{count}-{hash:016x}")
}
