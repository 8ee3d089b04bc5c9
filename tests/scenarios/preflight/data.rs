//! Data of an old source that a new target would refuse, and the reverse.

use bson::{Document, doc};
use mongoferry::{PathPolicy, Severity};
use mongoferry_testbed::{ReplicaSet, Version};

use super::{admin, assert_found, between, insert, of_code, plan, run};

#[tokio::test(flavor = "multi_thread")]
async fn an_old_source_has_what_a_new_target_refuses() {
    let (old, new) = futures::try_join!(
        ReplicaSet::builder(Version::V4_2)
            .set_parameter("failIndexKeyTooLong", "false")
            .start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let (on_old, on_new) = (old.client().await.unwrap(), new.client().await.unwrap());
    let upward = || async { between(&old.uri(), &new.uri()).await };
    insert(
        &on_old,
        "shop.places",
        [doc! { "_id": 1, "at": [1.0, 2.0], "kind": "bar" }],
    )
    .await;

    // A key of documents is checked by name alone where a test command says so, as before 3.4.
    let unchecked = |mode: &str| doc! { "configureFailPoint": "skipIndexCreateFieldNameValidation", "mode": mode };
    admin(&on_old, unchecked("alwaysOn")).await;
    let haystack = doc! { "key": { "at": "geoHaystack", "kind": 1 }, "name": "haystack", "bucketSize": 1 };
    let bogus = doc! { "key": { "kind": 1 }, "name": "bogus", "unknownOption": true };
    run(
        &on_old,
        "shop",
        doc! { "createIndexes": "places", "indexes": [haystack, bogus] },
    )
    .await;
    admin(&on_old, unchecked("off")).await;

    let found = plan(upward().await).await;
    let fix = &assert_found(&found, Severity::Blocker, "geo_haystack", "`haystack` of `shop.places`").fix;
    assert!(
        fix.contains("db.getSiblingDB(\"shop\").getCollection(\"places\").dropIndex(\"haystack\")"),
        "{fix}"
    );
    assert_found(&found, Severity::Blocker, "index_option", "`unknownOption`");
    assert_found(&found, Severity::Warning, "lenient_index_keys", "failIndexKeyTooLong");
    assert_found(&found, Severity::Warning, "version_jump", "from 4.2 to 6.0");
    assert_found(&found, Severity::Note, "test_application", "6.0 instead of 4.2");
    let hosted = plan(upward().await.path_policy(PathPolicy::Hosted)).await;
    assert!(
        assert_found(&hosted, Severity::Blocker, "path_not_offered", "4.2 to 6.0")
            .fix
            .ends_with("4.2")
    );
    // The target means it.
    let database = on_new.database("shop");
    for command in [
        doc! { "createIndexes": "a", "indexes": [{ "key": { "at": "geoHaystack", "kind": 1 }, "name": "a", "bucketSize": 1 }] },
        doc! { "createIndexes": "a", "indexes": [{ "key": { "a": 1 }, "name": "a", "unknownOption": true }] },
        doc! { "createIndexes": "a", "indexes": [{ "key": { "a": 1 }, "name": "a", "v": 0 }] },
        doc! { "createIndexes": "a", "indexes": [{ "key": { "a": 1 }, "name": "a", "unique": "true" }] },
    ] {
        database.run_command(command).await.unwrap_err();
    }
    database.drop().await.unwrap();

    // The other way round everything is too new.
    let reverse = plan(between(&new.uri(), &old.uri()).await).await;
    assert_found(&reverse, Severity::Blocker, "downgrade", "older than the source's 6.0");
    let reading = doc! { "create": "readings", "timeseries": { "timeField": "at" } };
    run(&on_new, "metrics", reading).await;
    run(&on_new, "metrics", doc! { "create": "x".repeat(120) }).await;
    admin(&on_old, doc! { "setFeatureCompatibilityVersion": "4.0" }).await;
    let reverse = plan(between(&new.uri(), &old.uri()).await).await;
    assert_found(&reverse, Severity::Blocker, "collection_option", "`timeseries`");
    assert_found(&reverse, Severity::Blocker, "name_too_long", "up to 120");
    assert_found(&reverse, Severity::Warning, "index_key_limit", "1024 bytes");
    let behind = plan(upward().await).await;
    assert_found(
        &behind,
        Severity::Note,
        "feature_compatibility_behind",
        "4.2 with the feature compatibility version 4.0",
    );
}

/// A document of `levels` levels, its `_id` first.
fn nested(levels: usize) -> Document {
    let mut document = doc! { "leaf": 1 };
    for _ in 2..levels {
        document = doc! { "a": document };
    }
    doc! { "_id": "deep", "a": document }
}

/// What only a look at every document shows.
pub(super) async fn scanned(source: &ReplicaSet, target: &ReplicaSet) {
    let client = source.client().await.unwrap();
    run(&client, "scan", doc! { "create": "deep" }).await;
    let logged = doc! { "op": "i", "ns": "scan.deep", "o": nested(181) };
    // As it came into a server that allowed more.
    admin(&client, doc! { "applyOps": [logged] }).await;
    let index = doc! { "key": { "email": 1, "tags.name": 1 }, "name": "unique", "unique": true };
    run(&client, "scan", doc! { "createIndexes": "users", "indexes": [index] }).await;
    let user = |id: i32, email: &str, tags: &[&str]| {
        let tags: Vec<Document> = tags.iter().map(|name| doc! { "name": *name }).collect();
        doc! { "_id": id, "email": email, "tags": tags }
    };
    insert(
        &client,
        "scan.users",
        [user(1, "a", &["x", "x"]), user(2, "a", &["y"]), user(3, "b", &["x"])],
    )
    .await;
    let without = plan(between(&source.uri(), &target.uri()).await).await;
    for code in ["nested_document", "unique_violation", "misplaced_id"] {
        assert_eq!(of_code(&without, code).len(), 0, "{without}");
    }
    let clean = plan(between(&source.uri(), &target.uri()).await.scan_documents(true)).await;
    assert_found(
        &clean,
        Severity::Warning,
        "nested_document",
        "1 documents of `scan.deep`",
    );
    for code in ["unique_violation", "misplaced_id", "unchecked"] {
        assert_eq!(of_code(&clean, code).len(), 0, "{clean}");
    }

    // As after a fault of the storage: a document that is not in the indexes.
    let skip = |mode: &str| doc! { "configureFailPoint": "skipIndexNewRecords", "mode": mode, "data": { "skipIdIndex": false } };
    admin(&client, skip("alwaysOn")).await;
    insert(&client, "scan.users", [user(4, "a", &["z", "y"])]).await;
    admin(&client, skip("off")).await;
    let found = plan(between(&source.uri(), &target.uri()).await.scan_documents(true)).await;
    let message = &assert_found(&found, Severity::Blocker, "unique_violation", "`scan.users`").message;
    // The documents are named, and what is in them is not.
    let [first, last] = [2, 4].map(|id| format!("{{\"$numberInt\":\"{id}\"}}"));
    let named = [format!("{first} and {last}"), format!("{last} and {first}")];
    assert!(named.iter().any(|pair| message.ends_with(pair)), "{message}");
    assert!(!message.contains("\"y\""), "{message}");
    client.database("scan").drop().await.unwrap();
}
