use bson::raw::RawDocumentBuf;
use bson::rawdoc;

use super::*;
use crate::model::CollectionKind::Plain;

#[test]
fn indexes_that_say_the_same_are_the_same() {
    let none = || rawdoc! {};
    let text = |more: RawDocumentBuf| {
        let mut text = rawdoc! { "key": { "_fts": "text", "_ftsx": 1 }, "textIndexVersion": 3 };
        for (name, value) in more.iter().map(Result::unwrap) {
            text.append(name, value);
        }
        text
    };
    let flat = || rawdoc! { "key": { "a": "2d" } };
    let sphere = |version: i32| rawdoc! { "key": { "a": "2dsphere" }, "2dsphereIndexVersion": version };
    let wildcard = |paths: RawDocumentBuf| rawdoc! { "key": { "$**": 1 }, "wildcardProjection": paths };
    for (row, ours, theirs) in [
        ("ns", rawdoc! { "ns": "shop.a" }, none()),
        (
            "background",
            rawdoc! { "background": true },
            rawdoc! { "background": 1 },
        ),
        ("background: false", rawdoc! { "background": false }, none()),
        ("safe", rawdoc! { "safe": true }, none()),
        ("dropDups", rawdoc! { "dropDups": true }, none()),
        ("unique: 1", rawdoc! { "unique": 1 }, rawdoc! { "unique": true }),
        ("unique: false", rawdoc! { "unique": false }, none()),
        ("sparse: 1", rawdoc! { "sparse": 1 }, rawdoc! { "sparse": true }),
        (
            "sparse: 'true'",
            rawdoc! { "sparse": "true" },
            rawdoc! { "sparse": true },
        ),
        ("sparse: false", rawdoc! { "sparse": false }, none()),
        ("hidden: false", rawdoc! { "hidden": false }, none()),
        ("prepareUnique: false", rawdoc! { "prepareUnique": false }, none()),
        (
            "key as a double",
            rawdoc! { "key": { "a": 1.0, "b": -1_i64 } },
            rawdoc! { "key": { "a": 1, "b": -1 } },
        ),
        (
            "key as a decimal",
            rawdoc! { "key": { "a": decimal("1") } },
            rawdoc! { "key": { "a": 1 } },
        ),
        (
            "expireAfterSeconds as a double",
            rawdoc! { "expireAfterSeconds": 60.0 },
            rawdoc! { "expireAfterSeconds": 60 },
        ),
        (
            "expireAfterSeconds as a long",
            rawdoc! { "expireAfterSeconds": 60_i64 },
            rawdoc! { "expireAfterSeconds": 60 },
        ),
        (
            "expireAfterSeconds as a decimal",
            rawdoc! { "expireAfterSeconds": decimal("60") },
            rawdoc! { "expireAfterSeconds": 60 },
        ),
        (
            "expireAfterSeconds with a fraction",
            rawdoc! { "expireAfterSeconds": 60.7 },
            rawdoc! { "expireAfterSeconds": 60 },
        ),
        (
            "expireAfterSeconds: NaN",
            rawdoc! { "expireAfterSeconds": f64::NAN },
            rawdoc! { "expireAfterSeconds": i32::MAX },
        ),
        (
            "expireAfterSeconds beyond the limit",
            rawdoc! { "expireAfterSeconds": 1_i64 << 40 },
            rawdoc! { "expireAfterSeconds": i32::MAX },
        ),
        (
            "expireAfterSeconds of a clustered index",
            rawdoc! { "clustered": true, "expireAfterSeconds": 60 },
            rawdoc! { "clustered": true },
        ),
        (
            "expireAfterSeconds of two fields",
            rawdoc! { "key": { "a": 1, "b": 1 }, "expireAfterSeconds": 60 },
            rawdoc! { "key": { "a": 1, "b": 1 } },
        ),
        (
            "collation: simple",
            rawdoc! { "collation": { "locale": "simple" } },
            none(),
        ),
        (
            "collation filled in",
            rawdoc! { "collation": { "locale": "sv" } },
            rawdoc! { "collation": { "locale": "sv", "strength": 3.0, "version": "57.1" } },
        ),
        (
            "storageEngine",
            rawdoc! { "storageEngine": { "mmapv1": {}, "wiredTiger": { "configString": "" } } },
            none(),
        ),
        (
            "numbers in a filter",
            rawdoc! { "partialFilterExpression": { "$and": [{ "a": { "$gt": 1_i64 } }] } },
            rawdoc! { "partialFilterExpression": { "$and": [{ "a": { "$gt": 1.0 } }] } },
        ),
        (
            "order of fields",
            rawdoc! { "unique": true, "sparse": true },
            rawdoc! { "sparse": true, "unique": true },
        ),
        (
            "weights",
            text(rawdoc! { "weights": { "b": 2.0, "a": 1_i64 } }),
            text(rawdoc! { "weights": { "a": 1, "b": 2 } }),
        ),
        (
            "languages",
            text(rawdoc! { "default_language": "english", "language_override": "language" }),
            text(none()),
        ),
        (
            "textIndexVersion",
            text(none()),
            rawdoc! { "key": { "_fts": "text", "_ftsx": 1.0 }, "textIndexVersion": 3.0 },
        ),
        (
            "expireAfterSeconds of text",
            text(rawdoc! { "expireAfterSeconds": 60 }),
            text(none()),
        ),
        (
            "2dsphereIndexVersion",
            sphere(3),
            rawdoc! { "key": { "a": "2dsphere" }, "2dsphereIndexVersion": 3_i64 },
        ),
        (
            "2dsphereIndexVersion of 2.4",
            sphere(1),
            rawdoc! { "key": { "a": "2dsphere" } },
        ),
        (
            "bits, min, max",
            flat(),
            rawdoc! { "key": { "a": "2d" }, "bits": 26.0, "min": -180.0, "max": 180_i64 },
        ),
        (
            "bits with a fraction",
            rawdoc! { "key": { "a": "2d" }, "bits": 20.5 },
            rawdoc! { "key": { "a": "2d" }, "bits": 20 },
        ),
        (
            "bits of another kind",
            rawdoc! { "bits": 26, "min": 3, "max": 4 },
            none(),
        ),
        (
            "weights of another kind",
            rawdoc! { "weights": { "a": 1 }, "default_language": "french" },
            none(),
        ),
        (
            "2dsphereIndexVersion of another kind",
            rawdoc! { "2dsphereIndexVersion": 3, "finestIndexedLevel": 3 },
            none(),
        ),
        (
            "textIndexVersion of another kind",
            rawdoc! { "textIndexVersion": 3 },
            none(),
        ),
        ("bucketSize of another kind", rawdoc! { "bucketSize": 1 }, none()),
        (
            "bucketSize",
            rawdoc! { "key": { "a": "geoHaystack", "b": 1 }, "bucketSize": 1 },
            rawdoc! { "key": { "a": "geoHaystack", "b": 1 }, "bucketSize": 1.0 },
        ),
        (
            "hashVersion, seed",
            rawdoc! { "key": { "a": "hashed" }, "hashVersion": 0, "seed": 0 },
            rawdoc! { "key": { "a": "hashed" } },
        ),
        (
            "wildcardProjection of 5.0.4",
            wildcard(rawdoc! { "a": 1, "b.c": 1.0, "d": decimal("1") }),
            wildcard(rawdoc! { "a": true, "b": { "c": true }, "d": true, "_id": false }),
        ),
        (
            "any other",
            rawdoc! { "new": { "a": [1] } },
            rawdoc! { "new": { "a": [1.0] } },
        ),
    ] {
        let (ours, theirs) = (index(ours), index(theirs));
        assert_eq!(index_difference(&ours, &theirs, Plain, V6), None, "{row}");
        assert_eq!(index_difference(&theirs, &ours, Plain, V6), None, "{row}");
        assert!(is_same_index(&ours, &theirs), "{row}");
    }
}

#[test]
fn indexes_that_say_something_else_differ() {
    let text = |weight: i32| rawdoc! { "key": { "_fts": "text", "_ftsx": 1 }, "weights": { "a": weight }, "textIndexVersion": 3 };
    for (field, ours, theirs) in [
        (
            "key",
            rawdoc! { "key": { "a": 1, "b": 1 } },
            rawdoc! { "key": { "b": 1, "a": 1 } },
        ),
        ("key", rawdoc! { "key": { "a": 1 } }, rawdoc! { "key": { "a": -1 } }),
        (
            "key",
            rawdoc! { "key": { "a": 1 } },
            rawdoc! { "key": { "a": "hashed" } },
        ),
        ("unique", rawdoc! { "unique": true }, rawdoc! {}),
        ("sparse", rawdoc! { "sparse": true }, rawdoc! { "sparse": false }),
        ("hidden", rawdoc! {}, rawdoc! { "hidden": true }),
        ("prepareUnique", rawdoc! { "prepareUnique": true }, rawdoc! {}),
        (
            "expireAfterSeconds",
            rawdoc! { "expireAfterSeconds": 60 },
            rawdoc! { "expireAfterSeconds": 61 },
        ),
        (
            "expireAfterSeconds",
            rawdoc! { "expireAfterSeconds": 0 },
            rawdoc! { "expireAfterSeconds": f64::NAN },
        ),
        ("expireAfterSeconds", rawdoc! { "expireAfterSeconds": 0 }, rawdoc! {}),
        (
            "partialFilterExpression",
            rawdoc! { "partialFilterExpression": { "a": 1 } },
            rawdoc! { "partialFilterExpression": { "a": 2 } },
        ),
        ("collation", rawdoc! { "collation": { "locale": "sv" } }, rawdoc! {}),
        (
            "storageEngine",
            rawdoc! { "storageEngine": { "wiredTiger": { "configString": "a=1" } } },
            rawdoc! {},
        ),
        ("weights", text(1), text(2)),
        (
            "2dsphereIndexVersion",
            rawdoc! { "key": { "a": "2dsphere" }, "2dsphereIndexVersion": 3 },
            rawdoc! { "key": { "a": "2dsphere" }, "2dsphereIndexVersion": 2 },
        ),
        (
            "bits",
            rawdoc! { "key": { "a": "2d" }, "bits": 20 },
            rawdoc! { "key": { "a": "2d" } },
        ),
        (
            "wildcardProjection",
            rawdoc! { "key": { "$**": 1 }, "wildcardProjection": { "a": 1 } },
            rawdoc! { "key": { "$**": 1 }, "wildcardProjection": { "a": 0 } },
        ),
    ] {
        let (ours, theirs) = (index(ours), index(theirs));
        let found = index_difference(&ours, &theirs, Plain, V6).unwrap_or_default();
        assert!(found.starts_with(&format!("`{field}` ")), "{field}: {found}");
        assert!(!is_same_index(&ours, &theirs), "{field}");
    }
    let (old, new) = (rawdoc! { "v": 1, "key": { "a": 1 }, "name": "x" }, index(rawdoc! {}));
    assert_eq!(index_difference(&old, &new, Plain, V6).as_deref(), Some("`v` differs"));
    assert_eq!(
        index_difference(&rawdoc! { "v": 2.0, "key": { "a": 1 }, "name": "x" }, &new, Plain, V6),
        None
    );
}

#[test]
fn a_wildcard_projection_is_the_same_however_it_is_written() {
    let wildcard =
        |projection: RawDocumentBuf| index(rawdoc! { "key": { "$**": 1 }, "wildcardProjection": projection });
    let given = wildcard(rawdoc! { "a": 1, "b.c": 1.0 });
    let kept_by_5_0 = wildcard(rawdoc! { "a": true, "b": { "c": true }, "_id": false });
    assert_eq!(index_difference(&given, &kept_by_5_0, Plain, V6), None);
    for other in [
        rawdoc! { "a": true, "b": { "c": true }, "_id": true },
        rawdoc! { "a": true, "b": { "d": true }, "_id": false },
        rawdoc! { "a": true, "_id": false },
        rawdoc! { "a": false, "b": { "c": false }, "_id": false },
        rawdoc! { "a": "unknown", "_id": false },
    ] {
        assert!(index_difference(&given, &wildcard(other), Plain, V6).is_some());
    }
}

#[test]
fn keys_are_the_same_by_value_and_order() {
    let key = || rawdoc! { "a": 1, "b": -1 };
    for same in [
        rawdoc! { "a": 1.0, "b": -1_i64 },
        rawdoc! { "a": decimal("1"), "b": -1.0 },
    ] {
        assert!(are_same_keys(&key(), &same), "{same:?}");
    }
    for other in [
        rawdoc! { "b": -1, "a": 1 },
        rawdoc! { "a": 1, "b": 1 },
        rawdoc! { "a": 1 },
        rawdoc! { "a": "1", "b": -1 },
    ] {
        assert!(!are_same_keys(&key(), &other), "{other:?}");
    }
}
