//! Current activity of a server: transactions, index builds, profilers.

use std::time::Duration;

use bson::{Document, doc};

use super::{CURRENT_OPERATIONS, Inspector, documents};
use crate::error::Result;
use crate::model::{Access, TransactionFacts};
use crate::mongo::client::number;

/// Maximum number of operations to examine. Further transactions and index builds would not change the findings.
const OPERATIONS: i32 = 1_000;

/// First wire version whose servers report the profiler's level without a lock (5.0).
const ASKED_WITHOUT_LOCK: u64 = 13;

impl Inspector<'_> {
    /// Collects what the server is doing now.
    pub(super) async fn activity(&mut self) -> Result<()> {
        if self.wire_version() < CURRENT_OPERATIONS {
            return Ok(());
        }
        let command = doc! {
            "aggregate": 1,
            "pipeline": [
                { "$currentOp": { "allUsers": true, "idleSessions": true } },
                { "$match": { "$or": [
                    { "transaction": { "$exists": true } },
                    { "command.createIndexes": { "$exists": true } },
                    { "msg": { "$regex": "^Index Build" } },
                ] } },
                { "$limit": OPERATIONS },
            ],
            "cursor": { "batchSize": OPERATIONS },
        };
        let Some(reply) = self.ask(Access::CurrentOperations, "admin", command).await? else {
            return Ok(());
        };
        let Ok(cursor) = reply.get_document("cursor") else {
            return Ok(());
        };
        for operation in documents(cursor, "firstBatch") {
            if let Ok(transaction) = operation.get_document("transaction") {
                self.facts.transactions.push(TransactionFacts {
                    client: operation.get_str("client").unwrap_or("an internal client").to_owned(),
                    open: Duration::from_micros(number(transaction, "timeOpenMicros")),
                    operation: operation.get_i32("opid").ok().map(i64::from),
                    namespaces: Vec::new(),
                });
            } else if let Some(namespace) = indexed(operation)
                && !self.facts.index_builds.contains(&namespace)
            {
                self.facts.index_builds.push(namespace);
            }
        }
        Ok(())
    }

    /// Reads the profiler's level of a database, on servers from 5.0 on. Older servers lock the database to answer. They first wait for
    /// every open transaction, and all later writes wait for that.
    pub(super) async fn profiler(&mut self, database: &str) -> Result<()> {
        if self.wire_version() < ASKED_WITHOUT_LOCK {
            return Ok(());
        }
        // A user without the privilege learns nothing. That is not worth a finding.
        if let Some(Ok(reply)) = self.run(database, doc! { "profile": -1 }).await {
            let level = number(&reply, "was");
            if level > 0 {
                let level = i64::try_from(level).unwrap_or(i64::MAX);
                self.facts.profiled.push((database.to_owned(), level));
            }
        }
        Ok(())
    }
}

/// Returns the collection whose index an operation builds.
fn indexed(operation: &Document) -> Option<String> {
    let command = operation.get_document("command").ok();
    let named = command.and_then(|command| {
        let database = command.get_str("$db").ok()?;
        Some(format!("{database}.{}", command.get_str("createIndexes").ok()?))
    });
    // The operation of the command itself has the namespace of the command collection, `$cmd`.
    let of_operation = operation
        .get_str("ns")
        .ok()
        .filter(|namespace| !namespace.ends_with(".$cmd"));
    named.or(of_operation.map(str::to_owned))
}
