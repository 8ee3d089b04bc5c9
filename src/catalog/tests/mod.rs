//! Tests each row of the tables in the module documentation.

mod both_sides;
mod indexes;
mod options;
mod sent;

use bson::raw::RawDocumentBuf;
use bson::{Decimal128, rawdoc};

use super::*;

const V6: &[Series] = &[[6, 0], [6, 0]];

fn decimal(text: &str) -> Decimal128 {
    text.parse().unwrap()
}

fn index(fields: RawDocumentBuf) -> RawDocumentBuf {
    let mut index = rawdoc! { "v": 2, "name": "x" };
    if !matches!(fields.get("key"), Ok(Some(_))) {
        index.append(bson::raw::cstr!("key"), rawdoc! { "a": 1 });
    }
    for (name, value) in fields.iter().map(Result::unwrap) {
        index.append(name, value);
    }
    index
}

fn id_index(version: i32) -> RawDocumentBuf {
    rawdoc! { "v": version, "key": { "_id": 1 }, "name": "_id_" }
}
