//! Where a migration reads from.

#[cfg(feature = "test-util")]
mod memory;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Batch, Collection, CollectionKind, Inspection, Namespace, Position, Range, TransactionFacts};
use crate::oplog::Entry;
use crate::order::Key;

pub use crate::model::Deployment;
pub use crate::mongo::source::MongoSource;
#[cfg(feature = "test-util")]
pub use memory::{MemorySource, NameResolution, OpenTransaction, SourceCall, Transaction};

/// A replica set, or anything that behaves like one: documents that can be read at a point in time, and the history that follows it.
///
/// # Contract
/// - Only what is majority-committed is ever returned, so that nothing returned can be rolled back.
/// - [`position`](Source::position) never goes backwards, unless the deployment was restored from a backup and
///   [`start_position`](Source::start_position) was asked since; [`sentinel`](Source::sentinel) always tells what is there. [`tail`](Source::tail) yields every entry after the position it was given,
///   in order, without a gap; an idle source's tail still reaches its newest position within seconds.
/// - A read sees at least everything up to the position it was asked for; in [`ReadMode::Snapshot`] exactly that.
/// - Every method is cancellation safe: dropping the future or stream releases what it held on the server.
/// - Errors say with [`is_retryable`](crate::Error::is_retryable) whether the same call may succeed later. Implementations reconnect
///   through elections on their own and give up only after a bounded time.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What is known of the deployment. The identity must stay the same over restarts.
    ///
    /// # Errors
    /// The deployment cannot be reached or is not one that can be migrated from.
    async fn describe(&self) -> Result<Deployment>;

    /// The addresses of its members, in order; a run tells when they change. Default: none are known.
    ///
    /// # Errors
    /// A server error.
    async fn members(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Every collection and view, the server's internal ones left out.
    ///
    /// # Errors
    /// A server error.
    async fn collections(&self) -> Result<Vec<Collection>>;

    /// Those of `names` that are collections or views, as [`collections`](Source::collections) gives them. A source that has many should
    /// find these without listing all: that is asked for when a few of them change all the time.
    ///
    /// # Errors
    /// A server error.
    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| names.contains(&collection.namespace));
        Ok(collections)
    }

    /// The newest majority-committed position.
    ///
    /// # Errors
    /// A server error.
    async fn position(&self) -> Result<Position>;

    /// A position at or after everything that was written before the call, acknowledged or not; returned once it is majority-committed.
    /// It is never given by a member that has been superseded and does not know it, whose position may be an old one: a cutover relies on
    /// that nothing else was written before.
    ///
    /// # Errors
    /// A server error.
    async fn sentinel(&self) -> Result<Position>;

    /// A position at or after everything that reads of this source and its catalogue have shown before the call; returned once it is
    /// majority-committed. Asked for with every range that is read, so that it should cost less than [`sentinel`](Source::sentinel), which
    /// is the default.
    ///
    /// # Errors
    /// A server error.
    async fn read_position(&self) -> Result<Position> {
        self.sentinel().await
    }

    /// The position from which a tail meets the first entry of every transaction that is open or prepared now.
    ///
    /// # Errors
    /// A server error.
    async fn start_position(&self) -> Result<Position>;

    /// The oldest position that a tail can still start after, and the newest: their distance is the oplog window.
    ///
    /// # Errors
    /// A server error.
    async fn oldest_position(&self) -> Result<Position>;

    /// The history after `after`, in vectors of at least one entry. The stream ends only by an error. A transaction is one entry, or several at
    /// one position of which all but the last say that it [continues](Entry::continues).
    ///
    /// # Errors
    /// [`PositionLost`](crate::ErrorKind::PositionLost) when the history no longer reaches back to `after`, or does not hold it.
    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>>;

    /// Keys that cut the collection into ranges of about `bytes` each, in ascending order. An empty answer means one range.
    ///
    /// # Errors
    /// A server error.
    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>>;

    /// The documents of a range, in `_id` order where the collection's kind has ranges, else in natural order.
    ///
    /// # Errors
    /// [`SnapshotUnavailable`](crate::ErrorKind::SnapshotUnavailable), from the call or from the stream, when a snapshot cannot be given.
    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>>;

    /// Those of the documents that exist, in any order.
    ///
    /// # Errors
    /// As [`read`](Source::read).
    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>>;

    /// Facts that [preflight](crate::preflight) looks at, found without changing anything. By default nothing is known.
    ///
    /// # Errors
    /// The deployment cannot be reached. What it refuses to tell is among the facts.
    async fn inspect(&self) -> Result<Inspection> {
        Ok(Inspection::default())
    }

    /// The `_id`s of two documents for each key of the unique index that more than one document has, for up to `limit` keys; preflight asks
    /// for them where the host wants the documents scanned. By default none are looked for.
    ///
    /// # Errors
    /// A server error.
    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        let _ = (collection, index, limit);
        Ok(Vec::new())
    }

    /// Blocks writes of all clients that may not pass a block, or lets them write again. Once a block is in force, nothing that was under way
    /// is written any more. Neither call does anything where it is so already; a call that is dropped or fails may still be carried out, but
    /// not after a later one. By default writes cannot be blocked.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) when the source cannot do this, so that nothing is blocked and there is nothing to lift,
    /// [`Unauthorized`](crate::ErrorKind::Unauthorized) when the user may not, or a server error.
    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        let _ = blocked;
        Err(Error::new(
            ErrorKind::Refused,
            "block writes on the source",
            "this source cannot do that: stop the writers in the future that is passed to `cutover`",
        ))
    }

    /// Whether writes of clients are blocked now, by whomever. By default they are not.
    ///
    /// # Errors
    /// A server error.
    async fn writes_blocked(&self) -> Result<bool> {
        Ok(false)
    }

    /// Transactions that clients have open and may still commit, for as long as each has been open; without those that this source reads
    /// in. A cutover waits for them. By default none are known.
    ///
    /// # Errors
    /// A server error. Where the user may not ask, none are known.
    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        Ok(Vec::new())
    }

    /// What clients have written since the server was started, so that the run can see how long their writes take, and
    /// [spare them](crate::MigrationBuilder::yield_to_source_writes). Asked twice a second while ranges are copied or compared. `None` where
    /// that cannot be told, which is the default.
    ///
    /// # Errors
    /// [`Unauthorized`](crate::ErrorKind::Unauthorized) when the user may not ask, or a server error.
    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        Ok(None)
    }

    /// A digest over all documents of the collection that is equal on both sides for equal data, or `None` where it cannot be had. Clients
    /// can read and write meanwhile.
    ///
    /// # Errors
    /// A server error.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>>;
}

/// What clients have written, see [`Source::write_load`]. Both numbers only grow until the server is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteLoad {
    /// How many commands that were.
    pub operations: u64,
    /// How long the server took for all of them.
    pub time: Duration,
}

/// How the documents of a read relate to the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// All documents exactly as they stood at the position.
    Snapshot,
    /// Each document as it stood at some point between the position and the end of the read.
    Interval,
}

/// A range to read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The collection's name at the position.
    pub namespace: Namespace,
    /// How its documents are kept.
    pub kind: CollectionKind,
    /// Which documents. The full range for kinds without ranges.
    pub range: Range,
    /// The position that the read must see at least.
    pub at: Position,
    /// Whether it must see exactly that.
    pub mode: ReadMode,
    /// About how many bytes a batch should have.
    pub batch_bytes: usize,
    /// About how many bytes a document has, to size the batches by; 0 when not known.
    pub document_bytes: usize,
}

/// Documents to read by `_id`.
#[derive(Clone, Copy, Debug)]
pub struct PointRequest<'a> {
    /// The collection's name at the position.
    pub namespace: &'a Namespace,
    /// Which documents. The caller keeps them few enough that the answer fits in memory.
    pub keys: &'a [Key],
    /// The position that the read must see at least.
    pub at: Position,
    /// Whether it must see exactly that.
    pub mode: ReadMode,
}

/// The source's history from some position on.
pub(crate) type EntryStream = BoxStream<'static, Result<Vec<Entry>>>;
