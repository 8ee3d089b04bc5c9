//! Whole migrations between real servers: every version pair, resumed, renamed, refused.

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{
    Certificate, ErrorKind, Event, ExistingData, Migration, MigrationBuilder, MigrationHandle, Outcome, Summary,
    Verification,
};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::deadline::{DEADLINE, cut_over, ready};

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
}

impl Pair {
    async fn start(from: Version, to: Version) -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(from).start(),
            ReplicaSet::builder(to).name("rs1").start()
        )
        .unwrap();
        Self { source, target }
    }

    async fn migration(&self) -> MigrationBuilder {
        let (from, to) = (self.source.uri(), self.target.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        Migration::builder(source, sink)
    }

    async fn assert_identical(&self, options: &CompareOptions) {
        let (source, target) = (self.source.client().await.unwrap(), self.target.client().await.unwrap());
        assert_identical(&source, &target, options).await.unwrap();
    }
}

async fn insert(client: &Client, namespace: &str, documents: impl IntoIterator<Item = Document>) {
    let (database, name) = namespace.split_once('.').unwrap();
    client
        .database(database)
        .collection(name)
        .insert_many(documents)
        .await
        .unwrap();
}

/// Waits until the run is ready, stops the writer, and hands over.
async fn stop_and_cut_over(run: &MigrationHandle, writer: Writer) -> Summary {
    ready(run).await;
    let stop = async {
        let stats = writer.stop().await;
        assert_eq!(stats.errors, 0, "{stats:?}");
    };
    tokio::time::timeout(DEADLINE, run.cutover(stop))
        .await
        .unwrap()
        .unwrap()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_from_its_checkpoint() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    workload::load(&source, 20_000, 7).await.unwrap();
    let writer = Writer::start(&source, 8).await.unwrap();
    // Dropping the handle is what a crash of the host does, except for the lease.
    for round in 0..4 {
        let run = pair
            .migration()
            .await
            .chunk_bytes(64 << 10)
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        let mut events = run.events();
        let mut saved = 0;
        while saved <= round {
            match tokio::time::timeout(DEADLINE, events.next()).await.unwrap() {
                Some(Event::CheckpointSaved { .. }) => saved += 1,
                Some(Event::Started { resumed, .. }) => assert_eq!(resumed, round > 0),
                Some(_) => {}
                None => panic!("the run ended"),
            }
        }
        drop(run);
    }
    let run = pair.migration().await.build().unwrap().start().await.unwrap();
    run.pause().await.unwrap();
    run.resume().unwrap();
    let summary = stop_and_cut_over(&run, writer).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
    drop(run);
    let again = pair.migration().await.build().unwrap().start().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyComplete);
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_refused() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = pair.source.client().await.unwrap();
    insert(&source, "shop.orders", [doc! { "_id": 1 }]).await;
    let first = pair.migration().await.build().unwrap().start().await.unwrap();
    wait_until(DEADLINE, "the first is ready", async || first.status().can_cut_over)
        .await
        .unwrap();
    let second = pair.migration().await.build().unwrap().start();
    let error = tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseHeld, "{error}");
    assert!(first.status().can_cut_over);
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_may_be_killed_and_replaced() {
    let pair = Pair {
        source: ReplicaSet::builder(Version::V6_0).members(3).start().await.unwrap(),
        target: ReplicaSet::builder(Version::V6_0)
            .name("rs1")
            .members(3)
            .start()
            .await
            .unwrap(),
    };
    let source = pair.source.client().await.unwrap();
    workload::load(&source, 10_000, 7).await.unwrap();
    let writer = Writer::start(&source, 8).await.unwrap();
    let run = pair
        .migration()
        .await
        .chunk_bytes(64 << 10)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    wait_until(DEADLINE, "the copy has begun", async || {
        run.status().copied.documents > 0
    })
    .await
    .unwrap();
    let primary = pair.target.primary_index().await.unwrap();
    pair.target.kill(primary).await.unwrap();
    pair.source.step_down().await.unwrap();
    let watermark = run.status().position;
    wait_until(DEADLINE, "the watermark moves again", async || {
        run.status().position > watermark
    })
    .await
    .unwrap();
    pair.target.restart(primary).await.unwrap();
    pair.target.step_down().await.unwrap();
    let summary = stop_and_cut_over(&run, writer).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    pair.assert_identical(&CompareOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secured_servers_are_migrated_and_passwords_stay_secret() {
    let source = ReplicaSet::builder(Version::V6_0).key_file_auth().tls().start();
    let target = ReplicaSet::builder(Version::V6_0).name("rs1").key_file_auth().start();
    let (source, target) = futures::try_join!(source, target).unwrap();
    let pair = Pair { source, target };
    let client = pair.source.client().await.unwrap();
    workload::load(&client, 500, 7).await.unwrap();
    let migration = pair.migration().await.build().unwrap();
    let password = |uri: String| uri.split(['@', ':']).nth(2).unwrap().to_owned();
    let secrets = [password(pair.source.uri()), password(pair.target.uri())];
    let described = format!("{migration:?} {:?}", migration.preflight().await.unwrap());
    let run = migration.start().await.unwrap();
    let mut events = run.events();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let mut told = format!("{described} {run:?} {summary:?}");
    drop(run);
    while let Some(event) = events.next().await {
        told.push_str(&format!("{event:?}"));
    }
    let target = pair.target.client().await.unwrap();
    let records = target
        .database("__mdb_internal_mongoferry")
        .collection::<Document>("records");
    let mut records = records.find(doc! {}).await.unwrap();
    while let Some(record) = records.next().await {
        told.push_str(&format!("{:?}", record.unwrap()));
    }
    for secret in secrets {
        assert!(secret.len() > 8 && !told.contains(&secret));
    }
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
