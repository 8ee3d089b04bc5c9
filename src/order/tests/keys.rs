//! Tests of the bytes, hashes and serialized forms of keys.

use super::*;

#[test]
fn the_bounds_enclose_every_value() {
    assert_eq!(key(&RawBson::MinKey), Key::MIN);
    assert_eq!(key(&RawBson::MaxKey), Key::MAX);
    assert_eq!(Key::MIN.document_bytes(), rawdoc! { "_id": RawBson::MinKey }.as_bytes());
    assert_eq!(Key::MAX.document_bytes(), rawdoc! { "_id": RawBson::MaxKey }.as_bytes());
    assert!(Key::MIN < key(&RawBson::Undefined));
    assert!(key(&code_with_scope("", rawdoc! {})) < Key::MAX);
}

#[test]
fn a_key_keeps_the_bytes_it_was_made_of() {
    for value in one_of_each_type() {
        let document = rawdoc! { "_id": value.clone() };
        let key = Key::of_document(&document).unwrap();
        assert_eq!(key.document_bytes(), document.as_bytes());
        assert_eq!(key.to_bson_ref().unwrap(), value.as_raw_bson_ref());
        assert_eq!(Key::from(value.as_raw_bson_ref()).document_bytes(), document.as_bytes());
    }
}

#[test]
fn common_keys_take_no_heap() {
    assert_eq!(size_of::<Key>(), 32);
    let uuid = binary(4, &[7; 16]);
    for value in [
        ObjectId::new().into(),
        rawbson!(1_i64),
        decimal("1"),
        rawbson!("sixteen bytes..."),
        uuid,
    ] {
        assert_eq!(key(&value).size_in_bytes(), 32, "{value:?}");
    }
    assert_eq!(key(&rawbson!("seventeen bytes..")).size_in_bytes(), 32 + 32);
}

#[test]
fn the_first_top_level_id_is_the_key() {
    let nested = rawdoc! { "a": { "_id": 1 }, "_id": 2, "_id": 3 };
    assert_eq!(Key::of_document(&nested), Some(key(&rawbson!(2))));
    assert_eq!(Key::of_document(&rawdoc! { "a": { "_id": 1 }, "_idx": 1 }), None);
}

#[test]
fn keys_go_into_hash_tables_by_value() {
    let keys: HashSet<Key> = [rawbson!(1), rawbson!(1.0), decimal("1.0"), rawbson!("1")]
        .iter()
        .map(key)
        .collect();
    assert_eq!(keys.len(), 2);
}

#[test]
fn the_stable_hash_never_changes() {
    // The hash must be the same in every process and release.
    let values = [
        rawbson!(1),
        rawbson!("mongoferry"),
        rawbson!({ "a": [1, RawBson::Null] }),
    ];
    let hashes = values.map(|value| hash_key(value.as_raw_bson_ref()));
    assert_eq!(hashes, [13337585898674381318, 2433533660750620231, 182581206471231514]);
}

#[test]
fn the_stable_hash_spreads_over_few_appliers() {
    let mut appliers = [0_u32; 8];
    for number in 0..8000 {
        let id = ObjectId::parse_str(format!("65f0c0de0000000000{number:06x}")).unwrap();
        appliers[(hash_key(RawBsonRef::ObjectId(id)) % 8) as usize] += 1;
    }
    assert!(appliers.iter().all(|count| (800..1200).contains(count)), "{appliers:?}");
}

#[test]
fn keys_survive_serialization() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Range {
        lower: Key,
        upper: Option<Key>,
    }
    let mut keys: Vec<Key> = one_of_each_type().iter().map(key).collect();
    keys.push(key(
        &rawbson!({ "a": { "b": [1_i64, decimal("1.0"), binary(2, b"x"), RawBson::Undefined] } }),
    ));
    keys.push(key(&rawbson!({ "$binary": 1 })));
    keys.push(key(&date(i64::MAX)));
    keys.push(Key::from(raw(0x02, b"\x02\0\0\0\xff\0")));
    for key in keys {
        let range = Range {
            lower: key.clone(),
            upper: Some(key.clone()),
        };
        let bytes = bson::serialize_to_vec(&range).unwrap();
        let back: Range = bson::deserialize_from_slice(&bytes).unwrap();
        assert_eq!(
            back.lower.document_bytes(),
            key.document_bytes(),
            "{key:?} through bytes"
        );
        assert_eq!(back, range);
        let document = bson::serialize_to_document(&range).unwrap();
        let back: Range = bson::deserialize_from_document(document).unwrap();
        assert_eq!(
            back.lower.document_bytes(),
            key.document_bytes(),
            "{key:?} through a document"
        );
    }
}

#[test]
fn a_key_without_fields_is_serialized_as_the_value_itself() {
    for value in one_of_each_type() {
        let wrapped = matches!(
            value,
            RawBson::Null | RawBson::Document(_) | RawBson::Array(_) | RawBson::JavaScriptCodeWithScope(_)
        );
        let bytes = bson::serialize_to_vec(&std::collections::BTreeMap::from([("_id", key(&value))])).unwrap();
        assert_eq!(
            bytes == rawdoc! { "_id": value.clone() }.as_bytes(),
            !wrapped,
            "{value:?}"
        );
        let plain: std::collections::BTreeMap<String, Key> =
            bson::deserialize_from_slice(rawdoc! { "_id": value.clone() }.as_bytes()).unwrap();
        assert_eq!(plain["_id"], key(&value));
    }
}

#[test]
fn debug_shows_canonical_extended_json() {
    let value = rawbson!({
        "a": [1, 2_i64, 1.0, 0.5, f64::INFINITY, decimal("1.50"), RawBson::Null, true],
        "q\"\n": "é\\",
        "b": binary(2, b"abcd"),
        "o": ObjectId::from_bytes([0xab; 12]),
        "d": date(-1),
        "t": timestamp(1, 2),
        "r": regex("^a", "i"),
        "p": db_pointer("a.b", [1; 12]),
        "c": code_with_scope("f", rawdoc! { "x": symbol("s") }),
        "m": [RawBson::MinKey, RawBson::MaxKey, RawBson::Undefined],
    });
    let expected = concat!(
        r#"{"a":[{"$numberInt":"1"},{"$numberLong":"2"},{"$numberDouble":"1.0"},{"$numberDouble":"0.5"},"#,
        r#"{"$numberDouble":"Infinity"},{"$numberDecimal":"1.50"},null,true],"q\"\n":"é\\","#,
        r#""b":{"$binary":{"base64":"YWJjZA==","subType":"02"}},"o":{"$oid":"abababababababababababab"},"#,
        r#""d":{"$date":{"$numberLong":"-1"}},"t":{"$timestamp":{"t":1,"i":2}},"#,
        r#""r":{"$regularExpression":{"pattern":"^a","options":"i"}},"#,
        r#""p":{"$dbPointer":{"$ref":"a.b","$id":{"$oid":"010101010101010101010101"}}},"#,
        r#""c":{"$code":"f","$scope":{"x":{"$symbol":"s"}}},"#,
        r#""m":[{"$minKey":1},{"$maxKey":1},{"$undefined":true}]}"#,
    );
    assert_eq!(format!("{:?}", key(&value)), expected);
}
