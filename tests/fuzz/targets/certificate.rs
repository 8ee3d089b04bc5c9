//! A certificate from anywhere: what can be read is written so that it is read as the same.

#![no_main]

use bson::raw::RawDocumentBuf;
use libfuzzer_sys::fuzz_target;
use mongoferry::Certificate;

fuzz_target!(|bytes: &[u8]| {
    let Ok(stored) = RawDocumentBuf::from_bytes(bytes.to_vec()) else {
        return;
    };
    if let Ok(certificate) = Certificate::decode(&stored)
        && let Ok(encoded) = certificate.encode()
    {
        Certificate::decode(&encoded).expect("what was written can be read");
    }
});
