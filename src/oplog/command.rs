//! Parses command entries of the oplog: changes to the catalog.

use bson::raw::RawDocumentBuf;

use crate::error::Result;
use crate::oplog::entry::CommandOperation;
use crate::oplog::namespaces::Namespaces;
use crate::oplog::parse::{is_skipped, text};
use crate::oplog::raw_entry::{RawEntry, malformed, uuid, without};

/// Returns what a command entry other than `applyOps` does to the catalog, or `None` if it does nothing that matters to a migration.
///
/// The server drops `system.views` when it drops a database. That is returned as a drop of that collection: all views of the database are
/// gone.
///
/// # Errors
/// [`Protocol`](crate::ErrorKind::Protocol) if the bytes are not what a server writes.
pub(super) fn read(
    entry: &RawEntry<'_>,
    database: &str,
    namespaces: &mut Namespaces,
) -> Result<Option<CommandOperation>> {
    let name = entry.first_name();
    let field = |field: &str| entry.o.get(field).map_err(malformed);
    if let "renameCollection" = name {
        return rename(entry, namespaces);
    }
    if let "dropDatabase" = name {
        let database = database.to_owned();
        return Ok((!is_skipped(&database, "")).then_some(CommandOperation::DropDatabase { database }));
    }
    // The assembler has already handled `commitTransaction` and `abortTransaction`. Two-phase index builds have no effect until they
    // commit. `dbCheck` compares the members of the set with each other. The last two maintain what a server stores beside the documents.
    if let "commitTransaction"
    | "abortTransaction"
    | "startIndexBuild"
    | "abortIndexBuild"
    | "dbCheck"
    | "setMultikeyMetadata"
    | "dropIdent" = name
    {
        return Ok(None);
    }
    // Every other command names its collection in its first field.
    let Some(collection) = text(field(name)?) else {
        return Ok(Some(unsupported(entry, database, "this command is unknown")));
    };
    // `truncateRange` is the only command that repeats the database.
    let collection = match (name, collection.split_once('.')) {
        ("truncateRange", Some((before, after))) if before == database => after,
        _ => collection,
    };
    if is_skipped(database, collection) {
        return Ok(None);
    }
    let Ok(namespace) = namespaces.get(&format!("{database}.{collection}")) else {
        return Ok(Some(unsupported(entry, database, "it does not name a collection")));
    };
    let operation = match name {
        // Views are migrated one by one.
        "create" if collection == "system.views" => return Ok(None),
        "create" => CommandOperation::Create {
            namespace,
            options: without(entry.o, |index, name| {
                index == 0 || matches!(name, "idIndex" | "temp" | "autoIndexId")
            })?,
            id_index: field("idIndex")?
                .and_then(|value| value.as_document())
                .map(ToOwned::to_owned),
        },
        "createIndexes" => CommandOperation::CreateIndexes {
            namespace,
            indexes: vec![without(entry.o, |index, _| index == 0)?],
        },
        "commitIndexBuild" => CommandOperation::CreateIndexes {
            namespace,
            indexes: documents(entry, "indexes")?,
        },
        "dropIndexes" | "dropIndex" | "deleteIndexes" | "deleteIndex" => match text(field("index")?) {
            Some(name) if name != "*" => CommandOperation::DropIndex {
                namespace,
                name: name.to_owned(),
            },
            _ => unsupported(entry, namespace.as_str(), "it does not name one index"),
        },
        "collMod" => {
            let arguments = without(entry.o, |index, _| index == 0)?;
            // An upgrade from 4.0 to 4.2 logs one such entry for every collection.
            if arguments.is_empty() {
                return Ok(None);
            }
            CommandOperation::Modify { namespace, arguments }
        }
        "drop" => CommandOperation::Drop { namespace },
        "truncateRange" => unsupported(
            entry,
            namespace.as_str(),
            "it deletes documents by their storage location, which differs on another server; exclude the collection",
        ),
        "upgradeDowngradeViewlessTimeseries" => unsupported(
            entry,
            namespace.as_str(),
            "it changes how a time-series collection is stored while it is migrated; keep the source's feature compatibility version \
             until the cutover, or exclude the collection, and start again",
        ),
        _ => unsupported(entry, namespace.as_str(), "this command is unknown"),
    };
    Ok(Some(operation))
}

/// A rename within one database. Renames across databases are logged as a copy and a drop.
fn rename(entry: &RawEntry<'_>, namespaces: &mut Namespaces) -> Result<Option<CommandOperation>> {
    let field = |field: &str| entry.o.get(field).map_err(malformed);
    let (Some(from), Some(to)) = (text(field("renameCollection")?), text(field("to")?)) else {
        return Ok(Some(unsupported(entry, entry.ns, "it does not name both collections")));
    };
    let skipped = |name: &str| {
        name.split_once('.')
            .is_some_and(|(database, collection)| is_skipped(database, collection))
    };
    Ok(match (skipped(from), skipped(to)) {
        (true, true) => None,
        (false, false) => match (namespaces.get(from), namespaces.get(to)) {
            (Ok(from), Ok(to)) => Some(CommandOperation::Rename {
                from,
                to,
                dropped: field("dropTarget")?.and_then(uuid),
            }),
            _ => Some(unsupported(entry, entry.ns, "it does not name two collections")),
        },
        _ => Some(unsupported(
            entry,
            if skipped(from) { to } else { from },
            &format!("it renames `{from}` to `{to}`, of which only one is user data"),
        )),
    })
}

/// The documents in an array field of the command.
fn documents(entry: &RawEntry<'_>, name: &str) -> Result<Vec<RawDocumentBuf>> {
    let mut documents = Vec::new();
    for value in entry.o.get_array(name).map_err(malformed)? {
        if let Some(document) = value.map_err(malformed)?.as_document() {
            documents.push(document.to_owned());
        }
    }
    Ok(documents)
}

fn unsupported(entry: &RawEntry<'_>, namespace: &str, reason: &str) -> CommandOperation {
    CommandOperation::Unsupported {
        namespace: namespace.trim_end_matches(".$cmd").to_owned(),
        reason: format!("the command `{}` cannot be applied: {reason}", entry.first_name()),
    }
}
