//! What cannot be begun anew for nothing: the copy of a capped collection outlives a pause, the build of an index a pause and a step-down.

use bson::{Bson, Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Migration, MigrationBuilder, MigrationHandle, Outcome, Throttle};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, ReplicaSetBuilder, Version, wait_until};

use super::deadline::{DEADLINE, cut_over, ready};

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
    ours: Client,
    theirs: Client,
}

impl Pair {
    async fn start(source: ReplicaSetBuilder) -> Self {
        let target = ReplicaSet::builder(Version::V6_0).name("rs1");
        let (source, target) = futures::try_join!(source.start(), target.start()).unwrap();
        let (ours, theirs) = futures::try_join!(source.client(), target.client()).unwrap();
        Self {
            source,
            target,
            ours,
            theirs,
        }
    }

    async fn migration(&self) -> MigrationBuilder {
        let (from, to) = (self.source.uri(), self.target.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        Migration::builder(source, sink)
    }

    async fn finish(&self, run: &MigrationHandle) {
        ready(run).await;
        let summary = cut_over(run).await;
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        assert_identical(&self.ours, &self.theirs, &CompareOptions::default())
            .await
            .unwrap();
    }
}

fn documents(client: &Client, name: &str) -> mongodb::Collection<Document> {
    client.database("shop").collection(name)
}

async fn count(client: &Client, name: &str) -> u64 {
    documents(client, name).count_documents(doc! {}).await.unwrap()
}

async fn uuid(client: &Client, name: &str) -> Bson {
    let command = doc! { "listCollections": 1, "filter": { "name": name } };
    let listed = client.database("shop").run_cursor_command(command).await.unwrap();
    let listed: Vec<Document> = listed.try_collect().await.unwrap();
    listed[0].get_document("info").unwrap().get("uuid").unwrap().clone()
}

/// Opens a cursor, and waits until the server has closed it for nobody asking for more.
async fn outlast_a_cursor(client: &Client) {
    let timed_out = async || {
        let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await;
        let status = status.unwrap();
        let cursors = status.get_document("metrics").unwrap().get_document("cursor").unwrap();
        cursors.get_i64("timedOut").unwrap()
    };
    let before = timed_out().await;
    let cursor = documents(client, "log").find(doc! {}).batch_size(1).await.unwrap();
    wait_until(DEADLINE, "a cursor to be closed", async || timed_out().await > before)
        .await
        .unwrap();
    drop(cursor);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capped_copy_outlives_a_pause_longer_than_its_cursor() {
    const COUNT: u64 = 6_000;
    let pair = Pair::start(
        // Servers from 4.4.8 on close no cursor of a session for its age alone.
        ReplicaSet::builder(Version::V4_2)
            .set_parameter("cursorTimeoutMillis", 4_000)
            .set_parameter("clientCursorMonitorFrequencySecs", 1),
    )
    .await;
    let create = doc! { "create": "log", "capped": true, "size": 64 << 20 };
    pair.ours.database("shop").run_command(create).await.unwrap();
    let text = "x".repeat(2_000);
    let logged = (0..COUNT as i32).map(|id| doc! { "_id": id, "text": &text });
    documents(&pair.ours, "log").insert_many(logged).await.unwrap();
    let slowly = Throttle::unlimited().with_copy_bytes_per_second(3 << 20);
    let migration = pair.migration().await.throttle(slowly).build().unwrap();
    let run = migration.start().await.unwrap();
    wait_until(DEADLINE, "the copy to begin", async || {
        count(&pair.theirs, "log").await > 0
    })
    .await
    .unwrap();
    let made = uuid(&pair.theirs, "log").await;
    let copied = count(&pair.theirs, "log").await;
    assert!(copied < COUNT, "it is under way");
    run.pause().await.unwrap();
    outlast_a_cursor(&pair.ours).await;
    documents(&pair.ours, "log")
        .insert_one(doc! { "_id": "during the pause" })
        .await
        .unwrap();
    run.resume().unwrap();
    pair.finish(&run).await;
    assert_eq!(uuid(&pair.theirs, "log").await, made, "it was copied anew");
}

/// How often builds of indexes of `shop.orders` were begun, ended well, and given up.
async fn builds(client: &Client) -> [u64; 3] {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let mut counts = [0; 3];
    for (count, command) in counts
        .iter_mut()
        .zip(["startIndexBuild", "commitIndexBuild", "abortIndexBuild"])
    {
        let filter = doc! { "op": "c", "ns": "shop.$cmd", format!("o.{command}"): "orders" };
        *count = oplog.count_documents(filter).await.unwrap();
    }
    counts
}

/// Writes to the source, and waits for that on the target.
async fn goes_on(pair: &Pair, id: &str) {
    documents(&pair.ours, "orders")
        .insert_one(doc! { "_id": id })
        .await
        .unwrap();
    wait_until(DEADLINE, id, async || {
        let found = documents(&pair.theirs, "orders").find_one(doc! { "_id": id }).await;
        found.is_ok_and(|found| found.is_some())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_build_outlives_a_pause_and_a_step_down() {
    let pair = Pair::start(ReplicaSet::builder(Version::V6_0)).await;
    let orders = (0..500).map(|id| doc! { "_id": id, "n": id % 7 });
    documents(&pair.ours, "orders").insert_many(orders).await.unwrap();
    let index = doc! { "key": { "n": 1 }, "name": "n" };
    let create = doc! { "createIndexes": "orders", "indexes": [index] };
    pair.ours.database("shop").run_command(create).await.unwrap();
    let hold = async |mode: &str| {
        let point = doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": mode };
        pair.theirs.database("admin").run_command(point).await.unwrap();
    };
    hold("alwaysOn").await;
    let run = pair.migration().await.build().unwrap().start().await.unwrap();
    wait_until(DEADLINE, "the build", async || builds(&pair.theirs).await == [1, 0, 0])
        .await
        .unwrap();
    run.pause().await.unwrap();
    run.resume().unwrap();
    goes_on(&pair, "after the pause").await;
    pair.target.step_down().await.unwrap();
    goes_on(&pair, "after the step-down").await;
    assert_eq!(builds(&pair.theirs).await, [1, 0, 0]);
    hold("off").await;
    pair.finish(&run).await;
    assert_eq!(builds(&pair.theirs).await, [1, 1, 0]);
}
