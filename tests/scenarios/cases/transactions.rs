//! Transactions of every shape.

use bson::{Document, doc};
use mongoferry_testbed::Version;

use super::{Case, Step, case, create, index, insert, numbered};

fn inserted(collection: &str, documents: Vec<Document>) -> Document {
    doc! { "insert": collection, "documents": documents }
}

fn updated(collection: &str, id: i32, change: Document) -> Document {
    doc! { "update": collection, "updates": [{ "q": { "_id": id }, "u": change }] }
}

fn deleted(collection: &str, id: i32) -> Document {
    doc! { "delete": collection, "deletes": [{ "q": { "_id": id }, "limit": 1 }] }
}

fn commit(commands: Vec<Document>) -> Step {
    Step::Transaction(commands, true)
}

fn abort(commands: Vec<Document>) -> Step {
    Step::Transaction(commands, false)
}

pub fn cases() -> Vec<Case> {
    let both = || vec![numbered("a", 10), numbered("b", 10)];
    // Two of these do not fit in one oplog entry.
    let large = |id: i32| doc! { "_id": id, "text": "x".repeat(7 << 20) };
    vec![
        case(
            "transaction",
            both(),
            vec![
                commit(vec![
                    inserted("a", vec![doc! { "_id": 50 }]),
                    updated("b", 1, doc! { "$set": { "t": 1 } }),
                    deleted("a", 2),
                ]),
                insert("a", vec![doc! { "_id": 60 }]),
            ],
        ),
        case(
            "transaction_aborted",
            both(),
            vec![
                abort(vec![inserted("a", vec![doc! { "_id": 50 }]), deleted("a", 2)]),
                insert("a", vec![doc! { "_id": 60 }]),
            ],
        ),
        case(
            "transaction_one_document",
            both(),
            vec![commit(vec![
                inserted("a", vec![doc! { "_id": 50, "n": 0 }]),
                updated("a", 50, doc! { "$inc": { "n": 1 } }),
                updated("a", 50, doc! { "$set": { "m": 1 }, "$unset": { "n": 1 } }),
                deleted("a", 50),
                inserted("a", vec![doc! { "_id": 50, "last": true }]),
            ])],
        ),
        case(
            "transaction_large",
            both(),
            vec![commit(vec![
                inserted("a", vec![large(100)]),
                inserted("b", vec![large(101)]),
                inserted("a", vec![large(102)]),
                deleted("b", 3),
            ])],
        ),
        case(
            "transaction_large_aborted",
            both(),
            vec![
                abort(vec![
                    inserted("a", vec![large(100)]),
                    inserted("b", vec![large(101)]),
                    inserted("a", vec![large(102)]),
                ]),
                insert("b", vec![doc! { "_id": 70 }]),
            ],
        ),
        case(
            "transaction_many_writes",
            both(),
            vec![commit(
                (0..60)
                    .map(|i| inserted("a", (0..50).map(|j| doc! { "_id": 1000 + i * 50 + j }).collect()))
                    .collect(),
            )],
        ),
        case(
            "transaction_unique_swap",
            vec![
                insert("a", vec![doc! { "_id": 1, "u": 1 }, doc! { "_id": 2, "u": 2 }]),
                index("a", doc! { "u": 1 }, doc! { "unique": true }),
            ],
            vec![
                commit(vec![
                    updated("a", 1, doc! { "$set": { "u": 0 } }),
                    updated("a", 2, doc! { "$set": { "u": 1 } }),
                    updated("a", 1, doc! { "$set": { "u": 2 } }),
                ]),
                commit(vec![deleted("a", 1), inserted("a", vec![doc! { "_id": 3, "u": 2 }])]),
            ],
        ),
        case(
            "transaction_reads_only",
            both(),
            vec![
                commit(vec![doc! { "find": "a", "filter": {} }]),
                insert("a", vec![doc! { "_id": 60 }]),
            ],
        ),
        case(
            "transaction_creates",
            both(),
            vec![commit(vec![create_in("c"), inserted("c", vec![doc! { "_id": 1 }])])],
        )
        .since(Version::V4_4),
        case(
            "transaction_creates_index",
            both(),
            vec![commit(vec![
                create_in("c"),
                doc! { "createIndexes": "c", "indexes": [{ "key": { "i": 1 }, "name": "i", "unique": true }] },
                inserted("c", vec![doc! { "_id": 1, "i": 1 }]),
            ])],
        )
        .since(Version::V4_4),
        case(
            "transaction_creates_implicitly",
            both(),
            vec![commit(vec![
                inserted("c", vec![doc! { "_id": 1 }]),
                inserted("d", vec![doc! { "_id": 1 }]),
            ])],
        )
        .since(Version::V4_4),
        case(
            "transaction_aborts_creation",
            vec![create("a", doc! {})],
            vec![abort(vec![create_in("c"), inserted("c", vec![doc! { "_id": 1 }])])],
        )
        .since(Version::V4_4),
    ]
}

fn create_in(collection: &str) -> Document {
    doc! { "create": collection }
}
