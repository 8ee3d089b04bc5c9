//! The migration that the arguments ask for.

use mongoferry::checkpoint::FileStore;
use mongoferry::{Migration, MongoSink, MongoSource, Result};

use crate::arguments::Arguments;

/// Connects to both sides and describes the migration that the arguments ask for.
pub async fn assemble(arguments: &Arguments, source: &str, target: &str) -> Result<Migration> {
    let (source, sink) = futures::try_join!(MongoSource::connect(source), MongoSink::connect(target))?;
    let mut builder = Migration::builder(source, sink)
        .existing_data(arguments.existing_data)
        .verification(arguments.verification)
        .block_source_writes(arguments.block_writes)
        .throttle(arguments.throttle)
        .accept_unencrypted(arguments.accept_unencrypted)
        .path_policy(arguments.path_policy)
        .scan_documents(arguments.scan);
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
    builder.build()
}
