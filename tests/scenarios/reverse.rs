//! A hand-over that is taken back, on real servers.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, Timestamp, doc};
use mongodb::Client;
use mongoferry::{
    Event, HeldCalls, MigratingClient, Migration, MigrationBuilder, MigrationHandle, MongoSink, MongoSource, Outcome,
    Side, Summary,
};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::deadline::{DEADLINE, cut_over, event, ready, roll_over};

/// The `expireAfterSeconds` of an index while a migration follows.
const HELD_BACK: i32 = 1_700_000_000;

/// The two replica sets; which of them is the source changes.
struct Sets {
    old: ReplicaSet,
    new: ReplicaSet,
    on_old: Client,
    on_new: Client,
}

impl Sets {
    async fn start() -> Self {
        // Small oplogs, of which the servers keep no more than they have to.
        let set = |name| {
            ReplicaSet::builder(Version::V6_0)
                .name(name)
                .oplog_size_mb(1)
                .arg("--syncdelay")
                .arg("1")
                .start()
        };
        let (old, new) = futures::try_join!(set("old"), set("new")).unwrap();
        let (on_old, on_new) = (old.client().await.unwrap(), new.client().await.unwrap());
        Self {
            old,
            new,
            on_old,
            on_new,
        }
    }

    async fn forward(&self) -> (MongoSource, MongoSink) {
        let (from, to) = (self.old.uri(), self.new.uri());
        futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap()
    }

    async fn backward(&self) -> (MongoSource, MongoSink) {
        let (from, to) = (self.new.uri(), self.old.uri());
        futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap()
    }

    async fn migration(&self) -> Migration {
        let (source, sink) = self.forward().await;
        let builder = Migration::builder(source, sink).include("shop.*");
        let builder = builder.rename("shop.orders", "store.bought");
        builder.block_source_writes(true).build().unwrap()
    }

    /// Compares what nobody has written to since the hand-over.
    async fn assert_handed_over(&self) {
        let names = self.on_old.database("shop").list_collection_names().await.unwrap();
        let names = names
            .iter()
            .filter(|name| *name != "clicks" && !name.starts_with("system."));
        self.assert_identical(Some(names.map(|name| format!("shop.{name}")).collect()))
            .await;
    }

    /// Compares both sides without the crate, by the names of before and after.
    async fn assert_identical(&self, namespaces: Option<Vec<String>>) {
        let options = CompareOptions {
            namespaces,
            renames: vec![("shop.orders".to_owned(), "store.bought".to_owned())],
            ..CompareOptions::default()
        };
        assert_identical(&self.on_old, &self.on_new, &options).await.unwrap();
    }
}

async fn command(client: &Client, database: &str, command: Document) -> Document {
    client.database(database).run_command(command).await.unwrap()
}

async fn load(client: &Client) {
    let shop = client.database("shop");
    let documents = |count: i32| (0..count).map(|id| doc! { "_id": id, "n": 0, "m": id });
    for (name, count) in [
        ("orders", 300),
        ("carts", 300),
        ("mover", 50),
        ("dropped", 10),
        ("sessions", 20),
    ] {
        shop.collection(name).insert_many(documents(count)).await.unwrap();
    }
    for (name, index) in [
        ("orders", doc! { "key": { "m": 1 }, "name": "m_1", "unique": true }),
        ("carts", doc! { "key": { "n": 1 }, "name": "n_1" }),
        (
            "sessions",
            doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 3600 },
        ),
        (
            "carts",
            doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 7200 },
        ),
    ] {
        command(client, "shop", doc! { "createIndexes": name, "indexes": [index] }).await;
    }
    shop.create_collection("log").capped(true).size(1 << 16).await.unwrap();
    shop.collection("log").insert_many(documents(10)).await.unwrap();
    command(
        client,
        "shop",
        doc! { "create": "seen", "viewOn": "carts", "pipeline": [] },
    )
    .await;
}

/// Changes four documents of `shop.carts`, and what can be changed besides, where the applications are after the hand-over.
async fn change(client: &Client) {
    let (shop, store) = (client.database("shop"), client.database("store"));
    let carts = shop.collection::<Document>("carts");
    let set = |n: i32| doc! { "$set": { "n": n, "nested.deep": [n] } };
    carts.update_one(doc! { "_id": 100 }, set(1)).await.unwrap();
    carts.delete_one(doc! { "_id": 200 }).await.unwrap();
    carts.insert_one(doc! { "_id": 1000, "n": 5 }).await.unwrap();
    let bought = store.collection::<Document>("bought");
    bought.update_many(doc! { "_id": { "$lt": 10 } }, set(2)).await.unwrap();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    carts
        .update_one(doc! { "_id": 101 }, set(3))
        .session(&mut session)
        .await
        .unwrap();
    // The unique key goes from one document to another.
    bought
        .delete_one(doc! { "_id": 50 })
        .session(&mut session)
        .await
        .unwrap();
    bought
        .insert_one(doc! { "_id": "new", "m": 50 })
        .session(&mut session)
        .await
        .unwrap();
    session.commit_transaction().await.unwrap();
    shop.collection("log").insert_one(doc! { "_id": "last" }).await.unwrap();
    for one in [
        doc! { "create": "made", "collation": { "locale": "de" } },
        doc! { "createIndexes": "made", "indexes": [{ "key": { "k": 1 }, "name": "k_1" }, { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 600 }] },
        doc! { "insert": "made", "documents": [{ "_id": 1, "k": 1 }] },
        doc! { "dropIndexes": "carts", "index": "n_1" },
        doc! { "collMod": "carts", "validator": { "n": { "$gte": 0 } }, "validationLevel": "moderate" },
        doc! { "collMod": "sessions", "index": { "name": "at_1", "expireAfterSeconds": 36_000 } },
        doc! { "drop": "dropped" },
        doc! { "drop": "seen" },
        doc! { "create": "seen", "viewOn": "made", "pipeline": [{ "$match": { "k": 1 } }] },
    ] {
        command(client, "shop", one).await;
    }
    let rename = doc! { "renameCollection": "shop.mover", "to": "shop.moved" };
    command(client, "admin", rename).await;
    shop.collection::<Document>("moved")
        .update_one(doc! { "_id": 7 }, set(4))
        .await
        .unwrap();
}

async fn finish(run: MigrationHandle) -> Summary {
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    summary
}

/// Starts a migration; answers the first of its events that says where it begins.
async fn start(builder: MigrationBuilder) -> (MigrationHandle, Event) {
    let run = builder.build().unwrap().start().await.unwrap();
    let mut events = run.events();
    let begun = event(&mut events, |event| {
        matches!(event, Event::Started { .. } | Event::Resync { .. }).then_some(event)
    })
    .await;
    (run, begun)
}

/// How many writes to a collection are in a set's oplog after this moment; what is older may be gone from it.
async fn written(client: &Client, namespace: &str, after: Timestamp) -> u64 {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let writes = doc! { "ts": { "$gt": after }, "ns": namespace, "op": { "$in": ["i", "u", "d"] } };
    oplog.count_documents(writes).await.unwrap()
}

/// The newest entry of a set's oplog.
async fn newest(client: &Client) -> Timestamp {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.unwrap();
    newest.unwrap().get_timestamp("ts").unwrap()
}

/// The seconds after which the index `at_1` expires documents.
async fn expiry(client: &Client, name: &str) -> i32 {
    let reply = command(client, "shop", doc! { "listIndexes": name }).await;
    let indexes = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let mut indexes = indexes.iter().filter_map(|index| index.as_document());
    let index = indexes
        .find(|index| index.get_str("name").is_ok_and(|name| name == "at_1"))
        .unwrap();
    index.get_i32("expireAfterSeconds").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_is_taken_back_and_made_again() {
    let sets = Sets::start().await;
    load(&sets.on_old).await;
    let run = sets.migration().await.start().await.unwrap();
    ready(&run).await;
    let clients = MigratingClient::new(sets.on_old.clone(), sets.on_new.clone());
    let writers = Writers::start(&clients);
    let way_back = hand_over(&clients, run).await.way_back.unwrap();
    assert_eq!(clients.side(), Side::Target);
    writers.stop(&sets.on_new).await;
    sets.assert_handed_over().await;

    // The process is gone, and the applications go on with the new set.
    change(&sets.on_new).await;
    // The cutover has blocked the writes of the old one, which is found before anything is tried there.
    let (source, sink) = sets.backward().await;
    let refused = way_back.reverse(source, sink).unwrap().build().unwrap().start().await;
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("blocks writes of clients"), "{refused}");
    let lift = doc! { "setUserWriteBlockMode": 1, "global": false };
    command(&sets.on_old, "admin", lift).await;
    // The old set has gone on expiring documents, which the new one's changed rule keeps.
    let sessions = sets.on_old.database("shop").collection::<Document>("sessions");
    sessions.delete_one(doc! { "_id": 3 }).await.unwrap();
    let before = newest(&sets.on_old).await;
    let migration = sets.migration().await;
    let again = migration.start().await.unwrap_err();
    assert!(again.to_string().contains("complete"), "{again}");
    let (source, sink) = sets.backward().await;
    let back = sets.migration().await.reverse(source, sink).await.unwrap();
    let (run, begun) = start(back).await;
    let Event::Started { resumed, position } = begun else {
        panic!("{begun:?}")
    };
    assert!(resumed);
    assert_eq!(position, way_back.position());
    ready(&run).await;
    let carts = written(&sets.on_old, "shop.carts", before).await;
    assert_eq!(carts, 4, "nothing is copied");
    assert_eq!(expiry(&sets.on_old, "carts").await, HELD_BACK);
    assert_eq!(expiry(&sets.on_old, "made").await, HELD_BACK);

    // Killed in the middle, and written to meanwhile.
    drop(run);
    let carts = sets.on_new.database("shop").collection::<Document>("carts");
    carts.delete_one(doc! { "_id": 102 }).await.unwrap();
    let (source, sink) = sets.backward().await;
    let (run, begun) = start(way_back.reverse(source, sink).unwrap()).await;
    assert!(matches!(begun, Event::Started { position, .. } if position > way_back.position()));
    ready(&run).await;
    let writers = Writers::start(&clients);
    let summary = hand_over(&clients, run).await;
    assert_eq!(clients.side(), Side::Source);
    writers.stop(&sets.on_old).await;
    sets.assert_handed_over().await;
    for (name, seconds) in [("carts", 7200), ("sessions", 36_000), ("made", 600)] {
        assert_eq!(expiry(&sets.on_old, name).await, seconds, "{name}");
    }

    // What was taken back is over; and it is handed over once more, when the old set's oplog no longer holds the moment.
    let (source, sink) = sets.backward().await;
    let over = way_back.reverse(source, sink).unwrap().build().unwrap().start().await;
    assert!(over.unwrap_err().to_string().contains("complete"));
    let before = newest(&sets.on_new).await;
    let orders = sets.on_old.database("shop").collection::<Document>("orders");
    let set = doc! { "$set": { "n": 9 } };
    orders
        .update_many(doc! { "_id": { "$in": [20, 30] } }, set)
        .await
        .unwrap();
    command(&sets.on_old, "shop", doc! { "drop": "made" }).await;
    roll_over(&sets.on_old).await;
    let (source, sink) = sets.forward().await;
    let once_more = summary.reverse(source, sink).unwrap();
    let run = once_more.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let summary = finish(run).await;
    assert_eq!(summary.resyncs, 1);
    assert_eq!(written(&sets.on_new, "store.bought", before).await, 2);
    sets.assert_identical(None).await;
}

/// Hands over through the handle that the applications use.
async fn hand_over(clients: &MigratingClient, run: MigrationHandle) -> Summary {
    let cutover = timeout(DEADLINE, clients.cutover(&run, DEADLINE))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(cutover.summary.outcome, Outcome::Complete, "{cutover:#?}");
    let HeldCalls { calls, longest, .. } = cutover.held;
    assert!(
        (1..=WRITERS as u64).contains(&calls) && longest > Duration::ZERO,
        "{cutover:#?}"
    );
    assert_eq!(clients.held_calls(), cutover.held);
    cutover.summary
}

/// How many applications write at a time.
const WRITERS: usize = 4;

/// Applications that know nothing of a migration.
struct Writers {
    stop: CancellationToken,
    tasks: JoinSet<Vec<Document>>,
}

impl Writers {
    fn start(clients: &MigratingClient) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..WRITERS {
            tasks.spawn(write(clients.clone(), stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Stops them; every write that was acknowledged to one must be on the set where they are now.
    async fn stop(self, client: &Client) {
        // Some writes more, with the client that they have now.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.stop.cancel();
        let clicks = client.database("shop").collection::<Document>("clicks");
        for written in timeout(DEADLINE, self.tasks.join_all()).await.unwrap() {
            assert!(written.len() > 10, "{}", written.len());
            for document in written {
                let there = clicks.find_one(doc! { "_id": &document["_id"] }).await.unwrap();
                assert_eq!(there, Some(document));
            }
        }
    }
}

/// Inserts and updates until it is stopped; answers what was acknowledged. No call may fail.
async fn write(clients: MigratingClient, stop: CancellationToken) -> Vec<Document> {
    let mut written = Vec::new();
    while !stop.is_cancelled() {
        let id = ObjectId::new();
        clients
            .with(async |client| {
                let clicks = client.database("shop").collection("clicks");
                clicks.insert_one(doc! { "_id": id, "n": 0 }).await
            })
            .await
            .unwrap();
        // The set may be another by now; what was written is there.
        let client = clients.enter().await;
        let clicks = client.database("shop").collection::<Document>("clicks");
        let set = doc! { "$set": { "n": 1 } };
        let updated = clicks.update_one(doc! { "_id": id }, set).await.unwrap();
        assert_eq!(updated.matched_count, 1);
        written.push(doc! { "_id": id, "n": 1 });
    }
    written
}
