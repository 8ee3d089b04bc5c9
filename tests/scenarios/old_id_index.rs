//! Collections whose index on `_id` is of version 1, as those from before 3.4 are on servers of any version: it has no Decimal128.

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongoferry::{ExistingData, Migration, MongoSink, MongoSource, Outcome, Verification};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version};

use super::deadline::{cut_over, ready};

/// Makes the collection, with a number of each kind as every `_id`.
async fn make(client: &Client) {
    let shop = client.database("shop");
    let create = doc! { "create": "orders", "idIndex": { "v": 1, "key": { "_id": 1 }, "name": "_id_" } };
    shop.run_command(create).await.unwrap();
    let ids = (0..900_i32).map(|number| match number % 3 {
        0 => Bson::Int32(number),
        1 => Bson::Int64((1 << 53) + i64::from(number)),
        _ => Bson::Double(f64::from(number) / 7.0 - 50.1),
    });
    let documents = ids.map(|id| doc! { "_id": id, "text": "x".repeat(200) });
    shop.collection::<Document>("orders")
        .insert_many(documents)
        .await
        .unwrap();
}

/// Each side is read by ranges: the source for the copy, and both for the comparison.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_an_id_index_without_decimals_are_read() {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V4_2).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let (from, to) = (source.client().await.unwrap(), target.client().await.unwrap());
    make(&from).await;
    // What is on the target already is compared by ranges, too.
    make(&to).await;
    let orders = to.database("shop").collection::<Document>("orders");
    orders.delete_many(doc! { "_id": { "$lt": 0 } }).await.unwrap();
    let (reader, sink) =
        futures::try_join!(MongoSource::connect(source.uri()), MongoSink::connect(target.uri())).unwrap();
    let run = Migration::builder(reader, sink)
        .chunk_bytes(10 << 10)
        .existing_data(ExistingData::Keep)
        .verification(Verification::Continuous)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    ready(&run).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_identical(&from, &to, &CompareOptions::default()).await.unwrap();
}
