//! Clients of the source go on as without a migration, whatever they have open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, ClientSession};
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Certificate, ErrorKind, Event, Migration, MigrationBuilder, Outcome, Verification};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::deadline::{DEADLINE, event, ready};

/// How long a write may take on a busy machine, much less than a transaction of which a lock would wait for the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Documents of the collection that is migrated.
const ORDERS: i32 = 3_000;

/// A source and a target, and a transaction that has written to a collection of the source.
struct Bed {
    source: ReplicaSet,
    target: ReplicaSet,
    client: Client,
    open: ClientSession,
}

impl Bed {
    async fn start(version: Version, collection: &str) -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(version).start(),
            ReplicaSet::builder(version).name("rs1").start()
        )
        .unwrap();
        let client = source.client().await.unwrap();
        let shop = client.database("shop");
        let documents = (0..ORDERS).map(|id| doc! { "_id": id, "pad": "p".repeat(200) });
        let orders = shop.collection("orders");
        orders.insert_many(documents).await.unwrap();
        shop.create_collection("sessions").await.unwrap();
        let mut open = client.start_session().await.unwrap();
        open.start_transaction().await.unwrap();
        let written = shop.collection(collection);
        let write = written.insert_one(doc! { "_id": "open" }).session(&mut open);
        write.await.unwrap();
        Self {
            source,
            target,
            client,
            open,
        }
    }

    /// Of everything but what the clients here write.
    async fn migration(&self) -> MigrationBuilder {
        let (from, to) = (self.source.uri(), self.target.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        let migration = Migration::builder(source, sink).chunk_bytes(64 << 10);
        migration.exclude("shop.sessions")
    }

    /// Ends the transaction, which nobody else has.
    async fn end(mut self, writer: Writer) {
        writer.stop().await;
        self.open.commit_transaction().await.unwrap();
    }
}

/// Writes to the database one document after the other.
struct Writer {
    count: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(client: &Client) -> Self {
        let database = client.database("shop");
        let (count, stopped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (written, until) = (Arc::clone(&count), Arc::clone(&stopped));
        let limit = i64::try_from(PATIENCE.as_millis()).unwrap();
        let task = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                let insert = doc! { "insert": "sessions", "documents": [{ "a": 1 }], "maxTimeMS": limit };
                let answer = database.run_command(insert).await;
                let answer = answer.unwrap_or_else(|error| panic!("the migration holds back a client: {error}"));
                assert_eq!(
                    answer.get_i32("n").unwrap(),
                    1,
                    "the migration holds back a client: {answer}"
                );
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { count, stopped, task }
    }

    /// Waits until it has begun and ended a write since the call.
    async fn writes(&self) {
        let before = self.count.load(Ordering::Relaxed);
        let written = wait_until(DEADLINE, "the client to write", async || {
            assert!(!self.task.is_finished(), "the client has failed");
            self.count.load(Ordering::Relaxed) > before + 1
        });
        written.await.unwrap();
    }

    async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn clients_do_not_wait_for_cutover(version: Version) {
    let bed = Bed::start(version, "sessions").await;
    let writer = Writer::start(&bed.client);
    let migration = bed.migration().await.verification(Verification::Digest);
    let run = migration.build().unwrap().start().await.unwrap();
    ready(&run).await;
    writer.writes().await;

    // One that fails, as the applications write to what was to stand still.
    let late = async {
        let orders = bed.client.database("shop").collection::<Document>("orders");
        let mut id = 0;
        loop {
            let update = orders.update_one(doc! { "_id": id % ORDERS }, doc! { "$inc": { "n": 1 } });
            update.await.unwrap();
            id += 1;
        }
    };
    let failed = tokio::select! {
        failed = timeout(DEADLINE, run.cutover(async {})) => failed.expect("it ends in time"),
        () = late => unreachable!("it goes on for ever"),
    };
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::WritesAfterStop);
    writer.writes().await;

    let summary = timeout(DEADLINE, run.cutover(async {}))
        .await
        .expect("it ends in time")
        .unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    writer.writes().await;

    let certificate: Certificate = summary.certificate.unwrap();
    assert!(certificate.collections[0].digest.is_some(), "{certificate:#?}");
    let (from, to) = (bed.source.uri(), bed.target.uri());
    let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
    let found = timeout(DEADLINE, certificate.check(&source, &sink)).await;
    assert_eq!(found.expect("it ends in time").unwrap(), [""; 0]);
    writer.writes().await;
    bed.end(writer).await;
}

async fn clients_do_not_wait_for_verification(version: Version) {
    let bed = Bed::start(version, "sessions").await;
    let writer = Writer::start(&bed.client);
    let run = bed.migration().await.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let report = timeout(DEADLINE, run.verify(&[]))
        .await
        .expect("it ends in time")
        .unwrap();
    assert!(report.is_identical(), "{report:#?}");
    writer.writes().await;
    let summary = timeout(DEADLINE, run.cutover(async {}))
        .await
        .expect("it ends in time")
        .unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    writer.writes().await;
    bed.end(writer).await;
}

async fn cutover_waits_for_transactions(version: Version) {
    let mut bed = Bed::start(version, "orders").await;
    let writer = Writer::start(&bed.client);
    let run = bed.migration().await.build().unwrap().start().await.unwrap();
    ready(&run).await;
    let failed = timeout(DEADLINE, run.cutover(async {})).await.expect("it ends in time");
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationsUnderWay, "{error}");
    let message = error.to_string();
    assert!(
        message.contains("of 127.0.0.1:") && message.contains("on shop.orders"),
        "{message}"
    );
    writer.writes().await;

    // What it commits while the cutover waits goes over.
    let mut events = run.events();
    let commit = async {
        let waits = |event| matches!(event, Event::OpenTransactions { .. }).then_some(());
        event(&mut events, waits).await;
        bed.open.commit_transaction().await.unwrap();
    };
    let (summary, ()) = futures::join!(timeout(DEADLINE, run.cutover(async {})), commit);
    let summary = summary.expect("it ends in time").unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let target = bed.target.client().await.unwrap();
    let orders = target.database("shop").collection::<Document>("orders");
    let committed = orders.find_one(doc! { "_id": "open" }).await.unwrap();
    assert!(committed.is_some());
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_clients_do_not_wait_for_cutover_4_2() {
    clients_do_not_wait_for_cutover(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_clients_do_not_wait_for_cutover_4_4() {
    clients_do_not_wait_for_cutover(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_clients_do_not_wait_for_cutover_6_0() {
    clients_do_not_wait_for_cutover(Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_clients_do_not_wait_for_verification_4_2() {
    clients_do_not_wait_for_verification(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_clients_do_not_wait_for_verification_4_4() {
    clients_do_not_wait_for_verification(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_clients_do_not_wait_for_verification_6_0() {
    clients_do_not_wait_for_verification(Version::V6_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cutover_waits_for_transactions_4_2() {
    cutover_waits_for_transactions(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cutover_waits_for_transactions_4_4() {
    cutover_waits_for_transactions(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cutover_waits_for_transactions_5_0() {
    cutover_waits_for_transactions(Version::V5_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cutover_waits_for_transactions_6_0() {
    cutover_waits_for_transactions(Version::V6_0).await;
}
