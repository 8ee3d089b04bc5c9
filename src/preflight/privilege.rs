//! Rules for the privileges of both users.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;

use bson::{Bson, Document};

use super::grant::{self, Grant, SOURCE_ACTIONS, SYSTEM_COLLECTION_ACTIONS, TARGET_ACTIONS};
use super::{Context, SideFacts, kind, users, write_block};
use crate::error::{Finding, FindingCode, Severity};
use crate::model::{Access, Namespace, Side, joined};

/// Maximum number of names in a message. The finding lists more.
const SHOWN: usize = 10;

/// Reports every access that was tried and refused, and every privilege missing from the server's list.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for side in context.sides() {
        let mut missing = Missing::default();
        let mut reported = unanswered(side, findings);
        reported |= tried(side, &mut missing, findings);
        let databases: BTreeSet<&str> = context
            .planned
            .iter()
            .map(|collection| match side.side {
                Side::Source => collection.namespace.database(),
                Side::Target => collection.target.database(),
            })
            .collect();
        reported |= listed(side, &databases, &mut missing);
        match side.side {
            Side::Source => missing.extend(write_block::missing_privilege(context.settings, side)),
            Side::Target => system_collections(context, side, &mut missing),
        }
        missing.extend(users::missing_privileges(context.settings, side));
        // An access that was not tried shows in the operation that failed.
        if let Some(refusal) = &side.unlisted
            && !reported
        {
            missing.extend([Lack {
                severity: Severity::Blocker,
                message: format!("the collections of the {} cannot be listed: {refusal}", side.name),
                affected: Vec::new(),
                grants: vec![Grant::of(&Access::ListDatabases)],
            }]);
        }
        missing.report(side, findings);
    }
}

/// Something that a user may not do.
pub(super) struct Lack {
    /// A blocker if the migration needs it, a note if only preflight does.
    pub severity: Severity,
    pub message: String,
    /// What the user may not do it with.
    pub affected: Vec<String>,
    pub grants: Vec<Grant>,
}

/// Everything that the user of one side lacks.
#[derive(Default)]
struct Missing(Vec<Lack>);

impl Missing {
    fn extend(&mut self, lacks: impl IntoIterator<Item = Lack>) {
        self.0.extend(lacks);
    }

    /// Adds the findings. One command grants everything: a role can be created only once. The first finding has it.
    fn report(mut self, side: &SideFacts, findings: &mut Vec<Finding>) {
        self.0.sort_by_key(|lack| lack.severity);
        let grants: Vec<Grant> = self.0.iter().flat_map(|lack| lack.grants.iter().cloned()).collect();
        let mut command = Some(grant::commands(
            side.side,
            side.deployment.version,
            side.user(),
            &grants,
        ));
        let mut holder = FindingCode::MissingPrivilege;
        for lack in self.0 {
            let code = match lack.severity {
                Severity::Blocker => FindingCode::MissingPrivilege,
                _ => FindingCode::Unchecked,
            };
            let fix = match command.take() {
                Some(command) => {
                    holder = code;
                    command
                }
                None => format!(
                    "the command in the first finding `{holder}` about the {} grants this too",
                    side.name
                ),
            };
            findings.push(Finding::new(lack.severity, code, lack.message, fix).listing(lack.affected));
        }
    }
}

/// Accesses of one kind, which differ only in the database or collection.
struct SameAccess<'a> {
    accesses: Vec<&'a Access>,
    /// What the server said to the first of them.
    refusal: &'a str,
}

impl<'a> SameAccess<'a> {
    fn of(all: impl Iterator<Item = (&'a Access, &'a str)>) -> Vec<Self> {
        let mut kinds: Vec<Self> = Vec::new();
        for (access, refusal) in all {
            let is_same = |kind: &&mut Self| {
                kind.accesses
                    .iter()
                    .any(|one| discriminant(*one) == discriminant(access))
            };
            match kinds.iter_mut().find(is_same) {
                Some(kind) => kind.accesses.push(access),
                None => kinds.push(Self {
                    accesses: vec![access],
                    refusal,
                }),
            }
        }
        kinds
    }

    /// The databases or collections.
    fn names(&self) -> Vec<String> {
        self.accesses.iter().filter_map(|access| object(access)).collect()
    }

    fn description(&self) -> (String, bool) {
        let names = joined(&self.names(), SHOWN);
        self.accesses
            .first()
            .map_or_else(Default::default, |access| description(access, &names))
    }
}

/// Reports every access that was tried and refused. Returns `true` if the migration needs any of them.
fn tried(side: &SideFacts, missing: &mut Missing, findings: &mut Vec<Finding>) -> bool {
    let mut reported = false;
    let mut refused = Vec::new();
    for probe in &side.inspection.probes {
        let Some(refusal) = &probe.refusal else { continue };
        match probe.access {
            Access::ReadOplog if !kind::is_unauthorized(refusal) => {}
            Access::WriteRecords if !kind::is_unauthorized(refusal) => {
                reported = true;
                findings.push(Finding::blocker(
                    FindingCode::WritesBlocked,
                    format!("the {} takes no writes: {refusal}", side.name),
                    "fix what the server reports, and start again",
                ));
            }
            _ => refused.push((&probe.access, refusal.as_str())),
        }
    }
    for same in SameAccess::of(refused.into_iter()) {
        let ((what, is_needed), refusal) = (same.description(), same.refusal);
        reported |= is_needed;
        let (severity, message) = match is_needed {
            true => (
                Severity::Blocker,
                format!("the user on the {} may not {what}: {refusal}", side.name),
            ),
            false => (
                Severity::Note,
                format!("the {} was not asked to {what}, as it refused: {refusal}", side.name),
            ),
        };
        missing.extend([Lack {
            severity,
            message,
            affected: same.names(),
            grants: same.accesses.iter().map(|access| Grant::of(access)).collect(),
        }]);
    }
    reported
}

/// Reports every access that was tried and got no answer in time. Returns `true` if the migration needs any of them.
fn unanswered(side: &SideFacts, findings: &mut Vec<Finding>) -> bool {
    let mut reported = false;
    for same in SameAccess::of(side.inspection.unanswered.iter().map(|access| (access, ""))) {
        let (what, is_needed) = same.description();
        reported |= is_needed;
        let finding = Finding::new(
            if is_needed {
                Severity::Blocker
            } else {
                Severity::Warning
            },
            FindingCode::NoAnswer,
            format!("the {} did not answer in time when asked to {what}", side.name),
            "see on it with `db.currentOp()` what holds it up, and whether its writes are locked (`db.fsyncUnlock()` unlocks them)",
        );
        findings.push(finding.listing(same.names()));
    }
    reported
}

/// The database or collection that an access is limited to.
fn object(access: &Access) -> Option<String> {
    match access {
        Access::ListCollections(database)
        | Access::ListIndexes(database)
        | Access::CollectionStatistics(database)
        | Access::ReadData(database) => Some(database.clone()),
        Access::ReadSystemCollection(namespace) => Some(namespace.to_string()),
        _ => None,
    }
}

/// Returns a description of an access to the named databases or collections, and whether a migration needs it.
fn description(access: &Access, names: &str) -> (String, bool) {
    match access {
        Access::ReadOplog => ("read local.oplog.rs".to_owned(), true),
        Access::ReadTransactions => ("read config.transactions".to_owned(), true),
        Access::ListDatabases => ("list the databases".to_owned(), true),
        Access::ListCollections(_) => (format!("list the collections of {names}"), true),
        Access::ListIndexes(_) => (format!("list the indexes in {names}"), true),
        Access::CollectionStatistics(_) => (format!("ask for the size of collections in {names}"), true),
        Access::ReadData(_) => (format!("read the collections of {names}"), true),
        Access::ReadSystemCollection(_) => (format!("list the indexes of {names} and read it"), true),
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

/// Reports what is missing in the list of the user's privileges. Returns `true` if anything is missing.
fn listed(side: &SideFacts, databases: &BTreeSet<&str>, missing: &mut Missing) -> bool {
    let Some(privileges) = &side.inspection.privileges else {
        return false;
    };
    let wanted = match side.side {
        Side::Source => SOURCE_ACTIONS,
        Side::Target => TARGET_ACTIONS,
    };
    let mut by_actions: BTreeMap<Vec<&str>, Vec<String>> = BTreeMap::new();
    for database in databases {
        let actions: Vec<&str> = wanted
            .iter()
            .filter(|action| !is_allowed(privileges, database, action) && !is_tried(side, database, action))
            .copied()
            .collect();
        if !actions.is_empty() {
            by_actions.entry(actions).or_default().push((*database).to_owned());
        }
    }
    let reported = !by_actions.is_empty();
    missing.extend(by_actions.into_iter().map(|(actions, databases)| {
        Lack {
            severity: Severity::Blocker,
            message: format!(
                "the user on the {} lacks the privileges {} on the {} {}",
                side.name,
                actions.join(", "),
                if databases.len() == 1 { "database" } else { "databases" },
                joined(&databases, SHOWN)
            ),
            grants: databases
                .iter()
                .map(|database| Grant::in_database(database, &actions))
                .collect(),
            affected: databases,
        }
    }));
    reported
}

/// Checks `system.js` and the buckets of time-series collections. Roles for ordinary collections do not cover them.
fn system_collections(context: &Context<'_>, side: &SideFacts, missing: &mut Missing) {
    let Some(privileges) = &side.inspection.privileges else {
        return;
    };
    let mut by_actions: BTreeMap<Vec<&str>, Vec<(String, Grant)>> = BTreeMap::new();
    let mut reported = BTreeSet::new();
    for planned in context.planned {
        let name = &planned.target;
        let is_function = name.collection() == "system.js";
        if !is_function && name.time_series().is_none() {
            continue;
        }
        let actions: Vec<&str> = SYSTEM_COLLECTION_ACTIONS
            .iter()
            .filter(|action| !is_allowed_on(privileges, name.database(), name.collection(), action))
            .copied()
            .collect();
        let grant = Grant::on_system_collection(name, &actions);
        // One grant is enough for all time-series collections of a database.
        if actions.is_empty() || !reported.insert(grant.resource.clone()) {
            continue;
        }
        let on = match is_function {
            true => name.to_string(),
            false => format!(
                "the buckets of time-series collections of {}, such as {name}",
                name.database()
            ),
        };
        by_actions.entry(actions).or_default().push((on, grant));
    }
    missing.extend(by_actions.into_iter().map(|(actions, resources)| {
        let (affected, grants): (Vec<String>, Vec<Grant>) = resources.into_iter().unzip();
        Lack {
            severity: Severity::Blocker,
            message: format!(
                "the user on the {} lacks the privileges {} on {}",
                side.name,
                actions.join(", "),
                joined(&affected, SHOWN)
            ),
            affected,
            grants,
        }
    }));
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
pub(super) fn is_allowed_on(privileges: &[Document], database: &str, collection: &str, action: &str) -> bool {
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
mod tests;
