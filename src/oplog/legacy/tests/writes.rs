//! Writes to documents.

use super::*;
use crate::oplog::delta;

fn uuid(byte: u8) -> bson::Binary {
    bson::Binary::from(Uuid::from_bytes([byte; 16]))
}

/// What one entry means to a decoder that knows the collection `a.b`.
fn one(series: Series, entry: Document) -> Vec<String> {
    let mut bench = Bench::new(series);
    bench.take(doc! { "op": "u", "ns": "a.b", "o2": { "_id": 0 }, "o": { "_id": 0 } });
    bench.take(entry)
}

#[test]
fn every_form_of_a_write_means_what_it_did() {
    let term = doc! { "t": 5_i64 };
    for (form, series, entry, expected) in [
        (
            "an insert of protocol version 1",
            V3_2,
            [term, doc! { "op": "i", "ns": "a.b", "o": { "_id": 1, "x": 1 } }]
                .into_iter()
                .flatten()
                .collect(),
            vec!["insert a.b #1 { \"_id\": 1, \"x\": 1 }"],
        ),
        (
            "a delete that removes just one",
            V2_6,
            doc! { "op": "d", "ns": "a.b", "b": true, "o": { "_id": 1 } },
            vec!["delete a.b #1 Int32(1)"],
        ),
        (
            "a delete with shard key fields",
            V3_6,
            doc! { "op": "d", "ns": "a.b", "o": { "shard": 9, "_id": 1 } },
            vec!["delete a.b #1 Int32(1)"],
        ),
        (
            "a delta without a version",
            V2_6,
            doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "$set": { "z": 1, "a": 2 }, "$unset": { "m": true } } },
            vec!["delta a.b #1 Int32(1) { \"$set\": { \"z\": 1, \"a\": 2 }, \"$unset\": { \"m\": true } }"],
        ),
        (
            "a delta that only removes",
            V3_4,
            doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "$unset": { "m": true } } },
            vec!["delta a.b #1 Int32(1) { \"$unset\": { \"m\": true } }"],
        ),
        (
            "a delta with a version",
            V3_6,
            doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "$v": 1, "$set": { "a": 2 } } },
            vec!["delta a.b #1 Int32(1) { \"$v\": 1, \"$set\": { \"a\": 2 } }"],
        ),
        (
            "a replacement",
            V2_6,
            doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "_id": 1, "z": 1, "a": 2 } },
            vec!["replace a.b #1 { \"_id\": 1, \"z\": 1, \"a\": 2 }"],
        ),
        (
            "a replacement by a document with nothing but its id",
            V2_6,
            doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "_id": 1 } },
            vec!["replace a.b #1 { \"_id\": 1 }"],
        ),
        (
            "an update without effect",
            V3_0,
            doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": {} },
            vec![],
        ),
        (
            "a write of a chunk migration",
            V3_4,
            doc! { "op": "i", "ns": "a.b", "fromMigrate": true, "o": { "_id": 1 } },
            vec!["insert a.b #1 { \"_id\": 1 }"],
        ),
        (
            "a note of the server",
            V2_6,
            doc! { "op": "n", "ns": "", "o": { "msg": "initiating set" } },
            vec![],
        ),
        (
            "the image of a retryable write",
            V3_6,
            doc! { "op": "n", "ns": "a.b", "o": { "_id": 1 } },
            vec![],
        ),
        (
            "a declaration of a database",
            V2_6,
            doc! { "op": "db", "ns": "a", "o": {} },
            vec![],
        ),
        (
            "a user of one database",
            V2_6,
            doc! { "op": "i", "ns": "a.system.users", "o": { "_id": 1, "user": "x" } },
            vec![],
        ),
        (
            "a user",
            V3_0,
            doc! { "op": "i", "ns": "admin.system.users", "o": { "_id": "a.x" } },
            vec![],
        ),
        (
            "a removal from the list of collections",
            V2_6,
            doc! { "op": "d", "ns": "a.system.namespaces", "o": { "_id": 1 } },
            vec![],
        ),
        (
            "an update of a document without an id",
            V2_6,
            doc! { "op": "u", "ns": "a.b", "o2": { "x": 1 }, "o": { "$set": { "x": 2 } } },
            vec!["unsupported a.b: a `u` entry (write) cannot be applied: it does not name its document's `_id`"],
        ),
        (
            "a view",
            V3_4,
            doc! { "op": "i", "ns": "a.system.views", "o": { "_id": "a.v", "viewOn": "b", "pipeline": [] } },
            vec!["view a.v { \"viewOn\": \"b\", \"pipeline\": [] }"],
        ),
        (
            "a change of a view",
            V3_4,
            doc! { "op": "u", "ns": "a.system.views", "o2": { "_id": "a.v" }, "o": { "$set": { "viewOn": "c" } } },
            vec!["change view a.v { \"$set\": { \"viewOn\": \"c\" } }"],
        ),
        (
            "an unknown kind",
            V2_6,
            doc! { "op": "xi", "ns": "a.b", "o": { "_id": 1 } },
            vec!["unsupported a.b: a `xi` entry (write) cannot be applied: operations of the kind `xi` are unknown"],
        ),
    ] {
        assert_eq!(one(series, entry), expected, "{form}");
    }
}

#[test]
fn operations_of_a_user_are_flattened() {
    let inner = |operations: Vec<Document>| doc! { "op": "c", "ns": "a.$cmd", "o": { "applyOps": operations } };
    let time = Timestamp { time: 1, increment: 1 };
    let operations = inner(vec![
        doc! { "ts": time, "h": 3_i64, "v": 2, "op": "i", "ns": "a.b", "o": { "_id": 1 } },
        doc! { "op": "u", "ns": "a.b", "b": true, "o2": { "_id": 1 }, "o": { "$set": { "z": 1, "a": 1 } } },
        doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "x": 1 } },
        doc! { "op": "d", "ns": "a.b", "b": true, "o": { "_id": 1 } },
        inner(vec![
            doc! { "op": "c", "ns": "a.$cmd", "o": { "create": "c", "temp": true } },
        ]),
        doc! { "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "$inc": { "x": 1 } } },
    ]);
    let expected = [
        "insert a.b #1 { \"_id\": 1 }",
        "delta a.b #1 Int32(1) { \"$set\": { \"z\": 1, \"a\": 1 } }",
        // The server stores the `_id` first that the user left out.
        "replace a.b #1 { \"_id\": 1, \"x\": 1 }",
        "delete a.b #1 Int32(1)",
        "create a.c #2 {} _id v1",
        "unsupported a.b: a `u` entry (write) cannot be applied: it is an update that begins with `$inc`, which ordinary writes never log",
    ];
    assert_eq!(one(V2_6, operations.clone()), expected);
    // 4.0 adds the fields of an update without a version by name. No ordinary write logs one.
    let of_4_0 = one(V4_0, operations);
    assert!(of_4_0[1].contains("begins with `$set`"), "{of_4_0:?}");
    assert_eq!(of_4_0[0], expected[0]);
}

#[test]
fn a_transaction_of_4_0_is_one_entry() {
    let mut bench = Bench::new(V4_0);
    let none = doc! { "ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64 };
    let items = bench.take(doc! {
        "t": 1_i64, "op": "c", "ns": "admin.$cmd", "wall": DateTime::from_millis(5), "lsid": { "id": uuid(1) }, "txnNumber": 3_i64,
        "stmtId": 0, "prevOpTime": none,
        "o": { "applyOps": [
            { "op": "i", "ns": "a.b", "ui": uuid(7), "o": { "_id": 1 } },
            { "op": "u", "ns": "a.b", "ui": uuid(7), "o": { "$v": 1, "$set": { "x": 1 } }, "o2": { "_id": 1 } },
            { "op": "d", "ns": "a.c", "ui": uuid(8), "o": { "_id": 2, "whole": "document" } },
        ] },
    });
    assert_eq!(
        items,
        [
            "insert a.b #1 { \"_id\": 1 }",
            "delta a.b #1 Int32(1) { \"$v\": 1, \"$set\": { \"x\": 1 } }",
            "delete a.c #2 Int32(2)",
        ]
    );
    assert_eq!(bench.ids[&Uuid::from_bytes([7; 16])], "#1", "the id is the server's");
}

#[test]
fn new_fields_come_in_the_listed_order() {
    let mut identities = LegacyIdentities::new(SET, V3_4);
    let time = Timestamp { time: 1, increment: 1 };
    let entry =
        doc! { "ts": time, "op": "u", "ns": "a.b", "o2": { "_id": 1 }, "o": { "$set": { "z": 1, "a": 2, "m": 3 } } };
    let entry = LegacyDecoder::new(V3_4).take(&raw(&entry), &mut identities).unwrap();
    let [Item::Change(change)] = &entry.items[..] else {
        panic!("{entry:?}")
    };
    let Operation::Delta(change) = &change.write.operation else {
        panic!("{change:?}")
    };
    let after = delta::apply(&rawdoc! { "_id": 1, "a": 1 }, change).unwrap();
    assert_eq!(after, rawdoc! { "_id": 1, "a": 2, "z": 1, "m": 3 });
}
