//! Collections and views made, changed, renamed, replaced and dropped.

use bson::{Bson, Document, doc};
use mongoferry_testbed::Version;

use super::{Case, Step, case, create, delete, index, insert, numbered, rename, run, update};

fn schema() -> Document {
    doc! { "$jsonSchema": { "bsonType": "object", "required": ["name"], "properties": { "name": { "bsonType": "string" } } } }
}

fn drop(collection: &str) -> Step {
    run(doc! { "drop": collection })
}

fn view(name: &str, on: &str, pipeline: Vec<Document>) -> Step {
    create(name, doc! { "viewOn": on, "pipeline": pipeline })
}

fn aggregate(collection: &str, pipeline: Vec<Document>) -> Step {
    run(doc! { "aggregate": collection, "pipeline": pipeline, "cursor": {} })
}

pub fn cases() -> Vec<Case> {
    let clustered = || doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
    let storage = || doc! { "storageEngine": { "wiredTiger": { "configString": "block_compressor=snappy" } } };
    let matching = |field: &str| doc! { "$match": { field: { "$gte": 0 } } };
    let mut cases = vec![
        case("create_implicit", vec![], vec![insert("a", vec![doc! {}])]),
        case("create", vec![], vec![create("a", doc! {})]),
        case("create_collation", vec![], vec![create("a", doc! { "collation": { "locale": "en_US", "strength": 2 } }), numbered("a", 5)]),
        case("create_simple_collation", vec![], vec![create("a", doc! { "collation": { "locale": "simple" } }), numbered("a", 5)]),
        case("create_capped", vec![], vec![create("a", doc! { "capped": true, "size": 54321, "max": 7 }), numbered("a", 10)]),
        case("create_storage_options", vec![], vec![create("a", {
            let mut options = storage();
            options.insert("indexOptionDefaults", doc! { "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } } });
            options
        }), numbered("a", 2)]),
        case("create_validator", vec![], vec![create("a", doc! { "validator": schema(), "validationLevel": "moderate", "validationAction": "warn" }), numbered("a", 3)]),
        case("create_and_break_validator", vec![numbered("a", 3)], vec![
            run(doc! { "collMod": "a", "validator": schema(), "validationLevel": "strict" }),
            run(doc! { "insert": "a", "documents": [{ "_id": 10, "odd": 1 }], "bypassDocumentValidation": true }),
        ]),
        case("create_view", vec![numbered("a", 3)], vec![view("v", "a", vec![matching("i")])]),
        case("create_view_collation", vec![numbered("a", 3)], vec![create("v", doc! { "viewOn": "a", "pipeline": [], "collation": { "locale": "en_US" } })]),
        case("create_view_of_nothing", vec![], vec![view("v", "nothing", vec![matching("i")]), view("w", "v", vec![])]),
        case("create_odd_names", vec![], vec![create("a.b.c", doc! {}), create("with space", doc! {}), create("Größe", doc! {})]),
        case("create_system_js", vec![], vec![insert("system.js", vec![doc! { "_id": "f", "value": Bson::JavaScriptCode("function() { return 1; }".to_owned()) }])]),
        case("drop", vec![numbered("a", 5)], vec![drop("a")]),
        case("drop_capped", vec![create("a", doc! { "capped": true, "size": 54321 }), numbered("a", 5)], vec![drop("a")]),
        case("drop_view", vec![numbered("a", 3), view("v", "a", vec![])], vec![drop("v")]),
        case("drop_under_a_view", vec![numbered("a", 3), view("v", "a", vec![])], vec![drop("a")]),
        case("drop_and_create", vec![numbered("a", 50)], vec![drop("a"), create("a", doc! {}), numbered("a", 4), drop("a"), numbered("a", 3)]),
        case("drop_and_create_otherwise", vec![numbered("a", 50)], vec![drop("a"), create("a", doc! { "capped": true, "size": 4096 }), numbered("a", 4), drop("a"), view("a", "b", vec![]), drop("a"), numbered("a", 2)]),
        case("drop_database", vec![numbered("a", 9), view("v", "a", vec![])], vec![run(doc! { "dropDatabase": 1 })]),
        case("drop_new_database", vec![], vec![create("a", doc! {}), view("v", "a", vec![matching("i")]), run(doc! { "dropDatabase": 1 })]),
        case("drop_database_system_js", vec![numbered("a", 3), insert("system.js", vec![doc! { "_id": "f", "value": "1" }])], vec![run(doc! { "dropDatabase": 1 })]),
        case("drop_database_and_create", vec![numbered("a", 9), numbered("b", 9)], vec![run(doc! { "dropDatabase": 1 }), numbered("b", 3), view("v", "b", vec![])]),
        case("rename", vec![numbered("a", 20), index("a", doc! { "i": 1 }, doc! {})], vec![rename("a", "@.b"), numbered("a", 2), update("b", 1, doc! { "$set": { "x": 1 } })]),
        case("rename_chain", vec![numbered("a", 20), numbered("b", 10)], vec![rename("a", "@.t"), rename("b", "@.a"), rename("t", "@.b"), delete("a", 1), delete("b", 2)]),
        case("rename_onto", vec![numbered("a", 20), numbered("b", 3), index("b", doc! { "g": 1 }, doc! {})], vec![
            Step::Admin(doc! { "renameCollection": "@.a", "to": "@.b", "dropTarget": true }), delete("b", 3)]),
        case("rename_across", vec![numbered("a", 20), index("a", doc! { "i": 1 }, doc! { "unique": true })], vec![rename("a", "@2.b")]),
        case("rename_across_onto", vec![numbered("a", 20)], vec![
            run(doc! { "aggregate": "a", "pipeline": [{ "$match": { "i": 3 } }, { "$out": "c" }], "cursor": {} }),
            rename("c", "@2.b"),
            Step::Admin(doc! { "renameCollection": "@.a", "to": "@2.b", "dropTarget": true })]),
        case("rename_capped", vec![create("a", doc! { "capped": true, "size": 54321 }), numbered("a", 9)], vec![rename("a", "@.b"), insert("b", vec![doc! { "_id": "z" }])]),
        case("out", vec![numbered("a", 20)], vec![aggregate("a", vec![doc! { "$match": { "g": 1 } }, doc! { "$out": "b" }])]),
        case("out_onto", vec![numbered("a", 20), numbered("b", 30), index("b", doc! { "i": -1 }, doc! { "unique": true })], vec![
            aggregate("a", vec![doc! { "$match": { "g": 1 } }, doc! { "$out": "b" }]), aggregate("a", vec![doc! { "$match": { "g": 2 } }, doc! { "$out": "b" }])]),
        case("merge", vec![numbered("a", 20), numbered("b", 4)], vec![
            aggregate("a", vec![doc! { "$set": { "m": "$i" } }, doc! { "$merge": { "into": "b", "whenMatched": "merge" } }]),
            aggregate("a", vec![doc! { "$merge": { "into": "c", "whenMatched": "replace" } }])]),
        case("convert_to_capped", vec![numbered("a", 20), index("a", doc! { "i": 1 }, doc! {})], vec![run(doc! { "convertToCapped": "a", "size": 8192 }), insert("a", vec![doc! { "_id": 100 }])]),
        case("clone_as_capped", vec![numbered("a", 20)], vec![run(doc! { "cloneCollectionAsCapped": "a", "toCollection": "b", "size": 8192 })]),
        case("modify_validator", vec![create("a", doc! {})], vec![run(doc! { "collMod": "a", "validator": schema(), "validationLevel": "strict", "validationAction": "error" })]),
        case("modify_validator_off", vec![create("a", doc! { "validator": schema(), "validationLevel": "strict", "validationAction": "error" })], vec![run(doc! { "collMod": "a", "validator": {} })]),
        case("modify_view", vec![view("v", "a", vec![matching("i")])], vec![run(doc! { "collMod": "v", "viewOn": "b", "pipeline": [matching("j")] })]),
        case("modify_then_replace", vec![numbered("a", 5)], vec![run(doc! { "collMod": "a", "validationAction": "warn" }), rename("a", "@.b"), run(doc! { "collMod": "b", "validationAction": "error", "validationLevel": "off" })]),
        case("capped_evicts", vec![create("a", doc! { "capped": true, "size": 4096, "max": 5 }), numbered("a", 9)], vec![
            insert("a", (20..40).map(|i| doc! { "_id": i, "i": i }).collect()), insert("a", vec![doc! { "_id": "b" }]), update("a", 39, doc! { "$set": { "i": 0 } })]),
        case("gridfs", vec![], vec![
            index("fs.chunks", doc! { "files_id": 1, "n": 1 }, doc! { "unique": true }),
            insert("fs.chunks", (0..4).map(|n| doc! { "files_id": 1, "n": n, "data": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![n as u8; 5000] }) }).collect()),
            insert("fs.files", vec![doc! { "_id": 1, "length": 20000, "chunkSize": 5000 }])]),
    ];
    let since_5 = vec![
        case(
            "create_time_series",
            vec![],
            vec![
                create("a", doc! { "timeseries": { "timeField": "t", "metaField": "m" } }),
                measure(0, 40),
            ],
        ),
        case(
            "insert_time_series",
            vec![
                create(
                    "a",
                    doc! { "timeseries": { "timeField": "t", "metaField": "m", "granularity": "minutes" } },
                ),
                measure(0, 40),
            ],
            vec![measure(20, 60)],
        ),
        case(
            "modify_time_series",
            vec![create(
                "a",
                doc! { "timeseries": { "timeField": "t", "metaField": "m" } },
            )],
            vec![run(doc! { "collMod": "a", "expireAfterSeconds": 1_000_000_000_i64 })],
        ),
        case(
            "drop_time_series",
            vec![create("a", doc! { "timeseries": { "timeField": "t" } }), measure(0, 9)],
            vec![drop("a")],
        ),
        case(
            "drop_and_create_time_series",
            vec![create("a", doc! { "timeseries": { "timeField": "t" } }), measure(0, 9)],
            vec![
                drop("a"),
                numbered("a", 3),
                drop("a"),
                create("a", doc! { "timeseries": { "timeField": "t" } }),
                measure(5, 9),
            ],
        ),
        case(
            "index_time_series",
            vec![
                create("a", doc! { "timeseries": { "timeField": "t", "metaField": "m" } }),
                measure(0, 9),
            ],
            vec![index("a", doc! { "m": 1, "t": -1 }, doc! {})],
        ),
        case(
            "drop_database_time_series",
            vec![create("a", doc! { "timeseries": { "timeField": "t" } }), measure(0, 9)],
            vec![run(doc! { "dropDatabase": 1 })],
        ),
    ];
    cases.extend(since_5.into_iter().map(|case| case.since(Version::V5_0)));
    let since_6 = vec![
        case(
            "create_clustered",
            vec![],
            vec![create("a", clustered()), numbered("a", 5)],
        ),
        case(
            "create_clustered_ttl",
            vec![],
            vec![create("a", {
                let mut options = clustered();
                options.insert("expireAfterSeconds", 1_000_000);
                options
            })],
        ),
        case(
            "modify_clustered_ttl",
            vec![create("a", {
                let mut options = clustered();
                options.insert("expireAfterSeconds", 123);
                options
            })],
            vec![run(doc! { "collMod": "a", "expireAfterSeconds": 444 })],
        ),
        case(
            "clustered_ttl_off",
            vec![create("a", {
                let mut options = clustered();
                options.insert("expireAfterSeconds", 123);
                options
            })],
            vec![run(doc! { "collMod": "a", "expireAfterSeconds": "off" })],
        ),
        case(
            "create_pre_images",
            vec![],
            vec![
                create("a", doc! { "changeStreamPreAndPostImages": { "enabled": true } }),
                numbered("a", 2),
                update("a", 1, doc! { "$set": { "x": 1 } }),
            ],
        ),
        case(
            "modify_pre_images",
            vec![create("a", doc! {})],
            vec![run(
                doc! { "collMod": "a", "changeStreamPreAndPostImages": { "enabled": true } },
            )],
        ),
        case(
            "modify_pre_images_off",
            vec![create(
                "a",
                doc! { "changeStreamPreAndPostImages": { "enabled": true } },
            )],
            vec![run(
                doc! { "collMod": "a", "changeStreamPreAndPostImages": { "enabled": false } },
            )],
        ),
        case(
            "modify_capped",
            ["a", "b", "c"]
                .map(|name| create(name, doc! { "capped": true, "size": 1111, "max": 222 }))
                .into(),
            vec![
                run(doc! { "collMod": "a", "cappedSize": 3333, "cappedMax": 444 }),
                run(doc! { "collMod": "b", "cappedSize": 3333 }),
                run(doc! { "collMod": "c", "cappedMax": 444 }),
            ],
        ),
        case(
            "modify_granularity",
            vec![
                create(
                    "a",
                    doc! { "timeseries": { "timeField": "t", "metaField": "m", "granularity": "seconds" } },
                ),
                measure(0, 9),
            ],
            vec![run(doc! { "collMod": "a", "timeseries": { "granularity": "minutes" } })],
        ),
        case(
            "capped_deletes",
            vec![create("a", doc! { "capped": true, "size": 4096 }), numbered("a", 9)],
            vec![delete("a", 3), delete("a", 0), insert("a", vec![doc! { "_id": 50 }])],
        ),
    ];
    cases.extend(since_6.into_iter().map(|case| case.since(Version::V6_0)));
    cases
}

/// Measurements of a time-series collection, a minute apart.
fn measure(from: i64, to: i64) -> Step {
    let measurement = |minute: i64| {
        let time = bson::DateTime::from_millis(1_700_000_000_000 + minute * 60_000);
        doc! { "_id": minute as i32, "t": time, "m": { "sensor": (minute % 3) as i32 }, "v": minute as f64 / 7.0 }
    };
    insert("a", (from..to).map(measurement).collect())
}
