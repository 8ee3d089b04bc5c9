//! Both sides are compared on real servers while applications write, by the commands of the example.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use mongodb::Client;
use mongoferry::checkpoint::SinkStore;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Certificate, Checkpoint, CheckpointStore, Event, Migration, MigrationHandle, Outcome, Source};
use mongoferry_testbed::workload::Writer;
use mongoferry_testbed::{Version, wait_until};
use serde_json::Value;

use super::deadline::{DEADLINE, cut_over, event};
use super::example::Sets;

/// Of what is compared nobody writes to these.
const TAMPERED: [i32; 4] = [17, 404, 1203, 1999];

async fn what_is_tampered_with_is_found(version: Version) {
    let sets = Sets::start_on(version, version, 2_000).await;
    let ours = sets.source_client.database("shop").collection::<Document>("parts");
    let documents = (0..2_000).map(|id| doc! { "_id": id, "a": 1, "b": { "c": [1, 2, 3] }, "pad": "p".repeat(300) });
    ours.insert_many(documents).await.unwrap();
    let writer = Writer::start(&sets.source_client, 5).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("certificate.bson");
    let mut run = sets.example(&[
        "--certificate",
        kept.to_str().unwrap(),
        "--cutover",
        "manual",
        "--verify",
        "continuous",
        "--chunk-bytes",
        "100000",
    ]);
    run.phase("ready").await;
    tamper(&sets.target_client).await;
    let writing = async {
        for n in 0.. {
            let id = (n * 7) % 2_000;
            if !TAMPERED.contains(&id) {
                ours.update_one(doc! { "_id": id }, doc! { "$set": { "n": n } })
                    .await
                    .unwrap();
            }
        }
    };
    let comparing = async {
        run.command("verify").await;
        let report = run.until("the report", |line| line["type"] == "verify_report").await;
        let differences = differences_of(&report);
        let expected = [
            ("17", "missing", vec![]),
            ("404", "different", vec!["b.c.1"]),
            ("1203", "different", vec!["(order)"]),
            ("1999", "different", vec!["a", "only"]),
            ("5000", "extra", vec![]),
        ];
        assert_eq!(report["difference_count"], expected.len(), "{report:#}");
        for (id, kind, paths) in expected {
            assert_eq!(differences[id], (kind.to_owned(), paths), "{report:#}");
        }
        run.command("repair").await;
        run.until("the repair", |line| {
            line["type"] == "command" && line["command"] == "repair"
        })
        .await;
        run.command("verify").await;
        let report = run.until("the report", |line| line["type"] == "verify_report").await;
        // The capped one is left to the cutover.
        assert_eq!(
            (&report["difference_count"], &report["identical"]),
            (&0.into(), &false.into()),
            "{report:#}"
        );
    };
    tokio::select! {
        () = comparing => {}
        () = writing => unreachable!("it goes on for ever"),
    }
    let stats = writer.stop().await;
    assert_eq!(stats.errors, 0, "{stats:?}");
    run.command("cutover").await;
    run.end().await.summary("complete", 0);
    sets.assert_identical().await;
    let kept = RawDocumentBuf::from_bytes(std::fs::read(kept).unwrap()).unwrap();
    let certificate = Certificate::decode(&kept).unwrap();
    assert!(
        certificate.collections.iter().all(|collection| collection.compared),
        "{certificate:#?}"
    );
}

/// Changes documents of the target behind the migration's back.
async fn tamper(target: &Client) {
    let theirs = target.database("shop").collection::<Document>("parts");
    let [missing, different, reordered, with_another] = TAMPERED;
    theirs.delete_one(doc! { "_id": missing }).await.unwrap();
    theirs
        .update_one(doc! { "_id": different }, doc! { "$set": { "b.c.1": 9 } })
        .await
        .unwrap();
    let pad = "p".repeat(300);
    for (id, document) in [
        (
            reordered,
            doc! { "_id": reordered, "b": { "c": [1, 2, 3] }, "a": 1, "pad": &pad },
        ),
        (
            with_another,
            doc! { "_id": with_another, "a": 1_i64, "b": { "c": [1, 2, 3] }, "pad": &pad, "only": true },
        ),
    ] {
        theirs.replace_one(doc! { "_id": id }, document).await.unwrap();
    }
    theirs.insert_one(doc! { "_id": 5000 }).await.unwrap();
}

/// What differs in `shop.parts` and in nothing else, by `_id`.
fn differences_of(report: &Value) -> BTreeMap<String, (String, Vec<&str>)> {
    let mut all = BTreeMap::new();
    for collection in report["collections"].as_array().unwrap() {
        let differences = collection["differences"].as_array().unwrap();
        assert!(
            differences.is_empty() || collection["namespace"] == "shop.parts",
            "{collection:#}"
        );
        for difference in differences {
            let id: Value = serde_json::from_str(difference["id"].as_str().unwrap()).unwrap();
            let paths = difference["paths"].as_array().unwrap();
            all.insert(
                id["$numberInt"].as_str().unwrap().to_owned(),
                (
                    difference["kind"].as_str().unwrap().to_owned(),
                    paths.iter().map(|path| path.as_str().unwrap()).collect(),
                ),
            );
        }
    }
    all
}

/// A process that goes on reads no more than what has changed; and what another program wrote while none was at work is found.
async fn what_was_compared_outlives_the_process(version: Version) {
    let sets = Sets::start_on(version, version, 2_000).await;
    let run = begin(&sets).await;
    let orders = sets.source_client.database("shop").collection::<Document>("orders");
    let count = orders.count_documents(doc! {}).await.unwrap();
    assert!(run.status().compared.documents > count && count > 100);
    run.abandon().await;
    let change = doc! { "$set": { "changed": true } };
    let id = orders
        .find_one(doc! {})
        .await
        .unwrap()
        .unwrap()
        .get("_id")
        .unwrap()
        .clone();
    orders.update_one(doc! { "_id": &id }, change.clone()).await.unwrap();
    let run = begin(&sets).await;
    assert_eq!(run.status().compared.documents, 0);
    run.abandon().await;
    // Of the same size as before, so that nobody could tell by it.
    let theirs = sets.target_client.database("shop").collection::<Document>("orders");
    theirs
        .update_one(doc! { "_id": &id }, doc! { "$set": { "changed": false } })
        .await
        .unwrap();
    let run = begin(&sets).await;
    assert_eq!(run.status().compared.documents, 0);
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Differences, "{summary:#?}");
    let differing: Vec<_> = summary
        .collections
        .iter()
        .filter(|collection| !collection.differences.is_empty())
        .collect();
    assert_eq!((differing.len(), differing[0].namespace.as_str()), (1, "shop.orders"));
    assert_eq!(differing[0].differences.len(), 1, "{summary:#?}");
    // The next process knows that it cannot rely on what was compared of that collection.
    orders.update_one(doc! { "_id": &id }, change).await.unwrap();
    saved(&sets, &run).await;
    run.abandon().await;
    let run = begin(&sets).await;
    let compared = run.status().compared.documents;
    assert_eq!((compared, run.status().differences), (count, 1));
    run.abandon().await;
    // As if the target had been restored from a backup.
    let sink = MongoSink::connect(sets.target_client.clone()).await.unwrap();
    let store = SinkStore::new(Arc::new(sink));
    let mut checkpoint = Checkpoint::decode(&store.load().await.unwrap().unwrap()).unwrap();
    checkpoint.durable.as_mut().unwrap().increment += 1_000_000;
    store.save(&checkpoint.encode().unwrap()).await.unwrap();
    let run = begin(&sets).await;
    assert!(run.status().compared.documents > count);
}

/// Starts the migration and waits until everything is compared, and the checkpoint says so.
async fn begin(sets: &Sets) -> MigrationHandle {
    let source = MongoSource::connect(sets.source_client.clone()).await.unwrap();
    let sink = MongoSink::connect(sets.target_client.clone()).await.unwrap();
    let migration = Migration::builder(source, sink).cross_check_bytes(0).build().unwrap();
    let run = migration.start().await.unwrap();
    wait_until(DEADLINE, "everything to be compared", async || {
        run.status().all_compared
    })
    .await
    .unwrap();
    saved(sets, &run).await;
    run
}

/// Waits until the checkpoint says what is so now.
async fn saved(sets: &Sets, run: &MigrationHandle) {
    let mut events = run.events();
    let other = sets.source_client.database("other").collection::<Document>("other");
    other.insert_one(doc! {}).await.unwrap();
    let source = MongoSource::connect(sets.source_client.clone()).await.unwrap();
    let now = source.sentinel().await.unwrap();
    let is_saved = |event| match event {
        Event::CheckpointSaved { watermark } => (watermark >= now).then_some(()),
        _ => None,
    };
    event(&mut events, is_saved).await;
}

/// Side by side, since both wait most of the time.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_compared_outlives_the_process_on_4_2_and_6_0() {
    tokio::join!(
        what_was_compared_outlives_the_process(Version::V4_2),
        what_was_compared_outlives_the_process(Version::V6_0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tampered_with_is_found_on_4_2() {
    what_is_tampered_with_is_found(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tampered_with_is_found_on_6_0() {
    what_is_tampered_with_is_found(Version::V6_0).await;
}
