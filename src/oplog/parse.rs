//! Parses raw oplog entries into changes and commands.

#[cfg(test)]
mod tests;

use bson::raw::{RawBsonRef, RawDocument};

use crate::error::Result;
use crate::model::{Change, Operation, Position, Write};
use crate::oplog::command;
use crate::oplog::entry::{Command, CommandOperation, Item};
use crate::oplog::namespaces::Namespaces;
use crate::oplog::raw_entry::{RawEntry, malformed, without};
use crate::order::Key;

/// The collection that stores the view definitions of a database.
pub(super) const VIEWS: &str = "system.views";

/// Maximum nesting of `applyOps`. The server itself refuses more.
pub(super) const DEEPEST: usize = 10;

/// Turns entries into changes and commands. The only state between entries is the names seen so far.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    pub(super) namespaces: Namespaces,
    /// Whether an entry since the last [`take_users_changed`](Self::take_users_changed) has changed users or roles.
    users_changed: bool,
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
    /// [`Protocol`](crate::ErrorKind::Protocol) if the bytes are not what a server writes. An entry that a server may write but this crate
    /// cannot apply is not an error. It becomes a [`CommandOperation::Unsupported`], so that it does not stop migrations that exclude its
    /// namespace.
    pub fn items(&mut self, entry: &RawEntry<'_>, position: Position, items: &mut Vec<Item>) -> Result<()> {
        self.items_at(entry, position, items, 0)
    }

    /// Returns whether an entry since the last call has changed users or roles.
    pub fn take_users_changed(&mut self) -> bool {
        std::mem::take(&mut self.users_changed)
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
            "i" | "u" | "d" if is_skipped(database, collection) => {
                self.users_changed |= is_of_users(database, collection);
                Ok(())
            }
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
                self.users_changed |= text(entry.o.get(entry.first_name()).map_err(malformed)?)
                    .is_some_and(|of| is_of_users(database, of));
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

/// Whether a collection contains the users or the roles of the deployment.
fn is_of_users(database: &str, collection: &str) -> bool {
    database == "admin" && matches!(collection, "system.users" | "system.roles")
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

/// A string value, or `None`.
pub(super) fn text<'a>(value: Option<RawBsonRef<'a>>) -> Option<&'a str> {
    value.and_then(RawBsonRef::as_str)
}
