//! A shop that is written to, on every pair of versions, with its certificate.

use mongoferry::{Certificate, Verification};

use super::*;

/// The certificate is what both sides are, as long as nobody writes to them; then it says what has changed.
async fn the_certificate_holds(pair: &Pair, summary: &Summary) {
    let certificate = summary.certificate.as_ref().unwrap();
    let read = Certificate::decode(&certificate.encode().unwrap()).unwrap();
    assert_eq!(&read, certificate);
    assert_eq!(read.encode().unwrap(), certificate.encode().unwrap());
    let text = serde_json::to_value(certificate).unwrap();
    assert_eq!(
        text["collections"].as_array().unwrap().len(),
        certificate.collections.len()
    );
    let (ours, theirs) = (pair.source.uri(), pair.target.uri());
    let (source, sink) = futures::try_join!(MongoSource::connect(&ours), MongoSink::connect(&theirs)).unwrap();
    let check = async || certificate.check(&source, &sink).await.unwrap();
    assert_eq!(check().await, [] as [String; 0]);
    assert!(
        certificate
            .collections
            .iter()
            .any(|collection| collection.digest.is_some())
    );
    let target = pair.target.client().await.unwrap().database("shop");
    let orders = target.collection::<Document>("orders");
    let before = orders.find_one(doc! {}).await.unwrap().unwrap();
    let filter = doc! { "_id": before.get("_id").unwrap().clone() };
    orders
        .update_one(filter.clone(), doc! { "$set": { "certified": false } })
        .await
        .unwrap();
    let changed = check().await;
    for expected in [
        "`shop.orders` on the target: it has",
        "the documents of `shop.orders` differ on both sides",
    ] {
        assert!(changed.iter().any(|line| line.contains(expected)), "{changed:#?}");
    }
    orders.replace_one(filter, before).await.unwrap();
    assert_eq!(check().await, [] as [String; 0]);
}

async fn migrate_shop(from: Version, to: Version) {
    let pair = Pair::start(from, to).await;
    let source = pair.source.client().await.unwrap();
    workload::load(&source, 10_000, 7).await.unwrap();
    let writer = Writer::start(&source, 8).await.unwrap();
    // Chunks this small make many of them, so that the writer meets ranges in every state.
    let run = pair
        .migration()
        .await
        .chunk_bytes(128 << 10)
        // So that the certificate has them.
        .verification(Verification::Digest)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    let summary = stop_and_cut_over(&run, writer).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
    the_certificate_holds(&pair, &summary).await;
    if from != to {
        // The way back would be a downgrade.
        let (old, new) = (pair.source.uri(), pair.target.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&new), MongoSink::connect(&old)).unwrap();
        let back = summary.reverse(source, sink).unwrap().build().unwrap();
        let error = back.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.message().contains("which is older than the source's"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_moves_from_4_2_to_4_2() {
    migrate_shop(Version::V4_2, Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_moves_from_4_4_to_4_4() {
    migrate_shop(Version::V4_4, Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_moves_from_5_0_to_5_0() {
    migrate_shop(Version::V5_0, Version::V5_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_moves_from_4_2_to_6_0() {
    migrate_shop(Version::V4_2, Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_moves_from_5_0_to_6_0() {
    migrate_shop(Version::V5_0, Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_moves_from_6_0_to_6_0() {
    migrate_shop(Version::V6_0, Version::V6_0).await;
}
