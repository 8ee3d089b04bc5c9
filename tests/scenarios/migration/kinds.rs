//! Collections and transactions of special kinds.

use mongoferry::Verification;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_capped_collection_keeps_its_insertion_order() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    let database = source.database("shop");
    database
        .create_collection("audit")
        .capped(true)
        .size(1 << 20)
        .await
        .unwrap();
    database
        .collection::<Document>("audit")
        .create_index(mongodb::IndexModel::builder().keys(doc! { "who": 1 }).build())
        .await
        .unwrap();
    // Writers at the same time: the server itself then stores documents in another order than its oplog has them in.
    let write = |name: &'static str, writer: i32| {
        let collection = database.collection(name);
        async move {
            for number in 0..400 {
                let document = doc! { "_id": format!("{writer}-{number}"), "who": writer, "text": "x".repeat(60) };
                collection.insert_one(document).await.unwrap();
            }
        }
    };
    write("audit", 99).await;
    let run = pair
        .migration()
        .await
        .verification(Verification::Continuous)
        .cross_check_bytes(0)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    wait_until(DEADLINE, "the copy", async || run.status().copy_complete)
        .await
        .unwrap();
    // When it is copied again it is made anew, with what this leaves.
    let modify = doc! { "collMod": "audit", "validator": { "who": { "$type": "number" } } };
    database.run_command(modify).await.unwrap();
    // Nothing has to be copied of this one, so that all of it is known to be the same, but for its order.
    database
        .create_collection("made_later")
        .capped(true)
        .size(1 << 20)
        .await
        .unwrap();
    for name in ["audit", "made_later"] {
        let writers: Vec<_> = (0..8).map(|writer| tokio::spawn(write(name, writer))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_of_every_kind_arrive_as_they_are() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    let shop = source.database("shop");
    let clustered = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
    for command in [
        doc! { "create": "clustered", "clusteredIndex": clustered },
        doc! { "create": "collated", "collation": { "locale": "de", "strength": 2 } },
        doc! { "create": "checked", "validator": { "v": { "$type": "int" } }, "validationAction": "warn" },
        doc! { "create": "readings", "timeseries": { "timeField": "at", "metaField": "sensor" } },
        doc! { "create": "seen", "viewOn": "checked", "pipeline": [{ "$match": { "v": 1 } }] },
        doc! { "createIndexes": "checked", "indexes": [
            { "key": { "v": 1 }, "name": "hidden", "hidden": true },
            { "key": { "t": 1 }, "name": "expires", "expireAfterSeconds": 3_000_000 },
            { "key": { "$**": 1 }, "name": "all" },
        ] },
    ] {
        shop.run_command(command).await.unwrap();
    }
    let fill = async |from: i32| {
        for name in ["clustered", "checked"] {
            insert(
                &source,
                &format!("shop.{name}"),
                (from..from + 50).map(|id| doc! { "_id": id, "v": id }),
            )
            .await;
        }
        let letters = (from..from + 50).map(|id| doc! { "_id": format!("Ä{id}"), "v": id });
        insert(&source, "shop.collated", letters).await;
        let at = |id: i32| bson::DateTime::from_millis(1_700_000_000_000 + i64::from(id) * 1000);
        let readings = (from..from + 50).map(|id| doc! { "at": at(id), "sensor": id % 3, "value": f64::from(id) });
        insert(&source, "shop.readings", readings).await;
    };
    fill(0).await;
    let run = pair
        .migration()
        .await
        .chunk_bytes(1 << 10)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    fill(1000).await;
    for name in ["clustered", "checked", "collated"] {
        let collection = shop.collection::<Document>(name);
        collection
            .update_many(doc! { "v": { "$lt": 20 } }, doc! { "$set": { "w.x": 1 } })
            .await
            .unwrap();
        collection
            .delete_many(doc! { "v": { "$gt": 40, "$lt": 1010 } })
            .await
            .unwrap();
    }
    shop.run_command(doc! { "collMod": "checked", "index": { "name": "hidden", "hidden": false } })
        .await
        .unwrap();
    shop.run_command(doc! { "collMod": "seen", "viewOn": "checked", "pipeline": [] })
        .await
        .unwrap();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
}

/// Its parts wait in a temporary file, and what is written after it comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_arrives_whole() {
    let (source, target) = futures::try_join!(
        // What a transaction has written cannot leave the cache before it commits.
        ReplicaSet::builder(Version::V6_0).cache_gb(1.0).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let pair = Pair { source, target };
    let client = pair.source.client().await.unwrap();
    let document = |id: i32, n: i32| doc! { "_id": id, "n": n, "large": "x".repeat(4 << 20) };
    insert(&client, "shop.items", [document(0, 0)]).await;
    let migration = pair.migration().await.memory_bytes(16 << 20);
    let run = migration.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let items = client.database("shop").collection::<Document>("items");
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 1..=12 {
        items.insert_one(document(id, 0)).session(&mut session).await.unwrap();
    }
    let set = doc! { "$set": { "n": 1 } };
    items
        .update_one(doc! { "_id": 0 }, set)
        .session(&mut session)
        .await
        .unwrap();
    items.delete_one(doc! { "_id": 5 }).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    items.update_many(doc! {}, doc! { "$inc": { "n": 10 } }).await.unwrap();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
    let arrived = pair.target.client().await.unwrap().database("shop");
    let arrived = arrived.collection::<Document>("items");
    assert_eq!(
        arrived
            .count_documents(doc! { "n": { "$in": [10, 11] } })
            .await
            .unwrap(),
        12
    );
}
