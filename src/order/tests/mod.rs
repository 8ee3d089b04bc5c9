//! Tests of each rule. `tests/scenarios/order.rs` compares the order with that of servers.

mod keys;

use std::collections::HashSet;

use bson::oid::ObjectId;
use bson::raw::{RawBson, RawDocumentBuf, RawJavaScriptCodeWithScope, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Regex, Timestamp, rawbson, rawdoc};

use super::*;

/// Checks the order, equality and hash of each pair, as `RawBsonRef`, as `Key`, and as a field of a document and of an array.
#[track_caller]
fn assert_ascending(values: &[RawBson]) {
    for (index, left) in values.iter().enumerate() {
        for (other, right) in values.iter().enumerate() {
            assert_compare(left, right, index.cmp(&other));
        }
    }
}

#[track_caller]
fn assert_equal(values: &[RawBson]) {
    for left in values {
        for right in values {
            assert_compare(left, right, Ordering::Equal);
        }
    }
}

#[track_caller]
fn assert_compare(left: &RawBson, right: &RawBson, expected: Ordering) {
    for wrap in [|value| value, in_document, in_array, in_scope] {
        let (left, right) = (wrap(left.clone()), wrap(right.clone()));
        assert_eq!(
            compare(left.as_raw_bson_ref(), right.as_raw_bson_ref()),
            expected,
            "{left:?} and {right:?}"
        );
        let (left_key, right_key) = (key(&left), key(&right));
        assert_eq!(left_key.cmp(&right_key), expected, "{left_key:?} and {right_key:?}");
        let same_hash = hash_key(left.as_raw_bson_ref()) == hash_key(right.as_raw_bson_ref());
        assert_eq!(
            same_hash,
            expected.is_eq(),
            "the hashes of {left_key:?} and {right_key:?}"
        );
        assert_eq!(left_key.stable_hash(), hash_key(left.as_raw_bson_ref()), "{left_key:?}");
    }
}

fn in_document(value: RawBson) -> RawBson {
    RawBson::Document(rawdoc! { "a": 1, "b": value, "c": 1 })
}

fn in_array(value: RawBson) -> RawBson {
    RawBson::Array([RawBson::Null, value, RawBson::Int32(1)].into_iter().collect())
}

fn in_scope(value: RawBson) -> RawBson {
    RawBson::JavaScriptCodeWithScope(RawJavaScriptCodeWithScope {
        code: "f()".into(),
        scope: rawdoc! { "x": value },
    })
}

fn key(value: &RawBson) -> Key {
    Key::from(value.as_raw_bson_ref())
}

fn raw(element_type: u8, bytes: &[u8]) -> RawValue<'_> {
    RawValue::from_parts(element_type, bytes).unwrap()
}

fn decimal(text: &str) -> RawBson {
    RawBson::Decimal128(text.parse().unwrap())
}

fn binary(subtype: u8, bytes: &[u8]) -> RawBson {
    RawBson::Binary(Binary {
        subtype: BinarySubtype::from(subtype),
        bytes: bytes.to_vec(),
    })
}

fn regex(pattern: &str, options: &str) -> RawBson {
    let (pattern, options) = (
        pattern.to_owned().try_into().unwrap(),
        options.to_owned().try_into().unwrap(),
    );
    RawBson::RegularExpression(Regex { pattern, options })
}

fn code(code: &str) -> RawBson {
    RawBson::JavaScriptCode(code.into())
}

fn symbol(text: &str) -> RawBson {
    RawBson::Symbol(text.into())
}

fn code_with_scope(code: &str, scope: RawDocumentBuf) -> RawBson {
    RawBson::JavaScriptCodeWithScope(RawJavaScriptCodeWithScope {
        code: code.into(),
        scope,
    })
}

fn date(milliseconds: i64) -> RawBson {
    RawBson::DateTime(DateTime::from_millis(milliseconds))
}

fn timestamp(time: u32, increment: u32) -> RawBson {
    RawBson::Timestamp(Timestamp { time, increment })
}

fn db_pointer(namespace: &str, id: [u8; 12]) -> RawBson {
    let mut element = vec![0x0c];
    element.extend(b"\0");
    element.extend((namespace.len() as u32 + 1).to_le_bytes());
    element.extend(namespace.as_bytes());
    element.push(0);
    element.extend(id);
    let mut bytes = (element.len() as u32 + 5).to_le_bytes().to_vec();
    bytes.extend(element);
    bytes.push(0);
    let document = RawDocumentBuf::from_bytes(bytes).unwrap();
    let value = document.iter().next().unwrap().unwrap().1;
    value.into()
}

/// One value of each type, in ascending order.
fn one_of_each_type() -> Vec<RawBson> {
    vec![
        RawBson::MinKey,
        RawBson::Undefined,
        RawBson::Null,
        rawbson!(-3),
        rawbson!(-2.5),
        rawbson!(7_i64),
        decimal("7.5"),
        rawbson!("text"),
        symbol("tфxt"),
        rawbson!({ "a": 1 }),
        rawbson!([1]),
        binary(0, b"bytes"),
        binary(2, b"bytes"),
        RawBson::ObjectId(ObjectId::from_bytes([1; 12])),
        rawbson!(false),
        rawbson!(true),
        date(0),
        timestamp(0, 1),
        regex("a", "i"),
        db_pointer("a.b", [1; 12]),
        code("f()"),
        code_with_scope("e()", rawdoc! {}),
        RawBson::MaxKey,
    ]
}

#[test]
fn types_come_before_values() {
    assert_ascending(&one_of_each_type());
}

#[test]
fn numbers_compare_across_types() {
    assert_ascending(&[
        rawbson!(f64::NAN),
        rawbson!(f64::NEG_INFINITY),
        rawbson!(i64::MIN),
        rawbson!(-1),
        rawbson!(0.1),
        decimal("0.1000000000000000055511151231257828"),
        rawbson!(1),
        rawbson!((1_i64 << 53) + 1),
        rawbson!(9007199254740994.0),
        decimal("Infinity"),
    ]);
    assert_equal(&[
        rawbson!(1),
        rawbson!(1_i64),
        rawbson!(1.0),
        decimal("1"),
        decimal("1.00"),
    ]);
    assert_equal(&[
        rawbson!(0),
        rawbson!(0.0),
        rawbson!(-0.0),
        decimal("0"),
        decimal("-0E+3"),
    ]);
    assert_equal(&[rawbson!(f64::NAN), rawbson!(-f64::NAN), decimal("NaN")]);
}

#[test]
fn strings_and_symbols_compare_by_bytes() {
    let ascending = [
        "",
        "\0",
        "\0\0",
        "A",
        "a",
        "a\0",
        "a\0b",
        "a\u{1}",
        "ab",
        "b",
        "é",
        "\u{ffff}",
        "\u{10000}",
    ];
    assert_ascending(&ascending.map(|text| rawbson!(text)));
    assert_ascending(&ascending.map(symbol));
    assert_ascending(&ascending.map(code));
    assert_equal(&[rawbson!("a"), symbol("a")]);
}

#[test]
fn strings_need_not_be_utf_8() {
    let (invalid, greater) = (raw(0x02, b"\x02\0\0\0\xfe\0"), raw(0x0e, b"\x02\0\0\0\xff\0"));
    assert!(invalid < greater);
    assert!(invalid > raw(0x02, "\x05\0\0\0\u{10ffff}\0".as_bytes()));
    let key = Key::from(invalid);
    assert!(key.to_bson_ref().is_err());
    assert_eq!(key.as_raw().bytes(), invalid.bytes());
    assert_eq!(format!("{key:?}"), "\"\u{fffd}\"");
}

#[test]
fn documents_compare_type_then_name_then_value() {
    assert_ascending(&[
        rawbson!({}),
        rawbson!({ "z": RawBson::MinKey }),
        rawbson!({ "b": 1 }),
        rawbson!({ "b": 1, "a": 1 }),
        rawbson!({ "b": 1, "b": 1 }),
        rawbson!({ "b": 2.5 }),
        rawbson!({ "c": 0 }),
        rawbson!({ "a": "" }),
        rawbson!({ "a": "", "b": {} }),
        rawbson!({ "a": "", "b": { "a": 1 } }),
        rawbson!({ "a": {} }),
        rawbson!({ "a": [] }),
    ]);
    assert_equal(&[rawbson!({ "a": 1, "b": [2.0] }), rawbson!({ "a": 1.0, "b": [2] })]);
    assert_eq!(
        compare_documents(&rawdoc! { "a": 1 }, &rawdoc! { "a": 1.0, "b": 1 }),
        Ordering::Less
    );
}

#[test]
fn arrays_compare_element_by_element() {
    assert_ascending(&[
        rawbson!([]),
        rawbson!([1]),
        rawbson!([1, 1]),
        rawbson!([1, "a"]),
        rawbson!([2]),
        rawbson!(["a"]),
        rawbson!([[]]),
    ]);
    // Index keys do not contain the names of array elements.
    let named = rawdoc! { "x": 1, "y": 2 };
    assert_eq!(
        raw(0x04, named.as_bytes()),
        raw(0x04, rawdoc! { "0": 1, "1": 2 }.as_bytes())
    );
    assert_ne!(
        raw(0x03, named.as_bytes()),
        raw(0x03, rawdoc! { "0": 1, "1": 2 }.as_bytes())
    );
}

#[test]
fn binary_data_compares_by_length_then_subtype_then_bytes() {
    assert_ascending(&[
        binary(0, b""),
        binary(0x80, b""),
        binary(0, b"\xff"),
        binary(5, b"\x00"),
        binary(0, b"ab"),
        binary(0, b"\xffb"),
        binary(0xff, b"ab"),
        binary(0, b"abcd"),
        // The inner length that subtype 2 starts with counts: this is six bytes.
        binary(2, b"ab"),
        binary(4, b"abcdef"),
    ]);
    // A missing inner length differs from one of zero.
    let (without, zero) = (raw(0x05, b"\0\0\0\0\x02"), raw(0x05, b"\x04\0\0\0\x02\0\0\0\0"));
    assert!(without < zero);
    assert_ne!(without.stable_hash(), zero.stable_hash());
    // The inner length is compared, too, if it is not the length of the content.
    assert!(raw(0x05, b"\x05\0\0\0\x02\x01\0\0\0a") < raw(0x05, b"\x05\0\0\0\x02\x02\0\0\0a"));
}

#[test]
fn dates_are_signed_and_timestamps_are_not() {
    assert_ascending(&[date(i64::MIN), date(-1), date(0), date(1), date(i64::MAX)]);
    assert_ascending(&[
        timestamp(0, 0),
        timestamp(0, u32::MAX),
        timestamp(1, 0),
        timestamp(u32::MAX, 0),
    ]);
}

#[test]
fn object_ids_compare_by_bytes() {
    assert_ascending(&[[0; 12], [0x7f; 12], [0x80; 12], [0xff; 12]].map(|id| ObjectId::from_bytes(id).into()));
}

#[test]
fn regular_expressions_compare_by_pattern_then_options() {
    assert_ascending(&[
        regex("", ""),
        regex("", "i"),
        regex("a", ""),
        regex("a", "i"),
        regex("a", "m"),
        regex("aa", ""),
    ]);
}

#[test]
fn db_pointers_compare_by_length_of_the_namespace_first() {
    assert_ascending(&[
        db_pointer("b", [9; 12]),
        db_pointer("aa", [0; 12]),
        db_pointer("aa", [1; 12]),
        db_pointer("ab", [0; 12]),
    ]);
    assert_equal(&[db_pointer("a\0b", [1; 12]), db_pointer("a", [1; 12])]);
}

#[test]
fn code_with_scope_compares_by_code_then_scope() {
    assert_ascending(&[
        code_with_scope("a", rawdoc! {}),
        code_with_scope("a", rawdoc! { "x": 1 }),
        code_with_scope("a", rawdoc! { "y": 1 }),
        code_with_scope("a\0", rawdoc! {}),
        code_with_scope("b", rawdoc! {}),
    ]);
}

#[test]
fn malformed_bytes_have_a_place_above_every_field() {
    let document = |elements: &[u8]| {
        let mut bytes = (elements.len() as u32 + 5).to_le_bytes().to_vec();
        bytes.extend(elements);
        bytes.push(0);
        RawDocumentBuf::from_bytes(bytes).unwrap()
    };
    let ascending = [
        document(b""),
        document(b"\x08a\0\0"),
        document(b"\x7fa\0"),
        // Too short, of an unknown type, and without the end of a name.
        document(b"\x10a\0\x01\0"),
        document(b"\x33a\0\x01\0\0\0"),
        document(b"\x33a\0\x01\0\0\x01"),
        document(b"\x7fa"),
    ];
    for (index, left) in ascending.iter().enumerate() {
        for (other, right) in ascending.iter().enumerate() {
            assert_eq!(
                compare_documents(left, right),
                index.cmp(&other),
                "{left:?} and {right:?}"
            );
            let (left, right) = (RawBsonRef::Document(left), RawBsonRef::Document(right));
            assert_eq!(hash_key(left) == hash_key(right), index == other);
        }
    }
    assert!(format!("{:?}", Key::from(RawBsonRef::Document(&ascending[4]))).contains("$malformed"));
    assert_eq!(id_of(&ascending[3]), None);
    assert!(RawValue::from_parts(0x10, b"\x01\0\0").is_none());
    assert!(RawValue::from_parts(0x02, b"\x01\0\0\0x").is_none());
    assert!(RawValue::from_parts(0x02, b"\xff\xff\xff\xff").is_none());
    assert!(RawValue::from_parts(0x00, b"").is_none());
}

#[test]
fn nesting_without_end_does_not_use_up_the_stack() {
    let depth = 100_000;
    let mut bytes = Vec::new();
    for level in 0..depth {
        let length = (depth - level) * 8 - 3;
        bytes.extend((length as u32).to_le_bytes());
        bytes.extend(b"\x03a\0");
    }
    bytes.truncate(bytes.len() - 3);
    bytes.extend(vec![0; depth]);
    let document = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert_eq!(compare_documents(&document, &document.clone()), Ordering::Equal);
    assert!(format!("{:?}", Key::from(RawBsonRef::Document(&document))).contains("..."));
    hash_key(RawBsonRef::Document(&document));
}

#[test]
fn any_bytes_in_a_document_are_handled() {
    let whole = RawDocumentBuf::from_iter(one_of_each_type().into_iter().map(|value| (cstr!("a"), value)));
    let bytes = whole.as_bytes();
    let mut damaged = Vec::new();
    for index in 4..bytes.len() - 1 {
        for change in [1, 0x80, 0xff] {
            let mut copy = bytes.to_vec();
            copy[index] ^= change;
            damaged.push(RawDocumentBuf::from_bytes(copy).unwrap());
        }
    }
    for pair in damaged.windows(2) {
        let (left, right) = (RawBsonRef::Document(&pair[0]), RawBsonRef::Document(&pair[1]));
        let ordering = compare(left, right);
        assert_eq!(compare(right, left), ordering.reverse());
        assert_eq!(hash_key(left) == hash_key(right), ordering.is_eq());
        let _ = format!("{:?}", Key::from(left));
    }
    damaged.sort_by(|left, right| compare_documents(left, right));
    assert!(damaged.is_sorted_by(|left, right| compare_documents(left, right).is_le()));
}
