//! The process is killed.

use mongodb::Client;
use mongodb::bson::{Bson, doc};
use serde_json::Value;

use super::*;
use crate::scenarios::example::Sets;

/// Bytes of documents in a chunk.
const CHUNK: u64 = 128 << 10;

/// Chunks that may be redone after a kill, of those that were done before the last checkpoint was saved: those that were in flight when
/// its contents were decided.
const REDONE: u64 = 12;

async fn the_process_is_killed(kills: u32) {
    let (kills, mut random) = plan(kills);
    let sets = Sets::start(40_000).await;
    let writer = Writer::builder(&sets.source_client, 4)
        .operations_per_second(100)
        .start()
        .await
        .unwrap();
    let chunk = CHUNK.to_string();
    let arguments = [
        "--cutover",
        "manual",
        "--chunk-bytes",
        &chunk,
        "--walkers",
        "2",
        "--appliers",
        "2",
        "--all-walkers",
    ];
    let (mut copied, mut saved, mut redone, mut phases) = (0u64, 0u64, 0u64, BTreeMap::new());
    for number in 0..kills {
        // Where the writers are not spared, more than one range is under way at a kill.
        let spared = usize::from(random.random_bool(0.5));
        let mut run = sets.example(&arguments[..arguments.len() - spared]);
        // Some die before they have begun: while they wait for the lease of the one before, or read its checkpoint.
        if random.random_bool(0.9) {
            run.until("the start", |line| line["type"] == "started").await;
            let status = run.until("a status", |line| line["type"] == "status").await;
            let begun = copied_bytes(&status);
            let lost = saved.saturating_sub(begun);
            assert!(lost <= REDONE * CHUNK, "{lost} bytes were copied again");
            redone += copied.saturating_sub(begun);
        }
        let patience = Duration::from_millis(random.random_range(0..1500));
        let status = run.last_status_within(patience).await;
        run.signal("KILL").await;
        if let Some(status) = status {
            copied = copied_bytes(&status);
            let phase = status["phase"].as_str().unwrap().to_owned();
            *phases.entry(phase).or_insert(0) += 1;
        }
        let ended = run.end().await;
        assert_eq!(ended.exit, None, "{number}: it ended by itself");
        let last_save = ended.lines.iter().rposition(|line| line["type"] == "checkpoint_saved");
        let before = &ended.lines[..last_save.unwrap_or(0)];
        if let Some(status) = before.iter().rfind(|line| line["type"] == "status") {
            saved = copied_bytes(status);
        }
    }
    // The last ones die in the cutover, with the writer stopped.
    let mut run = sets.example(&arguments);
    run.phase("ready").await;
    writer.stop().await;
    for _ in 0..kills.div_ceil(10) {
        run.command("cutover").await;
        sleep(Duration::from_millis(random.random_range(0..800))).await;
        run.signal("KILL").await;
        if run.end().await.exit.is_some() {
            // It was faster.
            sets.assert_identical().await;
            return;
        }
        run = sets.example(&arguments);
        // A process that died after its last write leaves a migration that is complete.
        let next = run
            .until("the phase", |line| {
                line["phase"] == "ready" || line["type"] == "summary"
            })
            .await;
        if next["type"] == "summary" {
            assert!(next["error"].to_string().contains("complete"), "{next:#}");
            sets.assert_identical().await;
            return;
        }
    }
    run.command("cutover").await;
    run.end().await.summary("complete", 0);
    sets.assert_identical().await;
    eprintln!("{kills} kills in the phases {phases:?}; {redone} bytes copied again, {copied} in all");
}

fn copied_bytes(status: &Value) -> u64 {
    status["copied"]["bytes"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_killed_a_few_times() {
    the_process_is_killed(4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn the_process_is_killed_for_long() {
    the_process_is_killed(200).await;
}

/// Two collections whose documents expire.
const EXPIRING: [&str; 2] = ["events", "carts"];

/// After how many seconds their documents expire.
async fn expiries(client: &Client) -> [i32; 2] {
    let mut all = [0; 2];
    for (seconds, name) in all.iter_mut().zip(EXPIRING) {
        let command = doc! { "listIndexes": name };
        let listed = client.database("shop").run_command(command).await.unwrap();
        let indexes = listed.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
        let mut found = indexes.iter().filter_map(Bson::as_document);
        let found = found.find_map(|index| index.get_i32("expireAfterSeconds").ok());
        *seconds = found.unwrap();
    }
    all
}

/// Killed when the documents of one collection expire on the target as on the source, and those of another do not yet.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_held_back_after_a_kill_in_the_cutover() {
    let sets = Sets::start(200).await;
    let shop = sets.source_client.database("shop");
    let index = doc! { "key": { "at": 1 }, "name": "at", "expireAfterSeconds": 86_400 };
    let create = doc! { "createIndexes": "carts", "indexes": [index] };
    shop.run_command(create).await.unwrap();
    let ours = expiries(&sets.source_client).await;
    let is_final = async || {
        let theirs = expiries(&sets.target_client).await;
        [theirs[0] == ours[0], theirs[1] == ours[1]]
    };
    let admin = sets.target_client.database("admin");
    let fail = async |mode: Bson| {
        // It waits and fails, so that nothing of it is left to be carried out later.
        let data = doc! { "failCommands": ["collMod"], "errorCode": 2, "blockConnection": true, "blockTimeMS": 60_000 };
        let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        admin.run_command(point).await.unwrap();
    };
    let arguments = ["--cutover", "manual"];
    let mut run = sets.example(&arguments);
    run.phase("ready").await;
    assert_eq!(is_final().await, [false; 2]);
    // The first one passes.
    fail(doc! { "skip": 1 }.into()).await;
    run.command("cutover").await;
    wait_until(DEADLINE, "documents to expire", async || {
        is_final().await.contains(&true)
    })
    .await
    .unwrap();
    run.signal("KILL").await;
    assert_eq!(run.end().await.exit, None, "it ended by itself");
    // Else the end of the failure would wait for what it holds.
    let held = doc! { "currentOp": 1, "command.collMod": { "$exists": true } };
    let held = admin.run_command(held).await.unwrap();
    for operation in held.get_array("inprog").unwrap().iter().filter_map(Bson::as_document) {
        let kill = doc! { "killOp": 1, "op": operation.get("opid").unwrap() };
        admin.run_command(kill).await.unwrap();
    }
    fail("off".into()).await;
    assert!(is_final().await.contains(&true) && is_final().await.contains(&false));
    let mut run = sets.example(&arguments);
    run.phase("ready").await;
    assert_eq!(is_final().await, [false; 2]);
    run.command("cutover").await;
    run.end().await.summary("complete", 0);
    assert_eq!(is_final().await, [true; 2]);
    sets.assert_identical().await;
}
