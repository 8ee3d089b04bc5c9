//! Users and roles on real servers with access control: applications log in on the target with the passwords that they have.

mod back;
mod external;
mod faults;
mod people;
mod servers;

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Client;
use mongoferry::{AccountChanges, AccountKind, ErrorKind, ExistingUsers, MongoSink, Outcome, Sink, UserSelection};
use mongoferry_testbed::{ReplicaSet, Version};

use self::servers::{Servers, Told, can_log_in, can_log_in_by, connect, login, run_on, user};
use super::deadline::{cut_over, ready};
use super::pairs::pairs;
use super::preflight::grant_by_fix;

pairs! {
    carry;
    users_of_4_2_log_in_on_4_2: V4_2 => V4_2,
    users_of_4_4_log_in_on_4_4: V4_4 => V4_4,
    users_of_5_0_log_in_on_5_0: V5_0 => V5_0,
    users_of_6_0_log_in_on_6_0: V6_0 => V6_0,
    users_of_4_2_log_in_on_6_0: V4_2 => V6_0,
}

async fn carry(from: Version, to: Version) {
    let servers = Servers::start(from, to, 1).await;
    let (on_source, on_target, target) = (&servers.on_source, &servers.on_target, &servers.target);
    prepare_source(on_source).await;
    // The target has a user of the same name, and the migration's own user is on the source, too.
    user(on_target, "shop", "app", "foreign-secret", &[]).await;
    user(on_target, "shop", "stays", "foreign-secret", &[]).await;
    user(on_source, "admin", "writer", "first-secret", &["root"]).await;
    strange_role(on_source).await;

    let plan = servers
        .builder(UserSelection::all())
        .await
        .build()
        .unwrap()
        .preflight()
        .await
        .unwrap();
    let lacking: Vec<_> = plan
        .blockers()
        .filter(|finding| finding.code == "missing_privilege")
        .collect();
    assert_eq!(lacking.len(), 2, "{plan}");
    assert!(
        lacking[0].message.contains("`backup`") && lacking[1].message.contains("`restore`"),
        "{plan}"
    );
    match from == to {
        true => servers.grant().await,
        // The single privileges are enough, too.
        false => {
            grant_by_fix(on_source, "reader", &lacking[0].fix).await;
            grant_by_fix(on_target, "writer", &lacking[1].fix).await;
        }
    }
    let plan = servers
        .builder(UserSelection::all())
        .await
        .build()
        .unwrap()
        .preflight()
        .await
        .unwrap();
    let blockers: Vec<&str> = plan.blockers().map(|finding| finding.code.as_str()).collect();
    assert_eq!(blockers, ["users_existing", "role_action_unknown"], "{plan}");
    let strange = plan.blockers().last().unwrap();
    assert!(
        strange.message.contains("role strange@admin") && strange.message.ends_with(": flyToTheMoon"),
        "{strange}"
    );
    run_on(on_source, "admin", doc! { "dropRole": "strange" }).await;
    assert!(plan.to_string().contains("user app@shop"), "{plan}");
    let refused = servers
        .builder(UserSelection::all())
        .await
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");

    let told = Told::default();
    let selection = UserSelection::all().exclude("root", "admin").exclude("intern", "shop");
    let selection = selection.existing(ExistingUsers::Replace);
    let run = servers.run(selection.clone(), &told).await;
    servers.until_login("shop", "app", "first-secret", true).await;
    servers.until_login("shop", "leaver", "first-secret", true).await;
    assert!(!can_log_in(target, "shop", "app", "foreign-secret").await);
    assert!(can_log_in_by(target, "shop", "app", "first-secret", "SCRAM-SHA-1").await);
    assert!(can_log_in_by(target, "shop", "app", "first-secret", "SCRAM-SHA-256").await);
    assert!(can_log_in_by(target, "shop", "old", "first-secret", "SCRAM-SHA-1").await);
    assert!(
        !can_log_in(target, "shop", "away", "first-secret").await,
        "he may not log in from here"
    );
    assert!(can_log_in(target, "admin", "writer", "own-secret").await);
    assert!(!can_log_in(target, "admin", "writer", "first-secret").await);
    assert!(!can_log_in(target, "shop", "intern", "first-secret").await);
    servers
        .until_document("system.users", "shop.app", |user| {
            user.is_some_and(|user| user.get_document("customData").is_ok_and(|data| *data == custom_data()))
        })
        .await;

    // Changes while the run follows the source.
    run_on(on_source, "shop", doc! { "updateUser": "app", "pwd": "second-secret" }).await;
    user(on_source, "shop", "newcomer", "first-secret", &[]).await;
    run_on(
        on_source,
        "shop",
        doc! { "grantRolesToUser": "newcomer", "roles": [{ "role": "auditor", "db": "admin" }] },
    )
    .await;
    run_on(on_source, "shop", doc! { "dropUser": "leaver" }).await;
    let more = doc! { "resource": { "db": "shop", "collection": "log" }, "actions": ["insert"] };
    run_on(
        on_source,
        "admin",
        doc! { "grantPrivilegesToRole": "auditor", "privileges": [more] },
    )
    .await;
    servers.until_login("shop", "app", "second-secret", true).await;
    servers.until_login("shop", "app", "first-secret", false).await;
    servers.until_login("shop", "newcomer", "first-secret", true).await;
    servers.until_login("shop", "leaver", "first-secret", false).await;
    servers
        .until_document("system.roles", "admin.auditor", |role| {
            role.is_some_and(|role| role.get_array("privileges").is_ok_and(|all| all.len() == 3))
        })
        .await;

    // Changes while the process is down. It was killed: its lease expires.
    drop(run);
    run_on(
        on_source,
        "shop",
        doc! { "updateUser": "newcomer", "pwd": "third-secret" },
    )
    .await;
    run_on(on_source, "admin", doc! { "dropRole": "helper" }).await;
    run_on(on_source, "shop", doc! { "dropUser": "old" }).await;
    // Somebody has changed a user of the migration on the target.
    run_on(
        on_target,
        "shop",
        doc! { "updateUser": "away", "customData": { "changed": true } },
    )
    .await;
    let run = servers.run(selection.existing(ExistingUsers::Keep), &told).await;
    servers.until_login("shop", "newcomer", "third-secret", true).await;
    servers.until_login("shop", "old", "first-secret", false).await;
    servers
        .until_document("system.roles", "admin.helper", |role| role.is_none())
        .await;
    ready(&run).await;
    // A change right before the cutover.
    run_on(on_source, "shop", doc! { "updateUser": "app", "pwd": "third-secret" }).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary}");
    assert!(can_log_in(target, "shop", "app", "third-secret").await);
    assert!(can_log_in(target, "shop", "stays", "foreign-secret").await);
    assert_roles_work(target).await;

    let users = summary.users.clone().unwrap();
    let names = users.carried.iter().map(|one| format!("{}.{}", one.database, one.name));
    // The role that the fix of a finding has created.
    let names: Vec<String> = names.filter(|name| !name.starts_with("admin.mongoferry")).collect();
    let expected = [
        "admin.auditor",
        "shop.clerk",
        "$external.CN=app",
        "shop.app",
        "shop.newcomer",
    ];
    assert_eq!(names, expected);
    let kept: Vec<String> = users.kept.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["user away@shop"], "somebody has changed it");
    let left_out: Vec<String> = users
        .left_out
        .iter()
        .map(|one| format!("{}: {}", one.name, one.reason))
        .collect();
    for line in [
        "user intern@shop: excluded",
        "user reader@admin: used by the migration",
        "user writer@admin: used by the migration",
    ] {
        assert!(left_out.iter().any(|one| one == line), "{line} in {left_out:?}");
    }
    let certificate = summary.certificate.clone().unwrap();
    assert_eq!(certificate.users, users.carried);
    assert!(users.carried.iter().all(|one| one.hash.len() == 64));
    let role = users.carried.iter().find(|one| one.name == "auditor").unwrap();
    assert_eq!(role.kind, AccountKind::Role);
    assert!(
        certificate
            .not_migrated
            .iter()
            .any(|line| line.contains("writer@admin")),
        "{certificate:?}"
    );

    told.add(&format!(
        "{summary}\n{summary:?}\n{}\n",
        serde_json::to_string(&summary).unwrap()
    ));
    told.add(&format!("{:?}", run.status()));
    told.add(&String::from_utf8_lossy(certificate.encode().unwrap().as_bytes()));
    told.assert_no_secrets(&stored_keys(on_source).await);
    let left = on_target
        .database("__mdb_internal_mongoferry")
        .list_collection_names()
        .await
        .unwrap();
    assert!(
        left.iter()
            .all(|name| !name.starts_with("users.") && !name.starts_with("roles.")),
        "{left:?}"
    );
}

fn custom_data() -> Document {
    doc! { "team": "orders", "numbers": [1, 2] }
}

/// Users and roles of every kind.
async fn prepare_source(on_source: &Client) {
    let on = |collection: &str| doc! { "db": "shop", "collection": collection };
    let roles: [&str; 0] = [];
    let helper = doc! {
        "createRole": "helper", "roles": &roles[..],
        "privileges": [{ "resource": on("orders"), "actions": ["remove"] }],
    };
    run_on(on_source, "admin", helper).await;
    let auditor = doc! {
        "createRole": "auditor", "roles": ["helper", { "role": "read", "db": "audit" }],
        "privileges": [
            { "resource": on("orders"), "actions": ["find", "update"] },
            { "resource": on("items"), "actions": ["find"] },
        ],
        "authenticationRestrictions": [{ "clientSource": ["127.0.0.1"] }],
    };
    run_on(on_source, "admin", auditor).await;
    let clerk = doc! {
        "createRole": "clerk", "roles": &roles[..],
        "privileges": [{ "resource": on("orders"), "actions": ["find", "insert"] }],
    };
    run_on(on_source, "shop", clerk).await;
    let app = doc! {
        "createUser": "app", "pwd": "first-secret", "roles": ["clerk"], "customData": custom_data(),
        "authenticationRestrictions": [{ "clientSource": ["127.0.0.1"] }],
    };
    run_on(on_source, "shop", app).await;
    let old = doc! { "createUser": "old", "pwd": "first-secret", "roles": ["clerk"], "mechanisms": ["SCRAM-SHA-1"] };
    run_on(on_source, "shop", old).await;
    let away = doc! {
        "createUser": "away", "pwd": "first-secret", "roles": &roles[..],
        "authenticationRestrictions": [{ "clientSource": ["10.9.9.9"] }],
    };
    run_on(on_source, "shop", away).await;
    for name in ["leaver", "intern"] {
        user(on_source, "shop", name, "first-secret", &[]).await;
    }
    let external = doc! { "createUser": "CN=app", "roles": [{ "role": "read", "db": "shop" }] };
    run_on(on_source, "$external", external).await;
}

/// A role with an action that no server knows, and with others that no built-in role has.
async fn strange_role(on_source: &Client) {
    let role = doc! {
        "createRole": "strange", "roles": [],
        "privileges": [{ "resource": { "cluster": true }, "actions": ["changeOwnPassword", "updateUser", "inprog"] }],
    };
    run_on(on_source, "admin", role).await;
    // Nobody else may write to these documents.
    run_on(
        on_source,
        "admin",
        doc! { "grantRolesToUser": "root", "roles": ["__system"] },
    )
    .await;
    let roles = on_source.database("admin").collection::<Document>("system.roles");
    let push = doc! { "$push": { "privileges.0.actions": "flyToTheMoon" } };
    let pushed = roles.update_one(doc! { "_id": "admin.strange" }, push).await.unwrap();
    assert_eq!(pushed.modified_count, 1);
}

/// The roles of users mean the same on the target.
async fn assert_roles_work(target: &ReplicaSet) {
    let app = connect(target, "shop", "app", "third-secret", None)
        .await
        .unwrap()
        .unwrap();
    let shop = app.database("shop");
    let orders = shop.collection::<Document>("orders");
    assert!(orders.find_one(doc! {}).await.unwrap().is_some());
    orders.insert_one(doc! { "_id": 2 }).await.unwrap();
    orders.delete_one(doc! { "_id": 1 }).await.unwrap_err();
    shop.collection::<Document>("other")
        .find_one(doc! {})
        .await
        .unwrap_err();
    let newcomer = connect(target, "shop", "newcomer", "third-secret", None)
        .await
        .unwrap()
        .unwrap();
    let shop = newcomer.database("shop");
    shop.collection("log").insert_one(doc! { "_id": 1 }).await.unwrap();
    // The collection has another name on the target, and so has the privilege.
    shop.collection::<Document>("parts").find_one(doc! {}).await.unwrap();
    shop.collection::<Document>("items")
        .find_one(doc! {})
        .await
        .unwrap_err();
    newcomer
        .database("audit")
        .collection::<Document>("a")
        .find_one(doc! {})
        .await
        .unwrap();
    // The role from which he had this is gone.
    shop.collection::<Document>("orders")
        .delete_one(doc! { "_id": 2 })
        .await
        .unwrap_err();
}

/// The keys that the source stores of passwords, and their salts.
async fn stored_keys(on_source: &Client) -> Vec<String> {
    let users = on_source.database("admin").collection::<Document>("system.users");
    let mut users = users.find(doc! {}).await.unwrap();
    let mut keys = Vec::new();
    while let Some(user) = users.next().await {
        let user = user.unwrap();
        for (_, credentials) in user.get_document("credentials").unwrap() {
            if let Some(credentials) = credentials.as_document() {
                keys.extend(["storedKey", "serverKey", "salt"].map(|key| credentials.get_str(key).unwrap().to_owned()));
            }
        }
    }
    assert!(keys.len() > 10);
    keys
}

/// A process that was killed has left documents with credentials behind.
#[tokio::test(flavor = "multi_thread")]
async fn temporary_collections_of_a_killed_process_are_removed() {
    let servers = Servers::start(Version::V6_0, Version::V6_0, 1).await;
    servers.grant().await;
    let records = servers.on_target.database("__mdb_internal_mongoferry");
    for name in ["users.mine", "roles.mine", "users.other"] {
        records.collection(name).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let sink = MongoSink::connect(&login(&servers.target, "admin", "writer", "own-secret"))
        .await
        .unwrap();
    let mut changes = AccountChanges::default();
    changes.migration = "mine".to_owned();
    sink.change_accounts(&changes).await.unwrap();
    let left = records.list_collection_names().await.unwrap();
    assert!(!left.iter().any(|name| name.ends_with(".mine")), "{left:?}");
    assert!(
        left.contains(&"users.other".to_owned()),
        "those of other migrations stay: {left:?}"
    );
}
