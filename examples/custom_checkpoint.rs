//! Keeps a migration's checkpoint in a store of the host's own, and resumes from it.
//!
//! The store is a collection with one document per migration. `cargo run --example custom_checkpoint -- SOURCE TARGET` migrates from one
//! replica set to the other. Interrupt it with Ctrl-C and run it again: it continues. Without arguments, the example starts its own
//! servers, stops a migration halfway, and starts it again.

use std::error::Error as StdError;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use mongodb::bson::{doc, rawdoc};
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{Client, Collection};
use mongoferry::checkpoint::CheckpointStore;
use mongoferry::{Error, ErrorKind, Event, Migration, MongoSink, MongoSource, Outcome, Result};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

type AnyError = Box<dyn StdError + Send + Sync>;

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

fn describe(source: MongoSource, sink: MongoSink, store: MigrationsCollection) -> Result<Migration> {
    Migration::builder(source, sink).checkpoint_store(store).build()
}

/// Any deployment will do for the checkpoints. The target is at hand here.
async fn store(target: &str) -> mongodb::error::Result<MigrationsCollection> {
    let client = Client::with_uri_str(target).await?;
    Ok(MigrationsCollection {
        migrations: client.database("operations").collection("migrations"),
        name: "shop to the new data centre",
    })
}

/// Migrates, or continues where the last run stopped. Once `stop_writes` has returned, nothing may write to the source any more.
async fn migrate(
    source: &str,
    target: &str,
    stop_writes: impl Future<Output = ()>,
) -> std::result::Result<(), AnyError> {
    let store = store(target).await?;
    let (source, sink) = (MongoSource::connect(source).await?, MongoSink::connect(target).await?);
    let migration = describe(source, sink, store)?;
    let mut events = migration.events();
    let run = migration.start().await?;
    while let Some(event) = events.next().await {
        if let Event::Started { resumed, position } = event {
            println!("going on: {resumed}, from {position}");
            break;
        }
    }
    run.ready_to_cut_over().await?;
    let summary = run.cutover(stop_writes).await?;
    println!("{:?}: {} collections", summary.outcome, summary.collections.len());
    if summary.outcome != Outcome::Complete {
        return Err(format!("{summary:#?}").into());
    }
    // The checkpoint of a complete migration prevents an accidental second start, and has the certificate and the way back. Once
    // nobody needs these any more, `Migration::forget` removes it together with the records on the target.
    Ok(())
}

#[tokio::main]
async fn main() -> std::result::Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, target] if arguments.iter().all(|uri| uri.starts_with("mongodb")) => {
            migrate(source, target, applications_stopped()).await
        }
        _ => {
            eprintln!("usage: cargo run --example custom_checkpoint -- SOURCE TARGET (two connection strings)");
            std::process::exit(2)
        }
    }
}

async fn applications_stopped() {
    println!("ready: stop the applications, then press Enter");
    // At the end of the input, nobody can press anything.
    let _ = BufReader::new(stdin()).read_line(&mut String::new()).await;
}

/// What the example does without arguments, on servers of its own.
mod demonstration {
    use mongoferry_testbed::{ReplicaSet, Version, workload};

    use super::*;

    pub async fn run() -> std::result::Result<(), AnyError> {
        let (old, new) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).name("old").start(),
            ReplicaSet::builder(Version::V6_0).name("new").start()
        )?;
        workload::load(&old.client().await?, 5000, 1).await?;
        let (source, sink) = (
            MongoSource::connect(&old.uri()).await?,
            MongoSink::connect(&new.uri()).await?,
        );
        let run = describe(source, sink, store(&new.uri()).await?)?.start().await?;
        let mut events = run.events();
        while let Some(event) = events.next().await {
            if let Event::CheckpointSaved { watermark } = event {
                println!("stopped after the checkpoint of {watermark}");
                break;
            }
        }
        run.abandon().await;
        // Nothing writes here, so there is nothing to stop.
        migrate(&old.uri(), &new.uri(), async {}).await
    }
}
