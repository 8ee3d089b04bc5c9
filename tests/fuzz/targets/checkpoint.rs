//! A stored checkpoint: what can be read is written so that it is read as the same.

#![no_main]

use bson::raw::RawDocumentBuf;
use libfuzzer_sys::fuzz_target;
use mongoferry::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let Ok(stored) = RawDocumentBuf::from_bytes(bytes.to_vec()) else {
        return;
    };
    if let Ok(checkpoint) = Checkpoint::decode(&stored)
        && let Ok(encoded) = checkpoint.encode()
    {
        let again = Checkpoint::decode(&encoded).expect("what was written can be read");
        let encoded_again = again.encode().expect("and written again");
        assert_eq!(encoded.as_bytes(), encoded_again.as_bytes());
    }
});
