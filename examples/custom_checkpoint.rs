//! Keeps a migration's checkpoint in a store of the host's own, and resumes from it.
//!
//! The store is a collection with one document per migration. `cargo run --example custom_checkpoint` starts two
//! replica sets, stops a migration halfway, and starts it again.

use std::error::Error as StdError;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use mongodb::Collection;
use mongodb::bson::{doc, rawdoc};
use mongodb::options::{ReadConcern, WriteConcern};
use mongoferry::checkpoint::CheckpointStore;
use mongoferry::{Error, ErrorKind, Event, Migration, MigrationHandle, MongoSink, MongoSource, Outcome, Result};
use mongoferry_testbed::{ReplicaSet, Version, workload};

/// Stores the checkpoints of many migrations side by side, each under its name.
#[derive(Clone)]
struct MigrationsCollection {
    migrations: Collection<RawDocumentBuf>,
    name: &'static str,
}

#[async_trait]
impl CheckpointStore for MigrationsCollection {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        let found = self
            .migrations
            .find_one(doc! { "_id": self.name })
            .read_concern(ReadConcern::majority())
            .await
            .map_err(|error| failure("load the checkpoint", error))?;
        let Some(found) = found else { return Ok(None) };
        let checkpoint = found
            .get_document("checkpoint")
            .map_err(|error| failure("load the checkpoint", error))?;
        Ok(Some(checkpoint.to_owned()))
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        // One document is replaced as a whole. `Ok` must mean that the checkpoint is durable.
        self.migrations
            .replace_one(
                doc! { "_id": self.name },
                rawdoc! { "_id": self.name, "checkpoint": checkpoint.clone() },
            )
            .upsert(true)
            .write_concern(WriteConcern::majority())
            .await
            .map(drop)
            .map_err(|error| failure("save the checkpoint", error))
    }

    async fn clear(&self) -> Result<()> {
        self.migrations
            .delete_one(doc! { "_id": self.name })
            .write_concern(WriteConcern::majority())
            .await
            .map(drop)
            .map_err(|error| failure("remove the checkpoint", error))
    }
}

/// After a retryable error the run continues from its last checkpoint. Any other error ends the run.
fn failure(operation: &'static str, error: impl StdError + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Server, operation, "the collection of migrations failed")
        .with_retryable(true)
        .with_source(error)
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn StdError>> {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).name("old").start(),
        ReplicaSet::builder(Version::V6_0).name("new").start()
    )?;
    workload::load(&source.client().await?, 5000, 1).await?;
    // Any deployment will do. The target is at hand here.
    let migrations = target.client().await?.database("operations").collection("migrations");
    let store = MigrationsCollection {
        migrations,
        name: "shop to the new data centre",
    };

    let run = start(&source, &target, store.clone()).await?;
    let mut events = run.events();
    while let Some(event) = events.next().await {
        if let Event::CheckpointSaved { watermark } = event {
            println!("stopped after the checkpoint of {watermark}");
            break;
        }
    }
    run.abandon().await;

    let run = start(&source, &target, store.clone()).await?;
    let mut events = run.events();
    if let Some(Event::Started { resumed, position }) = events.next().await {
        println!("going on: {resumed}, from {position}");
    }
    run.ready_to_cut_over().await?;
    // Nothing writes here, so there is nothing to stop.
    let summary = run.cutover(async {}).await?;
    println!("{:?}: {} collections", summary.outcome, summary.collections.len());
    // The checkpoint of a complete migration prevents an accidental second start. The host removes it when it is no
    // longer needed.
    store.clear().await?;
    if summary.outcome == Outcome::Complete {
        Ok(())
    } else {
        Err(format!("{summary:#?}").into())
    }
}

async fn start(source: &ReplicaSet, target: &ReplicaSet, store: MigrationsCollection) -> Result<MigrationHandle> {
    let source = MongoSource::connect(&source.uri()).await?;
    let sink = MongoSink::connect(&target.uri()).await?;
    Migration::builder(source, sink)
        .checkpoint_store(store)
        .build()?
        .start()
        .await
}
