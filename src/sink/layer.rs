//! Sinks that wrap another one: layers, `Arc` and `Box`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::model::{
    AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Deployment, Inspection, Layered,
    Namespace, Position, Selection, Write,
};
use crate::order::Key;
use crate::sink::{CatalogCommand, Refusal, Sink, SinkRead, WritesSeen};

/// A sink that wraps another one and changes some of its methods. The others are forwarded.
///
/// Implement it instead of [`Sink`] for a wrapper, and pass the wrapper as [`Layered`]. A wrapper that implements [`Sink`] has to forward every
/// method itself: one that it leaves out gets the trait's default, and so do methods that later versions add.
///
/// A method that later versions add is forwarded without the wrapper's knowledge. A wrapper that must see every call, such as one that
/// refuses all writes, should therefore implement [`Sink`] under `#[deny(clippy::missing_trait_methods)]`.
///
/// ```no_run
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use async_trait::async_trait;
/// use mongoferry::sink::{MongoSink, Refusal, Sink, SinkLayer};
/// use mongoferry::{Batch, Layered, Migration, MongoSource, Namespace, Result};
///
/// /// Counts the documents of the copy.
/// struct Counting {
///     sink: MongoSink,
///     documents: AtomicU64,
/// }
///
/// #[async_trait]
/// impl SinkLayer for Counting {
///     fn inner(&self) -> &dyn Sink {
///         &self.sink
///     }
///
///     async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
///         self.documents.fetch_add(batch.len() as u64, Ordering::Relaxed);
///         self.sink.insert(namespace, batch).await
///     }
/// }
///
/// # async fn build(source: MongoSource, sink: MongoSink) -> Result<Migration> {
/// let documents = AtomicU64::default();
/// Migration::builder(source, Layered(Counting { sink, documents })).build()
/// # }
/// ```
#[async_trait]
pub trait SinkLayer: Send + Sync + 'static {
    /// The sink that is wrapped.
    fn inner(&self) -> &dyn Sink;

    /// Like [`Sink::describe`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn describe(&self) -> Result<Deployment> {
        self.inner().describe().await
    }

    /// Like [`Sink::members`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn members(&self) -> Result<Vec<String>> {
        self.inner().members().await
    }

    /// Like [`Sink::foreign_writes`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        self.inner().foreign_writes(after).await
    }

    /// Like [`Sink::collections`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn collections(&self) -> Result<Vec<Collection>> {
        self.inner().collections().await
    }

    /// Like [`Sink::collections_named`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.inner().collections_named(names).await
    }

    /// Like [`Sink::collections_selected`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        self.inner().collections_selected(selection).await
    }

    /// Like [`Sink::names_in`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        self.inner().names_in(database).await
    }

    /// Like [`Sink::identities`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        self.inner().identities(names).await
    }

    /// Like [`Sink::execute`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        self.inner().execute(command).await
    }

    /// Like [`Sink::create_index`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        self.inner().create_index(namespace, specification).await
    }

    /// Like [`Sink::insert`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        self.inner().insert(namespace, batch).await
    }

    /// Like [`Sink::apply`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        self.inner().apply(namespace, kind, writes).await
    }

    /// Like [`Sink::losses`]. The default forwards the call.
    fn losses(&self) -> u64 {
        self.inner().losses()
    }

    /// Like [`Sink::flush`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn flush(&self) -> Result<()> {
        self.inner().flush().await
    }

    /// Like [`Sink::quiesce`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn quiesce(&self, selection: &Selection) -> Result<()> {
        self.inner().quiesce(selection).await
    }

    /// Like [`Sink::sentinel`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn sentinel(&self) -> Result<Option<Position>> {
        self.inner().sentinel().await
    }

    /// Like [`Sink::read`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        self.inner().read(request).await
    }

    /// Like [`Sink::read_documents`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        self.inner().read_documents(namespace, keys).await
    }

    /// Like [`Sink::inspect`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn inspect(&self) -> Result<Inspection> {
        self.inner().inspect().await
    }

    /// Like [`Sink::digest`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        self.inner().digest(namespace).await
    }

    /// Like [`Sink::accounts`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
        self.inner().accounts(names).await
    }

    /// Like [`Sink::unknown_actions`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn unknown_actions(&self, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
        self.inner().unknown_actions(actions).await
    }

    /// Like [`Sink::change_accounts`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        self.inner().change_accounts(changes).await
    }

    /// Like [`Sink::load_record`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        self.inner().load_record(name).await
    }

    /// Like [`Sink::save_record`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        self.inner().save_record(name, record, expected).await
    }

    /// Like [`Sink::delete_record`]. The default forwards the call.
    ///
    /// # Errors
    /// Those of the wrapped sink.
    async fn delete_record(&self, name: &str) -> Result<()> {
        self.inner().delete_record(name).await
    }
}

/// Implements [`Sink`] for a type that dereferences to what has the methods. Clippy checks that none is left to the trait's default, which
/// would answer in place of the wrapped sink.
macro_rules! forward_sink {
    (impl[$($generics:tt)*] for $type:ty) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<$($generics)*> Sink for $type {
            async fn describe(&self) -> Result<Deployment> {
                (**self).describe().await
            }

            async fn members(&self) -> Result<Vec<String>> {
                (**self).members().await
            }

            async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
                (**self).foreign_writes(after).await
            }

            async fn collections(&self) -> Result<Vec<Collection>> {
                (**self).collections().await
            }

            async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
                (**self).collections_named(names).await
            }

            async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
                (**self).collections_selected(selection).await
            }

            async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
                (**self).names_in(database).await
            }

            async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
                (**self).identities(names).await
            }

            async fn execute(&self, command: &CatalogCommand) -> Result<()> {
                (**self).execute(command).await
            }

            async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
                (**self).create_index(namespace, specification).await
            }

            async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
                (**self).insert(namespace, batch).await
            }

            async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
                (**self).apply(namespace, kind, writes).await
            }

            fn losses(&self) -> u64 {
                (**self).losses()
            }

            async fn flush(&self) -> Result<()> {
                (**self).flush().await
            }

            async fn quiesce(&self, selection: &Selection) -> Result<()> {
                (**self).quiesce(selection).await
            }

            async fn sentinel(&self) -> Result<Option<Position>> {
                (**self).sentinel().await
            }

            async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
                (**self).read(request).await
            }

            async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
                (**self).read_documents(namespace, keys).await
            }

            async fn inspect(&self) -> Result<Inspection> {
                (**self).inspect().await
            }

            async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
                (**self).digest(namespace).await
            }

            async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
                (**self).accounts(names).await
            }

            async fn unknown_actions(&self, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
                (**self).unknown_actions(actions).await
            }

            async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
                (**self).change_accounts(changes).await
            }

            async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
                (**self).load_record(name).await
            }

            async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
                (**self).save_record(name, record, expected).await
            }

            async fn delete_record(&self, name: &str) -> Result<()> {
                (**self).delete_record(name).await
            }
        }
    };
}

forward_sink!(impl[L: SinkLayer] for Layered<L>);
forward_sink!(impl[T: Sink + ?Sized] for Arc<T>);
forward_sink!(impl[T: Sink + ?Sized] for Box<T>);
