//! Each operator and each refusal. `tests/scenarios/rules_oracle.rs` compares the decisions with those of servers.

use bson::raw::cstr;
use bson::{Bson, bson, doc, rawdoc};

use super::*;

fn fits(query: Document, document: &RawDocument) -> bool {
    let namespace = "shop.orders".parse().unwrap();
    Query::new(query).unwrap().fits(&namespace, document).unwrap()
}

#[track_caller]
fn check(query: Document, fitting: &[RawDocumentBuf], others: &[RawDocumentBuf]) {
    for document in fitting {
        assert!(fits(query.clone(), document), "{query} should find {document:?}");
    }
    for document in others {
        assert!(!fits(query.clone(), document), "{query} should not find {document:?}");
    }
}

#[test]
fn a_value_is_compared_with_those_of_its_kind() {
    check(
        doc! { "a": 1 },
        &[rawdoc! { "a": 1 }, rawdoc! { "a": 1.0 }, rawdoc! { "a": [2, 1_i64] }],
        &[
            rawdoc! { "a": 2 },
            rawdoc! { "a": "1" },
            rawdoc! { "a": [[1]] },
            rawdoc! { "b": 1 },
            rawdoc! {},
        ],
    );
    check(
        doc! { "a": { "$gt": 1, "$lte": 3.5 } },
        &[rawdoc! { "a": 2_i64 }, rawdoc! { "a": [0, 9] }, rawdoc! { "a": 3.5 }],
        &[
            rawdoc! { "a": 1 },
            rawdoc! { "a": 4 },
            rawdoc! { "a": "2" },
            rawdoc! { "a": f64::NAN },
            rawdoc! { "a": bson::RawBson::Null },
        ],
    );
    check(
        doc! { "a": { "$gte": f64::NAN } },
        &[rawdoc! { "a": f64::NAN }],
        &[rawdoc! { "a": 1 }, rawdoc! { "a": f64::INFINITY }],
    );
    check(
        doc! { "a": { "b": 1, "c": 2 } },
        &[rawdoc! { "a": { "b": 1.0, "c": 2 } }],
        &[
            rawdoc! { "a": { "c": 2, "b": 1 } },
            rawdoc! { "a": { "b": 1, "c": 2, "d": 3 } },
        ],
    );
    check(
        doc! { "a": { "$lt": "b" } },
        &[rawdoc! { "a": "B" }, rawdoc! { "a": "" }],
        &[rawdoc! { "a": "b" }, rawdoc! { "a": 1 }],
    );
}

#[test]
fn null_finds_what_is_missing_or_undefined() {
    let (null, undefined) = (
        rawdoc! { "a": bson::RawBson::Null },
        rawdoc! { "a": bson::RawBson::Undefined },
    );
    for query in [
        doc! { "a": Bson::Null },
        doc! { "a": { "$in": [5, Bson::Null] } },
        doc! { "a": { "$gte": Bson::Null } },
    ] {
        check(
            query,
            &[
                null.clone(),
                undefined.clone(),
                rawdoc! {},
                rawdoc! { "a": [1, bson::RawBson::Null] },
            ],
            &[rawdoc! { "a": 1 }, rawdoc! { "a": [] }],
        );
    }
    check(
        doc! { "a.b": Bson::Null },
        &[
            rawdoc! {},
            rawdoc! { "a": 1 },
            rawdoc! { "a": [{}] },
            rawdoc! { "a": [1, { "b": bson::RawBson::Null }] },
        ],
        &[
            rawdoc! { "a": [] },
            rawdoc! { "a": [1] },
            rawdoc! { "a": { "b": 1 } },
            rawdoc! { "a": [{ "b": 1 }] },
        ],
    );
    check(
        doc! { "a": { "$ne": Bson::Null } },
        &[rawdoc! { "a": 1 }],
        &[null.clone(), rawdoc! {}],
    );
    check(
        doc! { "a": { "$exists": true } },
        &[null.clone(), rawdoc! { "a": [] }],
        &[rawdoc! { "b": 1 }],
    );
    check(
        doc! { "a.b": { "$exists": false } },
        &[rawdoc! { "a": [1] }],
        &[rawdoc! { "a": [{ "b": 1 }, {}] }],
    );
}

#[test]
fn a_number_in_a_path_is_an_index_or_a_name() {
    check(
        doc! { "a.0": 1 },
        &[
            rawdoc! { "a": [1] },
            rawdoc! { "a": { "0": 1 } },
            rawdoc! { "a": [{ "x": 1 }, { "0": 1 }] },
        ],
        &[rawdoc! { "a": [2, 1] }, rawdoc! { "a": [[1]] }],
    );
    check(
        doc! { "a.1.b": 1 },
        &[
            rawdoc! { "a": [0, { "b": 1 }] },
            rawdoc! { "a": [{ "1": { "b": 1 } }] },
            rawdoc! { "a": [0, [{ "b": 1 }]] },
        ],
        &[rawdoc! { "a": [{ "b": 1 }, 0] }, rawdoc! { "a": [[0, { "b": 1 }]] }],
    );
    check(
        doc! { "a.00": 1 },
        &[rawdoc! { "a": { "00": 1 } }],
        &[rawdoc! { "a": [1] }],
    );
}

#[test]
fn operators_of_arrays_see_the_whole_array() {
    check(
        doc! { "a": { "$size": 2 } },
        &[rawdoc! { "a": [1, 2] }],
        &[rawdoc! { "a": [[1, 2]] }, rawdoc! { "a": 2 }],
    );
    check(
        doc! { "a": { "$elemMatch": { "$gt": 1, "$lt": 3 } } },
        &[rawdoc! { "a": [0, 2] }],
        &[rawdoc! { "a": [1, 3] }, rawdoc! { "a": 2 }, rawdoc! { "a": [[2]] }],
    );
    check(
        doc! { "a": { "$elemMatch": { "b": 1, "c": { "$ne": 2 } } } },
        &[rawdoc! { "a": [{ "b": 1, "c": 2 }, { "b": 1 }] }],
        &[
            rawdoc! { "a": [{ "b": 1, "c": 2 }, { "b": 2 }] },
            rawdoc! { "a": { "b": 1 } },
        ],
    );
    check(
        doc! { "a": { "$elemMatch": { "0": 7 } } },
        &[rawdoc! { "a": [[7]] }],
        &[rawdoc! { "a": [7] }],
    );
    check(
        doc! { "a": { "$all": [1, [2]] } },
        &[rawdoc! { "a": [[2], 1] }],
        &[rawdoc! { "a": 1 }, rawdoc! { "a": [1, 2] }],
    );
    check(doc! { "a": { "$all": [] } }, &[], &[rawdoc! { "a": [] }, rawdoc! {}]);
    check(
        doc! { "a": { "$all": [{ "$elemMatch": { "b": 1 } }, { "$elemMatch": { "b": 2 } }] } },
        &[rawdoc! { "a": [{ "b": 2 }, { "b": 1 }] }],
        &[rawdoc! { "a": [{ "b": 2 }] }],
    );
}

#[test]
fn types_and_remainders_are_tested() {
    check(
        doc! { "a": { "$type": ["number", "null"] } },
        &[
            rawdoc! { "a": 1 },
            rawdoc! { "a": 1_i64 },
            rawdoc! { "a": ["x", 1.5] },
            rawdoc! { "a": bson::RawBson::Null },
        ],
        &[rawdoc! { "a": "1" }, rawdoc! {}],
    );
    check(
        doc! { "a": { "$type": -1 } },
        &[rawdoc! { "a": bson::RawBson::MinKey }],
        &[rawdoc! { "a": bson::RawBson::MaxKey }],
    );
    check(
        doc! { "a": { "$type": "array" } },
        &[rawdoc! { "a": [] }],
        &[rawdoc! { "a": {} }],
    );
    check(
        doc! { "a": { "$mod": [4, 1] } },
        &[
            rawdoc! { "a": 5 },
            rawdoc! { "a": 9.9 },
            rawdoc! { "a": [0, -3 + 8_i64] },
        ],
        &[
            rawdoc! { "a": 4 },
            rawdoc! { "a": -3 },
            rawdoc! { "a": "5" },
            rawdoc! { "a": f64::NAN },
        ],
    );
}

#[test]
fn conditions_combine() {
    let (one, two, three) = (rawdoc! { "a": 1 }, rawdoc! { "a": 2 }, rawdoc! { "a": 3, "b": 1 });
    let documents = [one, two, three, rawdoc! {}];
    for (query, expected) in [
        (doc! { "$or": [{ "a": 1 }, { "b": 1 }] }, [true, false, true, false]),
        (doc! { "$nor": [{ "a": 1 }, { "b": 1 }] }, [false, true, false, true]),
        (
            doc! { "$and": [{ "a": { "$gt": 1 } }, { "b": 1 }] },
            [false, false, true, false],
        ),
        (
            doc! { "a": { "$not": { "$gt": 1, "$lt": 3 } } },
            [true, false, true, true],
        ),
        (doc! { "a": { "$nin": [1, 2] } }, [false, false, true, true]),
        (doc! { "$comment": "why", "a": 1 }, [true, false, false, false]),
        (doc! {}, [true; 4]),
    ] {
        let found = documents.each_ref().map(|document| fits(query.clone(), document));
        assert_eq!(found, expected, "{query}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let deep = (0..60).fold(doc! { "a": 1 }, |inner, _| doc! { "$and": [inner] });
    let deep_not = (0..60).fold(doc! { "$gt": 1 }, |inner, _| doc! { "$not": inner });
    let deep_value = (0..200).fold(bson!(1), |inner, _| bson!([inner]));
    let regex = || {
        Bson::RegularExpression(bson::Regex {
            pattern: cstr!("^a").to_owned(),
            options: cstr!("").to_owned(),
        })
    };
    for (query, operator, path) in [
        (doc! { "$where": "true" }, "$where", ""),
        (doc! { "$expr": { "$eq": [1, 1] } }, "$expr", ""),
        (doc! { "$or": [{ "$text": { "$search": "a" } }] }, "$text", ""),
        (doc! { "$jsonSchema": {} }, "$jsonSchema", ""),
        (doc! { "a.b": { "$near": [1, 1] } }, "$near", "a.b"),
        (doc! { "a": { "$regex": "^a" } }, "$regex", "a"),
        (doc! { "a": regex() }, "$regex", "a"),
        (doc! { "a": { "$in": [1, regex()] } }, "$regex", "a"),
        (doc! { "a": { "$not": regex() } }, "$regex", "a"),
        (
            doc! { "a": { "$elemMatch": { "b.c": { "$bitsAllSet": 1 } } } },
            "$bitsAllSet",
            "b.c",
        ),
        (doc! { "a": { "$gt": 1, "b": 1 } }, "b", "a"),
        (doc! { "a": { "b": 1, "$gt": 1 } }, "$eq", "a"),
        (doc! { "a": { "$ref": "x", "$id": 1 } }, "$eq", "a"),
        (doc! { "a": { "$exists": "yes" } }, "$exists", "a"),
        (doc! { "a": { "$type": [] } }, "$type", "a"),
        (doc! { "a": { "$type": "integer" } }, "$type", "a"),
        (doc! { "a": { "$type": 99 } }, "$type", "a"),
        (doc! { "a": { "$size": -1 } }, "$size", "a"),
        (doc! { "a": { "$size": 1.5 } }, "$size", "a"),
        (doc! { "a": { "$mod": [0, 1] } }, "$mod", "a"),
        (doc! { "a": { "$mod": [2.5, 1] } }, "$mod", "a"),
        (doc! { "a": { "$mod": [2] } }, "$mod", "a"),
        (doc! { "a": { "$in": 1 } }, "$in", "a"),
        (doc! { "a": { "$in": [{ "$gt": 1 }] } }, "$in", "a"),
        (doc! { "a": { "$all": [{ "$elemMatch": {} }, 1] } }, "$all", "a"),
        (doc! { "a": { "$not": {} } }, "$not", "a"),
        (doc! { "a": { "$elemMatch": 1 } }, "$elemMatch", "a"),
        (doc! { "$and": [] }, "$and", ""),
        (doc! { "$or": [1] }, "$or", ""),
        (doc! { "a": Bson::Undefined }, "$eq", "a"),
        (doc! { "a..b": 1 }, "$eq", "a..b"),
        (doc! { "": 1 }, "$eq", ""),
        (doc! { "a": deep_value }, "$eq", "a"),
        (deep, "$and", ""),
        (doc! { "a": deep_not }, "$not", "a"),
    ] {
        let error = Query::new(query.clone()).expect_err(&query.to_string());
        assert_eq!(
            (error.operator.as_str(), error.path.as_str()),
            (operator, path),
            "{query}: {error}"
        );
        assert!(error.to_string().contains("is not supported: "), "{error}");
    }
}

#[test]
fn a_reference_with_a_nul_in_its_namespace_is_refused() {
    let pointer = |namespace: &str| {
        let mut value = (namespace.len() as u32 + 1).to_le_bytes().to_vec();
        value.extend([namespace.as_bytes(), &[0], &[7; 12]].concat());
        let length = 4 + 1 + 2 + value.len() + 1;
        let bytes = [&(length as u32).to_le_bytes()[..], b"\x0cp\0", &value, &[0]].concat();
        Document::from_reader(&bytes[..]).unwrap().remove("p").unwrap()
    };
    for operand in [
        bson!({ "$eq": pointer("a\0b") }),
        bson!({ "$in": [1, pointer("\0")] }),
        bson!({ "$gt": { "b": [pointer("a\0")] } }),
    ] {
        let error = Query::new(doc! { "a": operand }).unwrap_err();
        assert!(error.to_string().contains("DBPointer with a NUL"), "{error}");
    }
    Query::new(doc! { "a": pointer("a.b"), "b": pointer(""), "c": "a\0" }).unwrap();
}

#[test]
fn a_query_reads_its_top_level_fields() {
    let query = Query::new(doc! { "a.b": 1, "$or": [{ "c": { "$elemMatch": { "d": 1 } } }, { "e": 1 }] }).unwrap();
    for (field, expected) in [
        ("a", true),
        ("c", true),
        ("e", true),
        ("b", false),
        ("d", false),
        ("a.b", false),
    ] {
        assert_eq!(query.reads(field), expected, "{field}");
    }
}

#[test]
fn servers_get_a_query_without_differences_of_versions() {
    let pushed_down = |query: Document| Query::new(query).unwrap().query().map(|query| query.to_owned());
    assert_eq!(
        pushed_down(doc! { "a": 1, "b": { "$gt": 2, "$exists": false }, "$comment": "why" }),
        Some(rawdoc! { "$and": [
            { "a": { "$eq": 1 } },
            { "$and": [{ "b": { "$gt": 2 } }, { "$nor": [{ "b": { "$exists": true } }] }] },
        ] })
    );
    assert_eq!(
        pushed_down(doc! { "a": { "$ne": Bson::Null } }),
        Some(rawdoc! { "$nor": [{ "$or": [{ "a": { "$eq": null } }, { "a": { "$type": 6 } }] }] })
    );
    assert_eq!(pushed_down(doc! { "a": { "$elemMatch": { "$ne": Bson::Null } } }), None);
    assert_eq!(pushed_down(doc! { "a": { "$not": { "$gt": [1] } } }), None);
    assert_eq!(pushed_down(doc! { "a": { "$gt": Bson::Symbol("s".to_owned()) } }), None);
    assert_eq!(pushed_down(doc! { "a": { "$lt": Bson::MaxKey } }), None);
    assert_eq!(pushed_down(doc! {}), Some(rawdoc! {}));
}

#[test]
fn a_query_is_known_by_its_digest() {
    let query = |query| Query::new(query).unwrap();
    let secret = query(doc! { "email": "someone@example.com" });
    assert!(!format!("{secret:?} {}", secret.identity()).contains("someone"));
    assert_eq!(
        secret.identity(),
        query(doc! { "email": "someone@example.com" }).identity()
    );
    assert_ne!(
        secret.identity(),
        query(doc! { "email": "other@example.com" }).identity()
    );
}

#[test]
fn malformed_documents_are_errors_and_no_panics() {
    let whole = rawdoc! { "_id": 1, "a": [{ "b": "text" }, [1, 2.5]], "c": { "d": 1 } };
    let query = Query::new(doc! { "$or": [
        { "a.b": "x" }, { "a.1.0": { "$mod": [7, 5] } }, { "a": { "$size": 7 } }, { "a": { "$elemMatch": { "0": 3 } } }, { "c": { "d": 2 } },
    ] });
    let (query, namespace) = (query.unwrap(), "shop.orders".parse().unwrap());
    assert_eq!(query.fits(&namespace, &whole), Ok(false));
    let mut errors = 0;
    for at in 4..whole.as_bytes().len() - 1 {
        for byte in [0x00, 0x03, 0x04, 0x05, 0x7e, 0xff] {
            let mut bytes = whole.as_bytes().to_vec();
            bytes[at] = byte;
            let document = RawDocumentBuf::from_bytes(bytes).unwrap();
            errors += usize::from(query.fits(&namespace, &document) == Err(RuleError::Malformed));
        }
    }
    assert!(errors > 50, "{errors}");
}
