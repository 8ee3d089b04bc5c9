//! The tables of this module's documentation, a row each.

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Decimal128, rawdoc};

use super::*;
use crate::document::{Collection, CollectionKind};
use CollectionKind::{Capped, Clustered, Plain, TimeSeriesBuckets, Unordered, View};

const V6: &[Series] = &[[6, 0], [6, 0]];

fn decimal(text: &str) -> Decimal128 {
    text.parse().unwrap()
}

fn option_difference(kind: CollectionKind, source: &RawDocument, target: &RawDocument) -> Option<String> {
    let found = option_differences(kind, source, target, V6);
    assert_eq!(
        found.is_empty(),
        option_differences(kind, target, source, V6).is_empty(),
        "it is the same from both sides: {source:?} {target:?}"
    );
    found.into_iter().next().map(|(option, _)| option)
}

#[track_caller]
fn assert_same_options(rows: Vec<(&str, CollectionKind, RawDocumentBuf, RawDocumentBuf)>) {
    for (row, kind, source, target) in rows {
        assert_eq!(option_difference(kind, &source, &target), None, "{row}");
    }
}

#[test]
fn options_that_say_the_same_are_the_same() {
    let collation = |version: &str| {
        rawdoc! { "collation": {
            "locale": "sv", "caseLevel": false, "caseFirst": "off", "strength": 3, "numericOrdering": false, "alternate": "non-ignorable",
            "maxVariable": "punct", "normalization": false, "backwards": false, "version": version,
        } }
    };
    let none = || rawdoc! {};
    assert_same_options(vec![
        ("uuid", Plain, rawdoc! { "uuid": 1 }, rawdoc! { "uuid": 2 }),
        ("temp", Plain, rawdoc! { "temp": true }, none()),
        ("idIndex", Plain, rawdoc! { "idIndex": { "v": 1 } }, none()),
        ("create of 2.4", Plain, rawdoc! { "create": "a" }, none()),
        ("autoIndexId: true", Plain, rawdoc! { "autoIndexId": true }, none()),
        (
            "autoIndexId: false",
            Unordered,
            rawdoc! { "autoIndexId": false },
            none(),
        ),
        ("flags", Plain, rawdoc! { "flags": 1 }, none()),
        ("usePowerOf2Sizes", Plain, rawdoc! { "usePowerOf2Sizes": true }, none()),
        ("noPadding", Plain, rawdoc! { "noPadding": false }, none()),
        ("$nExtents", Plain, rawdoc! { "$nExtents": 3 }, none()),
        ("capped: false", Plain, rawdoc! { "capped": false }, none()),
        (
            "size of what is not capped",
            Plain,
            rawdoc! { "size": 4096, "max": 5 },
            none(),
        ),
        (
            "size and capped: false",
            Plain,
            rawdoc! { "capped": false, "size": 4096.0 },
            none(),
        ),
        (
            "capped: 1",
            Capped,
            rawdoc! { "capped": 1, "size": 4096 },
            rawdoc! { "capped": true, "size": 4096 },
        ),
        (
            "size as a double",
            Capped,
            rawdoc! { "capped": true, "size": 4096.0 },
            rawdoc! { "capped": true, "size": 4096 },
        ),
        (
            "size as a long",
            Capped,
            rawdoc! { "capped": true, "size": 4096_i64 },
            rawdoc! { "capped": true, "size": 4096 },
        ),
        (
            "size as a decimal",
            Capped,
            rawdoc! { "capped": true, "size": decimal("4096.0") },
            rawdoc! { "capped": true, "size": 4096 },
        ),
        (
            "size is rounded up",
            Capped,
            rawdoc! { "capped": true, "size": 5000 },
            rawdoc! { "capped": true, "size": 5120 },
        ),
        (
            "size with a fraction",
            Capped,
            rawdoc! { "capped": true, "size": 5000.7 },
            rawdoc! { "capped": true, "size": 5120 },
        ),
        (
            "size of 1",
            Capped,
            rawdoc! { "capped": true, "size": 1 },
            rawdoc! { "capped": true, "size": 256 },
        ),
        (
            "size of 0",
            Capped,
            rawdoc! { "capped": true, "size": 0 },
            rawdoc! { "capped": true, "size": 4096 },
        ),
        (
            "max as a double",
            Capped,
            rawdoc! { "capped": true, "size": 256, "max": 5.0 },
            rawdoc! { "capped": true, "size": 256, "max": 5 },
        ),
        (
            "max of 4.2 for none",
            Capped,
            rawdoc! { "capped": true, "size": 256, "max": 2147483647.0 },
            rawdoc! { "capped": true, "size": 256 },
        ),
        (
            "max of 0",
            Capped,
            rawdoc! { "capped": true, "size": 256, "max": 0 },
            rawdoc! { "capped": true, "size": 256, "max": i32::MAX },
        ),
        (
            "max below 0",
            Capped,
            rawdoc! { "capped": true, "size": 256, "max": -1_i64 },
            rawdoc! { "capped": true, "size": 256 },
        ),
        ("validator: {}", Plain, rawdoc! { "validator": {} }, none()),
        (
            "validationLevel",
            Plain,
            rawdoc! { "validationLevel": "strict" },
            none(),
        ),
        (
            "validationAction",
            Plain,
            rawdoc! { "validationAction": "error" },
            none(),
        ),
        (
            "numbers in a validator",
            Plain,
            rawdoc! { "validator": { "a": { "$gt": 5_i64 } } },
            rawdoc! { "validator": { "a": { "$gt": 5.0 } } },
        ),
        (
            "collation filled in",
            Unordered,
            rawdoc! { "collation": { "locale": "sv" } },
            collation("57.1"),
        ),
        (
            "collation of another version",
            Unordered,
            collation("57.1"),
            collation("58.2"),
        ),
        (
            "collation: simple",
            Plain,
            rawdoc! { "collation": { "locale": "simple" } },
            none(),
        ),
        (
            "collation's strength",
            Unordered,
            rawdoc! { "collation": { "locale": "sv", "strength": 3.0 } },
            collation("57.1"),
        ),
        (
            "collation of fr_CA",
            Unordered,
            rawdoc! { "collation": { "locale": "fr_CA" } },
            rawdoc! { "collation": { "locale": "fr_CA", "backwards": true } },
        ),
        (
            "collation of a view",
            View,
            rawdoc! { "viewOn": "a", "collation": { "locale": "simple" } },
            rawdoc! { "viewOn": "a" },
        ),
        (
            "pipeline: []",
            View,
            rawdoc! { "viewOn": "a", "pipeline": [] },
            rawdoc! { "viewOn": "a" },
        ),
        (
            "numbers in a pipeline",
            View,
            rawdoc! { "viewOn": "a", "pipeline": [{ "$limit": 1 }] },
            rawdoc! { "viewOn": "a", "pipeline": [{ "$limit": 1.0 }] },
        ),
        (
            "recordPreImages: false",
            Plain,
            rawdoc! { "recordPreImages": false },
            none(),
        ),
        (
            "changeStreamPreAndPostImages: off",
            Plain,
            rawdoc! { "changeStreamPreAndPostImages": { "enabled": false } },
            none(),
        ),
        (
            "recordIdsReplicated",
            Plain,
            none(),
            rawdoc! { "recordIdsReplicated": true },
        ),
        ("storageEngine: {}", Plain, rawdoc! { "storageEngine": {} }, none()),
        (
            "storageEngine.wiredTiger: {}",
            Plain,
            rawdoc! { "storageEngine": { "wiredTiger": {} } },
            none(),
        ),
        (
            "configString: ''",
            Plain,
            rawdoc! { "storageEngine": { "wiredTiger": { "configString": "" } } },
            none(),
        ),
        (
            "another storage engine",
            Plain,
            rawdoc! { "storageEngine": { "mmapv1": {}, "inMemory": {} } },
            none(),
        ),
        (
            "indexOptionDefaults: {}",
            Plain,
            rawdoc! { "indexOptionDefaults": {} },
            none(),
        ),
        (
            "indexOptionDefaults.storageEngine: {}",
            Plain,
            rawdoc! { "indexOptionDefaults": { "storageEngine": {} } },
            none(),
        ),
        (
            "clusteredIndex filled in",
            Clustered,
            rawdoc! { "clusteredIndex": { "key": { "_id": 1.0 }, "unique": true } },
            rawdoc! { "clusteredIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_", "unique": true } },
        ),
        (
            "expireAfterSeconds",
            Clustered,
            rawdoc! { "expireAfterSeconds": 100.0 },
            rawdoc! { "expireAfterSeconds": 100_i64 },
        ),
        (
            "validator of buckets",
            TimeSeriesBuckets,
            rawdoc! { "validator": { "$jsonSchema": { "a": 1 } } },
            rawdoc! { "validator": { "$jsonSchema": {} } },
        ),
        (
            "clusteredIndex of buckets",
            TimeSeriesBuckets,
            rawdoc! { "clusteredIndex": true },
            none(),
        ),
        (
            "granularity filled in",
            TimeSeriesBuckets,
            rawdoc! { "timeseries": { "timeField": "t" } },
            rawdoc! { "timeseries": { "timeField": "t", "granularity": "seconds", "bucketMaxSpanSeconds": 3600 } },
        ),
        (
            "bucketMaxSpanSeconds filled in",
            TimeSeriesBuckets,
            rawdoc! { "timeseries": { "timeField": "t", "granularity": "hours" } },
            rawdoc! { "timeseries": { "granularity": "hours", "bucketMaxSpanSeconds": 2592000.0, "timeField": "t" } },
        ),
        (
            "bucketRoundingSeconds filled in",
            TimeSeriesBuckets,
            rawdoc! { "timeseries": { "timeField": "t", "granularity": "minutes" } },
            rawdoc! { "timeseries": { "timeField": "t", "granularity": "minutes", "bucketMaxSpanSeconds": 86400, "bucketRoundingSeconds": 3600 } },
        ),
        (
            "buckets of a size of their own",
            TimeSeriesBuckets,
            rawdoc! { "timeseries": { "timeField": "t", "bucketMaxSpanSeconds": 100, "bucketRoundingSeconds": 100 } },
            rawdoc! { "timeseries": { "timeField": "t", "bucketRoundingSeconds": 100.0, "bucketMaxSpanSeconds": 100_i64 } },
        ),
        (
            "any other",
            Plain,
            rawdoc! { "new": { "a": [1, 2.0] } },
            rawdoc! { "new": { "a": [1.0, 2_i64] } },
        ),
    ]);
}

#[test]
fn options_that_say_something_else_differ() {
    for (row, kind, source, target) in [
        ("capped", Capped, rawdoc! { "capped": true, "size": 256 }, rawdoc! {}),
        (
            "size",
            Capped,
            rawdoc! { "capped": true, "size": 256 },
            rawdoc! { "capped": true, "size": 257 },
        ),
        (
            "max",
            Capped,
            rawdoc! { "capped": true, "size": 256, "max": 5 },
            rawdoc! { "capped": true, "size": 256 },
        ),
        (
            "validator",
            Plain,
            rawdoc! { "validator": { "a": 1 } },
            rawdoc! { "validator": { "a": 2 } },
        ),
        (
            "validator",
            Plain,
            rawdoc! { "validator": { "a": { "b": 1, "c": 1 } } },
            rawdoc! { "validator": { "a": { "c": 1, "b": 1 } } },
        ),
        (
            "validationLevel",
            Plain,
            rawdoc! { "validationLevel": "moderate" },
            rawdoc! { "validationLevel": "strict" },
        ),
        (
            "validationAction",
            Plain,
            rawdoc! { "validationAction": "warn" },
            rawdoc! {},
        ),
        (
            "collation",
            Unordered,
            rawdoc! { "collation": { "locale": "sv" } },
            rawdoc! { "collation": { "locale": "sv", "strength": 2 } },
        ),
        (
            "collation",
            Unordered,
            rawdoc! { "collation": { "locale": "sv" } },
            rawdoc! {},
        ),
        (
            "pipeline",
            View,
            rawdoc! { "viewOn": "a", "pipeline": [{ "$limit": 1 }] },
            rawdoc! { "viewOn": "a", "pipeline": [{ "$skip": 1 }] },
        ),
        ("viewOn", View, rawdoc! { "viewOn": "a" }, rawdoc! { "viewOn": "b" }),
        (
            "timeseries",
            TimeSeriesBuckets,
            rawdoc! { "timeseries": { "timeField": "t" } },
            rawdoc! { "timeseries": { "timeField": "t", "granularity": "hours" } },
        ),
        (
            "timeseries",
            TimeSeriesBuckets,
            rawdoc! { "timeseries": { "timeField": "t" } },
            rawdoc! { "timeseries": { "timeField": "t", "bucketMaxSpanSeconds": 3600, "bucketRoundingSeconds": 3600 } },
        ),
        (
            "expireAfterSeconds",
            TimeSeriesBuckets,
            rawdoc! { "expireAfterSeconds": 5 },
            rawdoc! {},
        ),
        (
            "clusteredIndex",
            Clustered,
            rawdoc! { "clusteredIndex": { "key": { "_id": 1 }, "name": "a" } },
            rawdoc! { "clusteredIndex": { "key": { "_id": 1 } } },
        ),
        (
            "changeStreamPreAndPostImages",
            Plain,
            rawdoc! { "changeStreamPreAndPostImages": { "enabled": true } },
            rawdoc! {},
        ),
        (
            "recordPreImages",
            Plain,
            rawdoc! { "recordPreImages": true },
            rawdoc! {},
        ),
        (
            "storageEngine",
            Plain,
            rawdoc! { "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } } },
            rawdoc! {},
        ),
        (
            "indexOptionDefaults",
            Plain,
            rawdoc! { "indexOptionDefaults": { "storageEngine": { "wiredTiger": { "configString": "a=1" } } } },
            rawdoc! {},
        ),
        ("new", Plain, rawdoc! { "new": 1 }, rawdoc! {}),
    ] {
        assert_eq!(
            option_difference(kind, &source, &target).as_deref(),
            Some(row),
            "{source:?} {target:?}"
        );
    }
}

#[test]
fn options_that_a_side_does_not_know_are_not_compared() {
    let with = rawdoc! { "recordPreImages": true };
    for (servers, is_compared) in [
        ([[5, 0], [6, 0]], true),
        ([[6, 0], [7, 0]], false),
        // As after a hand-over that is taken back.
        ([[7, 0], [6, 0]], false),
    ] {
        for (source, target) in [(with.clone(), rawdoc! {}), (rawdoc! {}, with.clone())] {
            let found = option_differences(Plain, &source, &target, &servers);
            assert_eq!(found.is_empty(), !is_compared, "{servers:?}");
        }
    }
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

fn collection(kind: CollectionKind, options: RawDocumentBuf, indexes: Vec<RawDocumentBuf>) -> Collection {
    Collection {
        id: bson::Uuid::from_bytes([1; 16]),
        namespace: "shop.a".parse().unwrap(),
        kind,
        options,
        indexes,
        documents: 0,
        bytes: 0,
    }
}

fn id_index(version: i32) -> RawDocumentBuf {
    rawdoc! { "v": version, "key": { "_id": 1 }, "name": "_id_" }
}

/// What is found of both sides, and what of it is not kept.
fn found(source: &Collection, target: &Collection, servers: [Series; 2]) -> (Vec<String>, Vec<String>) {
    let mut differences = compare_options(source, Some(target), &servers);
    let indexes = compare_indexes(source, Some(target), &servers);
    differences.extend(indexes.into_iter().filter_map(|index| index.reason));
    let lost = not_kept(source, Some(target), servers[1]);
    (
        differences,
        lost.into_iter()
            .map(|(_, lost)| format!("{} {}", lost.code, lost.option))
            .collect(),
    )
}

#[test]
fn what_a_target_cannot_keep_is_no_difference_but_named() {
    let plain = || collection(Plain, rawdoc! {}, vec![id_index(2)]);
    let with = |kind, options, more: Option<RawDocumentBuf>| {
        collection(kind, options, std::iter::once(id_index(2)).chain(more).collect())
    };
    let expiring = || rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at", "expireAfterSeconds": 5 };
    let at = || rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at" };
    let capped = || rawdoc! { "capped": true, "size": 4096 };
    let odd_id = rawdoc! { "v": 2, "key": { "_id": 1.0 }, "name": "_id_", "sparse": true, "ns": "shop.a" };
    for (row, source, target, servers, lost) in [
        ("nothing", plain(), plain(), [[4, 2], [6, 0]], &[] as &[&str]),
        (
            "the version of the index on _id",
            collection(Plain, rawdoc! {}, vec![id_index(1)]),
            plain(),
            [[4, 2], [6, 0]],
            &["id_index_version v"],
        ),
        (
            "the same version of it",
            collection(Plain, rawdoc! {}, vec![id_index(1)]),
            collection(Plain, rawdoc! {}, vec![id_index(1)]),
            [[4, 2], [6, 0]],
            &[],
        ),
        (
            "an odd index on _id",
            collection(Plain, rawdoc! {}, vec![odd_id]),
            plain(),
            [[4, 2], [6, 0]],
            &["id_index_option sparse"],
        ),
        (
            "no index on _id",
            collection(Unordered, rawdoc! { "autoIndexId": false }, vec![]),
            plain(),
            [[4, 2], [6, 0]],
            &["id_index_missing autoIndexId"],
        ),
        (
            "expiry of a capped collection",
            with(Capped, capped(), Some(expiring())),
            with(Capped, capped(), Some(at())),
            [[5, 0], [6, 0]],
            &["index_option_not_kept expireAfterSeconds"],
        ),
        (
            "a field of another kind of index",
            with(Plain, rawdoc! {}, Some(index(rawdoc! { "bits": 26 }))),
            with(Plain, rawdoc! {}, Some(index(rawdoc! {}))),
            [[4, 2], [6, 0]],
            &["index_option_not_kept bits"],
        ),
        (
            "images of documents",
            with(Plain, rawdoc! { "recordPreImages": true }, None),
            plain(),
            [[6, 0], [7, 0]],
            &["option_not_kept recordPreImages"],
        ),
        (
            "another engine",
            with(Plain, rawdoc! { "storageEngine": { "inMemory": {} } }, None),
            plain(),
            [[6, 0], [6, 0]],
            &["option_not_kept storageEngine.inMemory"],
        ),
        (
            "replicated record ids",
            with(Plain, rawdoc! { "recordIdsReplicated": true }, None),
            plain(),
            [[9, 0], [8, 0]],
            &["option_not_kept recordIdsReplicated"],
        ),
    ] {
        assert_eq!(
            found(&source, &target, servers),
            (vec![], lost.iter().map(|lost| (*lost).to_owned()).collect()),
            "{row}"
        );
        // And back again.
        let [there, here] = servers;
        assert_eq!(found(&target, &source, [here, there]).0, [""; 0], "{row}");
    }
    // Between servers that both keep it, its loss is a difference.
    let (ours, theirs) = (
        with(Capped, capped(), Some(expiring())),
        with(Capped, capped(), Some(at())),
    );
    assert_eq!(found(&ours, &theirs, [[4, 2], [5, 0]]).0.len(), 1);
    let (ours, theirs) = (with(Plain, rawdoc! { "recordPreImages": true }, None), plain());
    assert_eq!(found(&ours, &theirs, [[5, 0], [6, 0]]).0.len(), 1);
}

#[test]
fn what_is_on_one_side_only_is_found() {
    let with = |name: &str| {
        collection(
            Plain,
            rawdoc! {},
            vec![id_index(2), rawdoc! { "v": 2, "key": { "a": 1 }, "name": name }],
        )
    };
    let reasons = |source: &Collection, target: Option<&Collection>| -> Vec<String> {
        let indexes = compare_indexes(source, target, V6);
        indexes.into_iter().filter_map(|index| index.reason).collect()
    };
    assert_eq!(
        reasons(&with("a"), Some(&with("b"))),
        ["it is missing on the target", "it is on the target only"]
    );
    assert_eq!(reasons(&with("a"), None).len(), 2);
    assert_eq!(
        compare_options(&with("a"), None, V6),
        ["it does not exist on the target"]
    );
    let view = collection(View, rawdoc! {}, vec![]);
    assert_eq!(
        compare_options(&with("a"), Some(&view), V6),
        ["it is Plain on the source and View on the target"]
    );
}

#[test]
fn what_is_sent_is_what_servers_take() {
    let options = rawdoc! {
        "uuid": 1, "temp": true, "create": "a", "ns": "shop.a", "flags": 1, "usePowerOf2Sizes": true, "autoIndexId": false, "capped": false, "size": 5,
        "recordPreImages": true, "changeStreamPreAndPostImages": { "enabled": false }, "recordIdsReplicated": true,
        "collation": { "locale": "sv", "version": "57.1" }, "storageEngine": { "mmapv1": {} }, "indexOptionDefaults": { "storageEngine": { "mmapv1": {} } },
        "idIndex": { "v": 1 },
    };
    let common = rawdoc! { "collation": { "locale": "sv" }, "idIndex": { "v": 1 } };
    assert_eq!(options_for(Plain, &options, [4, 2]), common);
    let with_images = rawdoc! { "recordPreImages": true, "collation": { "locale": "sv" }, "idIndex": { "v": 1 } };
    assert_eq!(options_for(Plain, &options, [5, 0]), with_images);
    let off = rawdoc! { "changeStreamPreAndPostImages": { "enabled": false }, "collation": { "locale": "sv" }, "idIndex": { "v": 1 } };
    assert_eq!(options_for(Plain, &options, [7, 0]), off);
    let capped = rawdoc! { "capped": true, "size": 0, "max": 5 };
    assert_eq!(
        options_for(Capped, &capped, [6, 0]),
        rawdoc! { "capped": true, "size": 4096_i64, "max": 5 }
    );
    let buckets = rawdoc! { "validator": {}, "clusteredIndex": true, "timeseries": { "timeField": "t" }, "expireAfterSeconds": 5_i64 };
    let made = rawdoc! { "timeseries": { "timeField": "t" }, "expireAfterSeconds": 5_i64 };
    assert_eq!(options_for(TimeSeriesBuckets, &buckets, [6, 0]), made);

    let modification = rawdoc! {
        "collMod": "a", "recordPreImages": true, "changeStreamPreAndPostImages": { "enabled": false }, "timeseriesBucketsMayHaveMixedSchemaData": true,
        "usePowerOf2Sizes": true, "validationLevel": "off",
    };
    assert_eq!(
        modification_for(&modification, [4, 2]),
        rawdoc! { "validationLevel": "off" }
    );

    assert_eq!(
        to_create(&rawdoc! { "capped": true }, &[id_index(2)]),
        rawdoc! { "capped": true }
    );
    assert_eq!(
        to_create(&rawdoc! {}, &[id_index(1)]),
        rawdoc! { "idIndex": id_index(1) }
    );
}

#[test]
fn indexes_are_sent_without_what_says_nothing() {
    let simple = || rawdoc! { "locale": "simple" };
    for (row, given, servers, sent) in [
        (
            "a plain one",
            rawdoc! { "ns": "shop.a", "safe": true, "dropDups": true, "bits": 26, "hidden": false },
            [4, 2],
            rawdoc! {},
        ),
        (
            "what is off",
            rawdoc! { "hidden": false, "prepareUnique": false },
            [4, 4],
            rawdoc! { "hidden": false },
        ),
        (
            "NaN",
            rawdoc! { "expireAfterSeconds": f64::NAN },
            [5, 0],
            rawdoc! { "expireAfterSeconds": i32::MAX },
        ),
        (
            "a fraction",
            rawdoc! { "expireAfterSeconds": 60.7 },
            [4, 2],
            rawdoc! { "expireAfterSeconds": 60 },
        ),
        (
            "2dsphere of 2.4",
            rawdoc! { "key": { "a": "2dsphere" } },
            [6, 0],
            rawdoc! { "key": { "a": "2dsphere" }, "2dsphereIndexVersion": 1 },
        ),
        (
            "several fields",
            rawdoc! { "key": { "a": 1, "b": 1 }, "expireAfterSeconds": 5 },
            [6, 0],
            rawdoc! { "key": { "a": 1, "b": 1 } },
        ),
    ] {
        let mut expected = index(sent);
        expected.append(bson::raw::cstr!("collation"), simple());
        assert_eq!(index_for(&index(given), servers), expected, "{row}");
    }
    let of_first_version = rawdoc! { "v": 1, "key": { "a": 1 }, "name": "x" };
    assert_eq!(index_for(&of_first_version, [6, 0]), of_first_version);
}
