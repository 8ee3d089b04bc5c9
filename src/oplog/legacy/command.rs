//! Commands of servers from 2.6 to 4.0. Up to 3.4, most are logged as the user sent them.

use std::sync::Arc;

use bson::Uuid;
use bson::raw::RawBsonRef;

use super::{LegacyDecoder, Output, is_of_server};
use crate::catalog::legacy::{id_index, index_as_created, modification, options};
use crate::error::Result;
use crate::model::Namespace;
use crate::oplog::entry::{Command, CommandOperation, Item};
use crate::oplog::parse::{VIEWS, is_skipped, text};
use crate::oplog::raw_entry::{RawEntry, malformed, uuid, without};

impl LegacyDecoder {
    /// A command other than `applyOps`. Its first field is its name.
    pub(super) fn command(&mut self, entry: &RawEntry<'_>, database: &str, output: &mut Output<'_>) -> Result<()> {
        match entry.first_name() {
            "renameCollection" => return self.rename(entry, output),
            "dropDatabase" => return self.drop_database(entry, database, output),
            // It compares the members of the set with each other.
            "dbCheck" => return Ok(()),
            _ => {}
        }
        let Some(collection) = text(entry.o.get(entry.first_name()).map_err(malformed)?) else {
            return refuse(entry, database, "this command is unknown", output);
        };
        if is_skipped(database, collection) || is_of_server(collection) {
            return Ok(());
        }
        let Ok(namespace) = self.parser.namespaces.get(&format!("{database}.{collection}")) else {
            return refuse(entry, database, "it does not name a collection", output);
        };
        match entry.first_name() {
            // Views are migrated one by one.
            "create" if collection == VIEWS => Ok(()),
            "create" => self.create(entry, namespace, output),
            "createIndexes" => {
                let id = output.identities.existing(&namespace, entry.ui);
                let indexes = vec![index_as_created(self.series, &without(entry.o, |index, _| index == 0)?)];
                push(
                    entry,
                    Some(id),
                    CommandOperation::CreateIndexes { namespace, indexes },
                    output,
                )
            }
            "dropIndexes" | "dropIndex" | "deleteIndexes" | "deleteIndex" => drop_indexes(entry, namespace, output),
            "collMod" => {
                let id = output.identities.existing(&namespace, entry.ui);
                let arguments = modification(self.series, &without(entry.o, |index, _| index == 0)?);
                // A change of the feature compatibility version logs such entries for every collection. The settings of MMAPv1 mean nothing
                // to a target.
                if arguments.is_empty() {
                    return Ok(());
                }
                push(
                    entry,
                    Some(id),
                    CommandOperation::Modify { namespace, arguments },
                    output,
                )
            }
            "drop" if collection == VIEWS => push(entry, None, CommandOperation::Drop { namespace }, output),
            "drop" => {
                let id = output.identities.existing(&namespace, entry.ui);
                output.identities.end(&namespace);
                push(entry, Some(id), CommandOperation::Drop { namespace }, output)
            }
            "convertToCapped" => self.convert(entry, namespace, output),
            _ => refuse(entry, namespace.as_str(), "this command is unknown", output),
        }
    }

    fn create(&mut self, entry: &RawEntry<'_>, namespace: Arc<Namespace>, output: &mut Output<'_>) -> Result<()> {
        let options = options(self.series, &without(entry.o, |index, _| index == 0)?);
        let logged = entry.o.get("idIndex").map_err(malformed)?;
        let id_index = match logged.and_then(RawBsonRef::as_document) {
            Some(logged) => Some(logged.to_owned()),
            // From 3.4 on, the entry lacks it if it is of format 1. Before 3.4, all are.
            None if options.get_bool("autoIndexId").is_ok_and(|made| !made) => None,
            None => Some(id_index()),
        };
        let id = output.identities.begin(&namespace, entry.ui, output.position);
        let create = CommandOperation::Create {
            namespace,
            options,
            id_index,
        };
        push(entry, Some(id), create, output)
    }

    /// The server drops the collection and moves a copy of it to its name. None of this is logged up to 3.4.
    fn convert(&mut self, entry: &RawEntry<'_>, namespace: Arc<Namespace>, output: &mut Output<'_>) -> Result<()> {
        let id = output.identities.existing(&namespace, entry.ui);
        let drop = CommandOperation::Drop {
            namespace: Arc::clone(&namespace),
        };
        push(entry, Some(id), drop, output)?;
        let id = output.identities.replace(&namespace, output.position);
        let temporary = format!("tmp.convertToCapped.{}", namespace.collection());
        let rename = CommandOperation::Rename {
            from: Arc::new(Namespace::new(namespace.database(), &temporary)),
            to: namespace,
            dropped: None,
        };
        push(entry, Some(id), rename, output)
    }

    /// Up to 3.4 a drop of a database has no other entry. So the drops of its collections are appended before it.
    fn drop_database(&mut self, entry: &RawEntry<'_>, database: &str, output: &mut Output<'_>) -> Result<()> {
        if is_skipped(database, "") {
            return Ok(());
        }
        for (namespace, id) in output.identities.end_database(database) {
            let namespace = Arc::new(namespace);
            push(entry, Some(id), CommandOperation::Drop { namespace }, output)?;
        }
        let database = database.to_owned();
        push(entry, None, CommandOperation::DropDatabase { database }, output)
    }

    /// A rename, up to 3.4 also across databases.
    fn rename(&mut self, entry: &RawEntry<'_>, output: &mut Output<'_>) -> Result<()> {
        let field = |field: &str| entry.o.get(field).map_err(malformed);
        let database = entry.ns.trim_end_matches(".$cmd");
        let (Some(from), Some(to)) = (text(field("renameCollection")?), text(field("to")?)) else {
            return refuse(entry, database, "it does not name both collections", output);
        };
        let skipped = |name: &str| {
            name.split_once('.')
                .is_some_and(|(database, collection)| is_skipped(database, collection) || is_of_server(collection))
        };
        match (skipped(from), skipped(to)) {
            (true, true) => return Ok(()),
            (false, false) => {}
            (from_skipped, _) => {
                let reason = format!("it renames `{from}` to `{to}`, of which only one is user data");
                return refuse(entry, if from_skipped { to } else { from }, &reason, output);
            }
        }
        let namespaces = &mut self.parser.namespaces;
        let (Ok(from), Ok(to)) = (namespaces.get(from), namespaces.get(to)) else {
            return refuse(entry, database, "it does not name two collections", output);
        };
        let drop_target = field("dropTarget")?;
        let named = drop_target.and_then(uuid);
        let drops_target = drop_target.is_some_and(is_true);
        let (id, dropped) = output.identities.rename(&from, &to, entry.ui, drops_target);
        let dropped = match named {
            Some(named) => Some(output.identities.id_for_uuid(named)),
            // A listing that is newer than this entry may have shown a collection of this name that comes later.
            None => dropped.filter(|_| drops_target),
        };
        push(entry, Some(id), CommandOperation::Rename { from, to, dropped }, output)
    }
}

fn drop_indexes(entry: &RawEntry<'_>, namespace: Arc<Namespace>, output: &mut Output<'_>) -> Result<()> {
    let operation = match entry.o.get("index").map_err(malformed)? {
        Some(RawBsonRef::String("*")) => CommandOperation::DropIndexes {
            namespace: Arc::clone(&namespace),
            key: None,
        },
        Some(RawBsonRef::String(name)) => CommandOperation::DropIndex {
            namespace: Arc::clone(&namespace),
            name: name.to_owned(),
        },
        Some(RawBsonRef::Document(key)) => CommandOperation::DropIndexes {
            namespace: Arc::clone(&namespace),
            key: Some(key.to_owned()),
        },
        _ => return refuse(entry, namespace.as_str(), "it does not name an index", output),
    };
    let id = output.identities.existing(&namespace, entry.ui);
    push(entry, Some(id), operation, output)
}

/// Whether the server took a value, which the user sent, for true.
fn is_true(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Boolean(value) => value,
        RawBsonRef::Int32(value) => value != 0,
        RawBsonRef::Int64(value) => value != 0,
        RawBsonRef::Double(value) => value != 0.0,
        RawBsonRef::Null | RawBsonRef::Undefined => false,
        _ => true,
    }
}

fn push(
    entry: &RawEntry<'_>,
    collection: Option<Uuid>,
    operation: CommandOperation,
    output: &mut Output<'_>,
) -> Result<()> {
    output.items.push(Item::Command(Command {
        position: output.position,
        collection,
        operation,
        raw: entry.o.to_owned(),
    }));
    Ok(())
}

/// Appends an item that says why a command cannot be applied.
fn refuse(entry: &RawEntry<'_>, namespace: &str, reason: &str, output: &mut Output<'_>) -> Result<()> {
    let operation = CommandOperation::Unsupported {
        namespace: namespace.to_owned(),
        reason: format!("the command `{}` cannot be applied: {reason}", entry.first_name()),
    };
    push(entry, entry.ui, operation, output)
}
