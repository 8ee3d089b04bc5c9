//! Entries of an oplog, one after the other: whatever bytes they have, decoding ends with entries or an error.

#![no_main]

use bson::raw::RawDocument;
use libfuzzer_sys::fuzz_target;
use mongoferry::test_util::bench::Decoder;

#[path = "documents.rs"]
mod documents;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::default();
    for entry in documents::split(bytes) {
        let Ok(entry) = RawDocument::from_bytes(entry) else {
            return;
        };
        if decoder.decode(entry).is_err() {
            return;
        }
    }
});
