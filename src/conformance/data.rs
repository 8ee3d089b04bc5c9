//! Documents and small helpers that the checks share.

use bson::raw::{RawBson, RawDocument, RawDocumentBuf, RawJavaScriptCodeWithScope, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Decimal128, Document, Regex, Timestamp, rawdoc};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{DATABASE, Found, Outcome, ensure};
use crate::error::Result;
use crate::model::{Batch, Collection, Namespace};
use crate::order::Key;

/// A collection in the suite's database.
pub(super) fn namespace(name: &str) -> Namespace {
    Namespace::new(DATABASE, name)
}

pub(super) fn key(id: impl Into<RawBson>) -> Key {
    Key::from(id.into().as_raw_bson_ref())
}

/// A document with the given `_id`, a number `n` of 0, and `filling` bytes of filling.
pub(super) fn filled(id: i32, filling: usize) -> RawDocumentBuf {
    rawdoc! { "_id": id, "n": 0, "filling": "x".repeat(filling) }
}

/// Documents that arrive unchanged only if their bytes are not re-encoded. Every server from 4.2 on stores them as they are.
pub(super) fn awkward_documents() -> Vec<RawDocumentBuf> {
    // The bytes of 1.0 and of 1.00, which are equal numbers.
    let one = |exponent: u8, digits: u8| {
        let mut bytes = [0; 16];
        bytes[0] = digits;
        bytes[14] = exponent;
        bytes[15] = 0x30;
        RawBson::Decimal128(Decimal128::from_bytes(bytes))
    };
    let nested = rawdoc! { "z": 1, "a": 2, "": "an empty name", "with.dots": 3, "m": { "z": 1, "a": [] } };
    vec![
        rawdoc! { "_id": 1, "z": 1, "a": 2, "m": nested.clone() },
        rawdoc! { "_id": 2, "minus zero": -0.0, "nan": f64::NAN, "infinite": f64::INFINITY, "long": 5_i64, "double": 5.0 },
        rawdoc! { "_id": 3, "first": one(0x3E, 10), "second": one(0x3C, 100) },
        rawdoc! { "_id": 4, "array": [1, "two", 3.0, { "b": 1, "a": 1 }, RawBson::Null, []], "empty": {} },
        rawdoc! { "_id": 5, "time": { "zero": Timestamp { time: 0, increment: 0 } }, "date": DateTime::from_millis(-1) },
        rawdoc! { "_id": 6, "old": Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1, 2, 3] },
        "user": Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: Vec::new() } },
        rawdoc! { "_id": 7, "undefined": RawBson::Undefined, "symbol": RawBson::Symbol("s".to_owned()),
        "min": RawBson::MinKey, "max": RawBson::MaxKey },
        scoped(),
        rawdoc! { "_id": "a\0b", "text": "with \0 inside", "umlaut": "ä" },
        rawdoc! { "_id": { "z": 1, "a": nested }, "value": true },
    ]
}

/// A regular expression, and code with and without a scope.
fn scoped() -> RawDocumentBuf {
    let scope = RawJavaScriptCodeWithScope {
        code: "g(x)".to_owned(),
        scope: rawdoc! { "x": 1, "a": 2 },
    };
    let pattern = Regex {
        pattern: cstr!("^a/b").into(),
        options: cstr!("im").into(),
    };
    rawdoc! { "_id": 8, "regex": pattern, "code": RawBson::JavaScriptCode("f()".to_owned()), "scoped": scope }
}

/// Values of `_id` of several types, in the server's order.
pub(super) fn mixed_ids() -> Vec<RawBson> {
    vec![
        RawBson::MinKey,
        RawBson::Null,
        RawBson::Double(f64::NAN),
        RawBson::Int64(i64::MIN),
        RawBson::Int32(-3),
        RawBson::Double(-0.5),
        RawBson::Int32(0),
        RawBson::Double(0.5),
        RawBson::Int64(1),
        RawBson::Double(1e30),
        RawBson::String(String::new()),
        RawBson::String("a".to_owned()),
        RawBson::String("b".to_owned()),
        RawBson::Document(rawdoc! { "a": 1 }),
        RawBson::Document(rawdoc! { "a": 1, "b": 0 }),
        RawBson::Document(rawdoc! { "b": 0 }),
        RawBson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: vec![255],
        }),
        RawBson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: vec![0, 0],
        }),
        RawBson::ObjectId(bson::oid::ObjectId::from_bytes([7; 12])),
        RawBson::Boolean(false),
        RawBson::Boolean(true),
        RawBson::DateTime(DateTime::from_millis(-5)),
        RawBson::DateTime(DateTime::from_millis(5)),
        RawBson::Timestamp(Timestamp { time: 1, increment: 1 }),
        RawBson::MaxKey,
    ]
}

/// All documents of a read, and the size of its largest batch in bytes.
pub(super) async fn drain(stream: Result<BoxStream<'static, Result<Batch>>>) -> Result<(Vec<RawDocumentBuf>, usize)> {
    let mut stream = stream?;
    let mut documents = Vec::new();
    let mut largest = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        largest = largest.max(batch.size_in_bytes());
        documents.extend(batch.iter().map(RawDocument::to_owned));
    }
    Ok((documents, largest))
}

pub(super) fn batch_of<'a>(documents: impl IntoIterator<Item = &'a RawDocumentBuf>) -> Batch {
    let mut batch = Batch::new();
    for document in documents {
        batch.push(document);
    }
    batch
}

/// Fails the check unless both slices contain the same documents, byte for byte and in the same order.
pub(super) fn ensure_same(what: &str, found: &[RawDocumentBuf], expected: &[RawDocumentBuf]) -> Outcome {
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        ensure!(
            found.as_bytes() == expected.as_bytes(),
            "{what}: document {place} is {}, not {}",
            shown(found),
            shown(expected)
        );
    }
    ensure!(
        found.len() == expected.len(),
        "{what}: there are {} documents, not {}",
        found.len(),
        expected.len()
    );
    Ok(())
}

/// The document as text and bytes, because texts may be equal where bytes differ.
fn shown(document: &RawDocument) -> String {
    let text = Document::try_from(document).map_or_else(|error| error.to_string(), |document| document.to_string());
    format!("{text} (bytes {:02x?})", document.as_bytes())
}

/// Sorts documents by `_id`.
pub(super) fn sorted(mut documents: Vec<RawDocumentBuf>) -> Vec<RawDocumentBuf> {
    documents.sort_by_cached_key(|document| Key::of_document(document));
    documents
}

pub(super) fn find<'a>(collections: &'a [Collection], namespace: &Namespace) -> Outcome<&'a Collection> {
    collections
        .iter()
        .find(|collection| collection.namespace == *namespace)
        .ok_or_else(|| Found(format!("{namespace} is not listed")))
}

/// Fails the check unless the index is listed with this key.
pub(super) fn ensure_index(collection: &Collection, name: &str, key: &RawDocument) -> Outcome {
    let found = collection.indexes.iter().any(|index| {
        index.get_str("name").is_ok_and(|known| known == name)
            && index.get_document("key").is_ok_and(|known| known == key)
    });
    ensure!(
        found,
        "the index {name} is not listed for {}: {:?}",
        collection.namespace,
        collection.indexes
    );
    Ok(())
}

/// The value of an int32 field.
pub(super) fn number(document: &RawDocument, field: &str) -> Outcome<i32> {
    Ok(document.get_i32(field)?)
}
