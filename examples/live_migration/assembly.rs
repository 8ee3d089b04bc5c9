//! Builds the migration from the command-line arguments.

use std::path::{Path, PathBuf};

use mongoferry::checkpoint::FileStore;
use mongoferry::{
    ConnectOptions, ErrorKind, Migration, MigrationBuilder, MongoSink, MongoSource, Result, UserSelection, Users, Wait,
    WayBack,
};
use tokio::sync::mpsc;

use crate::arguments::Arguments;

/// Channel that receives reports of waiting.
pub type Waits = mpsc::Sender<Wait>;

/// Connects to both sides and builds the migration that the arguments describe.
pub async fn assemble(arguments: &Arguments, source: &str, target: &str, waits: &Waits) -> Result<Migration> {
    let (source, sink) = connect(source, target, waits).await?;
    let mut builder = Migration::builder(source, sink).existing_data(arguments.existing_data);
    if let Some(id) = &arguments.id {
        builder = builder.id(id);
    }
    for pattern in &arguments.include {
        builder = builder.include(pattern);
    }
    for pattern in &arguments.exclude {
        builder = builder.exclude(pattern);
    }
    for (from, to) in &arguments.rename {
        builder = builder.rename(from, to);
    }
    if let Some(existing) = arguments.users {
        builder = builder.users(Users::Carry(UserSelection::all().existing(existing)));
    }
    if let Some(path) = &arguments.checkpoint.0 {
        builder = builder.checkpoint_store(FileStore::new(path));
    }
    if let Some(path) = &arguments.recording {
        builder = builder.recording(path, arguments.recording_bytes);
    }
    with_settings(builder, arguments, waits).build()
}

/// Builds the migration that reverses a hand-over. Its source is the original target.
pub async fn assemble_back(
    arguments: &Arguments,
    way_back: &WayBack,
    source: &str,
    target: &str,
    waits: &Waits,
) -> Result<Migration> {
    let (source, sink) = connect(target, source, waits).await?;
    back(arguments, way_back.reverse(source, sink)?, waits)
}

/// Same as `assemble_back`, for a migration that an earlier process has completed. Returns `None` if it is not
/// complete.
pub async fn assemble_back_of(
    arguments: &Arguments,
    migration: &Migration,
    source: &str,
    target: &str,
    waits: &Waits,
) -> Result<Option<Migration>> {
    let (source, sink) = connect(target, source, waits).await?;
    match migration.reverse(source, sink).await {
        Ok(builder) => back(arguments, builder, waits).map(Some),
        Err(error) if error.kind() == ErrorKind::WrongPhase => Ok(None),
        Err(error) => Err(error),
    }
}

fn back(arguments: &Arguments, mut builder: MigrationBuilder, waits: &Waits) -> Result<Migration> {
    // The checkpoint of the first direction is still needed, and its recording may be.
    if let Some(path) = &arguments.checkpoint.0 {
        builder = builder.checkpoint_store(FileStore::new(of_way_back(path)));
    }
    if let Some(path) = &arguments.recording {
        builder = builder.recording(of_way_back(path), arguments.recording_bytes);
    }
    with_settings(builder, arguments, waits).build()
}

/// The path of a file of the way back.
fn of_way_back(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".reverse");
    path.into()
}

async fn connect(source: &str, target: &str, waits: &Waits) -> Result<(MongoSource, MongoSink)> {
    let options = |uri: &str| ConnectOptions::uri(uri).on_wait(tell(waits));
    futures::try_join!(
        MongoSource::connect(options(source)),
        MongoSink::connect(options(target))
    )
}

/// Returns the callback for waits. It must not block, so waits that do not fit into the channel are dropped.
fn tell(waits: &Waits) -> impl Fn(Wait) + Send + Sync + 'static {
    let waits = waits.clone();
    move |wait| {
        let _ = waits.try_send(wait);
    }
}

/// Applies the settings that both directions share.
fn with_settings(mut builder: MigrationBuilder, arguments: &Arguments, waits: &Waits) -> MigrationBuilder {
    builder = builder
        .on_wait(tell(waits))
        .verification(arguments.verification)
        .block_source_writes(arguments.block_writes)
        .ddl_policy(arguments.ddl)
        .throttle(arguments.throttle())
        .adaptive_walkers(!arguments.all_walkers)
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
    if let Some(appliers) = arguments.appliers {
        builder = builder.appliers(appliers);
    }
    if let Some(bytes) = arguments.chunk_bytes {
        builder = builder.chunk_bytes(bytes);
    }
    if let Some(bytes) = arguments.memory_bytes {
        builder = builder.memory_bytes(bytes);
    }
    builder
}
