//! Real targets that hold what a migration did not make, and a process that dies around a rename.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::{Document, Uuid, doc};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use mongodb::Client;
use mongoferry::order::Key;
use mongoferry::preflight::Inspection;
use mongoferry::sink::{CatalogCommand, MongoSink, Refusal, SinkRead};
use mongoferry::source::{Deployment, MongoSource};
use mongoferry::{
    Batch, Collection, CollectionKind, Error, ErrorKind, ExistingData, Migration, MigrationHandle, Namespace, Outcome,
    Result, Sink, Write,
};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::time::timeout;

use super::deadline::{DEADLINE, cut_over, ready};

/// What stands on the target, and how the source comes by that name.
struct Case {
    name: &'static str,
    foreign: Foreign,
    change: Vec<Document>,
}

enum Foreign {
    Plain,
    TimeSeries,
    View,
}

fn cases() -> Vec<Case> {
    let case = |name, foreign, change| Case { name, foreign, change };
    let insert = |name: &str| doc! { "insert": name, "documents": [{ "_id": 1, "whose": "ours" }] };
    let rename = |from: &str, drop: bool, database: &str| {
        doc! { "renameCollection": format!("{database}.{from}"), "to": format!("{database}.new"), "dropTarget": drop }
    };
    vec![
        case(
            "create_and_drop",
            Foreign::Plain,
            vec![doc! { "create": "new" }, insert("new"), doc! { "drop": "new" }],
        ),
        case(
            "convert",
            Foreign::Plain,
            vec![insert("new"), doc! { "convertToCapped": "new", "size": 8192 }],
        ),
        case("rename", Foreign::Plain, vec![rename("orders", false, "rename")]),
        case(
            "view",
            Foreign::Plain,
            vec![doc! { "create": "new", "viewOn": "orders", "pipeline": [] }],
        ),
        case("onto_view", Foreign::View, vec![rename("orders", false, "onto_view")]),
        case("onto_series", Foreign::TimeSeries, vec![insert("new")]),
        case(
            "series",
            Foreign::Plain,
            vec![
                doc! { "create": "new", "timeseries": { "timeField": "t" } },
                doc! { "insert": "new", "documents": [{ "t": bson::DateTime::from_millis(0), "n": 1 }] },
            ],
        ),
    ]
}

async fn make(target: &Client, case: &Case) {
    let database = target.database(case.name);
    match case.foreign {
        Foreign::Plain => {}
        Foreign::TimeSeries => {
            let create = doc! { "create": "new", "timeseries": { "timeField": "t" } };
            database.run_command(create).await.unwrap();
        }
        Foreign::View => {
            database
                .collection("below")
                .insert_one(doc! { "_id": 5 })
                .await
                .unwrap();
            let create = doc! { "create": "new", "viewOn": "below", "pipeline": [] };
            database.run_command(create).await.unwrap();
            return;
        }
    }
    let documents = (0..100).map(|n| doc! { "_id": n, "t": bson::DateTime::from_millis(n), "whose": "others" });
    database.collection("new").insert_many(documents).await.unwrap();
}

async fn documents(client: &Client, database: &str) -> Vec<Document> {
    let collection = client.database(database).collection("new");
    let found = collection.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

/// The server runs some commands on `admin` alone.
async fn run(client: &Client, database: &str, command: Document) {
    let database = match command.contains_key("renameCollection") {
        true => "admin",
        false => database,
    };
    client.database(database).run_command(command).await.unwrap();
}

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
}

impl Pair {
    async fn start() -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).start(),
            ReplicaSet::builder(Version::V6_0).name("rs1").start()
        )
        .unwrap();
        Self { source, target }
    }

    async fn migrate(&self, database: &str, choice: ExistingData) -> MigrationHandle {
        let sink = MongoSink::connect(&self.target.uri()).await.unwrap();
        self.migrate_to(sink, database, choice).await
    }

    async fn migrate_to(&self, sink: impl Sink, database: &str, choice: ExistingData) -> MigrationHandle {
        let source = MongoSource::connect(&self.source.uri()).await.unwrap();
        let migration = Migration::builder(source, sink)
            .include(&format!("{database}.*"))
            .existing_data(choice);
        migration.build().unwrap().start().await.unwrap()
    }
}

#[tokio::test]
async fn existing_data_holds_for_names_that_come_later() {
    let pair = Pair::start().await;
    let (source, target) = (pair.source.client().await.unwrap(), pair.target.client().await.unwrap());
    for (number, case) in cases().into_iter().enumerate() {
        let name = case.name;
        // With half of the cases each: what either does is tested without servers too.
        let choice = [ExistingData::Clear, ExistingData::Keep][number % 2];
        source.database(name).drop().await.unwrap();
        target.database(name).drop().await.unwrap();
        target.database("__mdb_internal_mongoferry").drop().await.unwrap();
        let orders = (0..10).map(|n| doc! { "_id": n });
        source
            .database(name)
            .collection("orders")
            .insert_many(orders)
            .await
            .unwrap();
        make(&target, &case).await;
        let before = documents(&target, name).await;
        let handle = pair.migrate(name, ExistingData::Refuse).await;
        ready(&handle).await;
        for command in &case.change {
            run(&source, name, command.clone()).await;
        }
        let error = timeout(DEADLINE, handle.wait()).await.expect(name).unwrap_err();
        assert_refused(&error, name);
        assert_eq!(documents(&target, name).await, before, "{name}");
        let handle = pair.migrate(name, choice).await;
        ready(&handle).await;
        let summary = cut_over(&handle).await;
        assert_eq!(summary.outcome, Outcome::Complete, "{name}: {summary:#?}");
        // It is none of the migration's.
        target
            .database(name)
            .collection::<Document>("below")
            .drop()
            .await
            .unwrap();
    }
}

fn assert_refused(error: &Error, database: &str) {
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains(&format!("`{database}.new`")), "{error}");
}

/// A target that stops answering once it has renamed something, or before what was applied is flushed, as for a process that is killed there.
#[derive(Clone)]
struct Stopping {
    inner: Arc<MongoSink>,
    after_rename: bool,
    before_flush: bool,
    applied: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl Stopping {
    async fn new(uri: &str, after_rename: bool, before_flush: bool) -> Self {
        Self {
            inner: Arc::new(MongoSink::connect(uri).await.unwrap()),
            after_rename,
            before_flush,
            applied: Arc::default(),
            stopped: Arc::default(),
        }
    }

    async fn stop_if(&self, condition: bool) {
        if condition {
            self.stopped.store(true, SeqCst);
            pending::<()>().await;
        }
    }
}

#[async_trait]
impl Sink for Stopping {
    async fn describe(&self) -> Result<Deployment> {
        self.inner.describe().await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.inner.collections().await
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.inner.identities(names).await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.inner.execute(command).await?;
        let is_rename = matches!(command, CatalogCommand::Rename { .. });
        self.stop_if(self.after_rename && is_rename).await;
        Ok(())
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.inner.create_index(namespace, specification).await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        self.inner.insert(namespace, batch).await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        self.applied.store(true, SeqCst);
        self.inner.apply(namespace, kind, writes).await
    }

    fn losses(&self) -> u64 {
        self.inner.losses()
    }

    async fn flush(&self) -> Result<()> {
        self.stop_if(self.before_flush && self.applied.load(SeqCst)).await;
        self.inner.flush().await
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.inner.inspect().await
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.inner.read(request).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.inner.read_documents(namespace, keys).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.inner.digest(namespace).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.inner.load_record(name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.inner.save_record(name, record, expected).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        self.inner.delete_record(name).await
    }
}

/// The first process dies when the target has renamed, the second when it has made what has the old name since, and before it has saved
/// anything that it applied.
#[tokio::test]
async fn a_rename_is_not_repeated_after_two_failures() {
    let pair = Pair::start().await;
    let (source, target) = (pair.source.client().await.unwrap(), pair.target.client().await.unwrap());
    let shop = source.database("shop");
    let fill = async |name: &str, from: i32, to: i32| {
        let documents = (from..to).map(|n| doc! { "_id": n });
        shop.collection(name).insert_many(documents).await.unwrap();
    };
    fill("orders", 0, 50).await;
    let uri = pair.target.uri();
    let sink = Stopping::new(&uri, true, false).await;
    let handle = pair.migrate_to(sink.clone(), "shop", ExistingData::Refuse).await;
    ready(&handle).await;
    let rename = doc! { "renameCollection": "shop.orders", "to": "shop.archive" };
    run(&source, "shop", rename).await;
    stopped(&sink).await;
    drop(handle);
    fill("orders", 100, 103).await;
    let sink = Stopping::new(&uri, false, true).await;
    let handle = pair.migrate_to(sink.clone(), "shop", ExistingData::Refuse).await;
    stopped(&sink).await;
    wait_until(DEADLINE, "the new collection to be on the target", async || {
        let orders = target.database("shop").collection::<Document>("orders");
        orders.count_documents(doc! {}).await.unwrap() == 3
    })
    .await
    .unwrap();
    drop(handle);
    let handle = pair.migrate("shop", ExistingData::Refuse).await;
    ready(&handle).await;
    let summary = cut_over(&handle).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let archive = target.database("shop").collection::<Document>("archive");
    assert_eq!(archive.count_documents(doc! {}).await.unwrap(), 50);
    assert_identical(&source, &target, &CompareOptions::default())
        .await
        .unwrap();
}

async fn stopped(sink: &Stopping) {
    wait_until(DEADLINE, "the target to stop answering", async || {
        sink.stopped.load(SeqCst)
    })
    .await
    .unwrap();
}
