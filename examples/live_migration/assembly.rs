//! The migration that the arguments ask for.

use mongoferry::checkpoint::FileStore;
use mongoferry::{ErrorKind, Migration, MigrationBuilder, MongoSink, MongoSource, Result, WayBack};

use crate::arguments::Arguments;

/// Connects to both sides and describes the migration that the arguments ask for.
pub async fn assemble(arguments: &Arguments, source: &str, target: &str) -> Result<Migration> {
    let (source, sink) = connect(source, target).await?;
    let mut builder = Migration::builder(source, sink).existing_data(arguments.existing_data);
    for pattern in &arguments.include {
        builder = builder.include(pattern);
    }
    for pattern in &arguments.exclude {
        builder = builder.exclude(pattern);
    }
    for (from, to) in &arguments.rename {
        builder = builder.rename(from, to);
    }
    if let Some(path) = &arguments.checkpoint {
        builder = builder.checkpoint(FileStore::new(path));
    }
    with_settings(builder, arguments).build()
}

/// Describes the migration that takes a hand-over back, whose source is the target.
pub async fn assemble_back(arguments: &Arguments, way_back: &WayBack, source: &str, target: &str) -> Result<Migration> {
    let (source, sink) = connect(target, source).await?;
    back(arguments, way_back.reverse(source, sink)?)
}

/// The same of a migration that an earlier process has completed; `None` when it is not complete.
pub async fn assemble_back_of(
    arguments: &Arguments,
    migration: &Migration,
    source: &str,
    target: &str,
) -> Result<Option<Migration>> {
    let (source, sink) = connect(target, source).await?;
    match migration.reverse(source, sink).await {
        Ok(builder) => back(arguments, builder).map(Some),
        Err(error) if error.kind() == ErrorKind::WrongPhase => Ok(None),
        Err(error) => Err(error),
    }
}

fn back(arguments: &Arguments, mut builder: MigrationBuilder) -> Result<Migration> {
    if let Some(path) = &arguments.checkpoint {
        // The first direction's is still wanted.
        let mut path = path.clone().into_os_string();
        path.push(".reverse");
        builder = builder.checkpoint(FileStore::new(path));
    }
    with_settings(builder, arguments).build()
}

async fn connect(source: &str, target: &str) -> Result<(MongoSource, MongoSink)> {
    futures::try_join!(MongoSource::connect(source), MongoSink::connect(target))
}

/// What is the same in both directions.
fn with_settings(mut builder: MigrationBuilder, arguments: &Arguments) -> MigrationBuilder {
    builder = builder
        .verification(arguments.verification)
        .block_source_writes(arguments.block_writes)
        .on_ddl(arguments.ddl)
        .throttle(arguments.throttle)
        .yield_to_source_writes(!arguments.all_walkers)
        .accept_unencrypted(arguments.accept_unencrypted)
        .path_policy(arguments.path_policy)
        .scan_documents(arguments.scan);
    if let Some(lag) = arguments.max_lag {
        builder = builder.max_lag(lag);
    }
    if let Some(window) = arguments.window {
        builder = builder.cutover_window(window);
    }
    if let Some(walkers) = arguments.walkers {
        builder = builder.walkers(walkers);
    }
    if let Some(lanes) = arguments.lanes {
        builder = builder.lanes(lanes);
    }
    if let Some(bytes) = arguments.chunk_bytes {
        builder = builder.chunk_bytes(bytes);
    }
    if let Some(bytes) = arguments.memory_bytes {
        builder = builder.memory_bytes(bytes);
    }
    builder
}
