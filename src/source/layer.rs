//! Sources that wrap another one: layers, `Arc` and `Box`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;

use crate::error::Result;
use crate::model::{
    Accounts, Batch, Collection, Deployment, Inspection, Layered, Namespace, Position, Selection, TransactionFacts,
};
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{PointRequest, ReadRequest, Source, WriteLoad};

/// A source that wraps another one and changes some of its methods. The others are forwarded.
///
/// Implement it instead of [`Source`] for a wrapper, and pass the wrapper as [`Layered`]. A wrapper that implements [`Source`] has to forward
/// every method itself: one that it leaves out gets the trait's default, and so do methods that later versions add.
///
/// ```no_run
/// use async_trait::async_trait;
/// use mongoferry::source::{MongoSource, Source, SourceLayer, WriteLoad};
/// use mongoferry::{Layered, Migration, MongoSink, Result};
///
/// /// Reads like the wrapped source, and never runs `serverStatus` on it.
/// struct Quiet(MongoSource);
///
/// #[async_trait]
/// impl SourceLayer for Quiet {
///     fn inner(&self) -> &dyn Source {
///         &self.0
///     }
///
///     async fn write_load(&self) -> Result<Option<WriteLoad>> {
///         Ok(None)
///     }
/// }
///
/// # async fn build(source: MongoSource, sink: MongoSink) -> Result<Migration> {
/// Migration::builder(Layered(Quiet(source)), sink).build()
/// # }
/// ```
#[async_trait]
pub trait SourceLayer: Send + Sync + 'static {
    /// The source that is wrapped.
    fn inner(&self) -> &dyn Source;

    /// Like [`Source::describe`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn describe(&self) -> Result<Deployment> {
        self.inner().describe().await
    }

    /// Like [`Source::members`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn members(&self) -> Result<Vec<String>> {
        self.inner().members().await
    }

    /// Like [`Source::collections`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn collections(&self) -> Result<Vec<Collection>> {
        self.inner().collections().await
    }

    /// Like [`Source::collections_named`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.inner().collections_named(names).await
    }

    /// Like [`Source::collections_selected`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        self.inner().collections_selected(selection).await
    }

    /// Like [`Source::databases`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn databases(&self) -> Result<BTreeSet<String>> {
        self.inner().databases().await
    }

    /// Like [`Source::position`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn position(&self) -> Result<Position> {
        self.inner().position().await
    }

    /// Like [`Source::sentinel`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn sentinel(&self) -> Result<Position> {
        self.inner().sentinel().await
    }

    /// Like [`Source::read_position`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn read_position(&self) -> Result<Position> {
        self.inner().read_position().await
    }

    /// Like [`Source::start_position`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn start_position(&self) -> Result<Position> {
        self.inner().start_position().await
    }

    /// Like [`Source::oldest_position`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn oldest_position(&self) -> Result<Position> {
        self.inner().oldest_position().await
    }

    /// Like [`Source::restore_identities`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn restore_identities(&self, known: &BTreeMap<Namespace, Uuid>) -> Result<()> {
        self.inner().restore_identities(known).await
    }

    /// Like [`Source::tail`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        self.inner().tail(after).await
    }

    /// Like [`Source::split`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        self.inner().split(collection, bytes).await
    }

    /// Like [`Source::read`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        self.inner().read(request).await
    }

    /// Like [`Source::read_matching`]. The default is that of a source: it calls [`read`](Self::read) of this layer, so that a layer which
    /// changes what is read changes this as well.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn read_matching(
        &self,
        request: ReadRequest,
        query: &RawDocument,
    ) -> Result<BoxStream<'static, Result<Batch>>> {
        let _ = query;
        self.read(request).await
    }

    /// Like [`Source::read_documents`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        self.inner().read_documents(request).await
    }

    /// Like [`Source::inspect`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn inspect(&self) -> Result<Inspection> {
        self.inner().inspect().await
    }

    /// Like [`Source::duplicates`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        self.inner().duplicates(collection, index, limit).await
    }

    /// Like [`Source::unindexed`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn unindexed(&self, collection: &Collection) -> Result<Option<u64>> {
        self.inner().unindexed(collection).await
    }

    /// Like [`Source::set_write_block`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        self.inner().set_write_block(blocked).await
    }

    /// Like [`Source::writes_blocked`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn writes_blocked(&self) -> Result<bool> {
        self.inner().writes_blocked().await
    }

    /// Like [`Source::open_transactions`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        self.inner().open_transactions().await
    }

    /// Like [`Source::write_load`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        self.inner().write_load().await
    }

    /// Like [`Source::accounts`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn accounts(&self) -> Result<Accounts> {
        self.inner().accounts().await
    }

    /// Like [`Source::digest`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped source.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.inner().digest(namespace).await
    }
}

/// Implements [`Source`] for a type by a function that returns what has the methods. Clippy checks that none is left to the trait's default, which
/// would answer in place of the wrapped source.
macro_rules! forward_source {
    (impl[$($generics:tt)*] for $type:ty, $inner:expr) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<$($generics)*> Source for $type {
            async fn describe(&self) -> Result<Deployment> {
                $inner(self).describe().await
            }

            async fn members(&self) -> Result<Vec<String>> {
                $inner(self).members().await
            }

            async fn collections(&self) -> Result<Vec<Collection>> {
                $inner(self).collections().await
            }

            async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
                $inner(self).collections_named(names).await
            }

            async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
                $inner(self).collections_selected(selection).await
            }

            async fn databases(&self) -> Result<BTreeSet<String>> {
                $inner(self).databases().await
            }

            async fn position(&self) -> Result<Position> {
                $inner(self).position().await
            }

            async fn sentinel(&self) -> Result<Position> {
                $inner(self).sentinel().await
            }

            async fn read_position(&self) -> Result<Position> {
                $inner(self).read_position().await
            }

            async fn start_position(&self) -> Result<Position> {
                $inner(self).start_position().await
            }

            async fn oldest_position(&self) -> Result<Position> {
                $inner(self).oldest_position().await
            }

            async fn restore_identities(&self, known: &BTreeMap<Namespace, Uuid>) -> Result<()> {
                $inner(self).restore_identities(known).await
            }

            async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
                $inner(self).tail(after).await
            }

            async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
                $inner(self).split(collection, bytes).await
            }

            async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
                $inner(self).read(request).await
            }

            async fn read_matching(
                &self,
                request: ReadRequest,
                query: &RawDocument,
            ) -> Result<BoxStream<'static, Result<Batch>>> {
                $inner(self).read_matching(request, query).await
            }

            async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
                $inner(self).read_documents(request).await
            }

            async fn inspect(&self) -> Result<Inspection> {
                $inner(self).inspect().await
            }

            async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
                $inner(self).duplicates(collection, index, limit).await
            }

            async fn unindexed(&self, collection: &Collection) -> Result<Option<u64>> {
                $inner(self).unindexed(collection).await
            }

            async fn set_write_block(&self, blocked: bool) -> Result<()> {
                $inner(self).set_write_block(blocked).await
            }

            async fn writes_blocked(&self) -> Result<bool> {
                $inner(self).writes_blocked().await
            }

            async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
                $inner(self).open_transactions().await
            }

            async fn write_load(&self) -> Result<Option<WriteLoad>> {
                $inner(self).write_load().await
            }

            async fn accounts(&self) -> Result<Accounts> {
                $inner(self).accounts().await
            }

            async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
                $inner(self).digest(namespace).await
            }
        }
    };
}

forward_source!(impl[L: SourceLayer] for Layered<L>, Deref::deref);
forward_source!(impl[T: Source + ?Sized] for Arc<T>, Deref::deref);
forward_source!(impl[T: Source + ?Sized] for Box<T>, Deref::deref);

pub(crate) use forward_source;
