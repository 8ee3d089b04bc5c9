//! What the host chooses: a part of the data, and what happens to the data on the target.

use mongoferry::ExistingData;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_selected_moves_and_under_its_new_name() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    let target = pair.target.client().await.unwrap();
    for (name, count) in [("orders", 3), ("tmp_a", 2), ("other", 1)] {
        let documents = (0..count).map(|id| doc! { "_id": id });
        insert(&source, &format!("shop.{name}"), documents).await;
    }
    let migration = || async {
        pair.migration()
            .await
            .include("shop.*")
            .exclude("shop.tmp_*")
            .rename("shop.orders", "store.bought")
    };
    let run = migration().await.build().unwrap().start().await.unwrap();
    insert(&source, "shop.tmp_b", [doc! { "_id": 1 }]).await;
    insert(&source, "shop.orders", [doc! { "_id": 9 }]).await;
    // Into the selection, and out of it.
    for (from, to) in [("shop.tmp_a", "shop.kept"), ("shop.other", "shop.tmp_other")] {
        source
            .database("admin")
            .run_command(doc! { "renameCollection": from, "to": to })
            .await
            .unwrap();
    }
    ready(&run).await;
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let count = async |database: &str, name: &str| {
        target
            .database(database)
            .collection::<Document>(name)
            .count_documents(doc! {})
            .await
            .unwrap()
    };
    assert_eq!((count("store", "bought").await, count("shop", "kept").await), (4, 2));
    assert_eq!(
        (
            count("shop", "tmp_b").await,
            count("shop", "other").await,
            count("shop", "orders").await
        ),
        (0, 0, 0)
    );
    let other = pair.migration().await.build().unwrap().start().await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::CheckpointMismatch, "another selection");
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_data_is_refused_cleared_or_made_equal() {
    for choice in [ExistingData::Refuse, ExistingData::Clear, ExistingData::Keep] {
        let pair = Pair::start(Version::V6_0, Version::V6_0).await;
        let (source, target) = (pair.source.client().await.unwrap(), pair.target.client().await.unwrap());
        let documents = |value: i32, ids: std::ops::Range<i32>| ids.map(move |id| doc! { "_id": id, "v": value });
        insert(&source, "shop.orders", documents(1, 0..100)).await;
        insert(&target, "shop.orders", documents(1, 0..40)).await;
        insert(&target, "shop.orders", documents(2, 40..50)).await;
        insert(&target, "shop.orders", documents(2, 90..120)).await;
        insert(&target, "shop.mine", documents(3, 0..3)).await;
        let indexes = async |client: &Client, indexes: Vec<Document>| {
            let command = doc! { "createIndexes": "orders", "indexes": indexes };
            client.database("shop").run_command(command).await.unwrap();
        };
        let expiry = doc! { "key": { "until": 1 }, "name": "until", "expireAfterSeconds": 60 };
        indexes(
            &source,
            vec![expiry.clone(), doc! { "key": { "v": 1 }, "name": "mine" }],
        )
        .await;
        // One that the source does not have, one that it has another one of, and one that would let documents expire too early.
        let unknown = doc! { "key": { "w": 1 }, "name": "unknown" };
        indexes(
            &target,
            vec![unknown, doc! { "key": { "v": -1 }, "name": "mine" }, expiry],
        )
        .await;
        let migration = pair.migration().await.existing_data(choice).build().unwrap();
        if choice == ExistingData::Refuse {
            let plan = migration.preflight().await.unwrap();
            assert_eq!(
                plan.blockers().map(|finding| finding.code).collect::<Vec<_>>(),
                ["existing_data"]
            );
            assert_eq!(migration.start().await.unwrap_err().kind(), ErrorKind::Refused);
            continue;
        }
        let run = migration.start().await.unwrap();
        let summary = run.cutover(async {}).await.unwrap();
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        let options = CompareOptions {
            namespaces: Some(vec!["shop.orders".to_owned()]),
            ..CompareOptions::default()
        };
        pair.assert_identical(&options).await;
        let mine = target
            .database("shop")
            .collection::<Document>("mine")
            .count_documents(doc! {})
            .await
            .unwrap();
        assert_eq!(mine, 3, "what is not migrated is left alone");
    }
}
