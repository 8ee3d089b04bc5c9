//! The example `live_migration` as scripts use it: lines of JSON, commands, exit codes.

mod process;
mod sets;

use std::path::Path;

use mongodb::Client;
use mongodb::bson::{DateTime, Document, Timestamp, doc};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::workload::Writer;
use mongoferry_testbed::{ReplicaSet, Version};
use serde_json::Value;
use tokio::time::timeout;

use self::process::message;
pub(super) use self::process::{Example, PATIENCE, binary, piped};
pub(super) use self::sets::Sets;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_sees_refusal_stops_and_a_whole_migration() {
    let sets = Sets::start(4000).await;

    let in_the_way = sets.target_client.database("shop").collection("orders");
    in_the_way.insert_one(doc! { "_id": 1 }).await.unwrap();
    let refused = sets.example(&[]).end().await;
    let error = &refused.summary("refused", 2)["error"];
    assert_eq!(error["kind"], "refused");
    assert_eq!(
        error["findings"][0]["affected"],
        serde_json::json!(["shop.orders"]),
        "{error:#}"
    );
    let findings = &refused.of_type("plan").next().unwrap()["findings"];
    assert_eq!(findings[0]["severity"], "blocker", "{findings:#}");
    let finding = refused.of_type("finding").next().unwrap();
    assert_eq!(finding["code"], "existing_data", "{finding:#}");
    assert!(
        finding["message"].as_str().unwrap().contains("shop.orders"),
        "{finding:#}"
    );
    assert!(finding["fix"].as_str().unwrap().contains(".drop()"), "{finding:#}");
    in_the_way.drop().await.unwrap();

    let checked = sets.example(&["--stop-after", "preflight"]).end().await;
    checked.summary("stopped", 4);
    assert_eq!(checked.of_type("started").count(), 0);
    assert_eq!(
        sets.target_client
            .database("shop")
            .list_collection_names()
            .await
            .unwrap(),
        Vec::<String>::new()
    );

    let failed = sets
        .example(&["--checkpoint", "/no/such/folder/checkpoint"])
        .end()
        .await;
    let error = &failed.summary("failed", 1)["error"];
    assert_eq!(error["kind"], "io", "{error:#}");
    assert!(error["context"].to_string().contains("/no/such/folder"), "{error:#}");
    assert!(failed.phases().contains(&"failed"), "{:?}", failed.phases());

    let ready = sets.example(&["--stop-after", "ready", "--max-lag", "1.5"]).end().await;
    ready.summary("stopped", 4);
    assert!(!ready.resumed());
    assert!(ready.phases().contains(&"ready"), "{:?}", ready.phases());

    // A command that comes before the run is not lost.
    let mut whole = sets.example(&["--cutover", "manual"]);
    whole.command("cutover").await;
    let whole = whole.end().await;
    let summary = whole.summary("complete", 0);
    assert!(whole.resumed());
    assert_eq!(summary["error"], Value::Null);
    for collection in summary["collections"].as_array().unwrap() {
        assert_eq!(
            (&collection["verified"], &collection["differences"]),
            (&true.into(), &Value::Array(vec![]))
        );
    }
    let indexes = summary["indexes"].as_array().unwrap();
    assert!(indexes.iter().any(|index| index["name"] == "email"), "{indexes:#?}");
    assert!(
        indexes
            .iter()
            .all(|index| index["ok"] == true && index["reason"].is_null()),
        "{indexes:#?}"
    );
    assert!(
        summary["not_migrated"]
            .as_array()
            .unwrap()
            .iter()
            .any(|left_out| left_out.as_str().unwrap().contains("users"))
    );
    sets.assert_identical().await;

    // What was wanted is done already.
    let certificate = sets.source.folder().join("certificate").display().to_string();
    let again = sets.example(&["--certificate", &certificate]).end().await;
    assert_eq!(again.summary("complete", 0)["error"], Value::Null);
    assert_eq!(again.of_type("started").count(), 0);
    assert!(Path::new(&certificate).is_file());

    // It can still be taken back, once the applications have written to the target.
    let orders = sets.target_client.database("shop").collection("orders");
    orders.insert_one(doc! { "_id": "there" }).await.unwrap();
    let mut back = sets.example(&["--reverse"]);
    let follows = |line: &Value| line["direction"] == "reverse" && line["can_cut_over"] == true;
    back.until("the way back", follows).await;
    back.command("cutover").await;
    let back = back.end().await;
    assert_eq!(back.summary("complete", 0)["direction"], "reverse");
    sets.assert_identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_phase_is_told_and_something_each_second() {
    let sets = Sets::start(4000).await;
    let extra = doc! { "_id": "not on the source" };
    sets.target_client
        .database("shop")
        .collection("products")
        .insert_one(extra)
        .await
        .unwrap();
    let checkpoint = sets.source.folder().join("checkpoint").display().to_string();
    let arguments = [
        "--existing-data=keep",
        "--users=keep",
        "--block-writes",
        "--exclude",
        "shop.au*",
        "--exclude=shop.counters",
        "--rename",
        "shop.orders=store.orders",
        "--checkpoint",
        &checkpoint,
    ];
    let ended = sets.example(&arguments).end().await;
    ended.summary("complete", 0);
    assert_eq!(
        ended.phases(),
        ["preflight", "copy", "index", "catch_up", "ready", "cutover", "complete"]
    );
    assert!(Path::new(&checkpoint).is_file());
    assert_eq!(ended.of_type("source_writes_blocked").count(), 1);
    let orders = sets.source_client.database("shop").collection("orders");
    let refused = orders.insert_one(doc! { "_id": "late" }).await.unwrap_err();
    assert!(refused.to_string().contains("User writes blocked"), "{refused}");

    let time = |line: &Value| DateTime::parse_rfc3339_str(line["at"].as_str().unwrap()).unwrap();
    assert!(ended.lines.is_sorted_by_key(time));
    let times: Vec<i64> = ended
        .of_type("status")
        .map(|line| time(line).timestamp_millis())
        .collect();
    // A second is the promise; the rest is for a machine that is busy with other tests.
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] < 3000), "{times:?}");
    let status = ended.of_type("status").last().unwrap();
    for (field, wanted) in [("copy_complete", true), ("can_cut_over", false)] {
        assert_eq!(status[field], wanted, "{status:#}");
    }
    for number in [
        "/position/t",
        "/position/i",
        "/source_position/t",
        "/lag_ms",
        "/copied/documents",
    ] {
        assert!(status.pointer(number).unwrap().is_u64(), "{number} in {status:#}");
    }
    for number in [
        "/copied/bytes",
        "/total/documents",
        "/total/bytes",
        "/changes/applied",
        "/changes/dropped",
        "/indexes/built",
        "/lag_history/0/lag_ms",
    ] {
        assert!(status.pointer(number).unwrap().is_u64(), "{number} in {status:#}");
    }

    assert_eq!(status["indexes"]["built"], status["indexes"]["total"], "{status:#}");
    let names = sets
        .target_client
        .database("shop")
        .list_collection_names()
        .await
        .unwrap();
    assert!(
        !names.iter().any(|name| name == "audit" || name == "counters"),
        "{names:?}"
    );
    let options = CompareOptions {
        namespaces: Some(
            ["orders", "customers", "products", "events", "mixed", "open_orders"]
                .map(|name| format!("shop.{name}"))
                .to_vec(),
        ),
        renames: vec![("shop.orders".to_owned(), "store.orders".to_owned())],
        ..CompareOptions::default()
    };
    assert_identical(&sets.source_client, &sets.target_client, &options)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_stopped_or_abandoned_goes_on() {
    let sets = Sets::start(20_000).await;
    let writer = Writer::builder(&sets.source_client, 4)
        .operations_per_second(50)
        .start()
        .await
        .unwrap();
    let arguments = [
        "--cutover",
        "manual",
        "--chunk-bytes",
        "65536",
        "--walkers",
        "1",
        "--appliers",
        "2",
    ];

    let mut killed = sets.example(&arguments);
    killed
        .until("a checkpoint", |line| line["type"] == "checkpoint_saved")
        .await;
    killed.signal("KILL").await;
    let killed = killed.end().await;
    assert_eq!(killed.exit, None);
    assert!(!killed.resumed());
    assert_eq!(
        killed.of_type("phase_changed").last().unwrap()["phase"],
        "copy",
        "too late to be of interest"
    );

    let mut stopped = sets.example(&arguments);
    stopped.until("the start", |line| line["type"] == "started").await;
    stopped.signal("TERM").await;
    let stopped = stopped.end().await;
    assert!(stopped.resumed());
    stopped.summary("stopped", 143);

    let mut abandoned = sets.example(&arguments);
    abandoned.phase("ready").await;
    abandoned.command("pause").await;
    abandoned.phase("paused").await;
    abandoned.command("resume").await;
    abandoned.phase("ready").await;
    abandoned.command("nonsense").await;
    abandoned
        .until("a refusal", |line| {
            line["type"] == "command" && line["accepted"] == false
        })
        .await;
    abandoned.command("abandon").await;
    abandoned.end().await.summary("stopped", 4);

    let mut interrupted = sets.example(&arguments);
    interrupted.phase("ready").await;
    interrupted.signal("INT").await;
    interrupted.end().await.summary("stopped", 130);

    let mut last = sets.example(&arguments);
    last.phase("ready").await;
    let statistics = writer.stop().await;
    assert_eq!(statistics.errors, 0, "{statistics:?}");
    last.command("cutover").await;
    let last = last.end().await;
    assert!(last.resumed());
    last.summary("complete", 0);
    sets.assert_identical().await;
}

#[tokio::test]
async fn wrong_arguments_are_named_and_passwords_are_not() {
    let source = "mongodb://user:secret-word@127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=300";
    for (arguments, message) in [
        (&["--source", source][..], "--target"),
        (&["--sauce", source], "--sauce"),
        (&[source], "no option"),
        (&["--walkers", "many"], "--walkers"),
        (&["--existing-data", "burn"], "refuse, clear, keep"),
        (&["--users", "burn"], "refuse, keep, replace"),
        (
            &["--source", source, "--target", source, "--rename", "shop.orders"],
            "FROM=TO",
        ),
        (&["--source", source, "--target", source, "--include", "shop"], "shop.*"),
    ] {
        let ended = Example::start(arguments).end().await;
        let summary = ended.summary("failed", 1);
        let error = self::message(summary);
        assert_eq!(summary["error"]["kind"], "invalid_configuration", "{summary:#}");
        assert!(error.contains(message), "{arguments:?}: {error}");
        assert!(ended.text.contains(error), "{error}: {}", ended.text);
        let all = format!("{:?}{}", ended.lines, ended.text);
        assert!(!all.contains("secret-word"), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_connected_to_is_refused_with_findings() {
    let dead = "mongodb://user:secret-word@127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=2500";
    let alone = ReplicaSet::builder(Version::V6_0).standalone().start().await.unwrap();
    let standalone = format!("mongodb://{}/", alone.member_address(0));
    for (source, target, code, waits) in [
        (dead, dead, "not_reached", true),
        ("mongodb://user:secret-word@", dead, "connection_string", false),
        (&standalone, &standalone, "standalone", false),
    ] {
        let ended = Example::start(&["--source", source, "--target", target]).end().await;
        let summary = ended.summary("refused", 2);
        let finding = ended.of_type("finding").next().unwrap_or_else(|| panic!("{summary:#}"));
        assert_eq!(
            (&finding["code"], &finding["severity"]),
            (&code.into(), &"blocker".into())
        );
        let error = message(summary);
        assert!(error.contains(finding["message"].as_str().unwrap()), "{summary:#}");
        assert!(error.contains(finding["fix"].as_str().unwrap()), "{summary:#}");
        assert!(ended.text.contains(error), "{error}: {}", ended.text);
        let told = ended.of_type("waiting").next();
        assert_eq!(told.is_some(), waits, "{told:?}");
        if let Some(told) = told {
            assert!(told["elapsed_ms"].as_u64().unwrap() < 2500, "{told:#}");
            assert_eq!(told["limit_ms"], 2500, "{told:#}");
        }
        let all = format!("{:?}{}", ended.lines, ended.text);
        for inside in ["secret-word", "Kind:", "Topology", "labels"] {
            assert!(!all.contains(inside), "{inside} in {all}");
        }
    }
}

/// The newest entry of a server's oplog that concerns the shop.
async fn newest_of_the_shop(client: &Client) -> Option<Timestamp> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let newest = oplog
        .find_one(doc! { "ns": { "$regex": "^shop\\." } })
        .sort(doc! { "$natural": -1 })
        .await
        .unwrap()?;
    Some(newest.get_timestamp("ts").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_through_a_takeover_writes_nothing_more() {
    let sets = Sets::start(30_000).await;
    let writer = Writer::start(&sets.source_client, 4).await.unwrap();
    let arguments = ["--chunk-bytes", "65536", "--cutover", "manual"];
    let mut sleeper = sets.example(&arguments);
    sleeper
        .until("the copy", |line| line["copied"]["documents"].as_u64() > Some(0))
        .await;
    sleeper.signal("STOP").await;
    let mut next = sets.example(&arguments);
    next.phase("ready").await;
    let stats = writer.stop().await;
    assert_eq!(stats.errors, 0, "{stats:?}");
    // Nothing more comes from the source: whatever is written to the shop from now on is not the second's.
    let mut newest = None;
    timeout(PATIENCE, async {
        loop {
            next.until("a status", |line| line["type"] == "status").await;
            next.until("another", |line| line["type"] == "status").await;
            let now = newest_of_the_shop(&sets.target_client).await;
            if now == newest {
                return;
            }
            newest = now;
        }
    })
    .await
    .unwrap();
    sleeper.signal("CONT").await;
    let process = next.child.id().unwrap().to_string();
    let ended = sleeper.end().await;
    let error = message(ended.summary("failed", 1));
    assert!(error.contains(&format!("process {process} on host")), "{error}");
    assert_eq!(newest_of_the_shop(&sets.target_client).await, newest);
    next.command("cutover").await;
    next.end().await.summary("complete", 0);
    sets.assert_identical().await;
}
