//! Transactions that clients have open, beside those that the source reads in.

use std::time::{Duration, Instant};

use bson::doc;
use futures::StreamExt;
use mongoferry::source::ReadMode;
use mongoferry::{Namespace, Source};
use mongoferry_testbed::{Version, wait_until};

use super::{Bed, DATABASE, PATIENCE};

async fn open_transactions_are_those_of_clients(version: Version) {
    let bed = Bed::start(version).await;
    bed.insert("read", (0..1_000).map(|id| doc! { "_id": id })).await;
    bed.insert("written", [doc! { "_id": 0 }]).await;
    let mut batches = bed
        .source
        .read(bed.request("read", ReadMode::Snapshot).await)
        .await
        .unwrap();
    batches.next().await.unwrap().unwrap();
    assert_eq!(bed.source.open_transactions().await.unwrap(), []);

    let mut session = bed.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let begun = Instant::now();
    let written = bed.client.database(DATABASE).collection("written");
    written
        .insert_one(doc! { "_id": 1 })
        .session(&mut session)
        .await
        .unwrap();
    let open = bed.source.open_transactions().await.unwrap();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open[0].namespaces, [Namespace::new(DATABASE, "written")]);
    assert!(open[0].client.starts_with("127.0.0.1:"), "{open:?}");
    assert!(
        open[0].open > Duration::ZERO && open[0].open <= begun.elapsed(),
        "{open:?}"
    );
    session.abort_transaction().await.unwrap();
    wait_until(PATIENCE, "the transaction to end", async || {
        bed.source.open_transactions().await.unwrap().is_empty()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn open_transactions_are_those_of_clients_4_2() {
    open_transactions_are_those_of_clients(Version::V4_2).await;
}

#[tokio::test]
async fn open_transactions_are_those_of_clients_4_4() {
    open_transactions_are_those_of_clients(Version::V4_4).await;
}

#[tokio::test]
async fn open_transactions_are_those_of_clients_5_0() {
    open_transactions_are_those_of_clients(Version::V5_0).await;
}

#[tokio::test]
async fn open_transactions_are_those_of_clients_6_0() {
    open_transactions_are_those_of_clients(Version::V6_0).await;
}
