//! Rules for the load and the history of the source.

use std::time::Duration;

use super::Context;
use super::plan::duration;
use crate::error::{Finding, FindingCode};

/// Age from which an open transaction is reported. Its first entry must still be in the oplog when the migration starts.
const LONG_TRANSACTION: Duration = Duration::from_secs(30);

/// Number of operations that may wait for a lock.
const QUEUE: u64 = 100;

/// Checks the source's load and history.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inspection = &context.source.inspection;
    if let Some(oplog) = inspection.oplog {
        findings.push(Finding::note(
            FindingCode::OplogWindow,
            format!(
                "the source's oplog reaches back {}: this process may be down for that long and still resume; while it runs, the oplog's length \
                 does not matter",
                duration(oplog.window)
            ),
            format!(
                "to extend it, on each member of the source: `db.adminCommand({{ replSetResizeOplog: 1, size: {}.0 }})`",
                (oplog.limit_bytes >> 19).max(990)
            ),
        ));
    }
    for transaction in inspection
        .transactions
        .iter()
        .filter(|transaction| transaction.open >= LONG_TRANSACTION)
    {
        let fix = match transaction.operation {
            Some(operation) => format!("wait for it, or on the source: `db.killOp({operation})`"),
            None => "wait for it, or end the session that opened it: `db.adminCommand({ killSessions: [SESSION] })`"
                .to_owned(),
        };
        findings.push(Finding::warning(
            FindingCode::LongTransaction,
            format!(
                "a transaction of {} has been open for {}; the oplog has to be read from its first entry on",
                transaction.client,
                duration(transaction.open)
            ),
            fix,
        ));
    }
    for namespace in &inspection.index_builds {
        let finding = Finding::warning(
            FindingCode::IndexBuild,
            format!(
                "an index of `{namespace}` is being built on the source, which slows down both the build and the copy"
            ),
            "wait until it is built: `db.currentOp({ \"command.createIndexes\": { $exists: true } })` shows how far it is",
        );
        findings.push(finding.about(namespace.as_str()));
    }
    for (database, level) in &inspection.profiled {
        let finding = Finding::note(
            FindingCode::Profiler,
            format!(
                "the profiler of the source's database `{database}` is at level {level}, and records every read of the migration"
            ),
            format!("on the source: `db.getSiblingDB(\"{database}\").setProfilingLevel(0)`"),
        );
        findings.push(finding.about(database.as_str()));
    }
    if let Some(queue) = inspection.queued_operations.filter(|queue| *queue > QUEUE) {
        findings.push(Finding::warning(
            FindingCode::HeavyLoad,
            format!("{queue} operations wait for a lock on the source; it has little left for a copy"),
            "start at a quieter time, or with fewer walkers: `.walkers(1)`",
        ));
    }
    if inspection
        .parameters
        .get_bool("failIndexKeyTooLong")
        .is_ok_and(|refuses| !refuses)
    {
        findings.push(Finding::warning(
            FindingCode::LenientIndexKeys,
            "the source runs with `failIndexKeyTooLong` off: its indexes may lack documents that those of the target have, and queries may \
             answer differently",
            "on the source: `db.adminCommand({ setParameter: 1, failIndexKeyTooLong: true })`, and look for keys of more than 1024 bytes",
        ));
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::model::{OplogFacts, TransactionFacts};
    use crate::preflight::fixture::{Facts, codes, findings};

    #[test]
    fn a_quiet_source_passes() {
        let mut facts = Facts::new();
        facts.source.inspection.queued_operations = Some(QUEUE);
        facts.source.inspection.parameters = doc! { "failIndexKeyTooLong": true };
        facts.source.inspection.transactions = vec![TransactionFacts {
            open: LONG_TRANSACTION - Duration::from_secs(1),
            ..TransactionFacts::default()
        }];
        assert_eq!(codes(&facts, check), [""; 0]);
    }

    #[test]
    fn what_goes_on_is_told() {
        let mut facts = Facts::new();
        let source = &mut facts.source.inspection;
        source.oplog = Some(OplogFacts {
            limit_bytes: 1 << 30,
            used_bytes: 1 << 29,
            window: Duration::from_secs(7200),
        });
        source.transactions = vec![TransactionFacts {
            client: "10.0.0.9:5".to_owned(),
            open: LONG_TRANSACTION,
            operation: Some(77),
            namespaces: Vec::new(),
        }];
        source.index_builds = vec!["shop.orders".to_owned()];
        source.profiled = vec![("shop".to_owned(), 2)];
        source.queued_operations = Some(QUEUE + 1);
        source.parameters = doc! { "failIndexKeyTooLong": false };
        assert_eq!(
            codes(&facts, check),
            [
                "oplog_window",
                "long_transaction",
                "index_build",
                "profiler",
                "heavy_load",
                "lenient_index_keys"
            ]
        );
        let found = findings(&facts, check);
        assert!(found[0].message.contains("2 h"), "{found:?}");
        assert!(found[1].fix.contains("db.killOp(77)"), "{found:?}");
    }
}
