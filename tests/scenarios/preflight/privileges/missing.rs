//! Privileges that are missing, and the commands that grant them.

use mongoferry::{ErrorKind, MongoSource, Severity, Source, UserSelection, Users};

use super::*;
use crate::scenarios::preflight::{assert_found, between, insert, plan};

#[tokio::test(flavor = "multi_thread")]
async fn each_privilege_is_missed() {
    // One server is both sides: what it lets a user do is all that is looked at.
    let set = secured("rs0").await;
    let root = set.client().await.unwrap();
    insert(&root, "shop.orders", [doc! { "_id": 1 }]).await;
    for (role, all) in [("source", of_source()), ("target", of_target())] {
        grant(&root, "createRole", role, &all, None).await;
        create_user(&root, role, &[role]).await;
    }
    let (source, target) = (uri(&set, "source"), uri(&set, "target"));
    let whole = plan(between(&source, &target).await).await;
    assert_eq!(refusals(&whole), [""; 0], "{whole}");
    // Neither the probes of preflight nor those of connecting have left anything behind.
    let databases = root.list_database_names().await.unwrap();
    assert_eq!(databases, ["admin", "config", "local", "shop"]);

    // What is missed by the name that the message has for it, where it is not the action's own.
    for (action, on, severity, named) in [
        ("listDatabases", "cluster", Severity::Blocker, "list the databases"),
        ("find", "", Severity::Blocker, "read the collections of shop"),
        ("listCollections", "", Severity::Blocker, "list the collections of shop"),
        ("listIndexes", "", Severity::Blocker, "list the indexes in shop"),
        (
            "collStats",
            "",
            Severity::Blocker,
            "ask for the size of collections in shop",
        ),
        ("find", "local", Severity::Blocker, "read local.oplog.rs"),
        ("find", "config", Severity::Blocker, "read config.transactions"),
        ("replSetGetConfig", "cluster", Severity::Note, "replSetGetConfig"),
        ("replSetGetStatus", "cluster", Severity::Note, "replSetGetStatus"),
        ("serverStatus", "cluster", Severity::Note, "serverStatus"),
        ("getParameter", "cluster", Severity::Note, "getParameter"),
        ("inprog", "cluster", Severity::Note, "currentOp"),
        ("dbStats", "admin", Severity::Note, "dbStats"),
    ] {
        let all = of_source();
        let is_meant = |resource: &Document| match on {
            "cluster" => resource.contains_key("cluster"),
            database => resource.get_str("db").is_ok_and(|of| of == database),
        };
        let Privilege(resource, _) = all
            .iter()
            .find(|Privilege(resource, actions)| is_meant(resource) && actions.contains(&action))
            .unwrap();
        grant(&root, "updateRole", "source", &all, Some((resource, action))).await;
        let found = plan(between(&source, &target).await).await;
        let code = if severity == Severity::Blocker {
            "missing_privilege"
        } else {
            "unchecked"
        };
        let finding = assert_found(&found, severity, code, named);
        assert_eq!(refusals(&found).len(), 1, "{found}");
        assert!(finding.message.contains("source"), "{found}");
        assert!(
            finding.fix.contains("{ role: \"readAnyDatabase\", db: \"admin\" }"),
            "{found}"
        );
        let granted = format!("actions: [\"{action}\"]");
        assert!(finding.fix.contains(&granted), "{found}");
    }
    grant(&root, "updateRole", "source", &of_source(), None).await;

    for action in of_target()[1].1 {
        let all = of_target();
        grant(&root, "updateRole", "target", &all, Some((&all[1].0, action))).await;
        let found = plan(between(&source, &target).await).await;
        let refusals = refusals(&found);
        assert!(!refusals.is_empty(), "without {action}: {found}");
        assert!(refusals.iter().all(|message| message.contains("target")), "{found}");
        let is_needed = *action != "dbStats";
        assert_eq!(
            of_code(&found, "missing_privilege").is_empty(),
            !is_needed,
            "without {action}: {found}"
        );
    }
    grant(&root, "updateRole", "target", &of_target(), None).await;
    assert_eq!(root.list_database_names().await.unwrap(), databases);

    // Writes of others are blocked, and this user is not one who may pass.
    admin(&root, doc! { "setUserWriteBlockMode": 1, "global": true }).await;
    let found = plan(between(&source, &target).await).await;
    assert_found(&found, Severity::Blocker, "writes_blocked", "setUserWriteBlockMode");
    let blocked = Client::with_uri_str(&target).await.unwrap();
    let refused = blocked
        .database("shop")
        .collection("orders")
        .insert_one(doc! { "_id": 2 })
        .await;
    assert!(refused.unwrap_err().to_string().contains("block"));
    let passing = plan(between(&source, &set.uri()).await).await;
    assert_eq!(of_code(&passing, "writes_blocked").len(), 0, "{passing}");
    admin(&root, doc! { "setUserWriteBlockMode": 1, "global": false }).await;

    // Nobody at all.
    let nobody = format!("mongodb://{}/?replicaSet=rs0", set.member_address(0));
    let found = plan(between(&nobody, &target).await).await;
    let missing = of_code(&found, "missing_privilege");
    assert!(missing.len() >= 3, "{found}");
    assert!(missing[0].fix.contains("createUser("), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_findings_grant_what_is_missing() {
    let set = secured("rs0").await;
    let root = set.client().await.unwrap();
    for namespace in ["shop.orders", "store.orders", "shop.system.js"] {
        insert(&root, namespace, [doc! { "_id": "one", "value": "1" }]).await;
    }
    for user in ["source", "target"] {
        create_user(&root, user, &[]).await;
    }
    // What a user may not list can only be looked at once he may.
    for round in 1.. {
        let builder = between(&uri(&set, "source"), &uri(&set, "target")).await;
        let users = Users::Carry(UserSelection::all());
        let found = plan(builder.block_source_writes(true).users(users)).await;
        if refusals(&found).is_empty() {
            assert!(round > 1, "nothing was missing: {found}");
            break;
        }
        assert!(round < 6, "{found}");
        for user in ["source", "target"] {
            let of_user = |fix: &&str| fix.contains("createRole(") && fix.contains(&format!("ToUser(\"{user}\""));
            let fixes: Vec<&str> = found
                .findings
                .iter()
                .map(|finding| finding.fix.as_str())
                .filter(of_user)
                .collect();
            assert!(fixes.len() <= 1, "{found}");
            for fix in fixes {
                grant_by_fix(&root, user, fix).await;
            }
        }
    }
}

/// A run asks no more then.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_ask_how_long_writes_take_is_told_so() {
    let set = secured("rs0").await;
    create_user(&set.client().await.unwrap(), "reader", &["readAnyDatabase"]).await;
    let source = MongoSource::connect(&uri(&set, "reader")).await.unwrap();
    let error = source.write_load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}
