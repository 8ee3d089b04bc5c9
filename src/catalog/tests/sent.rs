use bson::rawdoc;

use super::*;
use crate::model::CollectionKind::{Capped, Plain, TimeSeriesBuckets};

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
