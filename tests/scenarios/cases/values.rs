//! Values of every BSON type, as values and as `_id`, copied, inserted, replaced and updated.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc};

use super::{Case, case, insert, update};

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary {
        subtype,
        bytes: bytes.to_vec(),
    })
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// One or more of every type, the awkward ones among them.
fn values() -> Vec<Bson> {
    vec![
        Bson::Double(0.0),
        Bson::Double(-0.5),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(f64::MIN_POSITIVE / 8.0),
        Bson::Double(9_007_199_254_740_993.0),
        Bson::String(String::new()),
        Bson::String("with\0zero".to_owned()),
        Bson::String("ü€😀".to_owned()),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "b": 1, "a": { "": [] } }),
        binary(BinarySubtype::Generic, b""),
        binary(BinarySubtype::Generic, &[0, 255, 7]),
        binary(BinarySubtype::BinaryOld, &[3, 0, 0, 0, 1, 2, 3]),
        binary(BinarySubtype::Uuid, &[7; 16]),
        binary(BinarySubtype::Md5, &[9; 16]),
        binary(BinarySubtype::UserDefined(0x80), &[1]),
        Bson::ObjectId(ObjectId::from_bytes([1; 12])),
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::DateTime(DateTime::from_millis(i64::MIN)),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::DateTime(DateTime::from_millis(i64::MAX)),
        Bson::Null,
        Bson::JavaScriptCode("function() {}".to_owned()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "x".to_owned(),
            scope: doc! { "x": 1, "y": { "z": [] } },
        }),
        Bson::Symbol("symbol".to_owned()),
        Bson::Int32(i32::MIN),
        Bson::Int32(41),
        Bson::Timestamp(Timestamp { time: 1, increment: 2 }),
        Bson::Timestamp(Timestamp {
            time: u32::MAX,
            increment: u32::MAX,
        }),
        Bson::Int64(i64::MAX),
        Bson::Int64(-42),
        decimal("1.10"),
        decimal("-1E+6000"),
        Bson::MinKey,
        Bson::MaxKey,
    ]
}

/// What the server does not take as an `_id`, or that is equal to one of the others there.
fn values_only() -> Vec<Bson> {
    vec![
        Bson::Array(vec![]),
        Bson::Array(vec![Bson::Null, Bson::Array(vec![Bson::Undefined]), Bson::Double(-0.0)]),
        Bson::Undefined,
        Bson::Double(f64::from_bits(0x7ff8_0000_0000_0123)),
        decimal("NaN"),
        decimal("Infinity"),
        decimal("0E-6176"),
        Bson::Double(-0.0),
        decimal("-0"),
        Bson::Timestamp(Timestamp { time: 0, increment: 0 }),
        Bson::RegularExpression(Regex {
            pattern: "^a.*".try_into().unwrap(),
            options: "im".try_into().unwrap(),
        }),
        Bson::DbPointer(pointer()),
    ]
}

/// The driver's type has no constructor, so it comes out of a document's bytes.
fn pointer() -> bson::DbPointer {
    let mut bytes = vec![0, 0, 0, 0, 0x0c, b'p', 0, 4, 0, 0, 0, b'a', b'.', b'b', 0];
    bytes.extend([5; 12]);
    bytes.push(0);
    bytes[0] = bytes.len() as u8;
    match Document::from_reader(&bytes[..]).unwrap().remove("p") {
        Some(Bson::DbPointer(pointer)) => pointer,
        other => panic!("{other:?}"),
    }
}

/// A few values of every type.
pub fn every_type() -> Vec<Bson> {
    values().into_iter().chain(values_only()).collect()
}

pub(super) fn cases() -> Vec<Case> {
    let every = every_type();
    let nested = |value: &Bson| doc! { "v": value.clone(), "o": { "v": value.clone() }, "a": [value.clone()] };
    let documents = |from: i32| -> Vec<Document> {
        let numbered = every.iter().zip(from..);
        numbered
            .map(|(value, id)| {
                let mut document = doc! { "_id": id };
                document.extend(nested(value));
                document
            })
            .collect()
    };
    let count = every.len() as i32;
    let each = |change: &dyn Fn(&Bson) -> Bson| -> Vec<super::Step> {
        every
            .iter()
            .zip(0..)
            .map(|(value, id)| update("a", id, change(value)))
            .collect()
    };
    let plain = || vec![super::numbered("a", count)];
    let ids = |extra: i32| {
        values()
            .into_iter()
            .map(|id| doc! { "_id": id, "x": extra })
            .collect::<Vec<_>>()
    };
    let mut deep = doc! { "end": 1 };
    for _ in 0..95 {
        deep = doc! { "d": deep };
    }
    let mut long = doc! { "_id": 1 };
    for field in 0..3_000 {
        long.insert(format!("f{field}"), field);
    }
    vec![
        case(
            "values_copied",
            vec![insert("a", documents(0))],
            vec![update("a", 0, doc! { "$set": { "x": 1 } })],
        ),
        case("values_inserted", vec![], vec![insert("a", documents(0))]),
        case("values_replaced", plain(), each(&|value| Bson::Document(nested(value)))),
        case(
            "values_set",
            plain(),
            each(&|value| Bson::Document(doc! { "$set": nested(value) })),
        ),
        case(
            "values_set_deep",
            vec![insert("a", documents(0))],
            each(&|value| {
                Bson::Document(doc! { "$set": { "o.w": value.clone(), "a.1": value.clone(), "a.4": value.clone() } })
            }),
        ),
        case(
            "values_updated_beside",
            vec![insert("a", documents(0))],
            each(&|_| Bson::Document(doc! { "$set": { "o.n": 1 }, "$unset": { "a": 1 } })),
        ),
        case(
            "values_pushed",
            vec![insert("a", documents(0))],
            each(&|value| {
                Bson::Document(doc! { "$push": { "a": { "$each": [value.clone(), value.clone()], "$position": 0 } } })
            }),
        ),
        case(
            "values_literal",
            plain(),
            each(&|value| bson::bson!([{ "$set": { "made": { "$literal": value.clone() } } }, { "$unset": ["g"] }])),
        ),
        case("ids_copied", vec![insert("a", ids(0))], vec![]),
        case("ids_inserted", vec![], vec![insert("a", ids(1))]),
        case(
            "ids_updated",
            vec![insert("a", ids(0))],
            values()
                .into_iter()
                .map(|id| update("a", id, doc! { "$set": { "x": 1 }, "$inc": { "n": 1 } }))
                .collect(),
        ),
        case(
            "ids_replaced",
            vec![insert("a", ids(0))],
            values()
                .into_iter()
                .map(|id| update("a", id, doc! { "y": 1 }))
                .collect(),
        ),
        case(
            "ids_deleted",
            vec![insert("a", ids(0))],
            values()
                .into_iter()
                .step_by(2)
                .map(|id| super::delete("a", id))
                .collect(),
        ),
        case(
            "deep",
            vec![insert("a", vec![doc! { "_id": 1, "d": deep.clone() }])],
            vec![
                insert("a", vec![doc! { "_id": 2, "d": deep.clone() }]),
                update("a", 2, doc! { "$set": { "x": deep.clone() } }),
                update("a", 1, doc! { "y": deep.clone() }),
                update("a", 2, doc! { "$set": { "d.d.d.d.e": 1 } }),
            ],
        ),
        case(
            "long",
            vec![insert("a", vec![long.clone()])],
            vec![update("a", 1, doc! { "$set": { "f1500": "x" }, "$unset": { "f7": 1 } })],
        ),
        case(
            "id_not_first",
            vec![],
            vec![
                insert("a", vec![doc! { "x": 1, "_id": 1 }]),
                update("a", 1, doc! { "y": 1, "_id": 1 }),
            ],
        ),
        case(
            "ids_equal_across_types",
            vec![insert(
                "a",
                vec![doc! { "_id": 1 }, doc! { "_id": 2_i64 }, doc! { "_id": 3.0 }],
            )],
            vec![
                update("a", 1.0, doc! { "$set": { "x": 1 } }),
                update("a", 2, doc! { "x": 2 }),
                super::delete("a", 3_i64),
                insert("a", vec![doc! { "_id": 3 }]),
            ],
        ),
    ]
}
