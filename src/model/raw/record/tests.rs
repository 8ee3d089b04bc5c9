use bson::oid::ObjectId;
use bson::raw::{RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Decimal128, JavaScriptCodeWithScope, RawBson, Regex, Timestamp, Uuid, doc, rawdoc};

use super::*;
use crate::order::Key;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Plain,
    OutOfOrder,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(u32);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    pair: (String, i64),
    version: [u32; 3],
    #[serde(default)]
    missing: Option<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    flag: bool,
    number: f64,
    unsigned: u64,
    kinds: Vec<Kind>,
    newtype: Newtype,
    inner: Box<Inner>,
    none: Option<Inner>,
    some: Option<Uuid>,
    time: DateTime,
    object: ObjectId,
    bytes: Binary,
    document: RawDocumentBuf,
    keys: Vec<Key>,
}

fn every_type() -> RawDocumentBuf {
    let every = doc! {
        "double": 1.5, "string": "a", "document": { "$oid": "no id" }, "array": [1, [2_i64]],
        "generic": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] },
        "function": Binary { subtype: BinarySubtype::Function, bytes: vec![3] },
        "uuid": Uuid::from_bytes([7; 16]), "object": ObjectId::from_bytes([8; 12]), "true": true,
        "date": DateTime::from_millis(-1), "null": bson::Bson::Null, "undefined": bson::Bson::Undefined,
        "regex": Regex { pattern: cstr!("a").into(), options: cstr!("i").into() },
        "code": bson::Bson::JavaScriptCode("f()".to_owned()),
        "scope": JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "x": 1 } },
        "symbol": bson::Bson::Symbol("s".to_owned()), "int": 3, "long": 3_i64,
        "timestamp": Timestamp { time: 4, increment: 5 }, "decimal": "1.50".parse::<Decimal128>().unwrap(),
        "max": bson::Bson::MaxKey, "min": bson::Bson::MinKey,
    };
    let mut every = RawDocumentBuf::try_from(&every).unwrap();
    // A document may have a name twice.
    every.append(cstr!("int"), 6);
    every
}

fn record() -> Record {
    let document = every_type();
    let keys = document
        .iter()
        .flatten()
        .filter_map(|(_, value)| match RawBson::from(value) {
            RawBson::Array(_) | RawBson::Undefined | RawBson::RegularExpression(_) => None,
            _ => Some(Key::from(value)),
        });
    Record {
        flag: true,
        number: 0.5,
        unsigned: 1 << 40,
        kinds: vec![Kind::Plain, Kind::OutOfOrder],
        newtype: Newtype(9),
        inner: Box::new(Inner {
            pair: ("a".to_owned(), -1),
            version: [6, 0, 5],
            missing: None,
        }),
        none: None,
        some: Some(Uuid::from_bytes([1; 16])),
        time: DateTime::from_millis(1_000),
        object: ObjectId::from_bytes([2; 12]),
        bytes: Binary {
            subtype: BinarySubtype::Generic,
            bytes: vec![4, 5],
        },
        keys: keys.collect(),
        document,
    }
}

#[test]
fn a_record_is_read_as_bson_reads_it() {
    let (record, encoded) = (record(), encode(&record()).unwrap());
    assert_eq!(encoded, bson::serialize_to_raw_document_buf(&record).unwrap());
    assert_eq!(decode::<Record>(encoded.as_bytes()).unwrap(), record);
    assert_eq!(
        bson::deserialize_from_slice::<Record>(encoded.as_bytes()).unwrap(),
        record
    );
}

#[test]
fn a_document_in_a_record_keeps_its_bytes() {
    let encoded = encode(&record()).unwrap();
    let read: Record = decode(encoded.as_bytes()).unwrap();
    assert_eq!(read.document.as_bytes(), every_type().as_bytes());
}

#[test]
fn what_is_wrong_in_a_record_is_said_once() {
    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: Vec<Option<Inner>>,
    }
    let failed = |inner: RawDocumentBuf| {
        let mut inners = bson::RawArrayBuf::new();
        inners.push(inner);
        let error = decode::<Outer>(rawdoc! { "inner": inners }.as_bytes()).unwrap_err();
        error.to_string()
    };
    let text = failed(rawdoc! { "pair": ["a", 1] });
    assert_eq!(text.matches("missing field `version`").count(), 1, "{text}");
    assert_eq!(text.matches("eserialization").count(), 1, "{text}");
    let text = failed(rawdoc! { "pair": ["a", true], "version": [1, 2, 3] });
    assert!(text.contains("invalid type: boolean `true`, expected i64"), "{text}");
    let text = failed(rawdoc! { "pair": ["a", 1], "version": [1, 2] });
    assert!(
        text.contains("invalid length 2, expected an array of length 3"),
        "{text}"
    );
}
