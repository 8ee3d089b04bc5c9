use bson::oid::ObjectId;
use bson::{Bson, RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::scan::elements;
use super::write::Writer;
use super::{
    DeltaError, DeltaFormat, MAX_BACKFILL, MAX_DEPTH, apply, format_of, merge, v1_as_operators,
    v1_as_ordered_operators, v1_needs_ordered_sets, v2_as_operators,
};
use crate::order::element_type;

mod unversioned;
mod v1;
mod v2;

#[test]
fn format_is_told_by_the_version_field() {
    assert_eq!(
        format_of(&rawdoc! { "$v": 1, "$set": { "a": 1 } }),
        Ok(Some(DeltaFormat::V1))
    );
    assert_eq!(
        format_of(&rawdoc! { "$v": 2_i64, "diff": { "u": { "a": 1 } } }),
        Ok(Some(DeltaFormat::V2))
    );
    assert_eq!(
        format_of(&rawdoc! { "$set": { "a": 1 }, "$v": 1.0 }),
        Ok(Some(DeltaFormat::V1))
    );
    assert_eq!(format_of(&rawdoc! { "_id": 1, "a": 1 }), Ok(None));
    assert_eq!(format_of(&rawdoc! {}), Ok(None));
    for delta in [
        rawdoc! { "$set": { "a": 1 } },
        rawdoc! { "$unset": { "a": true }, "$set": { "b": 1 } },
    ] {
        assert_eq!(format_of(&delta), Ok(Some(DeltaFormat::Unversioned)));
    }
    assert_eq!(format_of(&rawdoc! { "a": 1, "$set": 1 }), Ok(None));
    assert_eq!(
        format_of(&rawdoc! { "$v": 3, "diff": {} }),
        Err(DeltaError::UnknownFormat)
    );
    assert_eq!(
        format_of(&rawdoc! { "$v": "1", "$set": {} }),
        Err(DeltaError::UnknownFormat)
    );
    assert_eq!(
        format_of(&rawdoc! { "$v": 1.5, "$set": {} }),
        Err(DeltaError::UnknownFormat)
    );
}

#[test]
fn a_replacement_may_have_a_field_called_like_the_version() {
    let replacement = rawdoc! { "_id": 1, "$v": 2, "diff": { "u": { "a": 1 } } };
    assert_eq!(format_of(&replacement), Ok(None));
    assert_eq!(
        apply(&rawdoc! { "_id": 1 }, &replacement),
        Err(DeltaError::UnknownFormat)
    );
}

#[test]
fn the_id_may_change_its_numeric_type_but_not_its_value() {
    let document = rawdoc! { "_id": 1, "a": 1 };
    assert_eq!(
        apply(&document, &v2(rawdoc! { "u": { "_id": 2 } })),
        Err(DeltaError::ImmutableId)
    );
    assert_eq!(
        apply(&document, &v2(rawdoc! { "d": { "_id": false } })),
        Err(DeltaError::ImmutableId)
    );
    assert_eq!(
        apply(&document, &v1_set(rawdoc! { "_id": "1" })),
        Err(DeltaError::ImmutableId)
    );
    assert_eq!(
        apply(&document, &v1_unset(rawdoc! { "_id": true })),
        Err(DeltaError::ImmutableId)
    );
    check_v2(
        document,
        rawdoc! { "u": { "_id": 1.0 } },
        rawdoc! { "_id": 1.0, "a": 1 },
    );

    let nested = rawdoc! { "_id": { "x": [1, 2_i64] } };
    check_v2(
        nested.clone(),
        rawdoc! { "u": { "_id": { "x": [1.0, 2] } } },
        rawdoc! { "_id": { "x": [1.0, 2] } },
    );
    for other in [
        rawdoc! { "x": [1] },
        rawdoc! { "y": [1, 2] },
        rawdoc! { "x": [1, 2.5] },
        rawdoc! { "x": [1, 2, 3] },
    ] {
        assert_eq!(
            apply(&nested, &v2(rawdoc! { "u": { "_id": other } })),
            Err(DeltaError::ImmutableId)
        );
    }
    check_v2(rawdoc! { "a": 1 }, rawdoc! { "u": { "a": 2 } }, rawdoc! { "a": 2 });
}

#[test]
fn values_and_names_of_every_kind_go_through_untouched() {
    let mut writer = Writer::default();
    let opened = writer.open();
    let values: [(u8, &[u8]); 22] = [
        (element_type::DOUBLE, &[1, 0, 0, 0, 0, 0, 0xF8, 0x7F]),
        (element_type::STRING, &[4, 0, 0, 0, 0xFF, 0x00, 0xC3, 0]),
        (element_type::DOCUMENT, &[8, 0, 0, 0, 0x0A, 0xFE, 0, 0]),
        (element_type::ARRAY, &[8, 0, 0, 0, 0x0A, b'7', 0, 0]),
        (element_type::BINARY, &[2, 0, 0, 0, 2, 9, 9]),
        (element_type::UNDEFINED, &[]),
        (element_type::OBJECT_ID, &[7; 12]),
        (element_type::BOOLEAN, &[1]),
        (element_type::DATE, &[0xFF; 8]),
        (element_type::NULL, &[]),
        (element_type::REGEX, &[0xFF, 0, b'i', 0]),
        (
            element_type::DB_POINTER,
            &[2, 0, 0, 0, 0xFF, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ),
        (element_type::CODE, &[2, 0, 0, 0, 0xFF, 0]),
        (element_type::SYMBOL, &[2, 0, 0, 0, 0xFF, 0]),
        (
            element_type::CODE_WITH_SCOPE,
            &[15, 0, 0, 0, 2, 0, 0, 0, 0xFF, 0, 5, 0, 0, 0, 0],
        ),
        (element_type::INT32, &[0xFF; 4]),
        (element_type::TIMESTAMP, &[0; 8]),
        (element_type::INT64, &[0xFF; 8]),
        (element_type::DECIMAL128, &[0x7C; 16]),
        (element_type::MIN_KEY, &[]),
        (element_type::MAX_KEY, &[]),
        (element_type::STRING, &[1, 0, 0, 0, 0]),
    ];
    for (index, (kind, value)) in values.iter().enumerate() {
        // The names are not UTF-8 either.
        writer.value(*kind, &[0xC0 + index as u8], value).unwrap();
    }
    writer.close(opened).unwrap();
    let odd = RawDocumentBuf::from_bytes(writer.into_bytes()).unwrap();
    assert_eq!(elements(odd.as_bytes()).count(), values.len());

    let wrapped = |inner: &RawDocumentBuf, n: i32| {
        let mut document = rawdoc! { "_id": 1 };
        document.append(c_name("odd"), inner.clone());
        document.append(c_name("n"), n);
        document
    };
    assert_eq!(
        applied(&wrapped(&odd, 1), &v2(rawdoc! { "u": { "n": 2 } })),
        wrapped(&odd, 2)
    );
    assert_eq!(
        applied(&wrapped(&odd, 1), &v1_set(rawdoc! { "n": 2 })),
        wrapped(&odd, 2)
    );
    // Again with the odd elements nested in a changed value, and as the change itself.
    let after = applied(&wrapped(&odd, 1), &v2(rawdoc! { "sodd": { "i": { "x": 1 } } }));
    let after_v1 = applied(&wrapped(&odd, 1), &v1_set(rawdoc! { "odd.x": 1 }));
    assert_eq!(after, after_v1);
    let inner = after.get_document("odd").unwrap().as_bytes();
    assert_eq!(
        inner[4..odd.as_bytes().len() - 1],
        odd.as_bytes()[4..odd.as_bytes().len() - 1]
    );
    let change = wrapped(&odd, 1);
    let changed = applied(
        &rawdoc! { "_id": 1 },
        &v2(rawdoc! { "i": { "odd": odd.clone(), "n": 1 } }),
    );
    assert_eq!(changed, change);
    let update = v2(odd.clone());
    assert!(apply(&rawdoc! { "_id": 1 }, &update).is_err());
    check_v2(
        rawdoc! { "_id": 1 },
        rawdoc! { "i": { "t": Timestamp { time: 0, increment: 0 }, "o": ObjectId::from_bytes([7; 12]) } },
        rawdoc! { "_id": 1, "t": Timestamp { time: 0, increment: 0 }, "o": ObjectId::from_bytes([7; 12]) },
    );
}

#[test]
fn broken_bson_is_an_error_and_never_a_panic() {
    let good = rawdoc! {
        "_id": 1, "a": "text", "b": [1, { "c": 2.5 }], "d": regex(), "e": { "f": 1_i64 },
        "g": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] },
    };
    let delta = v2(
        rawdoc! { "d": { "a": false }, "u": { "x": "y" }, "sb": { "a": true, "s1": { "u": { "c": 5 } } }, "se": { "i": { "f": 2 } } },
    );
    let delta_v1 = rawdoc! { "$v": 1, "$set": { "b.1.c": 1, "e.f": 5 }, "$unset": { "a": true } };
    for position in 0..good.as_bytes().len().max(delta.as_bytes().len()) {
        for value in [0, 1, 2, 0x03, 0x04, 0x05, 0x0B, 0x0F, 0x10, 0x7F, 0x80, 0xFF] {
            let broken = |document: &RawDocumentBuf| {
                let mut bytes = document.as_bytes().to_vec();
                if let Some(byte) = bytes.get_mut(position) {
                    *byte = value;
                }
                RawDocumentBuf::from_bytes(bytes).ok()
            };
            for change in [&delta, &delta_v1] {
                if let Some(document) = broken(&good) {
                    let _ = apply(&document, change);
                }
                if let Some(change) = broken(change) {
                    let _ = apply(&good, &change);
                    let _ = v1_as_operators(&change);
                    let _ = v1_as_ordered_operators(&change);
                }
            }
        }
    }
    let nested = rawdoc! { "_id": 1, "e": { "f": 1 } };
    let mut unterminated = nested.as_bytes().to_vec();
    let end = unterminated.len() - 2;
    unterminated[end] = 1;
    let unterminated = RawDocumentBuf::from_bytes(unterminated).unwrap();
    assert_malformed(apply(&unterminated, &v2(rawdoc! { "se": { "i": { "g": 2 } } })));
    assert_malformed(apply(&unterminated, &v1_set(rawdoc! { "e.g": 2 })));
    let mut cut = good.as_bytes().to_vec();
    // The length of the string "text" now extends beyond the end.
    let text = cut.windows(4).position(|window| window == b"text").unwrap();
    cut[text - 4] = 0xFF;
    assert_malformed(apply(&RawDocumentBuf::from_bytes(cut).unwrap(), &delta));
}

#[test]
fn v1_becomes_ordinary_operators() {
    let delta = rawdoc! { "$v": 1, "$set": { "b": 1, "a.0": 2 }, "$unset": { "c": true } };
    assert_eq!(
        v1_as_operators(&delta).unwrap(),
        rawdoc! { "$set": { "b": 1, "a.0": 2 }, "$unset": { "c": true } }
    );
    assert_eq!(
        v1_as_ordered_operators(&delta).unwrap(),
        [
            rawdoc! { "$set": { "b": 1 } },
            rawdoc! { "$set": { "a.0": 2 } },
            rawdoc! { "$unset": { "c": true } }
        ]
    );
    assert_malformed(v1_as_operators(&rawdoc! { "$v": 1 }));
    assert_eq!(v1_as_ordered_operators(&rawdoc! { "$v": 1 }), Ok(Vec::new()));
    assert!(v1_as_operators(&v2(rawdoc! { "u": { "a": 1 } })).is_err());
    assert!(v1_as_ordered_operators(&v2(rawdoc! { "u": { "a": 1 } })).is_err());
}

#[test]
fn v1_needs_ordered_sets_when_numbers_descend() {
    let needs = |delta: RawDocumentBuf| v1_needs_ordered_sets(&delta);
    assert_eq!(needs(v1_set(rawdoc! { "9": 1, "a": 1 })), Ok(false));
    assert_eq!(needs(v1_set(rawdoc! { "2a": 1, "1a": 1, "b": 1 })), Ok(false));
    assert_eq!(needs(v1_set(rawdoc! { "10": 1, "9": 1 })), Ok(true));
    assert_eq!(needs(v1_set(rawdoc! { "9": 1, "10": 1, "110": 1 })), Ok(false));
    assert_eq!(needs(v1_set(rawdoc! { "02": 1, "10": 1, "9": 1 })), Ok(true));
    assert_eq!(needs(v1_set(rawdoc! { "a.10.x": 1, "a.9.x": 1 })), Ok(true));
    assert_eq!(needs(v1_set(rawdoc! { "a.9.x": 1, "a.9.y": 1, "a.10": 1 })), Ok(false));
    assert_eq!(needs(v1_set(rawdoc! { "a.10": 1, "b.9": 1 })), Ok(false));
    assert_eq!(
        needs(v1_set(
            rawdoc! { "a.99999999999999999999998": 1, "a.99999999999999999999997": 1 }
        )),
        Ok(true)
    );
    assert_eq!(needs(v1_unset(rawdoc! { "a.10": true, "a.9": true })), Ok(false));
}

#[test]
fn v1_two_spellings_of_one_index_are_refused() {
    let deltas = [
        v1_set(rawdoc! { "l.01": 1, "l.1": 2 }),
        v1_set(rawdoc! { "l.0": 1, "l.00": 2 }),
        v1_set(rawdoc! { "l.01.x": 1, "l.1.y": 2 }),
        v1_unset(rawdoc! { "l.01": true, "l.1": true }),
        rawdoc! { "$v": 1, "$set": { "l.1": 2 }, "$unset": { "l.001": true } },
    ];
    for delta in deltas {
        let aliased = |error: DeltaError| matches!(error, DeltaError::AliasedIndex { .. });
        assert!(v1_as_operators(&delta).is_err_and(aliased));
        assert!(v1_as_ordered_operators(&delta).is_err_and(aliased));
        assert!(v1_needs_ordered_sets(&delta).is_err_and(aliased));
        assert!(apply(&rawdoc! { "_id": 1, "l": [{}, {}] }, &delta).is_err_and(aliased));
        // In a document, these are two names.
        assert!(apply(&rawdoc! { "_id": 1, "l": { "0": {} } }, &delta).is_ok());
    }
    let apart = v1_set(rawdoc! { "l.01": 1, "m.1": 2, "l.11": 3 });
    assert!(v1_as_operators(&apart).is_ok());
    // Without a parent, these are fields of the document.
    let fields = v1_set(rawdoc! { "01": 1, "1": 2 });
    assert!(v1_as_operators(&fields).is_ok());
    assert_eq!(v1_needs_ordered_sets(&fields), Ok(true));
}

fn applied(document: &RawDocument, delta: &RawDocument) -> RawDocumentBuf {
    apply(document, delta).unwrap()
}

fn v2(diff: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "$v": 2, "diff": diff }
}

fn v1_set(paths: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "$v": 1, "$set": paths }
}

fn v1_unset(paths: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "$v": 1, "$unset": paths }
}

/// Checks that a diff turns `before` into `after`, byte for byte.
#[track_caller]
fn check_v2(before: RawDocumentBuf, diff: RawDocumentBuf, after: RawDocumentBuf) {
    assert_eq!(applied(&before, &v2(diff)), after);
}

#[track_caller]
fn check_v1(before: RawDocumentBuf, delta: RawDocumentBuf, after: RawDocumentBuf) {
    assert_eq!(applied(&before, &delta), after);
}

#[track_caller]
fn assert_malformed(result: Result<RawDocumentBuf, DeltaError>) {
    assert!(matches!(result, Err(DeltaError::Malformed { .. })), "{result:?}");
}

/// A document of int32 fields. Names may repeat.
fn raw(fields: &[(&[u8], i32)]) -> RawDocumentBuf {
    let mut writer = Writer::default();
    let opened = writer.open();
    for (name, value) in fields {
        writer.value(element_type::INT32, name, &value.to_le_bytes()).unwrap();
    }
    writer.close(opened).unwrap();
    RawDocumentBuf::from_bytes(writer.into_bytes()).unwrap()
}

fn c_name(name: &str) -> bson::raw::CString {
    bson::raw::CString::try_from(name.to_owned()).unwrap()
}

fn regex() -> bson::Regex {
    bson::Regex {
        pattern: c_name("a"),
        options: c_name("i"),
    }
}
