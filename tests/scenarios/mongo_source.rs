//! `MongoSource` on real servers: what its reads show, what they leave behind, and what becomes of them in an election.

mod ends;
mod listing;
mod load;
mod ranges;
mod snapshots;
mod transactions;

use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Document, RawBsonRef, RawDocument, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongoferry::order::Key;
use mongoferry::source::{PointRequest, ReadMode, ReadRequest};
use mongoferry::{Collection, CollectionKind, MongoSource, Namespace, Position, Range, Result, Source};
use mongoferry_testbed::{ReplicaSet, ReplicaSetBuilder, Version};

const DATABASE: &str = "shop";

/// How long a condition on a server may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// A replica set, of one member as a rule, a client to write with, and the source.
struct Bed {
    set: ReplicaSet,
    client: Client,
    source: MongoSource,
}

impl Bed {
    async fn start(version: Version) -> Bed {
        Bed::of(ReplicaSet::builder(version)).await
    }

    async fn of(builder: ReplicaSetBuilder) -> Bed {
        let set = builder.start().await.unwrap();
        let client = set.client().await.unwrap();
        let source = MongoSource::connect(&set.uri()).await.unwrap();
        Bed { set, client, source }
    }

    /// Runs a command on the database of the tests, with the write concern majority where it writes.
    async fn run(&self, mut command: Document) -> Document {
        let name = command.keys().next().unwrap().clone();
        if matches!(
            name.as_str(),
            "insert" | "update" | "delete" | "create" | "createIndexes"
        ) {
            command.insert("writeConcern", doc! { "w": "majority" });
        }
        let database = self.client.database(DATABASE);
        let reply = database.run_command(command).await.unwrap();
        assert!(!reply.contains_key("writeErrors"), "{reply}");
        reply
    }

    async fn admin(&self, command: Document) -> Document {
        self.client.database("admin").run_command(command).await.unwrap()
    }

    async fn insert(&self, collection: &str, documents: impl IntoIterator<Item = Document>) {
        let documents: Vec<Document> = documents.into_iter().collect();
        for part in documents.chunks(5_000) {
            self.run(doc! { "insert": collection, "documents": part }).await;
        }
    }

    async fn collection(&self, name: &str) -> Collection {
        let all = self.source.collections().await.unwrap();
        let namespace = Namespace::new(DATABASE, name);
        all.into_iter()
            .find(|collection| collection.namespace == namespace)
            .unwrap_or_else(|| panic!("{namespace} is not listed"))
    }

    /// A read of a whole collection at the newest position, in batches of about ten documents of 100 bytes.
    async fn request(&self, collection: &str, mode: ReadMode) -> ReadRequest {
        ReadRequest {
            namespace: Namespace::new(DATABASE, collection),
            kind: CollectionKind::Plain,
            range: Range::FULL,
            at: self.source.position().await.unwrap(),
            mode,
            batch_bytes: 1_000,
            document_bytes: 100,
        }
    }

    /// Reads at the newest position; where the server cannot give the snapshot, at a newer one.
    async fn read(&self, request: &ReadRequest) -> Vec<RawDocumentBuf> {
        let begin = std::time::Instant::now();
        loop {
            let mut request = request.clone();
            request.at = self.source.position().await.unwrap();
            match documents(&self.source, request).await {
                Ok(documents) => return documents,
                Err(error) if error.is_retryable() && begin.elapsed() < PATIENCE => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn points(&self, collection: &str, keys: &[Key], at: Position, mode: ReadMode) -> Vec<RawDocumentBuf> {
        let namespace = &Namespace::new(DATABASE, collection);
        self.source
            .read_documents(PointRequest {
                namespace,
                keys,
                at,
                mode,
            })
            .await
            .unwrap()
    }
}

async fn documents(source: &MongoSource, request: ReadRequest) -> Result<Vec<RawDocumentBuf>> {
    let mut batches = source.read(request).await?;
    let mut documents = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        assert!(!batch.is_empty(), "an empty batch");
        documents.extend(batch.iter().map(RawDocument::to_owned));
    }
    Ok(documents)
}

fn key(document: &RawDocument) -> Key {
    Key::of_document(document).unwrap()
}

fn keys(documents: &[RawDocumentBuf]) -> Vec<Key> {
    documents.iter().map(|document| key(document)).collect()
}

fn integer(value: i32) -> Key {
    Key::from(RawBsonRef::Int32(value))
}

/// Names the first difference alone: whole collections would fill the screen.
#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T]) {
    let same = found
        .iter()
        .zip(expected)
        .take_while(|(found, expected)| found == expected)
        .count();
    assert!(
        found == expected,
        "{} of {} found; number {same} is {:?} and not {:?}",
        found.len(),
        expected.len(),
        found.get(same),
        expected.get(same)
    );
}
