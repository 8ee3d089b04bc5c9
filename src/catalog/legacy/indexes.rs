//! Specifications of indexes.

use std::collections::BTreeMap;

use bson::raw::{CString, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr};

use crate::catalog::Series;
use crate::catalog::normal::{fields, whole};

/// First series that creates text and 2dsphere indexes of version 3. Earlier ones create version 2.
const VERSION_3: Series = [3, 2];

/// First series that creates indexes in format 2, and logs the format. Earlier ones create format 1.
const FORMAT_2: Series = [3, 4];

/// Returns a specification from `listIndexes` or `system.indexes` without the fields that have no meaning on servers of a series.
pub(crate) fn index_as_listed(series: Series, given: &RawDocument) -> RawDocumentBuf {
    let mut index = RawDocumentBuf::new();
    for (name, value) in given.iter().filter_map(Result::ok) {
        if name != "_id" && name != "ns" && series >= first_series(name.as_str()) {
            index.append(name, value);
        }
    }
    index
}

/// Returns the specification that servers of a series list once they have built the index that a user asked for with `given`. They log what
/// the user sent.
pub(crate) fn index_as_created(series: Series, given: &RawDocument) -> RawDocumentBuf {
    let given = index_as_listed(series, given);
    let (text, sphere) = (has(&given, "text"), has(&given, "2dsphere"));
    let mut index = RawDocumentBuf::new();
    if is_absent(&given, "v") && series < FORMAT_2 {
        index.append(cstr!("v"), 1);
    }
    for (name, value) in given.iter().filter_map(Result::ok) {
        match value {
            RawBsonRef::Document(key) if text && name == "key" => index.append(name, text_key(key)),
            _ if text && name == "weights" => {}
            _ => index.append(name, value),
        }
    }
    let version = if series < VERSION_3 { 2 } else { 3 };
    if text {
        index.append(cstr!("weights"), weights(&given));
        for (name, default) in [
            (cstr!("default_language"), "english"),
            (cstr!("language_override"), "language"),
        ] {
            if is_absent(&given, name.as_str()) {
                index.append(name, default);
            }
        }
        if is_absent(&given, "textIndexVersion") {
            index.append(cstr!("textIndexVersion"), version);
        }
    }
    if sphere && is_absent(&given, "2dsphereIndexVersion") {
        index.append(cstr!("2dsphereIndexVersion"), version);
    }
    index
}

/// First series that gives a field of an index a meaning. Fields that are not named here had one before 2.6, or have none anywhere.
fn first_series(field: &str) -> Series {
    match field {
        "storageEngine" => [3, 0],
        "partialFilterExpression" => [3, 2],
        "collation" => [3, 4],
        "wildcardProjection" => [4, 2],
        "hidden" => [4, 4],
        "prepareUnique" => [6, 0],
        "clustered" => [5, 3],
        _ => [0, 0],
    }
}

fn is_absent(index: &RawDocument, field: &str) -> bool {
    matches!(index.get(field), Ok(None))
}

/// Whether a field of the key has this kind.
fn has(index: &RawDocument, kind: &str) -> bool {
    let mut key = index.get_document("key").into_iter().flat_map(fields);
    key.any(|(_, value)| value.as_str() == Some(kind))
}

/// The key that servers store for a text index: one pair of fields for all fields with text, in the place of the first of them.
fn text_key(given: &RawDocument) -> RawDocumentBuf {
    let mut key = RawDocumentBuf::new();
    let mut has_text = false;
    for (name, value) in given.iter().filter_map(Result::ok) {
        if name == "_ftsx" {
            continue;
        }
        if value.as_str() != Some("text") {
            key.append(name, value);
        } else if !has_text {
            has_text = true;
            key.append(cstr!("_fts"), "text");
            key.append(cstr!("_ftsx"), 1);
        }
    }
    key
}

/// The weights that servers store for a text index: those given, and 1 for other fields of the key with text.
fn weights(given: &RawDocument) -> RawDocumentBuf {
    let mut weights: BTreeMap<&str, RawBson> = BTreeMap::new();
    match given.get("weights") {
        Ok(Some(RawBsonRef::Document(given))) => {
            for (name, weight) in fields(given) {
                let whole = whole(weight).and_then(|weight| i32::try_from(weight).ok());
                weights.insert(name, whole.map_or_else(|| RawBson::from(weight), RawBson::Int32));
            }
        }
        Ok(Some(RawBsonRef::String(name))) => {
            weights.insert(name, RawBson::Int32(1));
        }
        _ => {}
    }
    let key = given.get_document("key").into_iter().flat_map(fields);
    for (name, _) in key.filter(|(name, value)| *name != "_fts" && value.as_str() == Some("text")) {
        weights.entry(name).or_insert(RawBson::Int32(1));
    }
    let mut stored = RawDocumentBuf::new();
    for (name, weight) in weights {
        if let Ok(name) = CString::try_from(name) {
            stored.append(name, weight);
        }
    }
    stored
}
