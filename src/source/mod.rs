//! The `Source` trait and its request types: where a migration reads from.

mod layer;
#[cfg(feature = "test-util")]
mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    Accounts, Batch, Collection, CollectionKind, Inspection, Namespace, Position, Range, Selection, TransactionFacts,
};
use crate::oplog::Entry;
use crate::order::Key;

pub use crate::model::Deployment;
pub use crate::mongo::source::MongoSource;
pub use layer::SourceLayer;
pub(crate) use layer::forward_source;
#[cfg(feature = "test-util")]
pub use memory::{MemorySource, NameResolution, OpenTransaction, SourceCall, Transaction};

/// A replica set, or anything that behaves like one. It provides documents as of a point in time, and the history that follows that point.
///
/// # Contract
/// - Every value returned is majority-committed, so it can never be rolled back.
/// - [`position`](Source::position) never goes backwards. The only exception is a deployment that was restored from a backup, once
///   [`start_position`](Source::start_position) was called after the restore. [`sentinel`](Source::sentinel) always reports the actual
///   state.
/// - [`tail`](Source::tail) yields every entry after the given position, in order and without a gap. The tail of an idle source still
///   reaches the newest position within seconds.
/// - A read sees at least everything up to the requested position. In [`ReadMode::Snapshot`] it sees exactly that.
/// - Every method is cancellation safe. Dropping the future or stream releases what it held on the server.
/// - [`is_retryable`](crate::Error::is_retryable) of an error says whether the same call may succeed later. Implementations reconnect
///   through elections on their own and return an error only after a bounded time.
///
/// # How to
/// - Read from MongoDB: [`MongoSource`].
/// - Change some methods of another source: implement [`SourceLayer`] and pass it as [`Layered`](crate::Layered).
/// - Share a source, or choose one at run time: `Arc<dyn Source>` and `Box<dyn Source>` are sources, too.
/// - Write one of your own: implement the methods without a default first, run
///   `conformance::check_source` of the feature `test-util` in a test, and then add those defaults that the source can do better.
/// - Try one without a migration: the trait can be called directly.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use mongoferry::{Migration, MongoSink, MongoSource, Result, Source};
///
/// # async fn example(sink: MongoSink) -> Result<()> {
/// let source: Arc<dyn Source> = Arc::new(MongoSource::connect("mongodb://old.example/?replicaSet=rs0").await?);
/// println!("{} at {}", source.describe().await?.name, source.position().await?);
/// for collection in source.collections().await? {
///     println!("{}", collection.namespace);
/// }
/// let migration = Migration::builder(Arc::clone(&source), sink).build()?;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Describes the deployment. Its identity must stay the same across restarts.
    ///
    /// # Errors
    /// The deployment cannot be reached, or it is not one that can be migrated from.
    async fn describe(&self) -> Result<Deployment>;

    /// Returns the addresses of the deployment's members, sorted. A run reports changes of this list. The default returns an empty list.
    ///
    /// # Errors
    /// A server error.
    async fn members(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Lists every collection and view, except the server's internal ones.
    ///
    /// # Errors
    /// A server error.
    async fn collections(&self) -> Result<Vec<Collection>>;

    /// Lists the collections and views among `names`, in the same form as [`collections`](Source::collections). A run calls this when a few
    /// collections change all the time. A source with many collections should therefore look these up without listing all.
    ///
    /// # Errors
    /// A server error.
    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| names.contains(&collection.namespace));
        Ok(collections)
    }

    /// Lists the collections and views of a [selection](Selection), in the same form as [`collections`](Source::collections). A run calls this
    /// to list everything that it migrates. The list may contain others. Those may lack their indexes and sizes.
    ///
    /// A source with many databases should leave out those that the selection [does not reach](Selection::reaches). The default lists all
    /// collections.
    ///
    /// # Errors
    /// A server error.
    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let _ = selection;
        self.collections().await
    }

    /// Lists the names of all databases, except the server's internal ones. A run lists those that the selection does not reach in its
    /// summary. The default returns the databases of the [`collections`](Source::collections).
    ///
    /// # Errors
    /// A server error.
    async fn databases(&self) -> Result<BTreeSet<String>> {
        let collections = self.collections().await?;
        let databases = collections
            .iter()
            .map(|collection| collection.namespace.database().to_owned());
        Ok(databases.collect())
    }

    /// Returns the newest majority-committed position.
    ///
    /// # Errors
    /// A server error.
    async fn position(&self) -> Result<Position>;

    /// Returns a position at or after every write made before the call, acknowledged or not, once that position is majority-committed.
    ///
    /// A stale primary, one that was superseded and does not know it yet, must never answer, because its position may be old. A cutover
    /// relies on this: every earlier write lies at or before the returned position.
    ///
    /// # Errors
    /// A server error.
    async fn sentinel(&self) -> Result<Position>;

    /// Returns a position at or after everything that earlier reads of this source and its catalog have shown, once that position is
    /// majority-committed. A run calls this for every range it reads, so it should be cheaper than [`sentinel`](Source::sentinel), which is
    /// the default.
    ///
    /// # Errors
    /// A server error.
    async fn read_position(&self) -> Result<Position> {
        self.sentinel().await
    }

    /// Returns a position from which a tail meets the first entry of every transaction that is open or prepared now.
    ///
    /// # Errors
    /// A server error.
    async fn start_position(&self) -> Result<Position>;

    /// Returns the oldest position that a tail can still start after. The distance from it to the newest position is the oplog window.
    ///
    /// # Errors
    /// A server error.
    async fn oldest_position(&self) -> Result<Position>;

    /// Tells the source which collections a run knows, by name and with the ids that it has listed them with, as of the position that the next
    /// [`tail`](Source::tail) starts after. A resumed run calls this before that call, with the collections of its checkpoint. The default
    /// does nothing: a source whose server has uuids needs no help to identify its collections.
    ///
    /// A source that derives the ids from the history takes them from here. It cannot know them otherwise if it has not seen the entries
    /// from which it derived them.
    ///
    /// # Errors
    /// A server error.
    async fn restore_identities(&self, known: &BTreeMap<Namespace, Uuid>) -> Result<()> {
        let _ = known;
        Ok(())
    }

    /// Streams the history after `after`, in vectors of at least one entry. The stream ends only with an error. A transaction is either one
    /// entry, or several entries at one position, of which all but the last have [`continues`](Entry::continues) set.
    ///
    /// # Errors
    /// [`PositionLost`](crate::ErrorKind::PositionLost) if the history no longer reaches back to `after` or does not contain it.
    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>>;

    /// Returns keys that split the collection into ranges of about `bytes` each, in ascending order. An empty result means one range.
    ///
    /// # Errors
    /// A server error.
    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>>;

    /// Streams the documents of a range: in `_id` order if collections of this kind have ranges, otherwise in natural order.
    ///
    /// # Errors
    /// [`SnapshotUnavailable`](crate::ErrorKind::SnapshotUnavailable), from the call or from the stream, if a snapshot cannot be provided. It
    /// is not retryable if there never is one.
    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>>;

    /// Like [`read`](Source::read), for a reader that needs only the documents that match `query`, with the meaning that
    /// [`rules::Query`](crate::rules::Query) documents. Others may be in the stream as well. The default returns all documents.
    ///
    /// # Errors
    /// Same as [`read`](Source::read).
    async fn read_matching(
        &self,
        request: ReadRequest,
        query: &RawDocument,
    ) -> Result<BoxStream<'static, Result<Batch>>> {
        let _ = query;
        self.read(request).await
    }

    /// Returns the requested documents that exist, in any order.
    ///
    /// # Errors
    /// Same as [`read`](Source::read).
    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>>;

    /// Collects the facts that [preflight](crate::preflight) examines, without changing anything. The default returns no facts.
    ///
    /// # Errors
    /// The deployment cannot be reached. Information that the deployment refuses to give is recorded in the returned facts.
    async fn inspect(&self) -> Result<Inspection> {
        Ok(Inspection::default())
    }

    /// Returns the `_id`s of two documents for each key of the unique index that more than one document has, for at most `limit` keys.
    /// Preflight calls this if the host wants the documents scanned. The default returns nothing.
    ///
    /// # Errors
    /// A server error.
    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        let _ = (collection, index, limit);
        Ok(Vec::new())
    }

    /// Returns how many documents of a collection its index on `_id` does not have, or `None` if that is not known. Such documents are missed
    /// by reads along the index. Preflight calls this, and ends each call that takes too long. The default returns zero.
    ///
    /// # Errors
    /// A server error.
    async fn unindexed(&self, collection: &Collection) -> Result<Option<u64>> {
        let _ = collection;
        Ok(Some(0))
    }

    /// Blocks writes of all clients except those with permission to bypass a block, or lifts the block.
    ///
    /// Once a block is in force, no write that was in flight takes effect any more. Setting the state that is already in force does
    /// nothing. A call that fails or is dropped may still take effect, but never after a later call. The default implementation refuses.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the source does not support this. Nothing is blocked then, and there is nothing to lift.
    /// [`Unauthorized`](crate::ErrorKind::Unauthorized) if the user lacks the permission. Otherwise a server error.
    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        let _ = blocked;
        Err(Error::new(
            ErrorKind::Refused,
            "block writes on the source",
            "this source cannot do that: stop the writers in the future that is passed to `cutover`",
        ))
    }

    /// Whether writes of clients are blocked now, no matter who blocked them. The default returns `false`.
    ///
    /// # Errors
    /// A server error.
    async fn writes_blocked(&self) -> Result<bool> {
        Ok(false)
    }

    /// Returns the transactions of clients that are open and may still commit, each with the time it has been open. Transactions that this
    /// source itself reads in are left out. A cutover waits for the returned ones. The default returns none.
    ///
    /// # Errors
    /// A server error. If the user lacks the permission to list transactions, the result is empty instead.
    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        Ok(Vec::new())
    }

    /// Returns the number and total duration of client writes since the server started. A run uses it to see how long writes take, and to
    /// [adapt the number of walkers](crate::MigrationBuilder::adaptive_walkers). It calls this twice a second while ranges are copied or compared.
    /// Returns `None` if the source cannot tell, which is the default.
    ///
    /// # Errors
    /// [`Unauthorized`](crate::ErrorKind::Unauthorized) if the user lacks the permission, or a server error.
    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        Ok(None)
    }

    /// Returns all users and user-defined roles with their documents, credentials included, and the users that the source is connected as. A
    /// run calls this if it [carries](crate::MigrationBuilder::users) users and roles. The default refuses.
    ///
    /// After a change of them, the tail has an entry with [`users_changed`](Entry::users_changed).
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the source does not support this, [`Unauthorized`](crate::ErrorKind::Unauthorized) if the
    /// user lacks the permission, or a server error.
    async fn accounts(&self) -> Result<Accounts> {
        Err(Error::new(
            ErrorKind::Refused,
            "read users and roles",
            "this source cannot do that: start with `.users(Users::None)`",
        ))
    }

    /// Returns a digest over all documents of the collection. Equal data has an equal digest on both sides. Returns `None` if no digest can
    /// be computed. Clients can read and write meanwhile.
    ///
    /// # Errors
    /// A server error.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>>;
}

/// Client writes since the server started; see [`Source::write_load`]. Both values only grow until the server restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteLoad {
    /// Number of write commands.
    pub operations: u64,
    /// Total time the server spent on them.
    pub time: Duration,
}

impl WriteLoad {
    /// Creates the load from its two values.
    pub fn new(operations: u64, time: Duration) -> Self {
        Self { operations, time }
    }
}

/// How the documents of a read relate to the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// All documents exactly as of the position.
    Snapshot,
    /// Each document as of some point between the position and the end of the read. The point may differ from document to document.
    Interval,
}

/// A range to read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The collection's name at the position.
    pub namespace: Namespace,
    /// The collection's kind.
    pub kind: CollectionKind,
    /// The documents to read. The full range for kinds without ranges.
    pub range: Range,
    /// The read must see everything up to this position.
    pub at: Position,
    /// Whether the read must see exactly that position, or may see later versions of documents.
    pub mode: ReadMode,
    /// Approximate size of a batch in bytes.
    pub batch_bytes: usize,
    /// Approximate size of a document in bytes, used to size the batches; 0 if unknown.
    pub document_bytes: usize,
}

/// Documents to read by `_id`.
#[derive(Clone, Copy, Debug)]
pub struct PointRequest<'a> {
    /// The collection's name at the position.
    pub namespace: &'a Namespace,
    /// The `_id`s of the documents. The caller keeps the list short enough that the result fits in memory.
    pub keys: &'a [Key],
    /// The read must see everything up to this position.
    pub at: Position,
    /// Whether the read must see exactly that position, or may see later versions of documents.
    pub mode: ReadMode,
}

/// The stream of history that [`Source::tail`] returns.
pub(crate) type EntryStream = BoxStream<'static, Result<Vec<Entry>>>;
