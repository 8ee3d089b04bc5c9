//! Users who may do less than a migration needs.

mod enough;
mod missing;

use bson::{Document, doc};
use mongodb::Client;
use mongoferry::Plan;
use mongoferry_testbed::{ReplicaSet, Version};

use super::{admin, of_code};

async fn secured(name: &str) -> ReplicaSet {
    ReplicaSet::builder(Version::V6_0)
        .name(name)
        .key_file_auth()
        .start()
        .await
        .unwrap()
}

async fn create_user(root: &Client, name: &str, roles: &[&str]) {
    admin(root, doc! { "createUser": name, "pwd": "a secret", "roles": roles }).await;
}

fn uri(set: &ReplicaSet, user: &str) -> String {
    format!(
        "mongodb://{user}:a%20secret@{}/?replicaSet={}",
        set.member_address(0),
        set.name()
    )
}

/// What both users are to be allowed of the cluster.
const CLUSTER: &[&str] = &[
    "listDatabases",
    "replSetGetConfig",
    "replSetGetStatus",
    "serverStatus",
    "getParameter",
    "inprog",
];

/// A privilege: on a resource, these actions.
struct Privilege(Document, &'static [&'static str]);

/// What the source's user needs, one by one.
fn of_source() -> Vec<Privilege> {
    let collection = |database: &str, name: &str| doc! { "db": database, "collection": name };
    vec![
        Privilege(doc! { "cluster": true }, CLUSTER),
        Privilege(
            collection("", ""),
            &["find", "listCollections", "listIndexes", "collStats"],
        ),
        Privilege(collection("local", "oplog.rs"), &["find", "collStats"]),
        Privilege(collection("config", "transactions"), &["find"]),
        Privilege(collection("admin", ""), &["dbStats"]),
    ]
}

/// What the target's user needs, one by one.
fn of_target() -> Vec<Privilege> {
    let anywhere = doc! { "db": "", "collection": "" };
    vec![
        Privilege(doc! { "cluster": true }, CLUSTER),
        Privilege(
            anywhere,
            &[
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
                "dbStats",
            ],
        ),
    ]
}

/// Gives the role `name` these privileges, without `action` on `resource` where they are given.
async fn grant(root: &Client, command: &str, name: &str, all: &[Privilege], without: Option<(&Document, &str)>) {
    let privileges: Vec<Document> = all
        .iter()
        .map(|Privilege(resource, actions)| {
            let is_taken = |action: &&&str| without == Some((resource, **action));
            let actions: Vec<&str> = actions.iter().filter(|action| !is_taken(action)).copied().collect();
            doc! { "resource": resource, "actions": actions }
        })
        .filter(|privilege| !privilege.get_array("actions").unwrap().is_empty())
        .collect();
    let roles: [&str; 0] = [];
    admin(root, doc! { command: name, "privileges": privileges, "roles": roles }).await;
}

fn refusals(plan: &Plan) -> Vec<&str> {
    ["missing_privilege", "unchecked"]
        .into_iter()
        .flat_map(|code| of_code(plan, code))
        .map(|finding| finding.message.as_str())
        .collect()
}

/// Reads the one `createRole` of a fix, and gives that role to the user.
pub(in crate::scenarios) async fn grant_by_fix(root: &Client, user: &str, fix: &str) {
    let (_, role) = fix.split_once("createRole(").unwrap();
    let (role, _) = role.split_once(")`").unwrap();
    let names = [
        "role",
        "roles",
        "privileges",
        "resource",
        "actions",
        "db",
        "collection",
        "cluster",
        "system_buckets",
    ];
    let quoted = names.into_iter().fold(role.to_owned(), |text, name| {
        text.replace(&format!(" {name}: "), &format!(" \"{name}\": "))
    });
    let role: serde_json::Value = serde_json::from_str(&quoted).unwrap_or_else(|error| panic!("{error}: {quoted}"));
    let role = bson::serialize_to_document(&role).unwrap();
    let (name, privileges) = (role.get_str("role").unwrap(), role.get_array("privileges").unwrap());
    let roles: [&str; 0] = [];
    admin(
        root,
        doc! { "createRole": name, "privileges": privileges.clone(), "roles": roles },
    )
    .await;
    let granted = format!("grantRolesToUser(\"{user}\", [{{ role: \"{name}\", db: \"admin\" }}])");
    assert!(fix.contains(&granted), "{fix}");
    admin(root, doc! { "grantRolesToUser": user, "roles": [name] }).await;
}
