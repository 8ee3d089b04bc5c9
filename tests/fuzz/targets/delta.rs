//! A document and updates of it: what comes out is a document whose fields can all be read, or an error.

#![no_main]

use bson::raw::{RawDocument, RawDocumentBuf};
use libfuzzer_sys::fuzz_target;
use mongoferry::oplog::delta;

#[path = "documents.rs"]
mod documents;

fuzz_target!(|bytes: &[u8]| {
    let mut documents = documents::split(bytes).into_iter().map(RawDocument::from_bytes);
    let Some(Ok(document)) = documents.next() else {
        return;
    };
    // What the document or an update of it has wrong stays wrong.
    let mut is_whole = bson::Document::try_from(document).is_ok();
    let mut document: RawDocumentBuf = document.to_owned();
    for update in documents.map_while(Result::ok) {
        let _ = delta::v2_as_operators(update);
        if let Ok(changed) = delta::apply(&document, update) {
            is_whole &= bson::Document::try_from(update).is_ok();
            if is_whole {
                bson::Document::try_from(&*changed).expect("a whole document");
            }
            document = changed;
        }
    }
});
