use super::*;
use bson::raw::RawDocumentBuf;
use bson::{Binary, Document, Uuid, doc};

const POSITION: Position = Position {
    time: 1,
    increment: 2,
    term: 3,
};

fn ui() -> Binary {
    Binary::from(Uuid::from_bytes([7; 16]))
}

fn parse(entry: Document) -> Vec<Item> {
    parse_raw(&RawDocumentBuf::try_from(&entry).unwrap())
}

fn parse_raw(raw: &RawDocument) -> Vec<Item> {
    let mut items = Vec::new();
    Parser::default()
        .items(&RawEntry::read(raw).unwrap(), POSITION, &mut items)
        .unwrap();
    items
}

#[test]
fn changes_of_users_are_noted_without_items() {
    let write = |ns: &str, op: &str| doc! { "op": op, "ns": ns, "ui": ui(), "o": { "_id": 1 }, "o2": { "_id": 1 } };
    let command = |o: Document| doc! { "op": "c", "ns": "admin.$cmd", "ui": ui(), "o": o };
    let in_transaction = doc! { "applyOps": [write("admin.system.roles", "d")] };
    for (entry, expected) in [
        (write("admin.system.users", "i"), true),
        (write("admin.system.users", "u"), true),
        (write("admin.system.roles", "d"), true),
        (command(in_transaction), true),
        (command(doc! { "drop": "system.users" }), true),
        (write("admin.system.version", "u"), false),
        (write("shop.system.users", "d"), false),
        (command(doc! { "drop": "other" }), false),
    ] {
        let mut parser = Parser::default();
        let raw = RawDocumentBuf::try_from(&entry).unwrap();
        let mut items = Vec::new();
        parser
            .items(&RawEntry::read(&raw).unwrap(), POSITION, &mut items)
            .unwrap();
        assert_eq!(parser.take_users_changed(), expected, "{entry}");
        assert!(!parser.take_users_changed());
        assert!(!expected || items.is_empty(), "{items:?}");
    }
}

/// The namespace and reason of the only item, which is unsupported.
fn refused(entry: Document) -> (String, String) {
    match &parse(entry)[..] {
        [
            Item::Command(Command {
                operation: CommandOperation::Unsupported { namespace, reason },
                ..
            }),
        ] => (namespace.clone(), reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_known_is_named() {
    for (entry, namespace, word) in [
        (doc! { "op": "xi", "ns": "a.b", "o": { "_id": 1 } }, "a.b", "`xi`"),
        (doc! { "op": "i", "ns": "a.b", "o": { "_id": 1 } }, "a.b", "uuid"),
        (
            doc! { "op": "i", "ns": "a.b", "ui": ui(), "o": { "x": 1 } },
            "a.b",
            "`_id`",
        ),
        (
            doc! { "op": "u", "ns": "a.b", "ui": ui(), "o2": { "_id": 1 }, "o": { "$inc": { "x": 1 } } },
            "a.b",
            "`$inc`",
        ),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "convertToCapped": "b" } },
            "a.b",
            "`convertToCapped`",
        ),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "emptycapped": "b" } },
            "a.b",
            "`emptycapped`",
        ),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "somethingNew": 1 } },
            "a",
            "`somethingNew`",
        ),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "dropIndexes": "b", "index": "*" } },
            "a.b",
            "one index",
        ),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "renameCollection": "a.system.profile", "to": "a.b" } },
            "a.b",
            "a.system.profile",
        ),
    ] {
        let (found, reason) = refused(entry.clone());
        assert_eq!(found, namespace, "{entry}");
        assert!(reason.contains(word), "{entry}: {reason}");
    }
}

/// Servers accept such views in direct writes to `system.views`, but list none of them.
#[test]
fn a_view_that_no_server_shows_gives_nothing() {
    for name in ["", "nodot", "a.", ".v", "b.v"] {
        for op in ["i", "u", "d"] {
            let o = doc! { "_id": name, "viewOn": "c", "pipeline": [] };
            let entry = doc! { "op": op, "ns": "a.system.views", "ui": ui(), "o": o, "o2": { "_id": name } };
            assert!(parse(entry).is_empty(), "{op} {name}");
        }
    }
    let o = doc! { "_id": 5, "viewOn": "c", "pipeline": [] };
    assert!(parse(doc! { "op": "i", "ns": "a.system.views", "ui": ui(), "o": o }).is_empty());
}

/// Only the database is known. A migration that does not select it continues.
#[test]
fn a_name_that_cannot_be_read_is_of_its_database() {
    for (entry, namespace) in [
        (doc! { "op": "c", "ns": "a.$cmd", "o": { "somethingNew": "" } }, "a"),
        (doc! { "op": "c", "ns": "a.$cmd", "o": { "create": "" } }, "a"),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "renameCollection": "a.", "to": "a.b" } },
            "a",
        ),
        (
            doc! { "op": "c", "ns": "a.$cmd", "o": { "renameCollection": "a.b", "to": "b" } },
            "a",
        ),
        (doc! { "op": "i", "ns": "a.", "ui": ui(), "o": { "_id": 1 } }, "a."),
        (doc! { "op": "c", "ns": "a", "o": { "somethingNew": "b" } }, "a"),
    ] {
        assert_eq!(refused(entry.clone()).0, namespace, "{entry}");
    }
}

#[test]
fn what_belongs_to_the_server_gives_nothing() {
    for ns in [
        "config.transactions",
        "config.system.indexBuilds",
        "local.x",
        "admin.system.users",
        "shop.system.profile",
        "__mdb_internal_mongoferry.lease",
    ] {
        let o = doc! { "_id": 1 };
        for op in ["i", "u", "d"] {
            let entry = doc! { "op": op, "ns": ns, "ui": ui(), "o": o.clone(), "o2": o.clone() };
            assert!(parse(entry).is_empty(), "{op} {ns}");
        }
        let (database, collection) = ns.split_once('.').unwrap();
        for command in ["create", "drop", "createIndexes", "neverHeardOf"] {
            let entry = doc! { "op": "c", "ns": format!("{database}.$cmd"), "o": { command: collection } };
            assert!(parse(entry).is_empty(), "{command} {ns}");
        }
    }
    for o in [
        doc! { "dbCheck": "a.b" },
        doc! { "collMod": "b" },
        doc! { "startIndexBuild": "b" },
    ] {
        assert!(
            parse(doc! { "op": "c", "ns": "a.$cmd", "o": o.clone() }).is_empty(),
            "{o}"
        );
    }
    assert!(parse(doc! { "op": "c", "ns": "config.$cmd", "o": { "dropDatabase": 1 } }).is_empty());
    // The image of a document that is logged along with a retryable write.
    assert!(parse(doc! { "op": "n", "ns": "a.b", "ui": ui(), "o": { "_id": 1 } }).is_empty());
    assert_eq!(
        parse(doc! { "op": "i", "ns": "admin.mine", "ui": ui(), "o": { "_id": 1 } }).len(),
        1
    );
}

#[test]
fn nested_operations_are_flattened_down_to_a_depth() {
    let insert = |id: i32| doc! { "op": "i", "ns": "a.b", "ui": ui(), "o": { "_id": id } };
    let apply = |inner: Vec<Document>| doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": inner } };
    let create = doc! { "op": "c", "ns": "a.$cmd", "ui": ui(), "o": { "create": "c" } };
    let noop = doc! { "op": "n", "ns": "", "o": {} };
    let items = parse(apply(vec![insert(1), apply(vec![create, noop, insert(2)]), insert(3)]));
    let kinds: Vec<bool> = items.iter().map(|item| matches!(item, Item::Change(_))).collect();
    assert_eq!(kinds, [true, false, true, true]);

    let mut deep = insert(1);
    for _ in 0..DEEPEST {
        deep = apply(vec![deep]);
    }
    assert!(matches!(parse(deep.clone())[..], [Item::Change(_)]));
    assert!(refused(apply(vec![deep])).1.contains("too deep"));
}

#[test]
fn documents_pass_through_byte_for_byte() {
    // A name and a string that are not UTF-8. Servers store such documents.
    let mut bytes = RawDocumentBuf::try_from(&doc! {
        "op": "i", "ns": "a.b", "ui": ui(), "o": { "_id": 1, "BAD": "BAD" }, "o2": { "_id": 1 },
    })
    .unwrap()
    .into_bytes();
    for at in 0..bytes.len() - 3 {
        if &bytes[at..at + 3] == b"BAD" {
            bytes[at] = 0xff;
        }
    }
    let raw = RawDocumentBuf::from_bytes(bytes.clone()).unwrap();
    let [Item::Change(change)] = &parse_raw(&raw)[..] else {
        panic!()
    };
    let Operation::Insert(document) = &change.write.operation else {
        panic!()
    };
    assert_eq!(document.as_bytes().iter().filter(|byte| **byte == 0xff).count(), 2);
    assert!(
        bytes
            .windows(document.as_bytes().len())
            .any(|part| part == document.as_bytes())
    );
}

#[test]
fn a_replacement_may_hold_any_name_beside_its_id() {
    for o in [
        doc! { "_id": 1, "$v": 2, "$set": 1 },
        // The result of a pipeline: the server stores `_id` first, but logs the document as the pipeline left it.
        doc! { "last": 1, "_id": 1 },
        doc! { "$v": 2, "diff": {}, "_id": 1 },
    ] {
        let entry = doc! { "op": "u", "ns": "a.b", "ui": ui(), "o2": { "_id": 1 }, "o": o.clone() };
        let [Item::Change(change)] = &parse(entry)[..] else {
            panic!()
        };
        assert!(matches!(change.write.operation, Operation::Replace(_)), "{o}");
    }
}

#[test]
fn the_view_of_a_time_series_collection_is_not_a_view() {
    let write =
        |op: &str, o: Document| doc! { "op": op, "ns": "a.system.views", "ui": ui(), "o2": { "_id": "a.v" }, "o": o };
    let view = |on: &str| doc! { "_id": "a.v", "viewOn": on, "pipeline": [] };
    for op in ["i", "u"] {
        assert!(parse(write(op, view("system.buckets.v"))).is_empty());
        assert!(matches!(
            &parse(write(op, view("b")))[..],
            [Item::Command(Command {
                collection: None,
                operation: CommandOperation::SetView { .. },
                ..
            })]
        ));
    }
    let [Item::Command(command)] = &parse(write("u", doc! { "$v": 2, "diff": {} }))[..] else {
        panic!()
    };
    let CommandOperation::ChangeView { namespace, .. } = &command.operation else {
        panic!()
    };
    assert_eq!(namespace.as_str(), "a.v");
}
