//! Waits for running writes that others sent, or that nobody awaits any more.

use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::time::{Instant, sleep};

use super::connection::TargetConnection;
use crate::error::{Error, ErrorKind, Result};
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
/// Every user may see its own operations. Without authentication these are the operations of all users, which only makes the wait longer.
///
/// # Errors
/// A retryable error if a write has not ended after a minute, or a server error.
pub(super) async fn quiesce(target: &TargetConnection) -> Result<()> {
    let mut waited_for: Option<Vec<Bson>> = None;
    let began = Instant::now();
    loop {
        let running = running_writes(target).await?;
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

/// Returns the operation ids of the writes that the server is executing.
async fn running_writes(target: &TargetConnection) -> Result<Vec<Bson>> {
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
        .filter(|operation| is_write(operation))
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

#[cfg(test)]
mod tests {
    use super::*;

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
