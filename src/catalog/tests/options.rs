use CollectionKind::{Capped, Clustered, Plain, TimeSeriesBuckets, Unordered, View};
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;

use super::*;
use crate::model::CollectionKind;

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
        // As for a migration that is being reversed.
        ([[7, 0], [6, 0]], false),
    ] {
        for (source, target) in [(with.clone(), rawdoc! {}), (rawdoc! {}, with.clone())] {
            let found = option_differences(Plain, &source, &target, &servers);
            assert_eq!(found.is_empty(), !is_compared, "{servers:?}");
        }
    }
}
