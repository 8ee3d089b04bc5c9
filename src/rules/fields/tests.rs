//! Each rule. `tests/scenarios/delta/rules.rs` compares forwarded deltas with transformed documents.

use bson::oid::ObjectId;
use bson::raw::{RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Timestamp, bson, doc, rawdoc};

use super::*;

fn rules() -> FieldRulesBuilder {
    FieldRules::builder("test", "1")
}

fn key() -> HashKey {
    HashKey::new([0x0b; 20]).unwrap()
}

fn apply(rules: FieldRulesBuilder, document: &RawDocument) -> RawDocumentBuf {
    let namespace = "shop.orders".parse().unwrap();
    match rules.build().unwrap().apply(&namespace, document).unwrap() {
        Transformed::Keep => document.to_owned(),
        Transformed::Replace(after) => {
            assert_ne!(&*after, document, "an equal document is no replacement");
            after
        }
        Transformed::Skip => panic!("skipped"),
    }
}

#[track_caller]
fn check(rules: FieldRulesBuilder, document: RawDocumentBuf, expected: RawDocumentBuf) {
    assert_eq!(apply(rules, &document), expected);
}

#[track_caller]
fn refused(rules: FieldRulesBuilder, message: &str) {
    let error = rules.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn dropped_fields_are_gone_in_documents_and_arrays() {
    check(
        rules().drop("a").drop("b.c").drop("d.e"),
        rawdoc! { "_id": 1, "a": [1], "b": { "c": 1, "x": 2 }, "z": 1, "d": [{ "e": 1 }, 2, [{ "f": 3, "e": 4 }], { "f": 1 }] },
        rawdoc! { "_id": 1, "b": { "x": 2 }, "z": 1, "d": [{}, 2, [{ "f": 3 }], { "f": 1 }] },
    );
}

#[test]
fn a_number_in_a_path_is_a_name() {
    check(
        rules().drop("a.0"),
        rawdoc! { "_id": 1, "a": [1, { "0": 1, "1": 2 }] },
        rawdoc! { "_id": 1, "a": [1, { "1": 2 }] },
    );
}

#[test]
fn a_document_without_a_named_field_is_kept() {
    let rules = rules()
        .drop("a")
        .mask("b.c", Mask::ByType)
        .rename("x.y", "x.z")
        .build()
        .unwrap();
    let namespace = "shop.orders".parse().unwrap();
    for document in [
        rawdoc! { "_id": 1 },
        rawdoc! { "_id": { "a": 1 }, "b": [1, { "d": 1 }], "x": 1, "a.b": 1 },
    ] {
        assert_eq!(rules.apply(&namespace, &document), Ok(Transformed::Keep));
    }
}

#[test]
fn a_renamed_field_stays_at_its_place_and_replaces_another() {
    let renamed = || rules().rename("a", "b").rename("s.x", "s.longer");
    check(
        renamed(),
        rawdoc! { "_id": 1, "a": 1, "c": 2, "s": [{ "x": 1, "y": 2 }, { "longer": 1, "x": 2 }] },
        rawdoc! { "_id": 1, "b": 1, "c": 2, "s": [{ "longer": 1, "y": 2 }, { "longer": 2 }] },
    );
    check(
        renamed(),
        rawdoc! { "_id": 1, "b": 0, "a": 1 },
        rawdoc! { "_id": 1, "b": 1 },
    );
    check(
        renamed(),
        rawdoc! { "_id": 1, "a": 1, "b": 0 },
        rawdoc! { "_id": 1, "b": 1 },
    );
    check(renamed(), rawdoc! { "_id": 1, "b": 0 }, rawdoc! { "_id": 1, "b": 0 });
}

#[test]
fn a_fixed_mask_replaces_values_of_all_types() {
    check(
        rules()
            .mask("a", Mask::text("***"))
            .mask("b.c", Mask::Value(Bson::Int64(0))),
        rawdoc! { "_id": 1, "a": [1, ["x"], { "y": 1 }], "b": [{ "c": RawBson::Null }, { "c": "secret" }, { "d": 1 }] },
        rawdoc! { "_id": 1, "a": ["***", ["***"], "***"], "b": [{ "c": 0_i64 }, { "c": 0_i64 }, { "d": 1 }] },
    );
}

#[test]
fn a_mask_by_type_keeps_the_type() {
    let binary = |subtype, bytes: &[u8]| Binary {
        subtype,
        bytes: bytes.to_vec(),
    };
    let text = |text: &str| bson::Regex {
        pattern: text.to_owned().try_into().unwrap(),
        options: cstr!("").to_owned(),
    };
    let before = doc! {
        "string": "secret", "symbol": Bson::Symbol("secret".into()), "int": 5, "long": 5_i64, "double": 5.5,
        "decimal": "5.5".parse::<Decimal128>().unwrap(), "bool": true, "date": DateTime::from_millis(5),
        "timestamp": Timestamp { time: 5, increment: 5 }, "id": ObjectId::from_bytes([5; 12]),
        "uuid": binary(BinarySubtype::Uuid, &[5; 16]), "bytes": binary(BinarySubtype::UserDefined(0x81), &[5; 3]),
        "old": binary(BinarySubtype::BinaryOld, &[5; 3]), "md5": binary(BinarySubtype::Md5, &[5; 16]), "regex": text("secret"),
        "code": Bson::JavaScriptCode("secret".into()),
        "scope": bson::JavaScriptCodeWithScope { code: "secret".into(), scope: doc! { "a": 5 } },
        "null": Bson::Null, "undefined": Bson::Undefined, "min": Bson::MinKey, "max": Bson::MaxKey, "empty": [],
        "nested": [{ "a": "secret", "b": [5, Bson::Null] }],
    };
    let after = doc! {
        "string": "", "symbol": Bson::Symbol("".into()), "int": 0, "long": 0_i64, "double": 0.0,
        "decimal": "0".parse::<Decimal128>().unwrap(), "bool": false, "date": DateTime::from_millis(0),
        "timestamp": Timestamp { time: 0, increment: 0 }, "id": ObjectId::from_bytes([0; 12]),
        "uuid": binary(BinarySubtype::Uuid, &[0; 16]), "bytes": binary(BinarySubtype::UserDefined(0x81), &[]),
        "old": binary(BinarySubtype::BinaryOld, &[]), "md5": binary(BinarySubtype::Md5, &[0; 16]), "regex": text(""),
        "code": Bson::JavaScriptCode("".into()),
        "scope": bson::JavaScriptCodeWithScope { code: "".into(), scope: doc! {} },
        "null": Bson::Null, "undefined": Bson::Undefined, "min": Bson::MinKey, "max": Bson::MaxKey, "empty": [],
        "nested": [{ "a": "", "b": [0, Bson::Null] }],
    };
    let raw = |value: bson::Document| RawDocumentBuf::try_from(&doc! { "_id": 1, "v": value }).unwrap();
    check(rules().mask("v", Mask::ByType), raw(before.clone()), raw(after.clone()));
    for (name, value) in before {
        let single = |value: &Bson| RawDocumentBuf::try_from(&doc! { "_id": 1, "v": value }).unwrap();
        let masked = apply(rules().mask("v", Mask::ByType), &single(&value));
        assert_eq!(masked, single(&after[&name]), "{name}");
    }
}

/// The expected tokens are those of Python's `hmac.new(key, message, "sha256").hexdigest()`.
#[test]
fn a_token_is_the_hmac_of_the_value() {
    let key = key();
    // struct.pack("<QQ", 4, 8) + b"Hi There"
    let expected = "2914fe6406ebd07d811204e7027b39ef6d5a3ffc8baad0a5b0fa7b3adaa668ce";
    check(
        rules().hash("a", &key),
        rawdoc! { "_id": 1, "a": "Hi There", "b": 1 },
        rawdoc! { "_id": 1, "a": expected, "b": 1 },
    );
}

#[test]
fn equal_values_have_equal_tokens() {
    let key = key();
    let token = |value: Bson| {
        let document = RawDocumentBuf::try_from(&doc! { "_id": 1, "a": { "b": value } }).unwrap();
        let after = apply(rules().hash("a.b", &key), &document);
        let after = after.get_document("a").unwrap().get("b").unwrap().unwrap();
        Bson::try_from(after).unwrap()
    };
    let one = token(Bson::Int32(1));
    assert_eq!(one.as_str().unwrap().len(), 64);
    for equal in [
        Bson::Int64(1),
        Bson::Double(1.0),
        Bson::Decimal128("1.00".parse().unwrap()),
    ] {
        assert_eq!(token(equal.clone()), one, "{equal}");
    }
    let different = [
        Bson::String("1".into()),
        Bson::Double(1.5),
        Bson::Boolean(true),
        bson!({ "a": 1 }),
        bson!({ "a": 2 }),
        bson!({ "b": 1 }),
        bson!({ "a": [1] }),
        bson!({}),
    ];
    let tokens: BTreeSet<String> = different.iter().map(|value| token(value.clone()).to_string()).collect();
    assert_eq!(tokens.len(), different.len());
    assert!(!tokens.contains(&one.to_string()));
    assert_eq!(
        token(bson!([1, [1.0], Bson::Null])),
        bson!([one.clone(), [one], Bson::Null])
    );
    assert_eq!(token(Bson::Undefined), Bson::Undefined);
    let other = HashKey::new([0x0c; 20]).unwrap();
    let with_other = apply(rules().hash("a", &other), &rawdoc! { "_id": 1, "a": 1 });
    assert_ne!(
        with_other.get_str("a").unwrap(),
        token(Bson::Int32(1)).as_str().unwrap()
    );
}

#[test]
fn a_key_is_neither_short_nor_shown() {
    assert!(HashKey::new([1; 15]).unwrap_err().to_string().contains("15 bytes"));
    let shown = format!(
        "{:?}",
        rules().hash("a", &HashKey::new([77; 16]).unwrap()).build().unwrap()
    );
    assert!(!shown.contains("77") && shown.contains("HashKey(..)"), "{shown}");
}

#[test]
fn a_set_field_stands_at_its_place_or_behind_the_id() {
    let set = || rules().set("x", 1).set("y", bson!({ "z": 1 })).set("s.t", "new");
    check(
        set(),
        rawdoc! { "_id": 7, "a": 1 },
        rawdoc! { "_id": 7, "x": 1, "y": { "z": 1 }, "a": 1 },
    );
    check(
        set(),
        rawdoc! { "_id": 7 },
        rawdoc! { "_id": 7, "x": 1, "y": { "z": 1 } },
    );
    check(
        set(),
        rawdoc! { "_id": 7, "y": 5, "a": 1, "x": "old" },
        rawdoc! { "_id": 7, "y": { "z": 1 }, "a": 1, "x": 1 },
    );
    check(
        set(),
        rawdoc! { "a": 1, "_id": 7, "b": 1, "s": [{ "a": 1 }, 5, { "t": 0 }, {}] },
        rawdoc! { "a": 1, "_id": 7, "x": 1, "y": { "z": 1 }, "b": 1, "s": [{ "t": "new", "a": 1 }, 5, { "t": "new" }, { "t": "new" }] },
    );
    check(set(), rawdoc! {}, rawdoc! { "x": 1, "y": { "z": 1 } });
}

#[test]
fn only_kept_fields_are_left() {
    check(
        rules().keep_only(["b", "c.d", "e.f.g"]).keep_only(["c.d.x", "_id"]),
        rawdoc! {
            "a": 1, "_id": { "x": 1 }, "e": [{ "f": [{ "g": 1, "h": 2 }], "i": 3 }, 5, [{ "f": { "g": 2 } }, 6]], "c": { "d": { "x": 1 }, "y": 2 },
            "b": { "_id": 1 },
        },
        rawdoc! {
            "_id": { "x": 1 }, "e": [{ "f": [{ "g": 1 }] }, [{ "f": { "g": 2 } }]], "c": { "d": { "x": 1 } }, "b": { "_id": 1 },
        },
    );
    check(
        rules().keep_only(["a.b"]),
        rawdoc! { "_id": 1, "a": 5 },
        rawdoc! { "_id": 1 },
    );
    check(
        rules().keep_only([""; 0]),
        rawdoc! { "_id": 1, "a": 5 },
        rawdoc! { "_id": 1 },
    );
}

#[test]
fn other_rules_apply_to_kept_fields() {
    let rules = || {
        rules()
            .set("tenant", 9)
            .drop("a.secret")
            .keep_only(["a", "name", "c.d", "old"])
            .rename("old", "new")
            .mask("c.d", Mask::ByType)
    };
    check(
        rules(),
        rawdoc! { "_id": 1, "a": { "secret": 1, "x": 2 }, "b": 1, "name": "n", "c": { "d": "s", "e": 1 }, "old": 3, "new": 4 },
        rawdoc! { "_id": 1, "tenant": 9, "a": { "x": 2 }, "name": "n", "c": { "d": "" }, "new": 3 },
    );
    check(
        rules(),
        rawdoc! { "_id": 1, "new": 4 },
        rawdoc! { "_id": 1, "tenant": 9 },
    );
}

#[test]
fn contradictions_are_refused() {
    for path in ["", ".", "a.", ".a", "a..b", "a\0"] {
        refused(rules().drop(path), "is not a path");
        refused(rules().keep_only([path]), "is not a path");
    }
    refused(rules().drop("_id"), "`_id`");
    refused(rules().set("_id.x", 1), "`_id.x` leads to `_id`");
    refused(rules().rename("a", "_id"), "leads to `_id`");
    refused(rules().rename("a.b", "c.b"), "another parent");
    refused(rules().rename("a.b", "b"), "another parent");
    refused(rules().drop("a").drop("a"), "two rules");
    refused(rules().drop("a").mask("a.b", Mask::ByType), "two rules");
    refused(rules().mask("a.b", Mask::ByType).drop("a"), "two rules");
    refused(rules().rename("a", "a"), "two rules");
    refused(rules().rename("a", "b").rename("b", "c"), "two rules");
    refused(rules().rename("a", "c").rename("b", "c"), "two rules");
    refused(rules().set("b", 1).rename("a", "b"), "two rules");
    refused(rules().rename("a", "b").set("b", 1), "two rules");
    refused(rules().keep_only(["a"]).drop("b"), "`keep_only` removes it");
    refused(rules().keep_only(["a.b"]).drop("a.c"), "`keep_only` removes it");
    refused(rules().keep_only(["a.b"]).drop("a"), "two rules");
}

#[test]
fn the_version_changes_with_the_rules() {
    let version = |rules: FieldRulesBuilder| rules.build().unwrap().identity().version;
    let versions = [
        version(rules()),
        version(rules().drop("a")),
        version(rules().keep_only([""; 0])),
        version(rules().keep_only(["a"])),
        version(rules().mask("a", Mask::ByType)),
        version(rules().mask("a", Mask::text("x"))),
        version(rules().mask("a", Mask::text("y"))),
        version(rules().set("a", "x")),
        version(rules().rename("a", "x")),
        version(rules().hash("a", &key())),
        version(rules().hash("a", &HashKey::new([1; 20]).unwrap())),
        version(rules().set("a", 1).set("b", 1)),
        version(rules().set("b", 1).set("a", 1)),
    ];
    assert_eq!(versions.iter().collect::<BTreeSet<_>>().len(), versions.len());
    assert!(versions.iter().all(|version| version.starts_with("1+")));
    assert_eq!(
        version(rules().drop("a").drop("b")),
        version(rules().drop("b").drop("a"))
    );
}

#[test]
fn deltas_of_other_fields_are_forwarded() {
    let effect = |rules: &FieldRules, delta: &RawDocument| {
        rules.delta(&"shop.orders".parse().unwrap(), &TouchedFields::of(delta).unwrap())
    };
    let set = |paths: bson::Document| rawdoc! { "$v": 1, "$set": RawDocumentBuf::try_from(&paths).unwrap() };
    let some = rules().drop("a.b").rename("c", "d").set("e", 1).build().unwrap();
    assert_eq!(effect(&some, &set(doc! { "x": 1, "y.a": 1 })), DeltaEffect::Forward);
    for field in ["a", "a.c", "c.x", "d", "e"] {
        assert_eq!(
            effect(&some, &set(doc! { "x": 1, field: 1 })),
            DeltaEffect::Image,
            "{field}"
        );
    }
    let drops = rules().drop("a").drop("b").build().unwrap();
    assert_eq!(effect(&drops, &set(doc! { "a.x": 1, "b": 1 })), DeltaEffect::Nothing);
    assert_eq!(effect(&drops, &set(doc! { "a.x": 1, "c": 1 })), DeltaEffect::Image);
    assert_eq!(some.changes().unwrap(), ["a", "c", "d", "e"].map(String::from).into());

    let few = rules().keep_only(["a", "b.c"]).build().unwrap();
    assert_eq!(effect(&few, &set(doc! { "a.x": 1 })), DeltaEffect::Forward);
    assert_eq!(effect(&few, &set(doc! { "x": 1, "y": 2 })), DeltaEffect::Nothing);
    for both in [doc! { "a": 1, "x": 1 }, doc! { "b.c": 1 }, doc! { "b.d": 1, "a": 1 }] {
        assert_eq!(effect(&few, &set(both)), DeltaEffect::Image);
    }
    assert_eq!(few.changes(), None);
}

#[test]
fn malformed_documents_are_errors() {
    let whole = rawdoc! { "_id": 1, "a": [{ "b": "text" }], "c": 1 };
    let rules = rules()
        .drop("a.b")
        .keep_only(["a"])
        .hash("a.c", &key())
        .set("a.d", 1)
        .build()
        .unwrap();
    let namespace = "shop.orders".parse().unwrap();
    let mut errors = 0;
    for at in 4..whole.as_bytes().len() - 1 {
        for byte in [0x00, 0x03, 0x04, 0x05, 0x7e, 0xff] {
            let mut bytes = whole.as_bytes().to_vec();
            bytes[at] = byte;
            let document = RawDocumentBuf::from_bytes(bytes).unwrap();
            errors += usize::from(rules.apply(&namespace, &document) == Err(RuleError::Malformed));
        }
    }
    assert!(errors > 50, "{errors}");

    let mut deep = RawArrayBuf::new();
    for _ in 0..400 {
        let mut outer = RawArrayBuf::new();
        outer.push(deep);
        deep = outer;
    }
    let array = rawdoc! { "_id": 1, "a": deep };
    let masked = FieldRules::builder("deep", "1")
        .mask("a", Mask::ByType)
        .build()
        .unwrap();
    assert_eq!(masked.apply(&namespace, &array), Err(RuleError::Malformed));
}
