//! Indexes of every kind built, changed and dropped.

use bson::{Document, doc};
use mongoferry_testbed::Version;

use super::{Case, Step, case, create, delete, index, insert, numbered, rename, run, update};

fn drop_index(collection: &str, name: &str) -> Step {
    run(doc! { "dropIndexes": collection, "index": name })
}

fn modify(collection: &str, change: Document) -> Step {
    run(doc! { "collMod": collection, "index": change })
}

pub fn cases() -> Vec<Case> {
    let kinds: Vec<(&str, Document, Document)> = vec![
        ("index_plain", doc! { "i": 1 }, doc! {}),
        ("index_double", doc! { "i": 1.0 }, doc! {}),
        (
            "index_collation",
            doc! { "i": 1 },
            doc! { "collation": { "locale": "en_US" } },
        ),
        ("index_unique", doc! { "i": 1 }, doc! { "unique": true }),
        ("index_sparse", doc! { "i": 1 }, doc! { "sparse": true }),
        (
            "index_partial",
            doc! { "i": 1 },
            doc! { "partialFilterExpression": { "j": { "$gt": 5 } } },
        ),
        ("index_hashed", doc! { "i": "hashed" }, doc! {}),
        ("index_compound", doc! { "i": 1, "j": -1 }, doc! {}),
        ("index_multikey", doc! { "i.j": 1 }, doc! {}),
        ("index_wildcard", doc! { "$**": 1 }, doc! {}),
        (
            "index_wildcard_projection",
            doc! { "$**": 1 },
            doc! { "wildcardProjection": { "a": 1, "b.c": 1 } },
        ),
        (
            "index_2d",
            doc! { "loc": "2d" },
            doc! { "bits": 20, "min": -200.0, "max": 200.0 },
        ),
        ("index_2dsphere", doc! { "loc": "2dsphere" }, doc! {}),
        (
            "index_text",
            doc! { "i": "text" },
            doc! { "weights": { "i": 3 }, "default_language": "german" },
        ),
        ("index_text_wildcard", doc! { "$**": "text" }, doc! {}),
        ("index_text_compound", doc! { "g": 1, "i": "text" }, doc! {}),
        ("index_ttl", doc! { "i": 1 }, doc! { "expireAfterSeconds": 1 }),
        ("index_ttl_zero", doc! { "i": 1 }, doc! { "expireAfterSeconds": 0 }),
        ("index_background", doc! { "i": 1 }, doc! { "background": true }),
        ("index_v1", doc! { "i": 1 }, doc! { "v": 1 }),
        (
            "index_storage",
            doc! { "i": 1 },
            doc! { "storageEngine": { "wiredTiger": {} } },
        ),
    ];
    let mut cases = Vec::new();
    for (name, key, options) in kinds {
        cases.push(case(
            name,
            vec![numbered("a", 9)],
            vec![
                index("a", key.clone(), options.clone()),
                insert("a", vec![doc! { "_id": 99 }]),
            ],
        ));
        cases.push(case(
            Box::leak(format!("{name}_empty").into_boxed_str()),
            vec![create("a", doc! {})],
            vec![index("a", key, options)],
        ));
    }
    cases.extend([
        case("index_implicit_collection", vec![], vec![index("a", doc! { "i": 1 }, doc! {})]),
        case("indexes_several", vec![numbered("a", 9)], vec![
            run(doc! { "createIndexes": "a", "indexes": [{ "key": { "i": 1 }, "name": "one" }, { "key": { "g": 1, "i": 1 }, "name": "two", "unique": true }] }),
            index("a", doc! { "z": 1 }, doc! {})]),
        case("index_same_key", vec![numbered("a", 9)], vec![
            index("a", doc! { "g": 1 }, doc! { "name": "simple" }), index("a", doc! { "g": 1 }, doc! { "name": "german", "collation": { "locale": "de" } })]),
        // Its absence says in an index that it has the simple collation, whatever the collection has.
        case("index_simple_in_collated", vec![create("a", doc! { "collation": { "locale": "de" } }), insert("a", vec![doc! { "_id": 1, "i": "x" }]),
            index("a", doc! { "i": 1 }, doc! { "collation": { "locale": "simple" } }), index("a", doc! { "i": "text" }, doc! { "collation": { "locale": "simple" } })], vec![
            index("a", doc! { "g": 1 }, doc! { "collation": { "locale": "simple" } }), index("a", doc! { "h": 1 }, doc! {})]),
        case("index_drop", vec![numbered("a", 9), index("a", doc! { "i": 1 }, doc! {})], vec![drop_index("a", "i_1")]),
        case("index_drop_new", vec![numbered("a", 9)], vec![index("a", doc! { "i": 1 }, doc! {}), drop_index("a", "i_1")]),
        case("index_drop_all", vec![numbered("a", 9), index("a", doc! { "i": 1 }, doc! {}), index("a", doc! { "g": 1 }, doc! {})], vec![drop_index("a", "*")]),
        case("index_drop_list", vec![numbered("a", 9), index("a", doc! { "i": 1 }, doc! {}), index("a", doc! { "g": 1 }, doc! {})], vec![
            run(doc! { "dropIndexes": "a", "index": ["i_1", "g_1"] })]),
        case("index_drop_by_key", vec![numbered("a", 9), index("a", doc! { "i": 1 }, doc! {})], vec![run(doc! { "dropIndexes": "a", "index": { "i": 1 } })]),
        case("index_drop_and_other", vec![numbered("a", 9), index("a", doc! { "i": 1 }, doc! {})], vec![
            drop_index("a", "i_1"), index("a", doc! { "i": 1 }, doc! { "unique": true }), rename("a", "@.b"), drop_index("b", "i_1"), index("b", doc! { "i": 1 }, doc! { "sparse": true })]),
        case("index_ttl_changed", vec![numbered("a", 3), index("a", doc! { "i": 1 }, doc! { "expireAfterSeconds": 1260 })], vec![
            modify("a", doc! { "keyPattern": { "i": 1 }, "expireAfterSeconds": 5000 })]),
        case("index_ttl_after_create", vec![], vec![
            insert("a", vec![doc! { "at": bson::DateTime::now() }]), index("a", doc! { "at": 1 }, doc! { "name": "short", "expireAfterSeconds": 1260 }),
            modify("a", doc! { "name": "short", "expireAfterSeconds": 77_000 })]),
        case("index_ttl_capped", vec![create("a", doc! { "capped": true, "size": 9000 }), create("b", doc! { "capped": true, "size": 9000 }), index("b", doc! { "i": 1 }, doc! {})], vec![
            index("a", doc! { "i": 1 }, doc! { "expireAfterSeconds": 77_000 }), modify("a", doc! { "name": "i_1", "expireAfterSeconds": 88_000 })]).until(Version::V5_0),
        case("index_unique_swap", vec![insert("a", vec![doc! { "_id": 1, "u": "a" }, doc! { "_id": 2, "u": "b" }]), index("a", doc! { "u": 1 }, doc! { "unique": true })], vec![
            update("a", 1, doc! { "$set": { "u": "t" } }), update("a", 2, doc! { "$set": { "u": "a" } }), update("a", 1, doc! { "$set": { "u": "b" } }),
            delete("a", 2), insert("a", vec![doc! { "_id": 3, "u": "a" }]), update("a", 1, doc! { "$set": { "u": "c" } }), insert("a", vec![doc! { "_id": 4, "u": "b" }])]),
        case("index_build_fails", vec![insert("a", vec![doc! { "_id": 1, "u": 1 }, doc! { "_id": 2, "u": 1 }])], vec![
            delete("a", 2), index("a", doc! { "u": 1 }, doc! { "unique": true })]),
    ]);
    cases.extend(
        [
            case(
                "index_hide",
                vec![numbered("a", 3), index("a", doc! { "i": 1 }, doc! {})],
                vec![modify("a", doc! { "name": "i_1", "hidden": true })],
            ),
            case(
                "index_unhide",
                vec![numbered("a", 3), index("a", doc! { "i": 1 }, doc! { "hidden": true })],
                vec![modify("a", doc! { "name": "i_1", "hidden": false })],
            ),
            case(
                "index_hidden",
                vec![numbered("a", 3)],
                vec![index("a", doc! { "i": 1 }, doc! { "hidden": true })],
            ),
            case(
                "index_hidden_then_dropped",
                vec![numbered("a", 3)],
                vec![
                    index("a", doc! { "i": 1 }, doc! { "hidden": true }),
                    modify("a", doc! { "name": "i_1", "hidden": false }),
                    drop_index("a", "i_1"),
                ],
            ),
            case(
                "index_hashed_compound",
                vec![numbered("a", 9)],
                vec![index("a", doc! { "i": "hashed", "g": 1 }, doc! {})],
            ),
        ]
        .map(|case| case.since(Version::V4_4)),
    );
    cases.extend(
        [
            case(
                "index_made_ttl",
                vec![numbered("a", 3), index("a", doc! { "i": 1 }, doc! {})],
                vec![modify("a", doc! { "name": "i_1", "expireAfterSeconds": 4321 })],
            ),
            case(
                "index_made_unique",
                vec![numbered("a", 3), index("a", doc! { "i": 1 }, doc! {})],
                vec![
                    modify("a", doc! { "name": "i_1", "prepareUnique": true }),
                    insert("a", vec![doc! { "_id": 9, "i": 9 }]),
                    modify("a", doc! { "name": "i_1", "unique": true }),
                ],
            ),
            case(
                "index_prepared_unique",
                vec![numbered("a", 3), index("a", doc! { "i": 1 }, doc! {})],
                vec![modify("a", doc! { "name": "i_1", "prepareUnique": true })],
            ),
            case(
                "index_columnstore_like",
                vec![numbered("a", 3)],
                vec![index("a", doc! { "g.$**": 1 }, doc! {})],
            ),
        ]
        .map(|case| case.since(Version::V6_0)),
    );
    cases
}
