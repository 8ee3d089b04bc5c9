//! Filters and transforms on real servers. What has to be on the target is computed here, without the crate.

mod interplay;
mod other_policy;
mod policy;
mod preflight;
mod random;
mod sparse;

use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::{Client, Collection};
use mongoferry::rules::FieldRules;
use mongoferry::{Migration, MigrationBuilder, MigrationHandle, MongoSink, MongoSource, Outcome, Summary};
use mongoferry_testbed::{ReplicaSet, Version};
use tokio::time::timeout;

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Two sets with a client for each. Their caches have room for documents of 16 MB.
struct Sides {
    source_set: ReplicaSet,
    target_set: ReplicaSet,
    source: Client,
    target: Client,
}

impl Sides {
    async fn start(version: Version) -> Self {
        let (source_set, target_set) = futures::try_join!(
            ReplicaSet::builder(version).cache_gb(1.0).start(),
            ReplicaSet::builder(version).name("rs1").cache_gb(1.0).start()
        )
        .unwrap();
        let (source, target) = (source_set.client().await.unwrap(), target_set.client().await.unwrap());
        Self {
            source_set,
            target_set,
            source,
            target,
        }
    }

    async fn builder(&self) -> MigrationBuilder {
        let (source, target) = (self.source_set.uri(), self.target_set.uri());
        let (source, sink) = futures::try_join!(MongoSource::connect(&source), MongoSink::connect(&target)).unwrap();
        Migration::builder(source, sink)
    }

    fn source(&self, name: &str) -> Collection<Document> {
        collection(&self.source, name)
    }

    fn target(&self, name: &str) -> Collection<Document> {
        collection(&self.target, name)
    }
}

fn collection(client: &Client, name: &str) -> Collection<Document> {
    let (database, collection) = name.split_once('.').unwrap();
    client.database(database).collection(collection)
}

async fn documents(collection: &Collection<Document>) -> Vec<Document> {
    let found = collection.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    found.try_collect().await.unwrap()
}

async fn cut_over(run: MigrationHandle) -> Summary {
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    summary
}

/// Leaves `note` out, and gives `mail` another name.
fn without_notes() -> FieldRules {
    let rules = FieldRules::builder("without notes", "1")
        .drop("note")
        .rename("mail", "email");
    rules.build().unwrap()
}

/// What [`without_notes`] makes of a document.
fn without_note(document: &Document) -> Document {
    let kept = document.iter().filter(|(name, _)| *name != "note");
    let renamed = kept.map(|(name, value)| match name.as_str() {
        "mail" => ("email".to_owned(), value.clone()),
        _ => (name.clone(), value.clone()),
    });
    renamed.collect()
}
