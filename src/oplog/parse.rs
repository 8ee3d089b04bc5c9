//! Parses raw oplog entries into changes and commands.

use std::collections::HashMap;
use std::sync::Arc;

use bson::raw::{RawBsonRef, RawDocument};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, Namespace, Operation, Position, Write};
use crate::oplog::command;
use crate::oplog::entry::{Command, CommandOperation, Item};
use crate::oplog::raw_entry::{OPERATION, RawEntry, malformed, without};
use crate::order::Key;

/// The collection that stores the view definitions of a database.
pub(super) const VIEWS: &str = "system.views";

/// Maximum nesting of `applyOps`. The server itself refuses more.
pub(super) const DEEPEST: usize = 10;

/// Turns entries into changes and commands. The only state between entries is the names seen so far.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    pub(super) namespaces: Namespaces,
    /// Whether an update may be a delta without `$v`. Newer servers log such an update only as a user gave it to `applyOps`.
    unversioned_deltas: bool,
}

impl Parser {
    /// Creates a parser that may take an update without `$v` for a delta.
    #[cfg(feature = "legacy")]
    pub fn with_unversioned_deltas(unversioned_deltas: bool) -> Self {
        Self {
            unversioned_deltas,
            ..Self::default()
        }
    }

    /// Appends the changes and commands of the entry to `items`, in order. An `applyOps` is flattened. The caller must know whether it is
    /// part of a transaction that is not committed yet.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not what a server writes. An entry that a server may write but this crate cannot
    /// apply is not an error. It becomes a [`CommandOperation::Unsupported`], so that it does not stop migrations that exclude its
    /// namespace.
    pub fn items(&mut self, entry: &RawEntry<'_>, position: Position, items: &mut Vec<Item>) -> Result<()> {
        self.items_at(entry, position, items, 0)
    }

    fn items_at(
        &mut self,
        entry: &RawEntry<'_>,
        position: Position,
        items: &mut Vec<Item>,
        depth: usize,
    ) -> Result<()> {
        if entry.op == "n" || is_of_storage(entry.op) {
            return Ok(());
        }
        let Some((database, collection)) = entry.ns.split_once('.') else {
            return unsupported(entry, position, items, "its namespace has no collection");
        };
        match entry.op {
            "i" | "u" | "d" if is_skipped(database, collection) => Ok(()),
            "i" | "u" | "d" if collection == VIEWS => self.view(entry, position, items),
            "i" | "u" | "d" => self.change(entry, position, items),
            "c" if entry.first_name() == "applyOps" => {
                if depth == DEEPEST {
                    return unsupported(entry, position, items, "`applyOps` commands are nested too deep");
                }
                for operation in entry.o.get_array("applyOps").map_err(malformed)? {
                    let Some(operation) = operation.map_err(malformed)?.as_document() else {
                        return unsupported(entry, position, items, "an `applyOps` element is not an operation");
                    };
                    self.items_at(&RawEntry::read(operation)?, position, items, depth + 1)?;
                }
                Ok(())
            }
            "c" => {
                if let Some(operation) = command::read(entry, database, &mut self.namespaces)? {
                    items.push(Item::Command(Command {
                        position,
                        collection: entry.ui,
                        operation,
                        raw: entry.o.to_owned(),
                    }));
                }
                Ok(())
            }
            other => {
                let reason = format!("operations of the kind `{other}` are unknown");
                unsupported(entry, position, items, &reason)
            }
        }
    }

    /// Appends a write to one document.
    fn change(&mut self, entry: &RawEntry<'_>, position: Position, items: &mut Vec<Item>) -> Result<()> {
        let Some(collection) = entry.ui else {
            return unsupported(entry, position, items, "it does not name its collection's uuid");
        };
        let Some(key) = Key::of_document(keyed(entry)) else {
            return unsupported(entry, position, items, "it does not name its document's `_id`");
        };
        let operation = match entry.op {
            "d" => Operation::Delete,
            "i" => Operation::Insert(entry.o.to_owned()),
            // A replacement always contains its `_id`. It is the first field, unless a pipeline has replaced the document. It may contain
            // any other name, including `$v`. A delta begins with `$v` and has no `_id`.
            _ => match entry.first_name() {
                _ if entry.o.get("_id").map_err(malformed)?.is_some() => Operation::Replace(entry.o.to_owned()),
                "$v" => Operation::Delta(entry.o.to_owned()),
                "$set" | "$unset" if self.unversioned_deltas => Operation::Delta(entry.o.to_owned()),
                other => {
                    let reason = format!("it is an update that begins with `{other}`, which ordinary writes never log");
                    return unsupported(entry, position, items, &reason);
                }
            },
        };
        let Ok(namespace) = self.namespaces.get(entry.ns) else {
            return unsupported(entry, position, items, "its namespace is not the name of a collection");
        };
        items.push(Item::Change(Change {
            position,
            collection,
            namespace,
            write: Write { key, operation },
        }));
        Ok(())
    }

    /// Appends a write to `system.views`. It creates, changes or drops the view in the document's `_id`.
    fn view(&mut self, entry: &RawEntry<'_>, position: Position, items: &mut Vec<Item>) -> Result<()> {
        // Servers accept any document in a direct write to `system.views`, but list only those whose name is that of a view in its
        // database.
        let database = entry.ns.strip_suffix(VIEWS).unwrap_or_default();
        let name = keyed(entry).get_str("_id").unwrap_or_default();
        let (true, Ok(namespace)) = (name.starts_with(database), self.namespaces.get(name)) else {
            return Ok(());
        };
        let operation = match (entry.op, entry.first_name()) {
            ("d", _) => CommandOperation::DropView { namespace },
            ("u", "$v" | "$set" | "$unset") => CommandOperation::ChangeView {
                namespace,
                delta: entry.o.to_owned(),
            },
            _ => {
                // The server creates the view of a time-series collection itself when the buckets are created.
                if entry
                    .o
                    .get_str("viewOn")
                    .is_ok_and(|on| on.starts_with("system.buckets."))
                {
                    return Ok(());
                }
                CommandOperation::SetView {
                    namespace,
                    options: without(entry.o, |_, name| name == "_id")?,
                }
            }
        };
        items.push(Item::Command(Command {
            position,
            // The `ui` of the entry is that of `system.views`. A view has none.
            collection: None,
            operation,
            raw: entry.o.to_owned(),
        }));
        Ok(())
    }
}

/// The document that contains the `_id` of the written document.
fn keyed<'a>(entry: &RawEntry<'a>) -> &'a RawDocument {
    match (entry.op, entry.o2) {
        ("u", Some(o2)) => o2,
        _ => entry.o,
    }
}

/// Whether an operation maintains what a server stores beside the documents, such as the contents of its indexes (9.0 and newer).
pub(super) fn is_of_storage(op: &str) -> bool {
    matches!(op, "ci" | "cu" | "cd" | "km")
}

/// Whether a collection contains no user data: records of the server, or of migrations.
///
/// The rest of `admin` is not skipped, for programs that use the cursor on its own. A migration never selects it.
pub(super) fn is_skipped(database: &str, collection: &str) -> bool {
    matches!(database, "config" | "local")
        || database.starts_with(crate::METADATA_DATABASE)
        || (database == "admin" && collection.starts_with("system."))
        || collection == "system.profile"
}

/// Appends an item that says why the entry cannot be applied.
pub(super) fn unsupported(entry: &RawEntry<'_>, position: Position, items: &mut Vec<Item>, reason: &str) -> Result<()> {
    let name = if entry.op == "c" { entry.first_name() } else { "write" };
    items.push(Item::Command(Command {
        position,
        collection: entry.ui,
        operation: CommandOperation::Unsupported {
            namespace: entry.ns.trim_end_matches(".$cmd").to_owned(),
            reason: format!("a `{}` entry ({name}) cannot be applied: {reason}", entry.op),
        },
        raw: entry.o.to_owned(),
    }));
    Ok(())
}

/// Recently seen namespaces, so that all entries of one collection share one allocation.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    last: Option<Arc<Namespace>>,
    known: HashMap<String, Arc<Namespace>>,
}

impl Namespaces {
    /// Maximum number of names. Beyond it, all are dropped. It is more than most deployments have, and takes less than a megabyte.
    const MOST: usize = 2048;

    /// Returns the namespace called `name`.
    pub fn get(&mut self, name: &str) -> Result<Arc<Namespace>> {
        if let Some(last) = self.last.as_ref().filter(|last| last.as_str() == name) {
            return Ok(last.clone());
        }
        let namespace = match self.known.get(name) {
            Some(known) => known.clone(),
            None => {
                let namespace: Namespace = name.parse().map_err(|_| {
                    Error::new(
                        ErrorKind::Protocol,
                        OPERATION,
                        format!("`{name}` is not the name of a collection"),
                    )
                })?;
                if self.known.len() >= Self::MOST {
                    self.known.clear();
                }
                let namespace = Arc::new(namespace);
                self.known.insert(name.to_owned(), namespace.clone());
                namespace
            }
        };
        self.last = Some(namespace.clone());
        Ok(namespace)
    }
}

/// A string value, or `None`.
pub(super) fn text<'a>(value: Option<RawBsonRef<'a>>) -> Option<&'a str> {
    value.and_then(RawBsonRef::as_str)
}

#[cfg(test)]
mod tests {
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
        let write = |op: &str, o: Document| doc! { "op": op, "ns": "a.system.views", "ui": ui(), "o2": { "_id": "a.v" }, "o": o };
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

    #[test]
    fn entries_of_one_collection_share_its_name() {
        let mut namespaces = Namespaces::default();
        let first = namespaces.get("a.b").unwrap();
        for number in 0..Namespaces::MOST - 1 {
            namespaces.get(&format!("a.c{number}")).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &namespaces.get("a.b").unwrap()));
        namespaces.get("a.one-more").unwrap();
        assert!(namespaces.known.len() <= Namespaces::MOST);
        assert_eq!(namespaces.get("none").unwrap_err().kind(), ErrorKind::Protocol);
    }
}
