//! Every update operator, paths of every shape, and pipelines.

use bson::{Bson, Document, bson, doc};
use mongoferry_testbed::Version;

use super::{Case, case, insert, run, update};

/// The document that a case of one update begins with.
fn document() -> Document {
    doc! {
        "_id": 1, "n": 5, "big": 7_i64, "f": 1.5, "t": "text", "d": bson::DateTime::from_millis(1_000), "z": Bson::Null,
        "o": { "a": 1, "b": { "c": [1, 2, { "d": 3 }], "e": "f" }, "0": "zero" },
        "arr": [1, 2, 3, 4, 5, 6, 7, 8, 9], "docs": [{ "k": 1, "v": "a" }, { "k": 2, "v": "b" }, { "k": 1, "v": "c" }],
        "nested": [[1, 2], [3, [4, 5]]], "last": true,
    }
}

/// One document and the updates on it.
fn on_document(name: &'static str, changes: Vec<Bson>) -> Case {
    case(
        name,
        vec![insert("a", vec![document()])],
        changes.into_iter().map(|change| update("a", 1, change)).collect(),
    )
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        on_document(
            "set",
            vec![bson!({ "$set": { "n": 6, "new": 1, "o.b.e": "g", "o.new.deep": 1 } })],
        ),
        on_document("set_same", vec![bson!({ "$set": { "n": 5 } })]),
        on_document(
            "set_order",
            vec![
                bson!({ "$set": { "zz": 1, "aa": 2, "mm": 3 } }),
                bson!({ "$unset": { "n": 1 } }),
                bson!({ "$set": { "n": 1 } }),
            ],
        ),
        on_document(
            "set_type",
            vec![
                bson!({ "$set": { "n": 5_i64 } }),
                bson!({ "$set": { "o": [1] } }),
                bson!({ "$set": { "arr": { "0": 1 } } }),
                bson!({ "$set": { "arr.0": 2, "o.0": 3 } }),
            ],
        ),
        on_document(
            "set_array",
            vec![bson!({ "$set": { "arr.1": "X", "docs.2.v": "Y", "nested.1.1.0": 9 } })],
        ),
        on_document(
            "set_beyond_array",
            vec![
                bson!({ "$set": { "arr.12": "X" } }),
                bson!({ "$set": { "docs.5.k": 1 } }),
            ],
        ),
        on_document(
            "set_numeric_names",
            vec![
                bson!({ "$set": { "new.0": 1, "new.10": 2, "new.2": 3 } }),
                bson!({ "$set": { "new.1": 4 } }),
            ],
        ),
        on_document(
            "unset",
            vec![bson!({ "$unset": { "n": 1, "o.b.c": 1, "arr.3": 1, "nothing": 1 } })],
        ),
        on_document(
            "unset_all",
            vec![
                bson!({ "$unset": { "n": 1, "big": 1, "f": 1, "t": 1, "d": 1, "z": 1, "o": 1, "arr": 1, "docs": 1, "nested": 1, "last": 1 } }),
            ],
        ),
        on_document(
            "rename_fields",
            vec![
                bson!({ "$rename": { "n": "m", "o.a": "o.z", "t": "o.t" } }),
                bson!({ "$rename": { "m": "n" } }),
            ],
        ),
        on_document(
            "inc_mul",
            vec![bson!({ "$inc": { "n": 1, "big": -3, "f": 0.25, "made": 4 }, "$mul": { "o.a": 3, "zero": 2 } })],
        ),
        on_document("inc_overflow", vec![bson!({ "$inc": { "n": 2_147_483_647 } })]),
        on_document(
            "min_max",
            vec![bson!({ "$min": { "n": 1, "z": -1 }, "$max": { "big": 100_i64, "made": 3 } })],
        ),
        on_document(
            "bit",
            vec![bson!({ "$bit": { "n": { "xor": 3 }, "big": { "or": 8_i64 } } })],
        ),
        on_document(
            "current_date",
            vec![bson!({ "$currentDate": { "d": true, "ts": { "$type": "timestamp" } } })],
        ),
        on_document(
            "push",
            vec![bson!({ "$push": { "arr": 10, "made": 1, "o.b.c": { "x": 1 } } })],
        ),
        on_document(
            "push_each",
            vec![
                bson!({ "$push": { "arr": { "$each": [20, 21], "$position": 2 } } }),
                bson!({ "$push": { "arr": { "$each": [5, 1], "$sort": -1, "$slice": 4 } } }),
            ],
        ),
        on_document(
            "push_slice",
            vec![
                bson!({ "$push": { "arr": { "$each": [], "$slice": 3 } } }),
                bson!({ "$push": { "docs": { "$each": [{ "k": 9 }], "$slice": -2 } } }),
                bson!({ "$push": { "arr": { "$each": [], "$slice": 0 } } }),
            ],
        ),
        on_document(
            "push_sort_documents",
            vec![bson!({ "$push": { "docs": { "$each": [{ "k": 0, "v": "z" }], "$sort": { "k": 1, "v": -1 } } } })],
        ),
        on_document(
            "add_to_set",
            vec![
                bson!({ "$addToSet": { "arr": { "$each": [3, 30, 31] } } }),
                bson!({ "$addToSet": { "docs": { "k": 2, "v": "b" } } }),
            ],
        ),
        on_document(
            "pop",
            vec![
                bson!({ "$pop": { "arr": 1 } }),
                bson!({ "$pop": { "arr": -1, "docs": 1 } }),
            ],
        ),
        on_document(
            "pull",
            vec![
                bson!({ "$pull": { "arr": { "$in": [2, 3, 9] } } }),
                bson!({ "$pull": { "docs": { "k": 1 } } }),
                bson!({ "$pullAll": { "arr": [1, 4] } }),
            ],
        ),
        on_document(
            "all_positional",
            vec![
                bson!({ "$inc": { "arr.$[]": 1 } }),
                bson!({ "$set": { "docs.$[].seen": true } }),
            ],
        ),
        case(
            "filtered_positional",
            vec![insert("a", vec![document()])],
            vec![
                run(
                    doc! { "update": "a", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "docs.$[e].v": "hit" } }, "arrayFilters": [{ "e.k": 1 }] }] },
                ),
                run(
                    doc! { "update": "a", "updates": [{ "q": { "_id": 1, "arr": 4 }, "u": { "$set": { "arr.$": "four" } } }] },
                ),
            ],
        ),
        on_document(
            "nested_arrays",
            vec![
                bson!({ "$push": { "nested.1.1": 6 } }),
                bson!({ "$set": { "nested.0.1": { "was": 2 } } }),
                bson!({ "$unset": { "nested.0": 1 } }),
            ],
        ),
        on_document(
            "many_fields",
            vec![
                Bson::Document(
                    doc! { "$set": (0..400).map(|i| (format!("field{i}"), Bson::Int32(i))).collect::<Document>() },
                ),
                Bson::Document(
                    doc! { "$unset": (0..400).step_by(2).map(|i| (format!("field{i}"), Bson::Int32(1))).collect::<Document>() },
                ),
            ],
        ),
        on_document(
            "empty_names",
            vec![
                bson!({ "$set": { "e": { "": 1, "a": { "": { "": 2 } } } } }),
                bson!({ "$set": { "e.a.x": 1 } }),
            ],
        ),
        on_document(
            "pipeline_set",
            vec![bson!([{ "$set": { "n": { "$add": ["$n", 1] }, "o.b": "$arr", "made": "$$ROOT.docs" } }])],
        ),
        on_document("pipeline_unset", vec![bson!([{ "$unset": ["n", "o.b.c", "docs.k"] }])]),
        on_document(
            "pipeline_replace",
            vec![bson!([{ "$replaceWith": { "_id": "$_id", "only": "$o" } }])],
        ),
        on_document(
            "pipeline_reorder",
            vec![bson!([{ "$replaceWith": { "$mergeObjects": [{ "last": 0, "arr": [] }, "$$ROOT"] } }])],
        ),
        on_document(
            "pipeline_project",
            vec![bson!([{ "$project": { "o": 1, "arr": { "$slice": ["$arr", 2, 3] } } }])],
        ),
        on_document(
            "pipeline_arrays",
            vec![
                bson!([{ "$set": { "arr": { "$reverseArray": "$arr" } } }]),
                bson!([{ "$set": { "arr": { "$slice": ["$arr", 3] } } }]),
                bson!([{ "$set": { "docs": { "$filter": { "input": "$docs", "cond": { "$ne": ["$$this.k", 2] } } } } }]),
                bson!([{ "$set": { "arr": { "$concatArrays": ["$arr", [1, [2]]] } } }]),
            ],
        ),
        on_document(
            "pipeline_truncate_and_set",
            vec![
                bson!([{ "$set": { "arr": { "$slice": ["$arr", 5] } } }, { "$set": { "arr.2.items": 99, "o.b.c": { "$slice": ["$o.b.c", 1] } } }]),
            ],
        ),
        on_document(
            "pipeline_numeric_names",
            vec![
                bson!([{ "$set": { "o.0": { "$concat": ["$o.0", "!"] }, "o.1": [1] } }]),
                bson!([{ "$set": { "o.1": { "$concatArrays": ["$o.1", [2]] } } }]),
            ],
        ),
        on_document("pipeline_same", vec![bson!([{ "$set": { "n": "$n" } }])]),
        on_document(
            "pipeline_literals",
            vec![bson!([{ "$set": { "made": { "$literal": { "a.b": 1, "": 3 } } } }])],
        ),
        on_document("pipeline_now", vec![bson!([{ "$set": { "at": "$$NOW" } }])]),
        case(
            "pipeline_upsert",
            vec![],
            vec![run(
                doc! { "update": "a", "updates": [{ "q": { "_id": 5 }, "u": [{ "$set": { "a": 1, "b": { "$ifNull": ["$b", 2] } } }], "upsert": true }] },
            )],
        ),
        case(
            "pipeline_long_array",
            vec![insert(
                "a",
                vec![
                    doc! { "_id": 1, "groups": (0..5).map(|i| doc! { "name": i, "items": (0..1500).collect::<Vec<i32>>() }).collect::<Vec<_>>(), "s": "x" },
                ],
            )],
            vec![update(
                "a",
                1,
                bson!([{ "$set": { "groups": { "$map": { "input": "$groups", "in": { "$mergeObjects": ["$$this", { "items": { "$concatArrays": [{ "$slice": ["$$this.items", 990] }, ["a", "b"]] }, "count": 992 }] } } }, "s": "y" } }]),
            )],
        ),
        case(
            "pipeline_many",
            vec![super::numbered("a", 300)],
            vec![run(
                doc! { "update": "a", "updates": [{ "q": {}, "u": [{ "$set": { "twice": { "$multiply": ["$i", 2] }, "g": "$$REMOVE" } }], "multi": true }] },
            )],
        ),
    ];
    let since_5 = vec![
        case(
            "dollar_names",
            vec![insert("a", vec![doc! { "_id": 1, "x": { "$y": 1 }, "a.b": 1 }])],
            vec![
                insert(
                    "a",
                    vec![doc! { "_id": 2, "o": { "$set": 1, "a.b": { "c.d": 2 } }, "$top": 1 }],
                ),
                update(
                    "a",
                    1,
                    bson!([{ "$replaceWith": { "$setField": { "field": "a.b", "input": "$$ROOT", "value": 7 } } }]),
                ),
                update(
                    "a",
                    2,
                    bson!([{ "$replaceWith": { "$setField": { "field": { "$literal": "$top" }, "input": "$$ROOT", "value": 8 } } }]),
                ),
                update("a", 2, doc! { "$set": { "plain": 1 } }),
                update("a", 1, doc! { "x": { "$z": [] }, "c.d": 1 }),
            ],
        ),
        case(
            "dotted_names",
            vec![insert("a", vec![doc! { "_id": 1, "a.b": { "c": 1 }, "a": { "b": 2 } }])],
            vec![
                update("a", 1, doc! { "$set": { "a.b": 3 } }),
                update("a", 1, doc! { "$unset": { "a.b": 1 } }),
            ],
        ),
    ];
    cases.extend(since_5.into_iter().map(|case| case.since(Version::V5_0)));
    cases
}
