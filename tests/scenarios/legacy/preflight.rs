//! What preflight finds out about old sources.

use std::collections::BTreeSet;

use bson::{Document, doc};
use mongoferry::{Migration, MongoSink, MongoSource, Severity};
use mongoferry_testbed::{Period, PeriodServer, ReplicaSet, Version};

use super::old_source::{compatible_with_4_0, old_options};

/// A 4.2 at feature compatibility version 4.0 leaves long keys out of indexes, as its predecessors do.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_the_index_on_id_lacks_are_found() {
    let set = compatible_with_4_0(1).await;
    let target = ReplicaSet::builder(Version::V6_0).name("rs1").start().await.unwrap();
    let client = set.client().await.unwrap();
    let lenient = doc! { "setParameter": 1, "failIndexKeyTooLong": false };
    client.database("admin").run_command(lenient).await.unwrap();
    let shop = client.database("shop");
    for (collection, long) in [("orders", 2), ("carts", 0), ("log", 1)] {
        if collection == "log" {
            shop.create_collection(collection)
                .capped(true)
                .size(1 << 16)
                .await
                .unwrap();
        }
        let short = (0..50).map(|id| doc! { "_id": id });
        let long = (0..long).map(|id| doc! { "_id": format!("{}{id}", "x".repeat(1_100)) });
        let documents: Vec<Document> = short.chain(long).collect();
        shop.collection(collection).insert_many(documents).await.unwrap();
    }
    let emulated = PeriodServer::start(&set, Period::V2_6).await.unwrap();
    let sources = [(set.uri(), Some(7)), (set.uri(), Some(3)), (emulated.uri(), None)];
    for (uri, wire_version) in sources {
        let source = MongoSource::connect(old_options(&uri, wire_version)).await.unwrap();
        let sink = MongoSink::connect(target.uri()).await.unwrap();
        let plan = Migration::builder(source, sink)
            .build()
            .unwrap()
            .preflight()
            .await
            .unwrap();
        let found = plan
            .findings
            .iter()
            .find(|finding| finding.code == "unindexed_documents");
        let finding = found.unwrap_or_else(|| panic!("{wire_version:?}: {:#?}", plan.findings));
        assert_eq!(finding.severity, Severity::Blocker);
        let affected: BTreeSet<&str> = finding.affected.iter().map(String::as_str).collect();
        assert_eq!(affected, BTreeSet::from(["shop.log", "shop.orders"]), "{finding:#?}");
    }
}
