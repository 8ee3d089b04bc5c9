//! The order of BSON values is a total one, and what is equal has one hash.

#![no_main]

use std::cmp::Ordering;

use bson::raw::{RawBsonRef, RawDocument};
use libfuzzer_sys::fuzz_target;
use mongoferry::order::{compare, hash_key};

#[path = "documents.rs"]
mod documents;

fuzz_target!(|bytes: &[u8]| {
    let documents: Vec<&RawDocument> = documents::split(bytes)
        .into_iter()
        .map_while(|document| RawDocument::from_bytes(document).ok())
        .filter(|document| bson::Document::try_from(*document).is_ok())
        .collect();
    let values: Vec<RawBsonRef<'_>> = documents
        .iter()
        .flat_map(|document| document.into_iter().flatten().map(|(_, value)| value))
        .take(12)
        .collect();
    for a in &values {
        assert_eq!(compare(*a, *a), Ordering::Equal, "{a:?}");
        for b in &values {
            let order = compare(*a, *b);
            assert_eq!(order, compare(*b, *a).reverse(), "{a:?} {b:?}");
            if order == Ordering::Equal {
                assert_eq!(hash_key(*a), hash_key(*b), "{a:?} {b:?}");
            }
            for c in &values {
                if order != Ordering::Greater && compare(*b, *c) != Ordering::Greater {
                    assert_ne!(compare(*a, *c), Ordering::Greater, "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
});
