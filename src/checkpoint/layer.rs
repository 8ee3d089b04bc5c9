//! Checkpoint stores that wrap another one: layers, `Arc` and `Box`.

use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;

use crate::checkpoint::CheckpointStore;
use crate::error::Result;
use crate::model::Layered;

/// A checkpoint store that wraps another one and changes some of its methods. The others are forwarded.
///
/// Implement it instead of [`CheckpointStore`] for a wrapper, and pass the wrapper as [`Layered`].
///
/// ```no_run
/// use async_trait::async_trait;
/// use mongoferry::bson::raw::RawDocumentBuf;
/// use mongoferry::checkpoint::{CheckpointStore, CheckpointStoreLayer, FileStore};
/// use mongoferry::{Layered, Migration, MongoSink, MongoSource, Result};
///
/// /// Logs the size of each checkpoint.
/// struct Logged(FileStore);
///
/// #[async_trait]
/// impl CheckpointStoreLayer for Logged {
///     fn inner(&self) -> &dyn CheckpointStore {
///         &self.0
///     }
///
///     async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
///         eprintln!("checkpoint of {} bytes", checkpoint.as_bytes().len());
///         self.0.save(checkpoint).await
///     }
/// }
///
/// # async fn build(source: MongoSource, sink: MongoSink) -> Result<Migration> {
/// let store = Layered(Logged(FileStore::new("checkpoint")));
/// Migration::builder(source, sink).checkpoint_store(store).build()
/// # }
/// ```
#[async_trait]
pub trait CheckpointStoreLayer: Send + Sync + 'static {
    /// The store that is wrapped.
    fn inner(&self) -> &dyn CheckpointStore;

    /// Like [`CheckpointStore::load`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped store.
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        self.inner().load().await
    }

    /// Like [`CheckpointStore::claim`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped store.
    async fn claim(&self) -> Result<()> {
        self.inner().claim().await
    }

    /// Like [`CheckpointStore::save`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped store.
    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        self.inner().save(checkpoint).await
    }

    /// Like [`CheckpointStore::clear`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped store.
    async fn clear(&self) -> Result<()> {
        self.inner().clear().await
    }
}

/// Implements [`CheckpointStore`] for a type that dereferences to what has the methods. Clippy checks that none is left to the trait's default, which
/// would answer in place of the wrapped store.
macro_rules! forward_store {
    (impl[$($generics:tt)*] for $type:ty) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<$($generics)*> CheckpointStore for $type {
            async fn load(&self) -> Result<Option<RawDocumentBuf>> {
                (**self).load().await
            }

            async fn claim(&self) -> Result<()> {
                (**self).claim().await
            }

            async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
                (**self).save(checkpoint).await
            }

            async fn clear(&self) -> Result<()> {
                (**self).clear().await
            }
        }
    };
}

forward_store!(impl[L: CheckpointStoreLayer] for Layered<L>);
forward_store!(impl[T: CheckpointStore + ?Sized] for Arc<T>);
forward_store!(impl[T: CheckpointStore + ?Sized] for Box<T>);
