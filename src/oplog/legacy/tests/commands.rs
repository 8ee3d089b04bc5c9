//! Commands, in the forms of all versions.

use super::*;

fn command(ns: &str, o: Document) -> Document {
    doc! { "op": "c", "ns": ns, "o": o }
}

fn index(o: Document) -> Document {
    doc! { "op": "i", "ns": "a.system.indexes", "o": o }
}

fn uuid(byte: u8) -> bson::Binary {
    bson::Binary::from(Uuid::from_bytes([byte; 16]))
}

/// What an entry means to a decoder that knows the collection `a.b`, as `#1`.
fn one(series: Series, entry: Document) -> Vec<String> {
    let mut bench = Bench::new(series);
    bench.take(doc! { "op": "u", "ns": "a.b", "o2": { "_id": 0 }, "o": { "_id": 0 } });
    let known = bench.identities.listed(&namespace("a.b"), None);
    bench.name_of(Some(known));
    bench.take(entry)
}

#[test]
fn options_have_the_meaning_of_their_version() {
    let all = doc! {
        "create": "c", "capped": 1, "size": 4096.0, "max": 7_i64, "flags": 1, "temp": true, "$nExtents": [1], "autoIndexId": true,
        "storageEngine": { "wiredTiger": {} }, "validator": { "x": 1 }, "validationLevel": "off", "validationAction": "warn",
        "indexOptionDefaults": {}, "collation": { "locale": "de" }, "viewOn": "b", "pipeline": [], "made": "up", "writeConcern": { "w": 1 },
    };
    let mut expected = "\"capped\": true, \"size\": 4096, \"max\": 7".to_owned();
    for (series, more) in [
        (V2_6, ""),
        (V3_0, ", \"storageEngine\": { \"wiredTiger\": {} }"),
        (
            V3_2,
            ", \"validator\": { \"x\": 1 }, \"validationLevel\": \"off\", \"validationAction\": \"warn\", \"indexOptionDefaults\": {}",
        ),
        (
            V3_4,
            ", \"collation\": { \"locale\": \"de\" }, \"viewOn\": \"b\", \"pipeline\": []",
        ),
    ] {
        expected.push_str(more);
        let found = one(series, command("a.$cmd", all.clone()));
        assert_eq!(found, [format!("create a.c #2 {{ {expected} }} _id v1")], "{series:?}");
    }
}

#[test]
fn every_form_of_a_command_means_what_it_did() {
    let id_index = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_", "ns": "a.c" };
    let created = |ui: u8, o: Document| {
        let mut entry = command("a.$cmd", o);
        entry.insert("ui", uuid(ui));
        entry
    };
    for (form, series, entry, expected) in [
        (
            "a collection without an index on its ids",
            V2_6,
            command("a.$cmd", doc! { "create": "c", "autoIndexId": false }),
            vec!["create a.c #2 { \"autoIndexId\": false } _id none"],
        ),
        (
            "a collection with its index on ids, of 3.4",
            V3_4,
            command(
                "a.$cmd",
                doc! { "create": "c", "autoIndexId": true, "idIndex": id_index.clone() },
            ),
            vec!["create a.c #2 {} _id v2"],
        ),
        (
            "a collection with a uuid",
            V3_6,
            created(3, doc! { "create": "c", "idIndex": id_index }),
            vec!["create a.c #2 {} _id v2"],
        ),
        (
            "the collection of views",
            V3_4,
            command("a.$cmd", doc! { "create": "system.views" }),
            vec![],
        ),
        (
            "a collection of the server",
            V3_0,
            command("admin.$cmd", doc! { "create": "system.users" }),
            vec![],
        ),
        (
            "an index of a command",
            V3_6,
            created(
                3,
                doc! { "createIndexes": "b", "v": 2, "key": { "x": 1 }, "name": "x_1" },
            ),
            vec!["index a.b #1 { \"v\": 2, \"key\": { \"x\": 1 }, \"name\": \"x_1\" }"],
        ),
        (
            "the drop of an index by its name",
            V2_6,
            command(
                "a.$cmd",
                doc! { "deleteIndexes": "b", "index": "x_1", "writeConcern": { "w": 1 } },
            ),
            vec!["drop index a.b #1 x_1"],
        ),
        (
            "the drop of an index by its key",
            V3_4,
            command("a.$cmd", doc! { "dropIndexes": "b", "index": { "x": 1.0 } }),
            vec!["drop indexes a.b #1 { \"x\": 1 }"],
        ),
        (
            "the drop of all indexes",
            V3_0,
            command("a.$cmd", doc! { "dropIndexes": "b", "index": "*" }),
            vec!["drop indexes a.b #1 *"],
        ),
        (
            "a change of options",
            V3_2,
            command(
                "a.$cmd",
                doc! {
                    "collMod": "b", "usePowerOf2Sizes": true, "noPadding": true, "validator": { "x": 1 }, "maxTimeMS": 5, "viewOn": "c",
                },
            ),
            vec!["modify a.b #1 { \"validator\": { \"x\": 1 } }"],
        ),
        (
            "a validator before there were any",
            V3_0,
            command("a.$cmd", doc! { "collMod": "b", "validator": { "x": 1 } }),
            vec![],
        ),
        (
            "a change of settings of MMAPv1",
            V2_6,
            command("a.$cmd", doc! { "collMod": "b", "usePowerOf2Sizes": false }),
            vec![],
        ),
        (
            "the drop of a collection",
            V2_6,
            command("a.$cmd", doc! { "drop": "b" }),
            vec!["drop a.b #1"],
        ),
        (
            "a rename under the database of commands",
            V2_6,
            command(
                "admin.$cmd",
                doc! { "renameCollection": "a.b", "to": "a.c", "dropTarget": false },
            ),
            vec!["rename a.b a.c #1"],
        ),
        (
            "a rename that may replace a collection",
            V3_4,
            command(
                "a.$cmd",
                doc! { "renameCollection": "a.b", "to": "a.c", "dropTarget": true, "stayTemp": false },
            ),
            vec!["rename a.b a.c #1 in place of #2"],
        ),
        (
            "a rename across databases",
            V3_0,
            command("admin.$cmd", doc! { "renameCollection": "a.b", "to": "other.b" }),
            vec!["rename a.b other.b #1"],
        ),
        (
            "a rename among collections of the server",
            V2_6,
            command(
                "admin.$cmd",
                doc! { "renameCollection": "admin.system.users", "to": "admin.system.backup_users" },
            ),
            vec![],
        ),
        (
            "a conversion",
            V3_4,
            command("a.$cmd", doc! { "convertToCapped": "b", "size": 8192.0 }),
            vec!["drop a.b #1", "rename a.tmp.convertToCapped.b a.b #2"],
        ),
        (
            "the drop of a database",
            V2_6,
            command("a.$cmd", doc! { "dropDatabase": 1.0 }),
            vec!["drop a.b #1", "drop database a"],
        ),
        (
            "a command for tests",
            V3_0,
            command("a.$cmd", doc! { "emptycapped": "b" }),
            vec!["unsupported a.b: the command `emptycapped` cannot be applied: this command is unknown"],
        ),
        (
            "a comparison of the members",
            V4_0,
            command("a.$cmd", doc! { "dbCheck": "a.b", "type": "batch" }),
            vec![],
        ),
    ] {
        assert_eq!(one(series, entry), expected, "{form}");
    }
}

#[test]
fn an_index_is_what_a_list_would_show() {
    for (form, series, given, expected) in [
        (
            "a plain one, with its place and an id of its own",
            V2_6,
            doc! { "_id": 9, "ns": "a.b", "name": "x_1", "key": { "x": 1 } },
            "\"v\": 1, \"name\": \"x_1\", \"key\": { \"x\": 1 }",
        ),
        (
            "of format 2",
            V3_4,
            doc! { "ns": "a.b", "v": 2, "name": "x_1", "key": { "x": 1 } },
            "\"v\": 2, \"name\": \"x_1\", \"key\": { \"x\": 1 }",
        ),
        (
            "with options that get a meaning later",
            V3_0,
            doc! { "ns": "a.b", "name": "x", "key": { "x": 1 }, "partialFilterExpression": { "x": 1 }, "collation": { "locale": "de" } },
            "\"v\": 1, \"name\": \"x\", \"key\": { \"x\": 1 }",
        ),
        (
            "of some documents",
            V3_2,
            doc! { "ns": "a.b", "name": "x", "key": { "x": 1 }, "partialFilterExpression": { "x": 1 } },
            "\"v\": 1, \"name\": \"x\", \"key\": { \"x\": 1 }, \"partialFilterExpression\": { \"x\": 1 }",
        ),
        (
            "of text, between other fields",
            V3_0,
            doc! { "ns": "a.b", "name": "t", "key": { "a": 1, "s": "text", "t": "text", "z": -1 }, "weights": { "s": 3.0, "u": 2 } },
            "\"v\": 1, \"name\": \"t\", \"key\": { \"a\": 1, \"_fts\": \"text\", \"_ftsx\": 1, \"z\": -1 }, \
             \"weights\": { \"s\": 3, \"t\": 1, \"u\": 2 }, \"default_language\": \"english\", \"language_override\": \"language\", \
             \"textIndexVersion\": 2",
        ),
        (
            "of all text, of 3.2",
            V3_2,
            doc! { "ns": "a.b", "name": "t", "key": { "$**": "text" }, "default_language": "none", "textIndexVersion": 1 },
            "\"v\": 1, \"name\": \"t\", \"key\": { \"_fts\": \"text\", \"_ftsx\": 1 }, \"default_language\": \"none\", \
             \"textIndexVersion\": 1, \"weights\": { \"$**\": 1 }, \"language_override\": \"language\"",
        ),
        (
            "of places, of 2.6",
            V2_6,
            doc! { "ns": "a.b", "name": "g", "key": { "g": "2dsphere" } },
            "\"v\": 1, \"name\": \"g\", \"key\": { \"g\": \"2dsphere\" }, \"2dsphereIndexVersion\": 2",
        ),
        (
            "of places, of 3.2",
            V3_2,
            doc! { "ns": "a.b", "name": "g", "key": { "g": "2dsphere" } },
            "\"v\": 1, \"name\": \"g\", \"key\": { \"g\": \"2dsphere\" }, \"2dsphereIndexVersion\": 3",
        ),
    ] {
        assert_eq!(
            one(series, index(given)),
            [format!("index a.b #1 {{ {expected} }}")],
            "{form}"
        );
    }
    assert_eq!(
        one(
            V2_6,
            index(doc! { "ns": "a.system.profile", "key": { "x": 1 }, "name": "x" })
        ),
        [""; 0]
    );
}

/// Entries that others captured: 3.0.6, 3.2.18, 3.4.6, the upgrade to 3.6, and 3.6.
#[test]
fn published_entries_are_decoded() {
    let mut bench = Bench::new(V3_0);
    let found = bench.take(index(
        doc! { "ns": "a.b", "key": { "x": -1 }, "name": "x_-1", "background": true },
    ));
    assert_eq!(
        found,
        ["index a.b #1 { \"v\": 1, \"key\": { \"x\": -1 }, \"name\": \"x_-1\", \"background\": true }"]
    );
    let mut bench = Bench::new(V3_4);
    let id_index = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_", "ns": "a.c" };
    let found = bench.take(command(
        "a.$cmd",
        doc! { "create": "c", "autoIndexId": true, "idIndex": id_index.clone() },
    ));
    assert_eq!(found, ["create a.c #1 {} _id v2"]);
    let mut bench = Bench::new(V3_6);
    // Fields after `o`, no term, and the operations of a user with the fields of whole entries.
    let inner = doc! {
        "ts": Timestamp { time: 1, increment: 1 }, "h": 4_i64, "v": 2, "op": "i", "ns": "a.b", "o": { "_id": 1 }, "ui": uuid(3),
    };
    let found = bench.take(doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [inner] }, "ui": uuid(9) });
    assert_eq!(found, ["insert a.b #1 { \"_id\": 1 }"]);
    let found = bench.take(doc! {
        "t": 1_i64, "wall": DateTime::from_millis(1), "op": "c", "ns": "a.$cmd", "ui": uuid(4), "o": { "create": "c", "idIndex": id_index },
    });
    assert_eq!(found, ["create a.c #2 {} _id v2"]);
    let found = bench.take(doc! {
        "t": 1_i64, "op": "c", "ns": "a.$cmd", "ui": uuid(4), "o": { "createIndexes": "c", "v": 2, "key": { "x": 1.0 }, "name": "x_1" },
    });
    assert_eq!(
        found,
        ["index a.c #2 { \"v\": 2, \"key\": { \"x\": 1 }, \"name\": \"x_1\" }"]
    );
}
