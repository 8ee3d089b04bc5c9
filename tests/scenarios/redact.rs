//! The example `redact`: no value of a masked field arrives, whatever is written to it.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};
use mongoferry_testbed::compare::differences;
use mongoferry_testbed::workload::load_readings;
use mongoferry_testbed::{ReplicaSet, Version};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio::time::timeout;

use super::example::piped;

/// How long the example may take; far more than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A word in every value that is masked, and in no other.
const SECRET: &str = "confidential";

const FIELDS: [&str; 4] = ["email", "address", "marks", "late"];

fn customer(number: i32) -> Document {
    doc! {
        "_id": number,
        "email": format!("{SECRET}-{number}@customers.example"),
        "name": "a name",
        "address": { "street": SECRET, "places": [{ "city": SECRET }, { "city": "x" }] },
        "marks": [SECRET, "b"],
        "address2": { "email": "not at the top" },
        "points": 0,
    }
}

/// Every kind of change to masked fields, and of others in between.
fn updates(round: i32) -> Vec<Document> {
    let value = format!("{SECRET}-{round}");
    vec![
        doc! { "$set": { "address": { "street": &value, "places": [{ "city": &value }, { "city": "x" }] }, "marks": ["b"] } },
        doc! { "$set": { "email": format!("{value}@again.example"), "points": round } },
        doc! { "$set": { "address.street": &value } },
        doc! { "$set": { "address.places.0.city": &value, "address.places.1.zip": round, "points": round } },
        doc! { "$unset": { "address.street": "" } },
        doc! { "$push": { "marks": &value } },
        doc! { "$set": { "address2.email": round } },
        doc! { "$set": { "late.deep.er": &value, "late.second": &value, "after": round } },
        doc! { "$unset": { "late": "", "after": "" } },
        doc! { "$unset": { "email": "", "marks": "" } },
        doc! { "$set": { "marks.0": &value, "marks.1": round } },
        doc! { "$set": { "email": { "is": &value } } },
        doc! { "$rename": { "address": "late" } },
        doc! { "$set": { "address": [&value], "new": round } },
        doc! { "$unset": { "late": "", "new": "" }, "$inc": { "points": 1 } },
        doc! { "$set": { "email": Bson::Null } },
    ]
}

/// Writes until it is told to stop. Returns how many updates it has made.
async fn write(customers: Collection<Document>, stop: watch::Receiver<bool>) -> usize {
    let mut made = 0;
    for round in 0.. {
        let id = doc! { "_id": round % 200 };
        // Each document ends with another kind of change.
        let updates = updates(round);
        let count = 1 + round as usize % updates.len();
        for update in updates.into_iter().take(count) {
            let updated = customers.update_one(id.clone(), update).await.unwrap();
            made += updated.modified_count as usize;
        }
        let added = 10_000 + round;
        customers.insert_one(customer(added)).await.unwrap();
        customers
            .replace_one(
                doc! { "_id": added },
                doc! { "points": 1, "email": format!("{SECRET}-{added}") },
            )
            .await
            .unwrap();
        customers.delete_one(doc! { "_id": added - 5 }).await.unwrap();
        if *stop.borrow() {
            break;
        }
    }
    made
}

async fn masked_values_never_arrive(version: Version) {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(version).start(),
        ReplicaSet::builder(version).name("rs1").start()
    )
    .unwrap();
    let (on_source, on_target) = (source.client().await.unwrap(), target.client().await.unwrap());
    let customers = |client: &Client| client.database("shop").collection::<Document>("customers");
    let email = doc! { "createIndexes": "customers", "indexes": [{ "key": { "email": 1 }, "name": "email", "unique": true,
    "partialFilterExpression": { "email": { "$type": "string" } } }] };
    on_source.database("shop").run_command(email).await.unwrap();
    customers(&on_source)
        .insert_many((0..3000).map(customer))
        .await
        .unwrap();
    let (stop, stopped) = watch::channel(false);
    let writer = tokio::spawn(write(customers(&on_source), stopped));

    let uris = [source.uri(), target.uri()];
    let mut example = piped("redact").args(uris).args(FIELDS).spawn().unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
    let ready = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    if ready.is_none() {
        let mut errors = String::new();
        example
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut errors)
            .await
            .unwrap();
        panic!("it failed: {errors}");
    }
    stop.send_replace(true);
    let made = writer.await.unwrap();
    assert!(made > 100, "{made} updates");
    example.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    let output = timeout(PATIENCE, example.wait_with_output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    // The expected documents, made without the example's code but for the form of a mask.
    let (source, target) = (all(&customers(&on_source)).await, all(&customers(&on_target)).await);
    assert_eq!(source.len(), target.len());
    for (mut document, arrived) in source.into_iter().zip(target) {
        for field in FIELDS {
            if let Some(value) = document.get_mut(field) {
                let mask = arrived.get_str(field).unwrap();
                assert!(mask.starts_with(field) && mask.len() == field.len() + 17, "{mask}");
                *value = mask.into();
            }
        }
        assert_eq!(document, arrived);
        // The order of fields is not part of that.
        assert!(document.keys().eq(arrived.keys()), "{document} {arrived}");
        assert!(!arrived.to_string().contains(SECRET), "{arrived}");
    }
    let different = differences(&on_source, &on_target, &Default::default()).await.unwrap();
    assert!(!different.is_empty(), "nothing is masked");
}

/// Every document, by `_id`.
async fn all(customers: &Collection<Document>) -> Vec<Document> {
    let found = customers.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_masked_in_nested_diffs_never_arrive() {
    masked_values_never_arrive(Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_masked_in_dotted_paths_never_arrive() {
    masked_values_never_arrive(Version::V4_4).await;
}

/// Runs the example with a time-series collection on the source: from the beginning, or from the moment when the run is ready. Returns what
/// it wrote to standard error.
async fn with_readings(from_the_beginning: bool) -> String {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let (on_source, on_target) = (source.client().await.unwrap(), target.client().await.unwrap());
    let customers = on_source.database("shop").collection::<Document>("customers");
    customers.insert_one(customer(1)).await.unwrap();
    if from_the_beginning {
        load_readings(&on_source, 10, 1).await.unwrap();
    }
    let arguments = [&source.uri(), &target.uri(), "room"];
    let mut example = piped("redact").args(arguments).spawn().unwrap();
    if !from_the_beginning {
        let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
        timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        load_readings(&on_source, 10, 1).await.unwrap();
        example.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    }
    let output = timeout(PATIENCE, example.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let buckets = on_target
        .database("shop")
        .collection::<Document>("system.buckets.readings");
    assert_eq!(buckets.count_documents(doc! {}).await.unwrap(), 0);
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn time_series_are_refused_rather_than_copied_unmasked() {
    for from_the_beginning in [true, false] {
        let errors = with_readings(from_the_beginning).await;
        assert!(errors.contains("a time-series collection cannot be masked"), "{errors}");
    }
}
