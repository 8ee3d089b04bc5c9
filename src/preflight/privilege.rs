//! Rules for the privileges of both users.

use std::collections::BTreeSet;

use bson::{Bson, Document};

use super::grant::{self, Grant, SOURCE_ACTIONS, SYSTEM_COLLECTION_ACTIONS, TARGET_ACTIONS};
use super::{Context, SideFacts, kind};
use crate::error::{FindingCode, Finding, Severity};
use crate::model::{Access, Namespace, Side};

/// Reports every access that was tried and refused, and every privilege missing from the server's list.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for side in context.sides() {
        let mut reported = tried(side, findings);
        let databases: BTreeSet<&str> = context
            .planned
            .iter()
            .map(|collection| match side.side {
                Side::Source => collection.namespace.database(),
                Side::Target => collection.target.database(),
            })
            .collect();
        reported |= listed(side, &databases, findings);
        if side.side == Side::Target {
            system_collections(context, side, findings);
        }
        // An access that was not tried shows in the operation that failed.
        if let Some(refusal) = &side.unlisted
            && !reported
        {
            findings.push(Finding::blocker(
                FindingCode::MissingPrivilege,
                format!("the collections of the {} cannot be listed: {refusal}", side.name),
                grant::commands(
                    side.side,
                    side.deployment.version,
                    side.user(),
                    &[Grant::of(&Access::ListDatabases)],
                ),
            ));
        }
    }
}

/// Reports every access that was tried and refused. Returns `true` if the migration needs any of them.
fn tried(side: &SideFacts, findings: &mut Vec<Finding>) -> bool {
    let mut reported = unanswered(side, findings);
    for probe in &side.inspection.probes {
        let Some(refusal) = &probe.refusal else { continue };
        if probe.access == Access::ReadOplog && !kind::is_unauthorized(refusal) {
            continue;
        }
        if probe.access == Access::WriteRecords && !kind::is_unauthorized(refusal) {
            reported = true;
            findings.push(Finding::blocker(
                FindingCode::WritesBlocked,
                format!("the {} takes no writes: {refusal}", side.name),
                "fix what the server reports, and start again",
            ));
            continue;
        }
        let (what, is_needed) = description(&probe.access);
        let fix = || {
            grant::commands(
                side.side,
                side.deployment.version,
                side.user(),
                &[Grant::of(&probe.access)],
            )
        };
        if is_needed {
            reported = true;
            findings.push(Finding::blocker(
                FindingCode::MissingPrivilege,
                format!("the user on the {} may not {what}: {refusal}", side.name),
                fix(),
            ));
        } else {
            findings.push(Finding::note(
                FindingCode::Unchecked,
                format!("the {} was not asked to {what}, as it refused: {refusal}", side.name),
                fix(),
            ));
        }
    }
    reported
}

/// Reports every access that was tried and got no answer in time. Returns `true` if the migration needs any of them.
fn unanswered(side: &SideFacts, findings: &mut Vec<Finding>) -> bool {
    let mut reported = false;
    for access in &side.inspection.unanswered {
        let (what, is_needed) = description(access);
        reported |= is_needed;
        findings.push(Finding::new(
            if is_needed { Severity::Blocker } else { Severity::Warning },
            FindingCode::NoAnswer,
            format!("the {} did not answer in time when asked to {what}", side.name),
            "see on it with `db.currentOp()` what holds it up, and whether its writes are locked (`db.fsyncUnlock()` unlocks them)",
        ));
    }
    reported
}

/// Returns a description of an access, and whether a migration needs it.
fn description(access: &Access) -> (String, bool) {
    match access {
        Access::ReadOplog => ("read local.oplog.rs".to_owned(), true),
        Access::ReadTransactions => ("read config.transactions".to_owned(), true),
        Access::ListDatabases => ("list the databases".to_owned(), true),
        Access::ListCollections(database) => (format!("list the collections of {database}"), true),
        Access::ListIndexes(database) => (format!("list the indexes in {database}"), true),
        Access::CollectionStatistics(database) => (format!("ask for the size of collections in {database}"), true),
        Access::ReadData(database) => (format!("read the collections of {database}"), true),
        Access::ReadSystemCollection(namespace) => (format!("list the indexes of {namespace} and read it"), true),
        Access::WriteRecords => (
            format!("write the migration's own records to {}", crate::METADATA_DATABASE),
            true,
        ),
        // Without it, the set's name serves as its identity.
        Access::ReplicaSetConfiguration => (
            "tell its configuration and identity (replSetGetConfig)".to_owned(),
            false,
        ),
        Access::ReplicaSetStatus => ("tell its members' states (replSetGetStatus)".to_owned(), false),
        Access::ServerStatus => (
            "tell its cache, load, write blocking and how long writes take (serverStatus)".to_owned(),
            false,
        ),
        Access::Parameters => (
            "tell its feature compatibility version (getParameter)".to_owned(),
            false,
        ),
        Access::CurrentOperations => (
            "tell its open transactions and index builds (currentOp)".to_owned(),
            false,
        ),
        Access::DatabaseStatistics => ("tell the free space on its disk (dbStats)".to_owned(), false),
    }
}

/// Reports what is missing in the list of the user's privileges, database by database. Returns `true` if anything is missing.
fn listed(side: &SideFacts, databases: &BTreeSet<&str>, findings: &mut Vec<Finding>) -> bool {
    let Some(privileges) = &side.inspection.privileges else {
        return false;
    };
    let wanted = match side.side {
        Side::Source => SOURCE_ACTIONS,
        Side::Target => TARGET_ACTIONS,
    };
    let mut reported = false;
    for database in databases {
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|action| !is_allowed(privileges, database, action) && !is_tried(side, database, action))
            .copied()
            .collect();
        if missing.is_empty() {
            continue;
        }
        reported = true;
        findings.push(Finding::blocker(
            FindingCode::MissingPrivilege,
            format!(
                "the user on the {} lacks the privileges {} on the database {database}",
                side.name,
                missing.join(", ")
            ),
            grant::commands(
                side.side,
                side.deployment.version,
                side.user(),
                &[Grant::in_database(database, &missing)],
            ),
        ));
    }
    reported
}

/// Checks `system.js` and the buckets of time-series collections. Roles for ordinary collections do not cover them.
fn system_collections(context: &Context<'_>, side: &SideFacts, findings: &mut Vec<Finding>) {
    let Some(privileges) = &side.inspection.privileges else {
        return;
    };
    let mut reported = BTreeSet::new();
    for planned in context.planned {
        let name = &planned.target;
        let is_function = name.collection() == "system.js";
        if !is_function && name.time_series().is_none() {
            continue;
        }
        let missing: Vec<&str> = SYSTEM_COLLECTION_ACTIONS
            .iter()
            .filter(|action| !is_allowed_on(privileges, name.database(), name.collection(), action))
            .copied()
            .collect();
        let grant = Grant::on_system_collection(name, &missing);
        // One finding is enough for all time-series collections of a database.
        if missing.is_empty() || !reported.insert(grant.resource.clone()) {
            continue;
        }
        let on = match is_function {
            true => name.to_string(),
            false => format!(
                "the buckets of time-series collections of {}, such as {name}",
                name.database()
            ),
        };
        findings.push(Finding::blocker(
            FindingCode::MissingPrivilege,
            format!(
                "the user on the {} lacks the privileges {} on {on}",
                side.name,
                missing.join(", ")
            ),
            grant::commands(side.side, side.deployment.version, side.user(), &[grant]),
        ));
    }
}

/// Whether this action was tried and refused, so that it is already reported.
fn is_tried(side: &SideFacts, database: &str, action: &str) -> bool {
    side.inspection
        .probes
        .iter()
        .filter(|probe| probe.refusal.is_some())
        .any(|probe| match &probe.access {
            // Nothing below the list of databases could be tried.
            Access::ListDatabases => true,
            Access::ListCollections(of) => of == database && action == "listCollections",
            Access::ListIndexes(of) => of == database && action == "listIndexes",
            Access::CollectionStatistics(of) => of == database && action == "collStats",
            Access::ReadData(of) => of == database && action == "find",
            _ => false,
        })
}

/// Whether the privileges allow an action on every ordinary collection of a database.
fn is_allowed(privileges: &[Document], database: &str, action: &str) -> bool {
    is_allowed_on(privileges, database, "", action)
}

/// Whether the privileges allow an action on a collection. An empty name stands for all ordinary collections.
fn is_allowed_on(privileges: &[Document], database: &str, collection: &str, action: &str) -> bool {
    let shown = Namespace::new(database, collection).time_series();
    let is_empty_or = |value: &str, name: &str| value.is_empty() || value == name;
    let covers = |resource: &Document| {
        let field = |name| resource.get_str(name).ok();
        if resource.get_bool("anyResource").unwrap_or(false) {
            return true;
        }
        // A resource of all buckets need not have a database.
        if !is_empty_or(field("db").unwrap_or_default(), database) {
            return false;
        }
        match &shown {
            Some(shown) if field("system_buckets").is_some_and(|of| is_empty_or(of, shown.collection())) => true,
            _ => field("db").is_some() && field("collection") == Some(collection),
        }
    };
    let allows = |privilege: &Document| {
        let listed = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        listed
            .iter()
            .filter_map(Bson::as_str)
            .any(|allowed| allowed == action || allowed == "anyAction")
    };
    privileges
        .iter()
        .any(|privilege| privilege.get_document("resource").is_ok_and(covers) && allows(privilege))
}

/// Whether the user may write while the writes of others are blocked.
pub(super) fn passes_write_block(side: &SideFacts) -> bool {
    // Without access control no user has the privilege.
    let privileges = side.inspection.privileges.as_deref().unwrap_or_default();
    privileges.iter().any(|privilege| {
        let listed = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        listed
            .iter()
            .filter_map(Bson::as_str)
            .any(|action| matches!(action, "bypassWriteBlockingMode" | "anyAction"))
    })
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::error::Severity;
    use crate::model::Probe;
    use crate::preflight::fixture::{Facts, codes, findings};

    #[test]
    fn each_access_that_is_needed_blocks_and_each_other_is_noted() {
        let shop = || "shop".to_owned();
        for (access, severity) in [
            (Access::ReadOplog, Severity::Blocker),
            (Access::ReadTransactions, Severity::Blocker),
            (Access::ListDatabases, Severity::Blocker),
            (Access::ListCollections(shop()), Severity::Blocker),
            (Access::ListIndexes(shop()), Severity::Blocker),
            (Access::CollectionStatistics(shop()), Severity::Blocker),
            (Access::ReadData(shop()), Severity::Blocker),
            (
                Access::ReadSystemCollection(Namespace::new("shop", "system.js")),
                Severity::Blocker,
            ),
            (Access::WriteRecords, Severity::Blocker),
            (Access::ReplicaSetConfiguration, Severity::Note),
            (Access::ReplicaSetStatus, Severity::Note),
            (Access::ServerStatus, Severity::Note),
            (Access::Parameters, Severity::Note),
            (Access::CurrentOperations, Severity::Note),
            (Access::DatabaseStatistics, Severity::Note),
        ] {
            let mut facts = Facts::new();
            facts.source.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
            facts.source.inspection.probes = vec![Probe::new(access.clone(), None)];
            assert_eq!(codes(&facts, check), [""; 0]);
            let refusal = "not authorized (code 13, Unauthorized)".to_owned();
            facts.source.inspection.probes = vec![Probe::new(access.clone(), Some(refusal))];
            let found = findings(&facts, check);
            assert_eq!(found.len(), 1, "{access:?}: {found:?}");
            assert_eq!(found[0].severity, severity, "{access:?}");
            assert!(
                found[0].fix.contains("createRole") && found[0].fix.contains("\"anna\""),
                "{found:?}"
            );
        }
    }

    #[test]
    fn each_action_that_the_list_of_privileges_lacks_is_named() {
        for taken in TARGET_ACTIONS {
            let actions: Vec<&str> = TARGET_ACTIONS
                .iter()
                .filter(|action| *action != taken)
                .copied()
                .collect();
            let mut facts = Facts::new();
            facts.plan("shop.orders", "store.orders");
            facts.target.inspection.privileges = Some(vec![
                doc! { "resource": { "db": "shop", "collection": "" }, "actions": TARGET_ACTIONS },
                doc! { "resource": { "db": "store", "collection": "" }, "actions": actions },
            ]);
            let found = findings(&facts, check);
            assert_eq!(found.len(), 1, "{taken}");
            assert!(
                found[0]
                    .message
                    .contains(&format!("privileges {taken} on the database store")),
                "{found:?}"
            );
        }
        for (resource, action) in [
            (doc! { "db": "", "collection": "" }, TARGET_ACTIONS.join(",")),
            (doc! { "anyResource": true }, "anyAction".to_owned()),
        ] {
            let mut facts = Facts::new();
            facts.plan("shop.orders", "store.orders");
            let actions: Vec<&str> = action.split(',').collect();
            facts.target.inspection.privileges = Some(vec![doc! { "resource": resource, "actions": actions }]);
            assert_eq!(codes(&facts, check), [""; 0]);
        }
    }

    #[test]
    fn system_collections_need_privileges_of_their_own() {
        let ordinary = doc! { "resource": { "db": "", "collection": "" }, "actions": ["anyAction"] };
        let on = |resource: Document, actions: &[&str]| doc! { "resource": resource, "actions": actions };
        let buckets = "store.system.buckets.readings";
        for (name, sufficient, insufficient, granted) in [
            (
                "store.system.js",
                vec![
                    doc! { "db": "", "collection": "system.js" },
                    doc! { "db": "store", "collection": "system.js" },
                ],
                vec![
                    doc! { "db": "shop", "collection": "system.js" },
                    doc! { "system_buckets": "" },
                ],
                "{ db: \"store\", collection: \"system.js\" }",
            ),
            (
                buckets,
                vec![
                    doc! { "system_buckets": "" },
                    doc! { "db": "", "system_buckets": "" },
                    doc! { "db": "store", "system_buckets": "" },
                    doc! { "db": "store", "system_buckets": "readings" },
                    doc! { "system_buckets": "readings" },
                    doc! { "db": "store", "collection": "system.buckets.readings" },
                ],
                vec![
                    doc! { "db": "shop", "system_buckets": "" },
                    doc! { "db": "store", "system_buckets": "other" },
                    doc! { "db": "store", "collection": "readings" },
                ],
                "{ db: \"store\", system_buckets: \"\" }",
            ),
        ] {
            let mut facts = Facts::new();
            facts.target.inspection.connection.user = Some(("anna".to_owned(), "admin".to_owned()));
            facts.plan(&name.replace("store", "shop"), name);
            for resource in sufficient {
                facts.target.inspection.privileges =
                    Some(vec![ordinary.clone(), on(resource.clone(), SYSTEM_COLLECTION_ACTIONS)]);
                assert_eq!(codes(&facts, check), [""; 0], "{resource}");
                for taken in SYSTEM_COLLECTION_ACTIONS {
                    let actions: Vec<&str> = SYSTEM_COLLECTION_ACTIONS
                        .iter()
                        .filter(|action| *action != taken)
                        .copied()
                        .collect();
                    facts.target.inspection.privileges = Some(vec![ordinary.clone(), on(resource.clone(), &actions)]);
                    let found = findings(&facts, check);
                    assert_eq!(found.len(), 1, "{found:?}");
                    assert!(
                        found[0].message.contains(&format!("privileges {taken} on ")),
                        "{found:?}"
                    );
                    assert!(found[0].message.ends_with(name), "{found:?}");
                    let privilege = format!("resource: {granted}, actions: [{taken:?}]");
                    assert!(found[0].fix.contains(&privilege), "{found:?}");
                }
            }
            for resource in insufficient {
                facts.target.inspection.privileges =
                    Some(vec![ordinary.clone(), on(resource.clone(), SYSTEM_COLLECTION_ACTIONS)]);
                assert_eq!(codes(&facts, check), ["missing_privilege"], "{resource}");
            }
        }
    }

    #[test]
    fn the_time_series_collections_of_a_database_are_reported_together() {
        let mut facts = Facts::new();
        facts.plan("shop.system.buckets.a", "shop.system.buckets.a");
        facts.plan("shop.system.buckets.b", "shop.system.buckets.b");
        let ordinary = doc! { "resource": { "db": "", "collection": "" }, "actions": ["anyAction"] };
        facts.target.inspection.privileges = Some(vec![ordinary]);
        assert_eq!(codes(&facts, check), ["missing_privilege"]);
    }

    #[test]
    fn a_listing_that_fails_for_reasons_not_tried_is_told() {
        let mut facts = Facts::new();
        facts.source.unlisted = Some("not authorized".to_owned());
        assert_eq!(codes(&facts, check), ["missing_privilege"]);
        facts.source.inspection.probes = vec![Probe::new(Access::ListDatabases, Some("not authorized".to_owned()))];
        assert_eq!(codes(&facts, check), ["missing_privilege"]);
    }
}
