//! The trait of the stores that keep a checkpoint.

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;

use crate::error::Result;

/// Storage for the checkpoint of one migration.
///
/// # Contract
/// - `Ok` of [`save`](CheckpointStore::save) means durable. A save that fails, or whose future is dropped, leaves either the old checkpoint
///   or the new one, never a mixture.
/// - A store holds one checkpoint.
///
/// # How to
/// - Keep it on the target: do nothing, [`SinkStore`](super::SinkStore) is the default.
/// - Keep it in a file: [`FileStore`](super::FileStore).
/// - Keep it elsewhere: implement this trait, and run `conformance::check_checkpoint_store` of the feature `test-util` in a test.
/// - Change some methods of another store: implement [`CheckpointStoreLayer`](super::CheckpointStoreLayer).
///
/// ```no_run
/// use async_trait::async_trait;
/// use mongoferry::bson::raw::RawDocumentBuf;
/// use mongoferry::{CheckpointStore, Error, ErrorKind, Migration, MongoSink, MongoSource, Result};
/// # struct Registry;
/// # impl Registry {
/// #     async fn get(&self) -> std::io::Result<Option<Vec<u8>>> { Ok(None) }
/// #     async fn put(&self, _: Option<&[u8]>) -> std::io::Result<()> { Ok(()) }
/// # }
///
/// /// Keeps the checkpoint in the host's own registry.
/// struct InRegistry(Registry);
///
/// fn failed(error: std::io::Error) -> Error {
///     Error::new(ErrorKind::Io, "use the registry", "see whether it is up").with_source(error)
/// }
///
/// #[async_trait]
/// impl CheckpointStore for InRegistry {
///     async fn load(&self) -> Result<Option<RawDocumentBuf>> {
///         let Some(bytes) = self.0.get().await.map_err(failed)? else { return Ok(None) };
///         let malformed = |error| Error::new(ErrorKind::Protocol, "load the checkpoint", "it is no BSON").with_source(error);
///         RawDocumentBuf::from_bytes(bytes).map(Some).map_err(malformed)
///     }
///
///     async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
///         self.0.put(Some(checkpoint.as_bytes())).await.map_err(failed)
///     }
///
///     async fn clear(&self) -> Result<()> {
///         self.0.put(None).await.map_err(failed)
///     }
/// }
///
/// # fn build(source: MongoSource, sink: MongoSink, registry: Registry) -> Result<Migration> {
/// Migration::builder(source, sink).checkpoint_store(InRegistry(registry)).build()
/// # }
/// ```
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// Loads the last checkpoint saved, if there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn load(&self) -> Result<Option<RawDocumentBuf>>;

    /// Takes ownership of the checkpoint. From now on the store refuses saves of other processes, unless they have claimed the checkpoint
    /// later. A run calls this once it has the lease.
    ///
    /// The default does nothing. A process whose lease has run out is then kept from saving only by itself.
    ///
    /// # Errors
    /// The store cannot be read or written.
    async fn claim(&self) -> Result<()> {
        Ok(())
    }

    /// Replaces the checkpoint.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()>;

    /// Removes the checkpoint. If there is none, that is no error.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn clear(&self) -> Result<()>;
}
