//! Users that change after a hand-over change on the old set, too.

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongoferry::{ExistingUsers, MongoSink, MongoSource, Outcome, UserSelection, Users};
use mongoferry_testbed::{Version, wait_until};

use super::servers::{PATIENCE, Servers, Told, can_log_in, login, run_on, user};
use crate::scenarios::deadline::{cut_over, ready};

/// Roles of the user that goes back, on each set.
const ROLES: [&str; 5] = [
    "readWriteAnyDatabase",
    "dbAdminAnyDatabase",
    "clusterMonitor",
    "backup",
    "restore",
];

#[tokio::test(flavor = "multi_thread")]
async fn users_that_change_after_the_cutover_change_on_the_old_set() {
    let servers = Servers::start(Version::V6_0, Version::V6_0, 1).await;
    servers.grant().await;
    let (on_old, on_new, old) = (&servers.on_source, &servers.on_target, &servers.source);
    let items = doc! { "resource": { "db": "shop", "collection": "items" }, "actions": ["find"] };
    run_on(
        on_old,
        "shop",
        doc! { "createRole": "clerk", "roles": [], "privileges": [items] },
    )
    .await;
    for name in ["app", "leaver", "stays"] {
        user(on_old, "shop", name, "first-secret", &["clerk"]).await;
    }
    let told = Told::default();
    let selection = UserSelection::all().exclude("root", "admin");
    let run = servers.run(selection.clone(), &told).await;
    ready(&run).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");

    // The applications are on the new set now.
    run_on(on_new, "shop", doc! { "updateUser": "app", "pwd": "second-secret" }).await;
    run_on(on_new, "shop", doc! { "dropUser": "leaver" }).await;
    user(on_new, "shop", "newcomer", "second-secret", &["clerk"]).await;
    let parts = doc! { "resource": { "db": "shop", "collection": "parts" }, "actions": ["insert"] };
    run_on(
        on_new,
        "shop",
        doc! { "grantPrivilegesToRole": "clerk", "privileges": [parts] },
    )
    .await;
    user(on_new, "shop", "own", "second-secret", &[]).await;
    user(on_old, "shop", "own", "foreign-secret", &[]).await;
    for client in [on_old, on_new] {
        user(client, "admin", "back", "own-secret", &ROLES).await;
    }

    let (source, sink) = servers.back().await;
    let back = summary.reverse(source, sink).unwrap().build().unwrap();
    let plan = back.preflight().await.unwrap();
    let blockers: Vec<&[String]> = plan.blockers().map(|finding| &*finding.affected).collect();
    assert_eq!(blockers, [["user own@shop".to_owned()]], "{plan}");
    let keep = Users::Carry(selection.existing(ExistingUsers::Keep));
    // The same after a restart of the process, by what the checkpoint has.
    let (source, sink) = servers.back().await;
    let migration = servers.builder(UserSelection::all()).await.build().unwrap();
    let back = migration.reverse(source, sink).await.unwrap().users(keep);
    let run = back.build().unwrap().start().await.unwrap();
    told.follow(&run);
    let until_login = async |name: &str, password: &str, can: bool| {
        let what = format!("the login of {name} with {password} to be {can}");
        wait_until(PATIENCE, &what, async || {
            can_log_in(old, "shop", name, password).await == can
        })
        .await
        .unwrap();
    };
    until_login("app", "second-secret", true).await;
    until_login("leaver", "first-secret", false).await;
    // A change while it follows, and one at the end.
    run_on(on_new, "shop", doc! { "updateUser": "newcomer", "pwd": "third-secret" }).await;
    until_login("newcomer", "third-secret", true).await;
    ready(&run).await;
    run_on(on_new, "shop", doc! { "updateUser": "app", "pwd": "third-secret" }).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");
    for (name, password, can) in [
        ("app", "third-secret", true),
        ("app", "second-secret", false),
        ("stays", "first-secret", true),
        ("newcomer", "third-secret", true),
        ("leaver", "first-secret", false),
        ("own", "foreign-secret", true),
    ] {
        assert_eq!(can_log_in(old, "shop", name, password).await, can, "{name}");
    }
    assert_eq!(actions(on_old, "items").await, ["find", "insert"]);
    // Those of the first direction.
    assert!(can_log_in(old, "admin", "reader", "own-secret").await);
    assert!(!can_log_in(old, "admin", "writer", "own-secret").await);
    let users = summary.users.unwrap();
    let carried: Vec<String> = users.carried.iter().map(ToString::to_string).collect();
    let expected = [
        "role clerk@shop",
        "user app@shop",
        "user newcomer@shop",
        "user stays@shop",
    ];
    assert_eq!(carried, expected);
    let kept: Vec<String> = users.kept.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["user own@shop"]);
    told.assert_no_secrets(&[]);
}

impl Servers {
    /// Connects for the way back, with a user of its own.
    async fn back(&self) -> (MongoSource, MongoSink) {
        let [from, to] = [&self.target, &self.source].map(|set| login(set, "admin", "back", "own-secret"));
        futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap()
    }
}

/// The actions of the role `clerk` on a collection.
async fn actions(client: &Client, collection: &str) -> Vec<String> {
    let command = doc! { "rolesInfo": "clerk", "showPrivileges": true };
    let listed = client.database("shop").run_command(command).await.unwrap();
    let role = listed.get_array("roles").unwrap()[0].as_document().unwrap();
    let mut privileges = role
        .get_array("privileges")
        .unwrap()
        .iter()
        .filter_map(Bson::as_document);
    let on = |privilege: &&Document| {
        let resource = privilege.get_document("resource").unwrap();
        resource.get_str("collection").is_ok_and(|name| name == collection)
    };
    let privilege = privileges.find(on).unwrap();
    assert!(role.get_array("privileges").unwrap().len() == 1, "{role}");
    let actions = privilege.get_array("actions").unwrap().iter();
    let mut actions: Vec<String> = actions.map(|action| action.as_str().unwrap().to_owned()).collect();
    actions.sort();
    actions
}
