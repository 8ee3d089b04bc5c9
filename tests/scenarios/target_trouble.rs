//! A target that cannot or will not take what it is given: each ends in an error or event that says what to do, and when that is done the
//! migration goes on and arrives identical.

use std::time::Duration;

use bson::{Document, doc, rawdoc};
use mongodb::Client;
use mongoferry::sink::{CatalogCommand, MongoSink};
use mongoferry::source::MongoSource;
use mongoferry::{ErrorKind, Event, Migration, MigrationHandle, Outcome, Sink};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::time::timeout;

use super::deadline::{DEADLINE, cut_over, event, ready};

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
    ours: Client,
    theirs: Client,
}

impl Pair {
    /// With some orders on the source, one of whose indexes is unique.
    async fn start(secured: bool) -> Self {
        let mut target = ReplicaSet::builder(Version::V6_0)
            .name("rs1")
            .enable_test_commands(true);
        if secured {
            target = target.key_file_auth();
        }
        let source = ReplicaSet::builder(Version::V6_0).start();
        let (source, target) = futures::try_join!(source, target.start()).unwrap();
        let (ours, theirs) = (source.client().await.unwrap(), target.client().await.unwrap());
        let index = doc! { "key": { "u": 1 }, "name": "u_1", "unique": true };
        admin(&ours, "shop", doc! { "createIndexes": "orders", "indexes": [index] }).await;
        let pair = Self {
            source,
            target,
            ours,
            theirs,
        };
        pair.insert(0..2_000).await;
        pair
    }

    async fn insert(&self, ids: std::ops::Range<i32>) {
        let documents = ids.map(|id| doc! { "_id": id, "u": id, "text": "x".repeat(200) });
        self.orders(&self.ours).insert_many(documents).await.unwrap();
    }

    fn orders(&self, client: &Client) -> mongodb::Collection<Document> {
        client.database("shop").collection("orders")
    }

    async fn migration(&self, target: &str) -> Migration {
        let from = self.source.uri();
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(target)).unwrap();
        Migration::builder(source, sink).chunk_bytes(64 << 10).build().unwrap()
    }

    async fn run(&self, target: &str) -> MigrationHandle {
        self.migration(target).await.start().await.unwrap()
    }

    async fn fail(&self, commands: &[&str], code: Option<i32>) {
        let mut point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        if let Some(code) = code {
            point.insert("mode", "alwaysOn");
            point.insert("data", doc! { "failCommands": commands, "errorCode": code });
        }
        admin(&self.theirs, "admin", point).await;
    }

    async fn finish(&self, run: MigrationHandle) {
        let summary = cut_over(&run).await;
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        assert_identical(&self.ours, &self.theirs, &CompareOptions::default())
            .await
            .unwrap();
    }
}

async fn admin(client: &Client, database: &str, command: Document) {
    client.database(database).run_command(command).await.unwrap();
}

fn retrying(event: Event) -> Option<String> {
    match event {
        Event::Retrying { cause, .. } => {
            for inside in [
                "Kind:",
                "labels",
                "Topology",
                "server response",
                "lsid",
                "$clusterTime",
                "os error",
            ] {
                assert!(!cause.contains(inside), "{inside} in: {cause}");
            }
            Some(cause)
        }
        _ => None,
    }
}

/// While one target is locked, which is said after a minute, and another refuses a document, which is given up after half of one, the
/// others are in trouble one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn every_trouble_is_said_and_sat_out() {
    let others = async {
        blocked_writes_are_said_and_sat_out().await;
        a_full_disk_is_said_and_sat_out().await;
        a_revoked_privilege_is_named_and_can_be_given_back().await;
        a_failed_index_is_tried_again_by_the_next_run().await;
    };
    tokio::join!(
        a_locked_target_is_said_and_sat_out(),
        a_refused_document_is_read_again_by_the_next_run(),
        others
    );
}

async fn blocked_writes_are_said_and_sat_out() {
    let pair = Pair::start(false).await;
    let block = async |on: bool| {
        admin(&pair.theirs, "admin", doc! { "setUserWriteBlockMode": 1, "global": on }).await;
    };
    let run = pair.run(&pair.target.uri()).await;
    ready(&run).await;
    let mut events = run.events();
    block(true).await;
    pair.insert(2_000..3_000).await;
    let cause = event(&mut events, retrying).await;
    assert!(cause.contains("setUserWriteBlockMode"), "{cause}");
    block(false).await;
    pair.finish(run).await;
}

async fn a_full_disk_is_said_and_sat_out() {
    const OUT_OF_DISK_SPACE: i32 = 14031;
    let pair = Pair::start(false).await;
    // A full disk that preflight can see is a reason not to start, and no missing privilege.
    let migration = pair.migration(&pair.target.uri()).await;
    pair.fail(&["insert", "update"], Some(OUT_OF_DISK_SPACE)).await;
    let refused = migration.start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("takes no writes") && !text.contains("createUser"),
        "{text}"
    );
    pair.fail(&["insert", "update"], None).await;
    // While documents are copied, while an index is built, and while changes are applied.
    for commands in [
        ["insert", "update"],
        ["createIndexes", "createIndexes"],
        ["update", "delete"],
    ] {
        let migration = pair.migration(&pair.target.uri()).await;
        let run = migration.start().await.unwrap();
        let mut events = run.events();
        pair.fail(&commands, Some(OUT_OF_DISK_SPACE)).await;
        let cause = event(&mut events, retrying).await;
        assert!(cause.contains("its disk is full: make room"), "{commands:?}: {cause}");
        pair.fail(&commands, None).await;
        ready(&run).await;
        let index = doc! { "key": { commands[0]: 1 }, "name": commands[0] };
        admin(
            &pair.ours,
            "shop",
            doc! { "createIndexes": "orders", "indexes": [index] },
        )
        .await;
    }
    let run = pair.run(&pair.target.uri()).await;
    pair.finish(run).await;
}

async fn a_locked_target_is_said_and_sat_out() {
    let pair = Pair::start(false).await;
    let run = pair.run(&pair.target.uri()).await;
    ready(&run).await;
    let mut events = run.events();
    admin(&pair.theirs, "admin", doc! { "fsync": 1, "lock": true }).await;
    pair.insert(2_000..3_000).await;
    let cause = event(&mut events, retrying).await;
    assert!(cause.contains("fsyncLock"), "{cause}");
    admin(&pair.theirs, "admin", doc! { "fsyncUnlock": 1 }).await;
    pair.finish(run).await;
}

async fn a_revoked_privilege_is_named_and_can_be_given_back() {
    let pair = Pair::start(true).await;
    let roles = ["readWriteAnyDatabase", "dbAdminAnyDatabase", "clusterMonitor"];
    let mover = doc! {
        "createUser": "mover",
        "pwd": "secret-of-the-mover",
        "roles": [roles[0], roles[1], roles[2], { "role": "readWrite", "db": "__mdb_internal_mongoferry" }],
    };
    admin(&pair.theirs, "admin", mover).await;
    let credentials = pair.target.uri();
    let (_, rest) = credentials.split_once('@').unwrap();
    let uri = format!("mongodb://mover:secret-of-the-mover@{rest}");
    let run = pair.run(&uri).await;
    ready(&run).await;
    let change = |command: &str| doc! { command: "mover", "roles": ["readWriteAnyDatabase"] };
    admin(&pair.theirs, "admin", change("revokeRolesFromUser")).await;
    pair.insert(2_000..2_100).await;
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("shop.orders") && text.contains("grant the missing privilege"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    admin(&pair.theirs, "admin", change("grantRolesToUser")).await;
    let run = pair.run(&uri).await;
    pair.finish(run).await;
}

async fn a_failed_index_is_tried_again_by_the_next_run() {
    const CANNOT_CREATE_INDEX: i32 = 67;
    let pair = Pair::start(false).await;
    pair.fail(&["createIndexes"], Some(CANNOT_CREATE_INDEX)).await;
    let run = pair.run(&pair.target.uri()).await;
    let mut events = run.events();
    let (namespace, name, reason) = event(&mut events, |event| match event {
        Event::IndexFailed {
            namespace,
            name,
            reason,
        } => Some((namespace.to_string(), name, reason)),
        _ => None,
    })
    .await;
    assert_eq!((namespace.as_str(), name.as_str()), ("shop.orders", "u_1"));
    assert!(reason.contains("start again"), "{reason}");
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Differences);
    let failed = summary.indexes.iter().find(|index| !index.ok).unwrap();
    assert_eq!(failed.name, "u_1");
    drop(run);
    pair.fail(&[], None).await;
    let run = pair.run(&pair.target.uri()).await;
    pair.finish(run).await;
}

async fn a_refused_document_is_read_again_by_the_next_run() {
    let pair = Pair::start(false).await;
    let run = pair.run(&pair.target.uri()).await;
    ready(&run).await;
    let mut events = run.events();
    let foreign = pair.orders(&pair.theirs);
    foreign.insert_one(doc! { "_id": "foreign", "u": 2_000 }).await.unwrap();
    pair.insert(2_000..2_001).await;
    let (namespace, id, reason) = event(&mut events, |event| match event {
        Event::DocumentRefused { namespace, id, reason } => Some((namespace.to_string(), id, reason)),
        _ => None,
    })
    .await;
    assert_eq!(namespace, "shop.orders");
    assert!(id.contains("2000") && reason.contains("u_1"), "{id}: {reason}");
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Differences);
    drop(run);
    foreign.delete_one(doc! { "_id": "foreign" }).await.unwrap();
    let run = pair.run(&pair.target.uri()).await;
    pair.finish(run).await;
}

/// Those of the table that a server can be made to answer with; some want more than a code.
const MAY_PASS: [i32; 40] = [
    6, 7, 24, 43, 46, 50, 64, 89, 91, 94, 112, 117, 133, 134, 175, 187, 189, 202, 211, 215, 225, 234, 237, 251, 261,
    262, 267, 276, 279, 285, 290, 314, 9001, 10107, 11600, 11601, 11602, 12586, 12587, 13435,
];

#[tokio::test(flavor = "multi_thread")]
async fn codes_that_may_pass_are_sat_out() {
    for version in [Version::V4_2, Version::V6_0] {
        let target = ReplicaSet::builder(version).start().await.unwrap();
        let client = target.client().await.unwrap();
        let sink = MongoSink::connect(&target.uri()).await.unwrap();
        let fail = async |code: i32, times: i32| {
            let data = doc! { "failCommands": ["update", "find"], "errorCode": code };
            let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
            admin(&client, "admin", point).await;
        };
        for (fence, code) in (0_i64..).zip(MAY_PASS) {
            let record = rawdoc! { "fence": fence + 1, "code": code };
            fail(code, 2).await;
            let saved = timeout(DEADLINE, sink.save_record("record", &record, fence))
                .await
                .unwrap();
            assert!(saved.unwrap_or_else(|error| panic!("{code}: {error}")), "{code}");
            fail(code, 2).await;
            let loaded = timeout(DEADLINE, sink.load_record("record")).await.unwrap();
            assert_eq!(
                loaded.unwrap_or_else(|error| panic!("{code}: {error}")),
                Some(record),
                "{code}"
            );
        }
        const BAD_VALUE: i32 = 2;
        fail(BAD_VALUE, 1).await;
        let refused = sink.load_record("record").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Server, "{refused}");
        assert!(!refused.is_retryable());
    }
}

/// 4.2 refuses what would change a collection of which an index is being built; later servers end the build.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_somebody_else_is_waited_for() {
    const POINT: &str = "hangAfterStartingIndexBuild";
    let target = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    let client = target.client().await.unwrap();
    let sink = MongoSink::connect(&target.uri()).await.unwrap();
    let shop = client.database("shop");
    shop.collection("orders")
        .insert_one(doc! { "_id": 1, "u": 1 })
        .await
        .unwrap();
    let point = |mode: &str| doc! { "configureFailPoint": POINT, "mode": mode };
    admin(&client, "admin", point("alwaysOn")).await;
    let index = doc! { "key": { "u": 1 }, "name": "u_1", "background": true };
    let building = shop.clone();
    let build = doc! { "createIndexes": "orders", "indexes": [index] };
    let build = tokio::spawn(async move { building.run_command(build).await });
    wait_until(DEADLINE, "the build", async || {
        let all = doc! { "currentOp": 1, "command.createIndexes": "orders" };
        let operations = client.database("admin").run_command(all).await.unwrap();
        !operations.get_array("inprog").unwrap().is_empty()
    })
    .await
    .unwrap();
    let drop = CatalogCommand::Drop {
        namespace: "shop.orders".parse().unwrap(),
    };
    let mut dropped = std::pin::pin!(sink.execute(&drop));
    let early = timeout(Duration::from_secs(2), &mut dropped).await;
    admin(&client, "admin", point("off")).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    timeout(DEADLINE, dropped).await.unwrap().unwrap();
    build.await.unwrap().unwrap();
    assert_eq!(shop.list_collection_names().await.unwrap(), Vec::<String>::new());
}
