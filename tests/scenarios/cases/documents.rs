//! Documents inserted, replaced and deleted, one by one and many at once.

use bson::{Document, doc};

use super::{Case, Step, case, delete, index, insert, numbered, run, update};

fn find_and_modify(query: Document, rest: Document) -> Step {
    let mut command = doc! { "findAndModify": "a", "query": query };
    command.extend(rest);
    run(command)
}

fn upsert(query: Document, change: Document) -> Step {
    run(doc! { "update": "a", "updates": [{ "q": query, "u": change, "upsert": true }] })
}

pub fn cases() -> Vec<Case> {
    let hundred = || numbered("a", 100);
    vec![
        case("insert_one_by_one", vec![], (0..5).map(|i| insert("a", vec![doc! { "i": i }])).collect()),
        case("insert_many", vec![], vec![insert("a", (0..2000).map(|i| doc! { "i": i }).collect())]),
        case("insert_empty", vec![], vec![insert("a", vec![doc! {}, doc! { "_id": {} }])]),
        case("insert_large", vec![], vec![insert("a", vec![doc! { "_id": 1, "text": "x".repeat((16 << 20) - 64) }])]),
        case("insert_several_large", vec![], (0..3).map(|i| insert("a", vec![doc! { "_id": i, "text": "x".repeat(9 << 20) }])).collect()),
        case("grow_to_the_limit", vec![insert("a", vec![doc! { "_id": 1, "b": "x".repeat(8 << 20) }])], vec![
            update("a", 1, doc! { "$set": { "c": "y".repeat((8 << 20) - 64) } }), update("a", 1, doc! { "$set": { "b": "short" } })]),
        case("delete_one", vec![hundred()], vec![delete("a", 3), delete("a", 4), delete("a", 1000)]),
        case("delete_many", vec![hundred()], vec![run(doc! { "delete": "a", "deletes": [{ "q": { "g": 1 }, "limit": 0 }] })]),
        case("delete_all", vec![hundred()], vec![run(doc! { "delete": "a", "deletes": [{ "q": {}, "limit": 0 }] })]),
        case("delete_and_insert", vec![hundred()], vec![delete("a", 3), insert("a", vec![doc! { "_id": 3, "new": true }]), delete("a", 3), insert("a", vec![doc! { "_id": 3.0, "newer": true }])]),
        case("replace", vec![hundred()], (0..9).map(|i| update("a", i, doc! { "other": i, "i": "text" })).collect()),
        case("replace_by_nothing", vec![hundred()], vec![update("a", 3, doc! {})]),
        case("replace_and_update", vec![hundred()], vec![update("a", 3, doc! { "x": 1, "y": 2 }), update("a", 3, doc! { "$set": { "z": 1 }, "$unset": { "x": 1 } }), update("a", 3, doc! { "$set": { "x": 1 } })]),
        case("update_many", vec![hundred()], vec![run(doc! { "update": "a", "updates": [{ "q": {}, "u": { "$inc": { "i": 100 } }, "multi": true }] })]),
        case("upsert_new", vec![hundred()], vec![upsert(doc! { "_id": 777, "k": 1 }, doc! { "$set": { "v": 1 }, "$setOnInsert": { "w": 2 } }), upsert(doc! { "k": 2 }, doc! { "v": 3 })]),
        case("upsert_old", vec![hundred()], vec![upsert(doc! { "_id": 7 }, doc! { "$set": { "v": 1 }, "$setOnInsert": { "w": 2 } }), upsert(doc! { "_id": 8 }, doc! { "v": 3 })]),
        case("find_and_modify", vec![hundred()], vec![
            find_and_modify(doc! { "_id": 1 }, doc! { "update": { "$inc": { "i": 5 } }, "new": true }),
            find_and_modify(doc! { "_id": 2 }, doc! { "remove": true }),
            find_and_modify(doc! { "_id": 3 }, doc! { "update": { "replaced": true } }),
            find_and_modify(doc! { "_id": 555 }, doc! { "update": { "$set": { "made": 1 } }, "upsert": true })]),
        case("hot_document", vec![insert("a", vec![doc! { "_id": 1, "n": 0 }])], (0..60).map(|i| update("a", 1, doc! { "$inc": { "n": 1 }, "$set": { format!("f{}", i % 7): i }, "$unset": { format!("f{}", (i + 3) % 7): 1 } })).collect()),
        case("mixed_batch", vec![hundred()], vec![
            insert("a", vec![doc! { "_id": 200 }, doc! { "_id": "x" }]),
            run(doc! { "update": "a", "updates": [
                { "q": { "_id": 200 }, "u": { "$set": { "x": 1 } } }, { "q": { "_id": "x" }, "u": { "r": 1 } },
                { "q": { "_id": 300 }, "u": { "$set": { "up": 1 } }, "upsert": true }, { "q": { "g": 2 }, "u": { "$set": { "many": true } }, "multi": true }] }),
            run(doc! { "delete": "a", "deletes": [{ "q": { "_id": 200 }, "limit": 1 }, { "q": { "g": 0 }, "limit": 0 }] })]),
        case("ttl_deletes", vec![insert("a", (0..50).map(|i| doc! { "_id": i, "at": bson::DateTime::from_millis(i64::from(i % 2) * 4_000_000_000_000) }).collect()), index("a", doc! { "at": 1 }, doc! { "expireAfterSeconds": 10 })], vec![
            insert("a", (50..90).map(|i| doc! { "_id": i, "at": bson::DateTime::from_millis(i64::from(i % 2) * 4_000_000_000_000) }).collect())]),
        case("collated_ids", vec![super::create("a", doc! { "collation": { "locale": "en", "strength": 2 } }), insert("a", vec![doc! { "_id": "a" }, doc! { "_id": "B" }, doc! { "_id": "c" }])], vec![
            update("a", "B", doc! { "$set": { "x": 1 } }), delete("a", "a"), insert("a", vec![doc! { "_id": "A" }, doc! { "_id": "é" }]), update("a", "A", doc! { "y": 1 })]),
        case("unique_collated", vec![insert("a", vec![doc! { "_id": 1, "u": "x" }]), index("a", doc! { "u": 1 }, doc! { "unique": true, "collation": { "locale": "en", "strength": 2 } })], vec![
            update("a", 1, doc! { "$set": { "u": "y" } }), insert("a", vec![doc! { "_id": 2, "u": "X" }]), delete("a", 2), insert("a", vec![doc! { "_id": 3, "u": "x" }])]),
        case("delete_while_validated", vec![hundred(), run(doc! { "collMod": "a", "validator": { "strict": true } })], vec![
            delete("a", 1), run(doc! { "update": "a", "updates": [{ "q": { "_id": 2 }, "u": { "$set": { "x": 1 } } }], "bypassDocumentValidation": true })]),
    ]
}
