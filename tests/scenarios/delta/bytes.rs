//! Documents as bytes, and how to read them.

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Utf8Lossy, doc};
use mongoferry::oplog::delta::{self, DeltaError, DeltaFormat};

use super::random::NOT_UTF8;

/// Whether an entry is a delta that a client may send on. Some are not, for names that would be two spellings of one index.
pub fn can_be_forwarded(entry: &RawDocument) -> bool {
    match delta::format_of(entry).unwrap() {
        None => false,
        Some(DeltaFormat::V2) => true,
        Some(DeltaFormat::Unversioned | DeltaFormat::V1) => {
            !matches!(delta::v1_as_operators(entry), Err(DeltaError::AliasedIndex { .. }))
        }
    }
}

/// 4.4 and earlier sort the paths that they are given as strings, part by part. They log them in this order too, but for
/// the elements that a `$push` adds, which come in the order of their numbers. In an array that is all the same; only in a
/// document that has no such array are they new fields, in another order than the listed one.
pub fn as_a_server_reads(entry: &RawDocument) -> RawDocumentBuf {
    let mut entry = readable_document(entry);
    if let Ok(set) = entry.get_document_mut("$set") {
        let mut paths: Vec<(String, Bson)> = std::mem::take(set).into_iter().collect();
        paths.sort_by_key(|(path, _)| path.split('.').map(str::to_owned).collect::<Vec<_>>());
        set.extend(paths);
    }
    raw(&entry)
}

#[track_caller]
pub fn assert_same(ours: &RawDocument, theirs: &RawDocument, story: impl FnOnce() -> String) {
    assert!(
        ours.as_bytes() == theirs.as_bytes(),
        "in memory {}\non the server {}\n{}",
        readable(ours),
        readable(theirs),
        story()
    );
}

/// Whether a field was made null, which is how a `$v: 2` diff that does not fit shows.
pub fn has_new_null(before: &RawDocument, after: &RawDocument) -> bool {
    let nulls = |document: &RawDocument| count_nulls(&Bson::Document(readable_document(document)));
    nulls(after) > nulls(before)
}

fn count_nulls(value: &Bson) -> usize {
    match value {
        Bson::Null => 1,
        Bson::Document(document) => document.values().map(count_nulls).sum(),
        Bson::Array(items) => items.iter().map(count_nulls).sum(),
        _ => 0,
    }
}

/// The document with [`NOT_UTF8`] in place of bytes that are not UTF-8, the reverse of [`raw`].
pub fn readable_document(document: &RawDocument) -> Document {
    let mut bytes = document.as_bytes().to_vec();
    let marker = NOT_UTF8.as_bytes();
    for position in 0..bytes.len().saturating_sub(marker.len()) {
        let found = &mut bytes[position..position + marker.len()];
        if found[0] == 0xFF && found[1..4] == marker[1..4] && found[4] == 0xFE {
            found.copy_from_slice(marker);
        }
    }
    let copy = RawDocumentBuf::from_bytes(bytes).unwrap();
    // Messages of errors are cut in the middle of characters.
    Utf8Lossy::<Document>::try_from(&copy).unwrap().0
}

pub fn readable(document: &RawDocument) -> String {
    readable_document(document).to_string()
}

/// The `_id`, which an update may have made a double.
pub fn id_of(document: &RawDocument) -> i64 {
    match document.get("_id").unwrap().unwrap() {
        bson::RawBsonRef::Int32(id) => i64::from(id),
        bson::RawBsonRef::Int64(id) => id,
        bson::RawBsonRef::Double(id) => id as i64,
        other => panic!("an _id of {other:?}"),
    }
}

pub fn with_id(id: i64, fields: &Document) -> RawDocumentBuf {
    let mut document = doc! { "_id": id };
    document.extend(fields.clone());
    raw(&document)
}

/// The document's bytes, with bytes that are not UTF-8 where [`NOT_UTF8`] stands.
pub fn raw(document: &Document) -> RawDocumentBuf {
    let mut bytes = RawDocumentBuf::try_from(document).unwrap().into_bytes();
    let marker = NOT_UTF8.as_bytes();
    let mut position = 0;
    while let Some(found) = bytes[position..]
        .windows(marker.len())
        .position(|window| window == marker)
    {
        position += found;
        bytes[position] = 0xFF;
        bytes[position + marker.len() - 1] = 0xFE;
    }
    RawDocumentBuf::from_bytes(bytes).unwrap()
}
