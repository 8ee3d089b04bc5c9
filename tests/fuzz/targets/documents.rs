//! Several documents from one input.

/// The parts of the input that have the length which they begin with, as documents have.
pub fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut documents = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = usize::try_from(i32::from_le_bytes(*length)).unwrap_or(0);
        let Some((document, rest)) = bytes.split_at_checked(length.max(5)) else {
            break;
        };
        documents.push(document);
        bytes = rest;
    }
    documents
}
