//! Privileges that are enough for a whole migration.

use mongoferry::{Event, Outcome};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::workload::{self, Writer};

use super::*;
use crate::scenarios::deadline::{DEADLINE, cut_over, event, ready};
use crate::scenarios::preflight::{between, insert, plan};

/// The least roles, as documented.
const SOURCE_ROLES: &[&str] = &["readAnyDatabase", "clusterMonitor"];

const TARGET_ROLES: &[&str] = &["readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor"];

#[tokio::test(flavor = "multi_thread")]
async fn the_least_roles_carry_a_whole_migration() {
    let (source, target) = tokio::join!(secured("rs0"), secured("rs1"));
    let (on_source, on_target) = (source.client().await.unwrap(), target.client().await.unwrap());
    create_user(&on_source, "reader", SOURCE_ROLES).await;
    create_user(&on_target, "writer", TARGET_ROLES).await;
    workload::load(&on_source, 2_000, 7).await.unwrap();
    let shop = on_source.database("shop");
    for command in [
        doc! { "create": "readings", "timeseries": { "timeField": "at" } },
        doc! { "insert": "readings", "documents": [{ "at": bson::DateTime::now(), "value": 1 }] },
        doc! { "create": "view", "viewOn": "orders", "pipeline": [] },
        doc! { "create": "capped", "capped": true, "size": 4096 },
        doc! { "insert": "capped", "documents": [{ "_id": 1 }] },
        doc! { "insert": "system.js", "documents": [{ "_id": "one", "value": "1" }] },
        doc! { "create": "checked", "validator": { "a": { "$exists": true } } },
        doc! { "insert": "checked", "documents": [{ "_id": 1 }], "bypassDocumentValidation": true },
    ] {
        shop.run_command(command).await.unwrap();
    }
    let builder = between(&uri(&source, "reader"), &uri(&target, "writer")).await;
    let migration = builder.block_source_writes(true).build().unwrap();
    // Stored functions take one role more, and a block of writes on the source another.
    let lacking = migration.preflight().await.unwrap();
    let missing = of_code(&lacking, "missing_privilege");
    assert_eq!(missing.len(), 2, "{lacking}");
    for (text, fix) in [
        ("on shop.system.js", "bypassDocumentValidation"),
        (
            "privilege setUserWriteBlockMode",
            "actions: [\"setUserWriteBlockMode\"]",
        ),
    ] {
        let finding = missing.iter().find(|finding| finding.message.contains(text));
        assert!(finding.is_some_and(|finding| finding.fix.contains(fix)), "{lacking}");
    }
    admin(&on_target, doc! { "grantRolesToUser": "writer", "roles": ["restore"] }).await;
    admin(&on_source, doc! { "grantRolesToUser": "reader", "roles": ["backup"] }).await;
    // A rehearsal needs nothing more, and leaves nothing behind.
    let rehearsal = between(&uri(&source, "reader"), &uri(&target, "writer")).await;
    let rehearsal = rehearsal.build().unwrap().rehearse();
    let orders = on_target.database("shop").collection::<Document>("orders");
    let rehearsed = tokio::time::timeout(
        DEADLINE,
        rehearsal
            .clear_target(true)
            .run(orders.count_documents(doc! {}).into_future()),
    );
    assert!(rehearsed.await.unwrap().unwrap().answer.unwrap() > 0);
    // The server keeps what stored functions and views were in.
    assert_eq!(
        on_target.list_database_names().await.unwrap(),
        ["admin", "config", "local", "shop"]
    );
    let left = on_target.database("shop").list_collection_names().await.unwrap();
    assert!(left.iter().all(|name| name.starts_with("system.")), "{left:?}");
    let plan = migration.preflight().await.unwrap();
    assert_eq!(refusals(&plan), [""; 0], "{plan}");
    assert_eq!(plan.blockers().count(), 0, "{plan}");
    let writer = Writer::start(&on_source, 8).await.unwrap();
    let run = migration.start().await.unwrap();
    ready(&run).await;
    // Changes of the catalog want privileges of their own.
    for command in [
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "late": 1 }, "name": "late" }] },
        doc! { "dropIndexes": "orders", "index": "late" },
        doc! { "collMod": "checked", "validationLevel": "moderate" },
        doc! { "create": "short" },
        doc! { "drop": "short" },
    ] {
        shop.run_command(command).await.unwrap();
    }
    admin(
        &on_source,
        doc! { "renameCollection": "shop.capped", "to": "shop.ring" },
    )
    .await;
    on_source.database("gone").create_collection("a").await.unwrap();
    on_source.database("gone").drop().await.unwrap();
    let stop = async {
        writer.stop().await;
    };
    // A cutover that is dropped lets clients write again.
    create_user(&on_source, "application", &["readWriteAnyDatabase"]).await;
    let application = Client::with_uri_str(uri(&source, "application")).await.unwrap();
    let log = application.database("shop").collection("log");
    let mut events = run.events();
    let mut dropped = Box::pin(run.cutover(stop));
    tokio::select! {
        summary = &mut dropped => panic!("it is complete before it was dropped: {summary:#?}"),
        () = event(&mut events, |event| matches!(event, Event::SourceWritesBlocked).then_some(())) => {}
    }
    let refused = log.insert_one(doc! { "_id": 1 }).await.unwrap_err();
    assert!(refused.to_string().contains("User writes blocked"), "{refused}");
    drop(dropped);
    event(&mut events, |event| {
        matches!(event, Event::SourceWritesUnblocked).then_some(())
    })
    .await;
    log.insert_one(doc! { "_id": 2 }).await.unwrap();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(summary.late_writes.count, 0, "{summary:#?}");
    log.insert_one(doc! { "_id": 3 }).await.unwrap_err();
    assert_identical(&on_source, &on_target, &CompareOptions::default())
        .await
        .unwrap();
}

/// The privileges that preflight asks for are enough for changes of the catalog. The one to drop a database is not among them.
#[tokio::test(flavor = "multi_thread")]
async fn the_listed_privileges_carry_catalog_changes() {
    let (source, target) = tokio::join!(ReplicaSet::builder(Version::V6_0).start(), secured("rs1"));
    let source = source.unwrap();
    let (on_source, on_target) = (source.client().await.unwrap(), target.client().await.unwrap());
    let role = doc! { "role": "writer", "db": "admin" };
    grant(&on_target, "createRole", "writer", &of_target(), None).await;
    admin(
        &on_target,
        doc! { "createUser": "writer", "pwd": "a secret", "roles": [role] },
    )
    .await;
    let gone = on_source.database("gone");
    insert(&on_source, "gone.a", [doc! { "_id": 1 }]).await;
    gone.run_command(doc! { "create": "view", "viewOn": "a", "pipeline": [] })
        .await
        .unwrap();
    insert(&on_source, "shop.orders", [doc! { "_id": 1 }]).await;
    let migration = between(&source.uri(), &uri(&target, "writer")).await.build().unwrap();
    // A rehearsal cannot drop the database of its records, but none of them is left.
    let rehearsal = migration.rehearse().clear_target(true).run(async {});
    tokio::time::timeout(DEADLINE, rehearsal).await.unwrap().unwrap();
    let records = on_target.database("__mdb_internal_mongoferry");
    assert_eq!(
        records
            .collection::<Document>("records")
            .count_documents(doc! {})
            .await
            .unwrap(),
        0
    );
    let migration = between(&source.uri(), &uri(&target, "writer")).await.build().unwrap();
    let run = migration.start().await.unwrap();
    ready(&run).await;
    assert_eq!(
        on_target.database("gone").list_collection_names().await.unwrap().len(),
        3
    );
    let mut events = run.events();
    // Other changes of the catalog need no more than preflight asks for either.
    let shop = on_source.database("shop");
    for command in [
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "late": 1 }, "name": "late" }] },
        doc! { "dropIndexes": "orders", "index": "late" },
        doc! { "collMod": "orders", "validator": { "a": { "$exists": true } }, "validationAction": "warn" },
        doc! { "create": "capped", "capped": true, "size": 4096 },
        doc! { "create": "short" },
        doc! { "drop": "short" },
    ] {
        shop.run_command(command).await.unwrap();
    }
    for (from, to) in [("shop.capped", "shop.ring"), ("shop.ring", "other.ring")] {
        admin(&on_source, doc! { "renameCollection": from, "to": to }).await;
    }
    gone.drop().await.unwrap();
    event(&mut events, |event| match event {
        Event::CatalogChanged { description, .. } => (description == "dropped the database gone").then_some(()),
        Event::Retrying { cause, .. } => panic!("the run goes back to its checkpoint: {cause}"),
        _ => None,
    })
    .await;
    let left = on_target.database("gone").list_collection_names().await.unwrap();
    assert!(left.iter().all(|name| name == "system.views"), "{left:?}");
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}

/// Privileges on the collections of a database cover neither `system.js` nor the buckets of time-series collections. Preflight asks for
/// what they need, and that carries the migration.
#[tokio::test(flavor = "multi_thread")]
async fn system_collections_are_carried_by_what_preflight_asks_for() {
    let (source, target) = tokio::join!(secured("rs0"), secured("rs1"));
    let (on_source, on_target) = (source.client().await.unwrap(), target.client().await.unwrap());
    for (root, role, all) in [(&on_source, "reader", of_source()), (&on_target, "writer", of_target())] {
        grant(root, "createRole", role, &all, None).await;
        create_user(root, role, &[role]).await;
    }
    let shop = on_source.database("shop");
    for command in [
        doc! { "create": "readings", "timeseries": { "timeField": "at" } },
        doc! { "insert": "readings", "documents": [{ "at": bson::DateTime::now(), "value": 1 }] },
        doc! { "insert": "system.js", "documents": [{ "_id": "one", "value": "1" }] },
    ] {
        shop.run_command(command).await.unwrap();
    }
    let reading = ["find", "listIndexes"];
    let writing = [
        "find",
        "insert",
        "update",
        "remove",
        "bypassDocumentValidation",
        "createIndex",
        "dropIndex",
        "listIndexes",
    ];
    let mut privileges = [Vec::new(), Vec::new()];
    for (side, root, role, actions) in [
        (0, &on_source, "reader", &reading[..]),
        (1, &on_target, "writer", &writing[..]),
    ] {
        for (resource, shown) in [
            (
                doc! { "db": "shop", "collection": "system.js" },
                "{ db: \"shop\", collection: \"system.js\" }",
            ),
            (
                doc! { "db": "shop", "system_buckets": "" },
                "{ db: \"shop\", system_buckets: \"\" }",
            ),
        ] {
            let found = plan(between(&uri(&source, "reader"), &uri(&target, "writer")).await).await;
            let wanted = format!("resource: {shown}, actions: {actions:?}");
            let missing = of_code(&found, "missing_privilege");
            assert!(
                missing.iter().any(|finding| finding.fix.contains(&wanted)),
                "{wanted}: {found}"
            );
            privileges[side].push(doc! { "resource": resource, "actions": actions });
            let (command, name) = match privileges[side].len() {
                1 => ("createRole", format!("{role}More")),
                _ => ("updateRole", format!("{role}More")),
            };
            let roles: [&str; 0] = [];
            admin(
                root,
                doc! { command: &name, "privileges": privileges[side].clone(), "roles": roles },
            )
            .await;
            admin(root, doc! { "grantRolesToUser": role, "roles": [&name] }).await;
        }
    }
    let migration = between(&uri(&source, "reader"), &uri(&target, "writer"))
        .await
        .build()
        .unwrap();
    let found = migration.preflight().await.unwrap();
    assert_eq!(refusals(&found), [""; 0], "{found}");
    let run = migration.start().await.unwrap();
    ready(&run).await;
    for command in [
        doc! { "insert": "readings", "documents": [{ "at": bson::DateTime::now(), "value": 2 }] },
        doc! { "collMod": "readings", "expireAfterSeconds": 1_000_000 },
        doc! { "createIndexes": "readings", "indexes": [{ "key": { "value": 1 }, "name": "late" }] },
        doc! { "dropIndexes": "readings", "index": "late" },
        doc! { "create": "later", "timeseries": { "timeField": "at" } },
        doc! { "insert": "later", "documents": [{ "at": bson::DateTime::now(), "value": 3 }] },
        doc! { "create": "short", "timeseries": { "timeField": "at" } },
        doc! { "drop": "short" },
        doc! { "update": "system.js", "updates": [{ "q": { "_id": "one" }, "u": { "$set": { "value": "2" } } }] },
        doc! { "delete": "system.js", "deletes": [{ "q": { "_id": "one" }, "limit": 1 }] },
        doc! { "insert": "system.js", "documents": [{ "_id": "two", "value": "2" }] },
    ] {
        shop.run_command(command).await.unwrap();
    }
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_identical(&on_source, &on_target, &CompareOptions::default())
        .await
        .unwrap();
}
