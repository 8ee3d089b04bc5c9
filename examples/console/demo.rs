//! Demonstration: a shop on its own replica set whose application keeps writing, and a new, empty replica set.

use std::sync::Arc;

use mongoferry::console::{Console, ManagedMigration};
use mongoferry::{Migration, MongoSink, MongoSource};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, Version};
use tokio::sync::Mutex;

use crate::Result;

/// Number of operations that the application starts per second.
const OPERATIONS: u32 = 200;

/// Small chunks make the progress of little data visible.
const CHUNK_BYTES: u64 = 4 << 20;

/// Id of the migration that is there at the beginning.
const ID: &str = "demonstration";

/// The servers, which end with this value, and the application.
pub struct Demonstration {
    old: ReplicaSet,
    new: ReplicaSet,
    application: Arc<Mutex<Option<Writer>>>,
}

/// Starts both replica sets, loads the shop, and starts its application.
pub async fn start(documents: u64) -> Result<Demonstration> {
    println!("starting two replica sets; the first time, this downloads MongoDB 6.0.5");
    let set = |name| {
        ReplicaSet::builder(Version::V6_0)
            .name(name)
            .enable_test_commands(false)
    };
    let (old, new) = futures::try_join!(set("old").start(), set("new").start())?;
    println!("loading {documents} documents");
    let client = old.client().await?;
    workload::load(&client, documents, 1).await?;
    let writer = Writer::builder(&client, 1)
        .operations_per_second(OPERATIONS)
        .start()
        .await?;
    println!("source: {}\ntarget: {}", old.uri(), new.uri());
    Ok(Demonstration {
        old,
        new,
        application: Arc::new(Mutex::new(Some(writer))),
    })
}

impl Demonstration {
    /// A console with one migration, whose cutover stops the application. People can create others from the same source.
    pub fn console(&self) -> Result<Console> {
        let console = Console::builder()
            .allow_create(true)
            .target(self.new.uri())
            .documents_on_request(true)
            .build();
        let (source, target) = (self.old.uri(), self.new.uri());
        let migration = ManagedMigration::new(ID, move || {
            let (source, target) = (source.clone(), target.clone());
            async move {
                let (source, sink) = (MongoSource::connect(source).await?, MongoSink::connect(target).await?);
                Migration::builder(source, sink).id(ID).chunk_bytes(CHUNK_BYTES).build()
            }
        });
        let (source, target) = (self.new.uri(), self.old.uri());
        let migration = migration.way_back(move |way_back| {
            let (source, target) = (source.clone(), target.clone());
            async move {
                let (source, sink) = (MongoSource::connect(source).await?, MongoSink::connect(target).await?);
                way_back.reverse(source, sink)?.build()
            }
        });
        let application = Arc::clone(&self.application);
        let migration = migration.stop_writes(move || {
            let application = Arc::clone(&application);
            async move {
                if let Some(writer) = application.lock().await.take() {
                    writer.stop().await;
                }
                Ok::<(), std::convert::Infallible>(())
            }
        });
        console.add(migration)?;
        Ok(console)
    }
}
