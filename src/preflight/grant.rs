//! Minimum privileges of a migration's users, and the commands that grant them.

use sha2::{Digest, Sha256};

use crate::model::{Access, Namespace, Side};

/// Built-in roles that are sufficient from a server version on.
struct Roles {
    since: [u32; 2],
    source: &'static [&'static str],
    target: &'static [&'static str],
}

/// A target before 4.2 is refused. Its user may be prepared for an upgrade.
const OLD_TARGET: &[&str] = &[
    "readWriteAnyDatabase",
    "dbAdminAnyDatabase",
    "clusterMonitor",
    "restore",
];

/// Newest first. Servers before 4.2 are only sources. 3.2 lets no monitor ask for the state of the set.
const ROLES: &[Roles] = &[
    Roles {
        since: [4, 2],
        source: &["readAnyDatabase", "clusterMonitor"],
        target: &["readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor"],
    },
    Roles {
        since: [3, 4],
        source: &["readAnyDatabase", "clusterMonitor", "backup"],
        target: OLD_TARGET,
    },
    Roles {
        since: [3, 2],
        source: &["readAnyDatabase", "clusterMonitor", "clusterManager", "backup"],
        target: OLD_TARGET,
    },
    Roles {
        since: [2, 6],
        source: &["readAnyDatabase", "clusterMonitor", "backup"],
        target: OLD_TARGET,
    },
];

/// Actions that the target's user needs in each database that is migrated to.
pub(super) const TARGET_ACTIONS: &[&str] = &[
    "find",
    "insert",
    "update",
    "remove",
    "bypassDocumentValidation",
    "createCollection",
    "convertToCapped",
    "createIndex",
    "dropCollection",
    "dropIndex",
    "collMod",
    "listCollections",
    "listIndexes",
    "collStats",
];

/// Actions that the target's user needs on `system.js` and on the buckets of time-series collections. Privileges on a database do not cover
/// these collections. They do cover creating, changing and dropping time-series collections, which commands call by the name that users know.
pub(super) const SYSTEM_COLLECTION_ACTIONS: &[&str] = &[
    "find",
    "insert",
    "update",
    "remove",
    "bypassDocumentValidation",
    "createIndex",
    "dropIndex",
    "listIndexes",
];

/// Actions that the source's user needs in each migrated database.
pub(super) const SOURCE_ACTIONS: &[&str] = &["find", "listCollections", "listIndexes", "collStats"];

/// Action that the source's user needs on the cluster to block writes at the cutover.
pub(super) const SET_WRITE_BLOCK: &str = "setUserWriteBlockMode";

/// A privilege in the form that `createRole` accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub resource: String,
    pub actions: Vec<String>,
}

impl Grant {
    pub fn in_database(database: &str, actions: &[&str]) -> Self {
        Self::on_collection(database, "", actions)
    }

    pub fn of_cluster(action: &str) -> Self {
        Self {
            resource: "{ cluster: true }".to_owned(),
            actions: vec![action.to_owned()],
        }
    }

    /// Actions on `system.js`, or on all buckets of time-series collections of the database.
    pub fn on_system_collection(namespace: &Namespace, actions: &[&str]) -> Self {
        let mut grant = Self::on_collection(namespace.database(), namespace.collection(), actions);
        if namespace.time_series().is_some() {
            grant.resource = format!("{{ db: {:?}, system_buckets: \"\" }}", namespace.database());
        }
        grant
    }

    pub fn on_collection(database: &str, collection: &str, actions: &[&str]) -> Self {
        Self {
            resource: format!("{{ db: {database:?}, collection: {collection:?} }}"),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        }
    }

    /// Returns the privilege that this access needs.
    pub fn of(access: &Access) -> Self {
        match access {
            Access::ReadOplog => Self::on_collection("local", "oplog.rs", &["find"]),
            Access::ReadTransactions => Self::on_collection("config", "transactions", &["find"]),
            Access::ListDatabases => Self::of_cluster("listDatabases"),
            Access::ListCollections(database) => Self::in_database(database, &["listCollections"]),
            Access::ListIndexes(database) => Self::in_database(database, &["listIndexes"]),
            Access::CollectionStatistics(database) => Self::in_database(database, &["collStats"]),
            Access::ReadData(database) => Self::in_database(database, &["find"]),
            Access::ReadSystemCollection(namespace) => Self::on_system_collection(namespace, &["find", "listIndexes"]),
            Access::WriteRecords => Self::in_database(
                crate::METADATA_DATABASE,
                &["find", "insert", "update", "remove", "createCollection"],
            ),
            Access::ReplicaSetConfiguration => Self::of_cluster("replSetGetConfig"),
            Access::ReplicaSetStatus => Self::of_cluster("replSetGetStatus"),
            Access::ServerStatus => Self::of_cluster("serverStatus"),
            Access::Parameters => Self::of_cluster("getParameter"),
            Access::CurrentOperations => Self::of_cluster("inprog"),
            Access::DatabaseStatistics => Self::in_database("admin", &["dbStats"]),
        }
    }
}

/// Combines the actions on each resource, in the order of their first appearance.
fn combined(grants: &[Grant]) -> Vec<Grant> {
    let mut all: Vec<Grant> = Vec::new();
    for grant in grants {
        match all.iter_mut().find(|one| one.resource == grant.resource) {
            Some(one) => {
                let new = grant.actions.iter().filter(|action| !one.actions.contains(action));
                let new: Vec<String> = new.cloned().collect();
                one.actions.extend(new);
            }
            None => all.push(grant.clone()),
        }
    }
    all
}

/// The built-in role that a user needs besides those of `ROLES`, if it has to be granted any of this.
fn further_role(side: Side, grants: &[Grant]) -> Option<&'static str> {
    let blocks_writes = |grant: &Grant| grant.actions.iter().any(|action| action == SET_WRITE_BLOCK);
    let is_on_functions = |grant: &Grant| grant.resource.contains("\"system.js\"");
    match side {
        Side::Source if grants.iter().any(blocks_writes) => Some("backup"),
        Side::Target if grants.iter().any(is_on_functions) => Some("restore"),
        _ => None,
    }
}

/// Returns the commands that grant all of these privileges to a user.
pub(super) fn commands(side: Side, version: [u32; 3], user: Option<&(String, String)>, grants: &[Grant]) -> String {
    let [major, minor, _] = version;
    let roles = ROLES
        .iter()
        .find(|roles| [major, minor] >= roles.since)
        .map_or(&[] as &[&str], |roles| match side {
            Side::Source => roles.source,
            Side::Target => roles.target,
        });
    let further = further_role(side, grants).filter(|role| !roles.contains(role));
    let roles: Vec<String> = roles
        .iter()
        .copied()
        .chain(further)
        .map(|role| format!("{{ role: \"{role}\", db: \"admin\" }}"))
        .collect();
    let roles = roles.join(", ");
    let Some((name, database)) = user else {
        // The shell has no `passwordPrompt` before 4.2.
        let password = if [major, minor] >= [4, 2] {
            "passwordPrompt()"
        } else {
            "\"PASSWORD\""
        };
        return format!(
            "create a user with `db.getSiblingDB(\"admin\").createUser({{ user: \"mongoferry\", pwd: {password}, roles: [{roles}] }})` and name \
             it in the connection string"
        );
    };
    let on = format!("db.getSiblingDB({database:?})");
    let alone = alone((name, database), grants);
    format!("`{on}.grantRolesToUser({name:?}, [{roles}])`; or, to grant only what is missing, {alone}")
}

/// Returns the commands that grant a user only these privileges.
pub(super) fn alone(user: (&str, &str), grants: &[Grant]) -> String {
    let (name, database) = user;
    let privileges: Vec<String> = combined(grants)
        .iter()
        .map(|Grant { resource, actions }| format!("{{ resource: {resource}, actions: {actions:?} }}"))
        .collect();
    let privileges = privileges.join(", ");
    // A role can be created only once. What is missing may be found in several rounds, and both users may be on one server.
    let digest = Sha256::digest(format!("{name}@{database}: {privileges}"));
    let role = format!("mongoferry{:02x}{:02x}", digest[0], digest[1]);
    format!(
        "`db.getSiblingDB(\"admin\").createRole({{ role: \"{role}\", privileges: [{privileges}], roles: [] }})` and \
         `db.getSiblingDB({database:?}).grantRolesToUser({name:?}, [{{ role: \"{role}\", db: \"admin\" }}])`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_those_of_the_version() {
        let user = ("anna".to_owned(), "shop".to_owned());
        let text = commands(Side::Source, [6, 0, 5], Some(&user), &[Grant::of(&Access::ReadOplog)]);
        assert!(text.starts_with(
            "`db.getSiblingDB(\"shop\").grantRolesToUser(\"anna\", [{ role: \"readAnyDatabase\", db: \"admin\" }, { role: \"clusterMonitor\", \
             db: \"admin\" }])`"
        ));
        assert!(text.contains(
            "privileges: [{ resource: { db: \"local\", collection: \"oplog.rs\" }, actions: [\"find\"] }], roles: [] })`"
        ));
        let other = commands(Side::Source, [6, 0, 5], Some(&user), &[Grant::of_cluster("inprog")]);
        let role = |text: &str| text.split("role: \"mongoferry").nth(1).unwrap()[..4].to_owned();
        assert_ne!(role(&text), role(&other), "both can be created");
        assert!(commands(Side::Source, [3, 4, 0], Some(&user), &[]).contains("backup"));
        assert!(!commands(Side::Source, [3, 4, 0], Some(&user), &[]).contains("clusterManager"));
        assert!(commands(Side::Source, [3, 2, 0], Some(&user), &[]).contains("clusterManager"));
        assert!(commands(Side::Target, [5, 0, 0], Some(&user), &[]).contains("dbAdminAnyDatabase"));
        assert!(commands(Side::Target, [5, 0, 0], None, &[]).contains("pwd: passwordPrompt()"));
        assert!(commands(Side::Target, [3, 6, 0], None, &[]).contains("pwd: \"PASSWORD\""));
    }
}
