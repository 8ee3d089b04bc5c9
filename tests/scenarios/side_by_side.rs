//! Several migrations into one target, on real servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongoferry::{
    ExistingData, Migration, MigrationBuilder, MigrationHandle, MongoSink, MongoSource, Outcome, Resources, Summary,
    migrations,
};
use mongoferry_testbed::workload::Writer;
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::deadline::{DEADLINE, cut_over, ready};
use super::example::Sets;

/// The database with the records.
const RECORDS: &str = "__mdb_internal_mongoferry";

async fn load(client: &Client, database: &str, documents: i32) {
    let orders = client.database(database).collection::<Document>("orders");
    orders
        .insert_many((0..documents).map(|id| doc! { "_id": id, "n": 0, "pad": "p".repeat(200) }))
        .await
        .unwrap();
}

/// Inserts, updates and deletes until it is stopped.
fn write(client: &Client, database: &str, pause: Duration, stop: &Arc<AtomicBool>) -> JoinHandle<i32> {
    let orders = client.database(database).collection::<Document>("orders");
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut turn = 0;
        while !stop.load(SeqCst) {
            turn += 1;
            orders
                .insert_one(doc! { "_id": 1_000_000 + turn, "n": turn })
                .await
                .unwrap();
            let id = doc! { "_id": turn % 500 };
            orders
                .update_one(id, doc! { "$inc": { "n": 1 }, "$set": { "turn": turn } })
                .await
                .unwrap();
            orders.delete_one(doc! { "_id": 1_000_000 + turn - 10 }).await.unwrap();
            sleep(pause).await;
        }
        turn
    })
}

async fn migration(sets: &Sets, database: &str) -> MigrationBuilder {
    let (from, to) = sets.uris();
    let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
    Migration::builder(source, sink)
        .id(database)
        .include(&format!("{database}.*"))
}

async fn sink(sets: &Sets) -> MongoSink {
    MongoSink::connect(&sets.uris().1).await.unwrap()
}

fn assert_complete(summary: &Summary) {
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(summary.foreign_writes, [], "the others' writes are none of strangers");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_migrate_side_by_side_and_one_is_killed_and_goes_on() {
    let sets = Sets::start(2_000).await;
    for database in ["t1", "t2"] {
        load(&sets.source_client, database, 2_000).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers = ["t1", "t2"].map(|database| write(&sets.source_client, database, Duration::from_millis(10), &stop));
    let shop = Writer::start(&sets.source_client, 4).await.unwrap();
    let resources = Resources::new().memory_bytes(64 << 20);
    let starts = ["t1", "t2"].map(|database| {
        let (sets, resources) = (&sets, &resources);
        async move {
            let migration = migration(sets, database).await.resources(resources);
            migration.chunk_bytes(64 << 10).build().unwrap().start().await
        }
    });
    let arguments = [
        "--id",
        "shop",
        "--include",
        "shop.*",
        "--cutover",
        "manual",
        "--chunk-bytes",
        "65536",
    ];
    let mut process = sets.example(&arguments);
    let runs: Vec<MigrationHandle> = try_join_all(starts).await.unwrap();
    process.until("the start", |line| line["type"] == "started").await;
    process.signal("KILL").await;
    assert_eq!(process.end().await.exit, None, "it ended by itself");
    let mut process = sets.example(&arguments);
    process.phase("ready").await;
    for run in &runs {
        ready(run).await;
    }
    let known = migrations(&sink(&sets).await).await.unwrap();
    let owners: Vec<(&str, bool)> = known
        .iter()
        .map(|known| {
            let owner = known.owner.as_ref().unwrap();
            (known.id.as_str(), owner.process == std::process::id())
        })
        .collect();
    assert_eq!(owners, [("shop", false), ("t1", true), ("t2", true)]);
    stop.store(true, SeqCst);
    for writer in writers {
        assert!(writer.await.unwrap() > 10);
    }
    shop.stop().await;
    process.command("cutover").await;
    for summary in join_all(runs.iter().map(cut_over)).await {
        assert_complete(&summary);
    }
    let ended = process.end().await;
    assert_eq!(ended.summary("complete", 0)["foreign_writes"], serde_json::json!([]));
    sets.assert_identical().await;
    let known = migrations(&sink(&sets).await).await.unwrap();
    assert!(
        known.len() == 3 && known.iter().all(|known| known.complete && known.owner.is_none()),
        "{known:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other_and_the_records_go_with_the_last() {
    let sets = Sets::start(100).await;
    for database in ["t1", "t2"] {
        load(&sets.source_client, database, 100).await;
    }
    for database in ["t1", "shop"] {
        let run = migration(&sets, database).await.build().unwrap().start().await.unwrap();
        assert_complete(&cut_over(&run).await);
    }
    // A third one into the names of the first, which is complete.
    let third = migration(&sets, "t1")
        .await
        .id("again")
        .existing_data(ExistingData::Keep);
    let run = third.build().unwrap().start().await.unwrap();
    assert_complete(&cut_over(&run).await);
    let rehearsal = migration(&sets, "t2").await.build().unwrap().rehearse();
    let rehearsed = rehearsal.clear_target(false).run(async { 5 }).await.unwrap();
    assert_eq!(rehearsed.answer, 5);
    let target = &sets.target_client;
    let records = target.database(RECORDS).collection::<Document>("records");
    let has = async |id: &str| {
        let filter = doc! { "_id": { "$regex": format!("^{id}/") } };
        records.count_documents(filter).await.unwrap() > 0
    };
    assert!(has("t1").await && has("shop").await && has("again").await && !has("t2").await);
    sets.assert_identical().await;
    for (id, database) in [("t1", "t1"), ("shop", "shop"), ("again", "t1")] {
        assert!(
            target
                .list_database_names()
                .await
                .unwrap()
                .contains(&RECORDS.to_owned())
        );
        migration(&sets, database)
            .await
            .id(id)
            .build()
            .unwrap()
            .forget()
            .await
            .unwrap();
        assert!(!has(id).await);
    }
    assert!(
        !target
            .list_database_names()
            .await
            .unwrap()
            .contains(&RECORDS.to_owned())
    );
    assert_eq!(migrations(&sink(&sets).await).await.unwrap(), []);
}

/// A start waits for writes of its own predecessor, and neither waits for those of others nor ends them.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_no_writes_of_others() {
    let sets = Sets::start(100).await;
    load(&sets.target_client, "other", 1).await;
    let other = sets.target_client.database("other");
    let slow = tokio::spawn(async move {
        let wait = "function() { sleep(600000); return true; }";
        let update = doc! { "q": { "$where": wait }, "u": { "$set": { "slow": true } } };
        other
            .run_command(doc! { "update": "orders", "updates": [update] })
            .await
    });
    let admin = sets.target_client.database("admin");
    let running = async || {
        let command = doc! { "currentOp": 1, "$ownOps": true, "active": true, "op": "update", "ns": "other.orders" };
        let reply = admin.run_command(command).await.unwrap();
        reply
            .get_array("inprog")
            .unwrap()
            .iter()
            .find_map(|operation| operation.as_document()?.get("opid").cloned())
    };
    wait_until(DEADLINE, "the write to run", async || running().await.is_some())
        .await
        .unwrap();
    let run = migration(&sets, "shop").await.build().unwrap().start().await.unwrap();
    // A minute is the limit for writes that are waited for.
    tokio::time::timeout(Duration::from_secs(50), run.ready_to_cut_over())
        .await
        .expect("it does not wait for the other write")
        .unwrap();
    let operation = running().await.expect("the other write goes on");
    admin.run_command(doc! { "killOp": 1, "op": operation }).await.unwrap();
    assert!(slow.await.unwrap().is_err());
    assert_complete(&cut_over(&run).await);
}

/// The peak of this process's memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn two_hundred_migrate_side_by_side_within_one_budget() {
    let count: usize = std::env::var("MONGOFERRY_MIGRATIONS").map_or(200, |count| count.parse().unwrap());
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let client = async |set: &ReplicaSet| {
        let mut options = ClientOptions::parse(set.uri()).await.unwrap();
        options.max_pool_size = Some(1000);
        Client::with_options(options).unwrap()
    };
    let (ours, theirs) = (client(&source).await, client(&target).await);
    let databases: Vec<String> = (0..count).map(|number| format!("t{number}")).collect();
    for database in &databases {
        load(&ours, database, 1_000).await;
    }
    let before = peak();
    let resources = Resources::new().memory_bytes(256 << 20);
    let starts = databases.iter().map(|database| {
        let (ours, theirs, resources) = (ours.clone(), theirs.clone(), &resources);
        async move {
            let (source, sink) = futures::try_join!(MongoSource::connect(ours), MongoSink::connect(theirs))?;
            let migration = Migration::builder(source, sink)
                .id(database)
                .include(&format!("{database}.*"));
            migration
                .accept_unencrypted(true)
                .resources(resources)
                .build()?
                .start()
                .await
        }
    });
    let began = tokio::time::Instant::now();
    let runs = try_join_all(starts).await.unwrap();
    eprintln!("{count} started after {:?}", began.elapsed());
    let stop = Arc::new(AtomicBool::new(false));
    // Each migration reads the whole oplog, so every write is read two hundred times.
    let writers: Vec<_> = databases
        .iter()
        .step_by(10)
        .map(|database| write(&ours, database, Duration::from_secs(1), &stop))
        .collect();
    let phases = || {
        let mut phases = std::collections::BTreeMap::new();
        for run in &runs {
            *phases.entry(run.status().phase.as_str()).or_insert(0) += 1;
        }
        phases
    };
    while !runs.iter().all(|run| run.status().can_cut_over) {
        assert!(began.elapsed() < 6 * DEADLINE, "{:?}", phases());
        sleep(Duration::from_secs(10)).await;
        eprintln!("{:?}: {:?}, {} MB", began.elapsed(), phases(), peak() >> 20);
    }
    eprintln!("all are ready after {:?}", began.elapsed());
    stop.store(true, SeqCst);
    let written = AtomicU64::new(0);
    for writer in writers {
        written.fetch_add(writer.await.unwrap() as u64, SeqCst);
    }
    for summary in join_all(runs.iter().map(cut_over)).await {
        assert_complete(&summary);
    }
    let (took, grown) = (began.elapsed(), peak() - before);
    eprintln!(
        "all are complete after {took:?}, {} turns written, a peak of {} MB above {} MB",
        written.load(SeqCst),
        grown >> 20,
        before >> 20
    );
    assert!(grown < 700 << 20, "{} MB", grown >> 20);
    let known = migrations(&MongoSink::connect(theirs).await.unwrap()).await.unwrap();
    assert!(known.len() == count && known.iter().all(|known| known.complete));
}
