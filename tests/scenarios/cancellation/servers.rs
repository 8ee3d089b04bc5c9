//! The same on real servers: cursors and transactions.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Migration, MigrationHandle, Verification};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

const DEADLINE: Duration = Duration::from_secs(180);

async fn server_status(client: &Client) -> Document {
    let admin = client.database("admin");
    admin.run_command(doc! { "serverStatus": 1 }).await.unwrap()
}

/// Cursors and transactions that are open on a server.
async fn open(client: &Client) -> (i64, i64) {
    let status = server_status(client).await;
    let cursors = status.get_document("metrics").unwrap().get_document("cursor").unwrap();
    let cursors = cursors.get_document("open").unwrap().get_i64("total").unwrap();
    let transactions = status.get_document("transactions").unwrap();
    (cursors, transactions.get_i64("currentOpen").unwrap())
}

async fn nothing_stays_open(version: Version) {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(version).start(),
        ReplicaSet::builder(version).name("rs1").start()
    )
    .unwrap();
    let (ours, theirs) = (source.client().await.unwrap(), target.client().await.unwrap());
    workload::load(&ours, 20_000, 5).await.unwrap();
    let writer = Writer::start(&ours, 2).await.unwrap();
    // Cursors of the server's own: the set's members read from one another.
    let before = (open(&ours).await, open(&theirs).await);
    let dropped_when = async |verification: Verification, reached: &dyn Fn(&MigrationHandle) -> bool| {
        let (from, to) = (source.uri(), target.uri());
        let (from, to) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        let migration = Migration::builder(from, to)
            .chunk_bytes(64 << 10)
            .verification(verification);
        let run = migration.build().unwrap().start().await.unwrap();
        wait_until(DEADLINE, "the run is there", async || reached(&run))
            .await
            .unwrap();
        assert!(open(&ours).await.0 > before.0.0, "the oplog is followed by a cursor");
        drop(run);
        wait_until(DEADLINE, "everything is closed", async || {
            let now = (open(&ours).await, open(&theirs).await);
            now.0.0 <= before.0.0 && now.1.0 <= before.1.0 && now.0.1 == 0 && now.1.1 == 0
        })
        .await
        .unwrap();
    };
    let digest = Verification::Digest;
    dropped_when(digest, &|run| run.status().copied.documents > 0).await;
    dropped_when(digest, &|run| run.status().copied.documents > 5_000).await;
    writer.stop().await;
    // Both sides begin to be compared at this very moment.
    dropped_when(Verification::Continuous, &|run| run.status().can_cut_over).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_open_on_4_4() {
    nothing_stays_open(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_open_on_6_0() {
    nothing_stays_open(Version::V6_0).await;
}
