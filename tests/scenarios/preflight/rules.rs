//! Rules about both sides, on one pair of servers that breaks one after the other.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongoferry::{ErrorKind, ExistingData, MigrationBuilder, MongoSource, Outcome, PathPolicy, Severity, Source};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::data::scanned;
use super::{admin, assert_found, between, grave, insert, of_code, plan, run};
use crate::scenarios::deadline::{DEADLINE, ready};

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
    on_source: Client,
    on_target: Client,
}

impl Pair {
    /// A source with a larger oplog and cache than the target, and a few documents.
    async fn start() -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).cache_gb(0.6).start(),
            ReplicaSet::builder(Version::V6_0)
                .name("rs1")
                .oplog_size_mb(128)
                .start()
        )
        .unwrap();
        let (on_source, on_target) = (source.client().await.unwrap(), target.client().await.unwrap());
        let orders = (0..200).map(|id| doc! { "_id": id, "text": "x".repeat(1000) });
        insert(&on_source, "shop.orders", orders).await;
        insert(&on_source, "shop.items", [doc! { "_id": 1 }]).await;
        let index = doc! { "key": { "text": 1 }, "name": "by text" };
        run(
            &on_source,
            "shop",
            doc! { "createIndexes": "orders", "indexes": [index] },
        )
        .await;
        Self {
            source,
            target,
            on_source,
            on_target,
        }
    }

    async fn migration(&self) -> MigrationBuilder {
        between(&self.source.uri(), &self.target.uri()).await
    }
}

/// Everything that a server holds, its own books left out.
async fn contents(client: &Client) -> Vec<String> {
    let mut all = Vec::new();
    for database in client.list_database_names().await.unwrap() {
        if !matches!(database.as_str(), "admin" | "config" | "local") {
            let collections = client.database(&database).list_collection_names().await.unwrap();
            all.extend(collections.iter().map(|name| format!("{database}.{name}")));
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_finds_the_server_that_breaks_it() {
    let pair = Pair::start().await;
    a_plan_tells_what_would_be_done_and_changes_nothing(&pair).await;
    versions(&pair).await;
    names_and_options(&pair).await;
    what_goes_on(&pair).await;
    scanned(&pair.source, &pair.target).await;
    how_they_are_reached(&pair).await;
    the_target_is_free(&pair).await;
    records(&pair).await;
}

async fn a_plan_tells_what_would_be_done_and_changes_nothing(pair: &Pair) {
    let before = (contents(&pair.on_source).await, contents(&pair.on_target).await);
    let plan = plan(pair.migration().await).await;
    assert_eq!(
        before,
        (contents(&pair.on_source).await, contents(&pair.on_target).await)
    );
    assert_eq!(grave(&plan), ["small_cache"], "{plan}");
    assert_found(&plan, Severity::Warning, "small_cache", "less than half");
    assert_found(&plan, Severity::Note, "small_oplog", "0.13 GB");
    assert_found(&plan, Severity::Note, "oplog_window", "reaches back");
    assert_eq!(plan.total.documents, 201);
    assert_eq!(plan.indexes, 1);
    let estimate = plan.estimate.unwrap();
    assert_eq!(estimate.sample.documents, 200);
    assert!(
        estimate.bytes_per_second > 0 && estimate.copy_time > Duration::ZERO,
        "{estimate:?}"
    );
    let text = plan.to_string();
    for part in [
        "shop.orders",
        "estimated copy time",
        "not migrated: users and roles",
        "small_cache",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // Facts that no healthy server of a test makes a finding of.
    let facts = MongoSource::connect(&pair.source.uri())
        .await
        .unwrap()
        .inspect()
        .await
        .unwrap();
    assert!(facts.free_disk_bytes.unwrap() > 0);
    assert!(facts.clock_ahead_ms.unwrap().abs() < 2_000);
    assert_eq!(facts.queued_operations, Some(0));
    assert_eq!(facts.members[0].state, "PRIMARY");
    assert!(facts.oplog.unwrap().used_bytes > 0);
}

async fn versions(pair: &Pair) {
    let hosted = plan(pair.migration().await.path_policy(PathPolicy::Hosted)).await;
    assert_found(&hosted, Severity::Blocker, "path_not_offered", "6.0 to 6.0");

    // A downgrade that stops half way, and then is carried through.
    let stop = doc! { "configureFailPoint": "failDowngrading", "mode": "alwaysOn" };
    admin(&pair.on_target, stop).await;
    let lower = doc! { "setFeatureCompatibilityVersion": "5.0" };
    pair.on_target
        .database("admin")
        .run_command(lower.clone())
        .await
        .unwrap_err();
    let changing = plan(pair.migration().await).await;
    assert_found(&changing, Severity::Blocker, "feature_compatibility_changing", "target");
    admin(
        &pair.on_target,
        doc! { "configureFailPoint": "failDowngrading", "mode": "off" },
    )
    .await;
    admin(&pair.on_target, lower).await;
    let behind = plan(pair.migration().await).await;
    assert_found(
        &behind,
        Severity::Warning,
        "feature_compatibility_behind",
        "6.0 with the feature compatibility version 5.0",
    );
    let fix = &assert_found(&behind, Severity::Blocker, "feature_compatibility_lower", "5.0").fix;
    assert!(fix.contains("setFeatureCompatibilityVersion: \"6.0\""), "{fix}");
    admin(&pair.on_target, doc! { "setFeatureCompatibilityVersion": "6.0" }).await;
    assert_eq!(grave(&plan(pair.migration().await).await), ["small_cache"]);

    let same = plan(between(&pair.source.uri(), &pair.source.uri()).await).await;
    assert_found(&same, Severity::Blocker, "same_deployment", "rs0");
}

async fn names_and_options(pair: &Pair) {
    let shop = pair.on_source.database("shop");
    let long = format!("shop.{}", "x".repeat(251));
    let renamed = plan(pair.migration().await.rename("shop.orders", &long)).await;
    assert_found(&renamed, Severity::Blocker, "name_too_long", "256 bytes");
    let one = plan(pair.migration().await.rename("shop.orders", "shop.items")).await;
    assert_found(&one, Severity::Blocker, "same_target", "`shop.items` on the target");

    insert(&pair.on_target, "SHOP.other", [doc! { "_id": 1 }]).await;
    let case = plan(pair.migration().await).await;
    assert_found(&case, Severity::Blocker, "database_case", "`SHOP`");
    // The server means it.
    let refused = pair.on_target.database("shop").create_collection("orders").await;
    assert!(refused.unwrap_err().to_string().contains("differ"));
    pair.on_target.database("SHOP").drop().await.unwrap();

    let gone = doc! { "create": "shows nothing", "viewOn": "gone", "pipeline": [] };
    let left_out = doc! { "create": "shows items", "viewOn": "items", "pipeline": [] };
    let schema = doc! { "properties": { "ssn": { "encrypt": {
        "bsonType": "string", "algorithm": "AEAD_AES_256_CBC_HMAC_SHA_512-Random",
        "keyId": [bson::Uuid::new()],
    } } } };
    let by_clients = doc! { "create": "by clients", "validator": { "$jsonSchema": schema } };
    let queryable = doc! { "create": "queryable", "encryptedFields": {
        "escCollection": "enxcol_.queryable.esc", "eccCollection": "enxcol_.queryable.ecc",
        "ecocCollection": "enxcol_.queryable.ecoc",
        "fields": [{ "path": "ssn", "bsonType": "string", "keyId": bson::Uuid::new(), "queries": { "queryType": "equality" } }],
    } };
    for command in [gone, left_out, by_clients, queryable] {
        shop.run_command(command).await.unwrap();
    }
    let found = plan(pair.migration().await.exclude("shop.items")).await;
    let views = of_code(&found, "view_without_collection");
    assert_eq!(views.len(), 2, "{found}");
    assert!(
        views[0].message.contains("does not exist") != views[1].message.contains("does not exist"),
        "{found}"
    );
    assert_found(&found, Severity::Warning, "client_encryption", "`shop.by clients`");
    assert_found(&found, Severity::Blocker, "queryable_encryption", "`shop.queryable`");
    for name in ["shows nothing", "shows items", "by clients", "queryable"] {
        shop.run_command(doc! { "drop": name }).await.unwrap();
    }
}

async fn what_goes_on(pair: &Pair) {
    let shop = pair.on_source.database("shop");
    shop.run_command(doc! { "profile": 1, "slowms": 10_000 }).await.unwrap();
    let mut session = pair.on_source.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let open = shop.collection::<Document>("items");
    open.insert_one(doc! { "_id": 2 }).session(&mut session).await.unwrap();

    let source = MongoSource::connect(&pair.source.uri()).await.unwrap();
    let facts = source.inspect().await.unwrap();
    assert_eq!(facts.transactions.len(), 1, "{:?}", facts.transactions);
    assert!(facts.transactions[0].open > Duration::ZERO);
    // An index build waits for it.
    session.abort_transaction().await.unwrap();

    let hang = doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": "alwaysOn" };
    admin(&pair.on_source, hang).await;
    let building = {
        let shop = shop.clone();
        tokio::spawn(async move {
            let index = doc! { "key": { "b": 1 }, "name": "b" };
            shop.run_command(doc! { "createIndexes": "orders", "indexes": [index] })
                .await
        })
    };
    wait_until(DEADLINE, "the index build", async || {
        let facts = source.inspect().await.unwrap();
        facts.index_builds == ["shop.orders"]
    })
    .await
    .unwrap();
    let found = plan(pair.migration().await).await;
    assert_found(&found, Severity::Warning, "index_build", "`shop.orders`");
    assert_found(&found, Severity::Note, "profiler", "`shop` is at level 1");
    admin(
        &pair.on_source,
        doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": "off" },
    )
    .await;
    building.await.unwrap().unwrap();
    shop.run_command(doc! { "profile": 0 }).await.unwrap();
    let facts = source.inspect().await.unwrap();
    assert_eq!(
        (facts.transactions, facts.index_builds.len(), facts.profiled),
        (vec![], 0, vec![])
    );
}

async fn how_they_are_reached(pair: &Pair) {
    let address = pair.source.member_address(0);
    let alone = format!("mongodb://{address}/?directConnection=true");
    let found = plan(between(&alone, &pair.target.uri()).await).await;
    assert_found(&found, Severity::Warning, "direct_connection", &address);
    let nearest = pair.source.uri() + "&readPreference=nearest";
    let found = plan(between(&nearest, &pair.target.uri()).await).await;
    assert_found(&found, Severity::Note, "read_preference", "`nearest`");

    // An address that is not a loopback one by its name, and yet leads here.
    let outside = alone.replace("127.0.0.1", "0.0.0.0");
    let found = plan(between(&outside, &pair.target.uri()).await).await;
    assert_found(&found, Severity::Blocker, "unencrypted", "0.0.0.0");
    let refused = between(&outside, &pair.target.uri())
        .await
        .build()
        .unwrap()
        .start()
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    let accepted = between(&outside, &pair.target.uri()).await.accept_unencrypted(true);
    assert_eq!(plan(accepted).await.blockers().count(), 0);
}

async fn the_target_is_free(pair: &Pair) {
    insert(&pair.on_target, "shop.orders", [doc! { "_id": 1 }]).await;
    insert(&pair.on_target, "shop.mine", [doc! { "_id": 1 }]).await;
    insert(
        &pair.on_target,
        "mongosync_reserved_for_internal_use.state",
        [doc! { "_id": 1 }],
    )
    .await;
    let refused = plan(pair.migration().await).await;
    assert_found(
        &refused,
        Severity::Blocker,
        "existing_data",
        "`shop.orders` with 1 documents",
    );
    assert_found(&refused, Severity::Warning, "other_tool", "mongosync");
    let cleared = plan(pair.migration().await.existing_data(ExistingData::Clear)).await;
    assert_found(&cleared, Severity::Warning, "existing_data", "will be dropped");
    // By now the oplog reaches back some seconds.
    assert!(cleared.estimate.unwrap().oplog_bytes.unwrap() > 0, "{cleared}");
    assert_eq!(cleared.to_drop, ["shop.orders".parse().unwrap()]);
    assert!(cleared.to_string().contains("dropped on the target: shop.orders"));
    pair.on_target
        .database("mongosync_reserved_for_internal_use")
        .drop()
        .await
        .unwrap();

    admin(&pair.on_target, doc! { "setUserWriteBlockMode": 1, "global": true }).await;
    let blocked = plan(pair.migration().await).await;
    assert_found(&blocked, Severity::Blocker, "writes_blocked", "target");
    admin(&pair.on_target, doc! { "setUserWriteBlockMode": 1, "global": false }).await;
}

async fn records(pair: &Pair) {
    let clearing = || async { pair.migration().await.existing_data(ExistingData::Clear) };
    let run = clearing().await.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let held = plan(pair.migration().await).await;
    assert_found(&held, Severity::Blocker, "lease_held", "runs this migration");
    // The plan of a run that has begun does not count what it has copied as in the way.
    assert_eq!(of_code(&held, "existing_data").len(), 0, "{held}");
    let other = plan(pair.migration().await.exclude("shop.items")).await;
    assert_found(&other, Severity::Blocker, "other_migration", "other includes");
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let complete = plan(pair.migration().await).await;
    assert_found(&complete, Severity::Blocker, "already_complete", "complete");
    assert_eq!(of_code(&complete, "lease_held").len(), 0, "{complete}");
    // What was not listed to be dropped is still there.
    let mine = pair.on_target.database("shop").collection::<Document>("mine");
    assert_eq!(mine.count_documents(doc! {}).await.unwrap(), 1);
}
