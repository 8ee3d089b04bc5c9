//! The MongoDB source and sink do what the traits' contracts say, on every version of server.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bson::raw::{CString, RawArrayBuf, RawBson, RawDocumentBuf};
use bson::{Document, RawBsonRef, Uuid, doc, rawdoc};
use mongodb::options::WriteConcern;
use mongodb::{Client, ClientSession};
use mongoferry::checkpoint::SinkStore;
use mongoferry::conformance::{FixtureWrite, SourceFixture, check_checkpoint_store, check_sink, check_source};
use mongoferry::order::Key;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Checkpoint, CheckpointStore, ConnectOptions, Error, ErrorKind, Namespace, Result, Source};
use mongoferry_testbed::{ReplicaSet, Version};

#[tokio::test]
async fn mongo_sources_of_4_2_conform() {
    source_conforms(Version::V4_2).await;
}

#[tokio::test]
async fn mongo_sources_of_4_4_conform() {
    source_conforms(Version::V4_4).await;
}

#[tokio::test]
async fn mongo_sources_of_5_0_conform() {
    source_conforms(Version::V5_0).await;
}

#[tokio::test]
async fn mongo_sources_of_6_0_conform() {
    source_conforms(Version::V6_0).await;
}

#[tokio::test]
async fn legacy_sources_of_4_2_conform() {
    legacy_source_conforms("4.2", 8).await;
}

#[tokio::test]
async fn legacy_sources_of_4_0_conform() {
    legacy_source_conforms("4.0", 7).await;
}

/// What the members have is asked of each, and queries go as `OP_QUERY`.
#[tokio::test]
async fn legacy_sources_without_find_conform() {
    legacy_source_conforms("4.0", 3).await;
}

/// Reads from 4.2 without the driver, as from servers of an older wire version. At an older feature compatibility version it writes the oplog
/// of that version.
async fn legacy_source_conforms(feature_compatibility: &str, wire_version: i32) {
    let set = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    let client = set.client().await.unwrap();
    let command = doc! { "setFeatureCompatibilityVersion": feature_compatibility };
    client.database("admin").run_command(command).await.unwrap();
    let options = ConnectOptions::uri(set.uri()).as_legacy(wire_version);
    let source = MongoSource::connect(options).await.unwrap();
    let fixture = MongoFixture {
        client,
        source,
        has_snapshots: false,
    };
    check_source(&fixture).await.unwrap();
}

#[tokio::test]
async fn mongo_sinks_of_4_2_conform() {
    sink_conforms(Version::V4_2).await;
}

#[tokio::test]
async fn mongo_sinks_of_4_4_conform() {
    sink_conforms(Version::V4_4).await;
}

#[tokio::test]
async fn mongo_sinks_of_5_0_conform() {
    sink_conforms(Version::V5_0).await;
}

#[tokio::test]
async fn mongo_sinks_of_6_0_conform() {
    sink_conforms(Version::V6_0).await;
}

async fn source_conforms(version: Version) {
    let set = ReplicaSet::builder(version).start().await.unwrap();
    let client = set.client().await.unwrap();
    let source = MongoSource::connect(set.client().await.unwrap()).await.unwrap();
    let fixture = MongoFixture {
        client,
        source,
        has_snapshots: true,
    };
    check_source(&fixture).await.unwrap();
}

async fn sink_conforms(version: Version) {
    let set = ReplicaSet::builder(version).start().await.unwrap();
    let sink = MongoSink::connect(set.client().await.unwrap()).await.unwrap();
    check_sink(&sink).await.unwrap();
    let sink = Arc::new(sink);
    check_checkpoint_store(&SinkStore::new(sink.clone())).await.unwrap();
    if version == Version::V6_0 {
        keeps_very_many_collections(sink).await;
    }
}

/// The checkpoint of 20,000 collections with 100,000 ranges, which is kept in several records.
async fn keeps_very_many_collections(sink: Arc<MongoSink>) {
    let sample = format!("{}/tests/samples/checkpoint/1.bson", env!("CARGO_MANIFEST_DIR"));
    let sample = RawDocumentBuf::from_bytes(std::fs::read(sample).unwrap()).unwrap();
    let mut checkpoint = Checkpoint::decode(&sample).unwrap();
    let collection = checkpoint.collections[0].clone();
    checkpoint.collections = (0..20_000)
        .map(|number| {
            let mut state = collection.clone();
            state.id = Uuid::new();
            state.namespace = Namespace::new("shop", &format!("orders_of_{number}"));
            state.target = Namespace::new("store", &format!("orders_of_{number}"));
            let first = state.ranges[0].clone();
            let range = |number: i32| {
                let mut range = first.clone();
                range.upper = (number < 5).then(|| Key::from(RawBsonRef::Int32(number)));
                range.done = (number % 2 == 0).then_some(checkpoint.watermark);
                range
            };
            state.ranges = (1..=5).map(range).collect();
            state
        })
        .collect();
    let bytes = checkpoint.encode().unwrap();
    assert!(bytes.as_bytes().len() > 8 << 20, "{}", bytes.as_bytes().len());
    let store = SinkStore::new(sink.clone());
    store.load().await.unwrap();
    let began = Instant::now();
    store.save(&bytes).await.unwrap();
    println!("{} bytes saved in {:?}", bytes.as_bytes().len(), began.elapsed());
    let next = SinkStore::new(sink);
    next.claim().await.unwrap();
    let stored = next.load().await.unwrap().unwrap();
    assert_eq!(Checkpoint::decode(&stored).unwrap(), checkpoint);
    next.clear().await.unwrap();
}

/// Writes by commands whose bytes are made here, so that the server sees documents as the suite has them.
struct MongoFixture {
    client: Client,
    source: MongoSource,
    has_snapshots: bool,
}

impl MongoFixture {
    async fn run(&self, database: &str, mut command: RawDocumentBuf) -> Result<()> {
        command.append(name("writeConcern"), rawdoc! { "w": "majority" });
        let reply = self.client.database(database).run_raw_command(command).await;
        checked(reply)
    }
}

#[async_trait]
impl SourceFixture for MongoFixture {
    fn source(&self) -> &dyn Source {
        &self.source
    }

    fn has_snapshots(&self) -> bool {
        self.has_snapshots
    }

    async fn create_collection(&self, namespace: &Namespace, options: RawDocumentBuf) -> Result<()> {
        let mut command = rawdoc! { "create": namespace.collection() };
        for field in options.iter() {
            let (name, value) = field.unwrap();
            command.append(name, value);
        }
        self.run(namespace.database(), command).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: RawDocumentBuf) -> Result<()> {
        let command = rawdoc! { "createIndexes": namespace.collection(), "indexes": [specification] };
        self.run(namespace.database(), command).await
    }

    async fn rename_collection(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        let command = rawdoc! { "renameCollection": from.as_str(), "to": to.as_str() };
        self.run("admin", command).await
    }

    async fn drop_collection(&self, namespace: &Namespace) -> Result<()> {
        let command = rawdoc! { "drop": namespace.collection() };
        self.run(namespace.database(), command).await
    }

    async fn write(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        for command in commands(namespace, writes) {
            self.run(namespace.database(), command).await?;
        }
        Ok(())
    }

    async fn transaction(&self, namespace: &Namespace, writes: Vec<FixtureWrite>) -> Result<()> {
        let mut session = self.client.start_session().await.map_err(failed)?;
        session
            .start_transaction()
            .write_concern(WriteConcern::majority())
            .await
            .map_err(failed)?;
        for command in commands(namespace, writes) {
            self.run_in(&mut session, namespace.database(), command).await?;
        }
        session.commit_transaction().await.map_err(failed)
    }
}

impl MongoFixture {
    async fn run_in(&self, session: &mut ClientSession, database: &str, command: RawDocumentBuf) -> Result<()> {
        let database = self.client.database(database);
        checked(database.run_raw_command(command).session(session).await)
    }
}

/// Commands for the writes, in order. Writes of one kind that follow each other go by one command, up to 200 of them.
fn commands(namespace: &Namespace, writes: Vec<FixtureWrite>) -> Vec<RawDocumentBuf> {
    let mut groups: Vec<(&str, &str, Vec<RawDocumentBuf>)> = Vec::new();
    for write in writes {
        let (command, field, statement) = match write {
            FixtureWrite::Insert(document) => ("insert", "documents", document),
            FixtureWrite::Replace(document) => {
                let id: RawBson = document.get("_id").unwrap().unwrap().into();
                ("update", "updates", rawdoc! { "q": { "_id": id }, "u": document })
            }
            FixtureWrite::Set { id, field, value } => {
                let mut set = RawDocumentBuf::new();
                set.append(name(field), value);
                (
                    "update",
                    "updates",
                    rawdoc! { "q": { "_id": id }, "u": { "$set": set } },
                )
            }
            FixtureWrite::Delete { id } => ("delete", "deletes", rawdoc! { "q": { "_id": id }, "limit": 1 }),
        };
        match groups.last_mut() {
            Some((last, _, statements)) if *last == command && statements.len() < 200 => statements.push(statement),
            _ => groups.push((command, field, vec![statement])),
        }
    }
    groups
        .into_iter()
        .map(|(command, field, statements)| {
            let mut document = RawDocumentBuf::new();
            document.append(name(command), namespace.collection());
            let mut array = RawArrayBuf::new();
            for statement in statements {
                array.push(statement);
            }
            document.append(name(field), array);
            document
        })
        .collect()
}

fn name(name: &str) -> CString {
    name.try_into().unwrap()
}

fn failed(error: mongodb::error::Error) -> Error {
    Error::new(ErrorKind::Server, "write on the source", "the server refused it").with_source(error)
}

/// An error also where the command went well and one of its writes did not.
fn checked(reply: mongodb::error::Result<Document>) -> Result<()> {
    let reply = reply.map_err(failed)?;
    if reply.contains_key("writeErrors") || reply.contains_key("writeConcernError") {
        return Err(Error::new(ErrorKind::Server, "write on the source", reply.to_string()));
    }
    Ok(())
}
