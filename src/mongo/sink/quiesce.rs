//! Waits for running writes that others sent, or that nobody awaits any more.

use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::time::{Instant, sleep};

use super::connection::TargetConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, Selection};
use crate::mongo::client;

const OPERATION: &str = "wait for earlier writes";

/// Maximum wait for the writes to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(100);

/// Commands that write. An index build is not one of them: building the same index again joins it.
const WRITING: [&str; 10] = [
    "insert",
    "update",
    "delete",
    "applyOps",
    "create",
    "drop",
    "dropDatabase",
    "renameCollection",
    "collMod",
    "dropIndexes",
];

/// Waits until the writes that the server is executing now have ended; see [`Sink::quiesce`](crate::Sink::quiesce).
///
/// Every user may see its own operations. They include those of other migrations of the same user, and without authentication those of all
/// users. Only writes to names that the selection produces can be those of a predecessor, since no other migration writes there.
///
/// # Errors
/// A retryable error if a write has not ended after a minute, or a server error.
pub(super) async fn quiesce(target: &TargetConnection, selection: &Selection) -> Result<()> {
    let mut waited_for: Option<Vec<Bson>> = None;
    let began = Instant::now();
    loop {
        let running = running_writes(target, selection).await?;
        let left: Vec<Bson> = match waited_for {
            // Writes that have started since then do not matter.
            Some(before) => before.into_iter().filter(|id| running.contains(id)).collect(),
            None => running,
        };
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Connection,
                OPERATION,
                format!(
                    "the target is still carrying out {} of them; `db.currentOp()` shows them, and `db.killOp()` ends them",
                    left.len()
                ),
            ));
        }
        waited_for = Some(left);
        sleep(PAUSE).await;
    }
}

/// Returns the operation ids of the writes that the server is executing and that concern the selection.
async fn running_writes(target: &TargetConnection, selection: &Selection) -> Result<Vec<Bson>> {
    let reply = client::run(
        target.client(),
        OPERATION,
        "admin",
        doc! { "currentOp": 1, "$ownOps": true, "active": true },
    )
    .await?;
    let operations = reply
        .get_array("inprog")
        .map_err(|error| Error::malformed(OPERATION, error))?;
    Ok(operations
        .iter()
        .filter_map(Bson::as_document)
        .filter(|operation| is_write(operation) && concerns(operation, selection))
        .filter_map(|operation| operation.get("opid").cloned())
        .collect())
}

fn is_write(operation: &Document) -> bool {
    let is_ours = operation
        .get_str("ns")
        .is_ok_and(|namespace| namespace.starts_with(crate::METADATA_DATABASE));
    let of_a_command = || {
        operation
            .get_document("command")
            .ok()
            .and_then(|command| command.keys().next())
            .is_some_and(|name| WRITING.contains(&name.as_str()))
    };
    // Records are protected by their fences.
    !is_ours && (matches!(operation.get_str("op"), Ok("insert" | "update" | "remove")) || of_a_command())
}

/// Whether a write may be to a name that the selection produces. If the operation does not say what it writes to, for example because its
/// command is too long to be shown, it may.
fn concerns(operation: &Document, selection: &Selection) -> bool {
    let produces = |name: &str| match name.parse::<Namespace>() {
        Ok(name) if !name.collection().starts_with("$cmd") => selection.produces(&name),
        _ => true,
    };
    let namespace = operation.get_str("ns").unwrap_or_default();
    let Ok(command) = operation.get_document("command") else {
        return produces(namespace);
    };
    let database = command
        .get_str("$db")
        .or_else(|_| namespace.split('.').next().ok_or(()));
    match command.iter().next().map(|(name, value)| (name.as_str(), value)) {
        Some(("renameCollection", Bson::String(from))) => produces(from) || command.get_str("to").is_ok_and(produces),
        Some(("dropDatabase", _)) => database.map_or(true, |database| selection.target_reaches(database)),
        Some(("applyOps", Bson::Array(operations))) => {
            operations.iter().filter_map(Bson::as_document).any(|operation| {
                let namespace = operation.get_str("ns").unwrap_or_default();
                let database = namespace.strip_suffix(".$cmd");
                // An entry of the catalog has the collection in its first field.
                let collection = operation
                    .get_document("o")
                    .ok()
                    .and_then(|entry| entry.values().next()?.as_str());
                match (database, collection) {
                    (Some(database), Some(collection)) => produces(&format!("{database}.{collection}")),
                    _ => produces(namespace),
                }
            })
        }
        Some((name, Bson::String(collection))) if WRITING.contains(&name) => {
            database.map_or(true, |database| produces(&format!("{database}.{collection}")))
        }
        _ => produces(namespace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_to_names_of_the_selection_are_waited_for() {
        let mut selection = Selection::all();
        selection.include("a.*").unwrap();
        selection.rename("a.x", "b.y").unwrap();
        for (operation, expected) in [
            (
                doc! { "op": "insert", "ns": "a.b", "command": { "insert": "b", "$db": "a" } },
                true,
            ),
            (
                doc! { "op": "insert", "ns": "b.b", "command": { "insert": "b", "$db": "b" } },
                false,
            ),
            (
                doc! { "op": "update", "ns": "b.y", "command": { "q": {}, "u": {} } },
                true,
            ),
            (
                doc! { "op": "update", "ns": "a.x", "command": { "q": {}, "u": {} } },
                false,
            ),
            (doc! { "op": "remove", "ns": "a.x" }, false),
            (
                doc! { "op": "command", "ns": "b.$cmd", "command": { "create": "y", "$db": "b" } },
                true,
            ),
            (
                doc! { "op": "command", "ns": "b.$cmd", "command": { "create": "z", "$db": "b" } },
                false,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "renameCollection": "c.b", "to": "a.b" } },
                true,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "renameCollection": "c.b", "to": "c.c" } },
                false,
            ),
            (
                doc! { "op": "command", "ns": "b", "command": { "dropDatabase": 1, "$db": "b" } },
                true,
            ),
            (
                doc! { "op": "command", "ns": "c", "command": { "dropDatabase": 1, "$db": "c" } },
                false,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "applyOps": [{ "op": "u", "ns": "c.d" }, { "op": "u", "ns": "a.d" }] } },
                true,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "applyOps": [{ "op": "u", "ns": "c.d" }] } },
                false,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "applyOps": [{ "op": "c", "ns": "a.$cmd", "o": { "create": "x" } }] } },
                false,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "$truncated": "{ applyOps: [" } },
                true,
            ),
        ] {
            assert_eq!(concerns(&operation, &selection), expected, "{operation}");
        }
    }

    #[test]
    fn writes_are_told_from_the_rest() {
        for (operation, expected) in [
            (
                doc! { "op": "insert", "ns": "shop.orders", "command": { "insert": "orders" } },
                true,
            ),
            (
                doc! { "op": "remove", "ns": "shop.orders", "command": { "q": {} } },
                true,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd", "command": { "renameCollection": "a.b" } },
                true,
            ),
            (
                doc! { "op": "command", "ns": "shop.orders", "command": { "createIndexes": "orders" } },
                false,
            ),
            (
                doc! { "op": "command", "ns": "admin.$cmd.aggregate", "command": { "currentOp": 1 } },
                false,
            ),
            (
                doc! { "op": "getmore", "ns": "local.oplog.rs", "command": { "getMore": 1_i64 } },
                false,
            ),
            (
                doc! { "op": "update", "ns": "__mdb_internal_mongoferry.records" },
                false,
            ),
            (doc! { "op": "none" }, false),
        ] {
            assert_eq!(is_write(&operation), expected, "{operation}");
        }
    }
}
