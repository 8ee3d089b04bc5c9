//! Where a migration writes to.

#[cfg(feature = "test-util")]
mod memory;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::model::{Batch, Collection, CollectionKind, Deployment, Inspection, Namespace, Position, Range, Write};
use crate::oplog::delta::DeltaError;
use crate::order::Key;

pub use crate::mongo::sink::MongoSink;
#[cfg(feature = "test-util")]
pub use memory::{JournalEntry, MemorySink, SinkCall};

/// A replica set, or anything that can take the documents, indexes and commands of one.
///
/// # Contract
/// - `Ok` means acknowledged: a later read through the sink sees it. [`flush`](Sink::flush) means that everything acknowledged before
///   the call is durable, whatever member of the deployment is lost.
/// - When something that was acknowledged since the last flush may have been lost (the primary changed), `flush` answers
///   [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged) once; the engine then goes back to its last checkpoint.
/// - Documents are stored byte for byte as given, field order included.
/// - Every write may be sent twice, and its answer may be lost: writing it again gives the same result.
/// - Implementations wait through elections for a bounded time and then return a retryable error.
/// - Every method may be dropped at any await point; what it was writing may then be written in part.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// What is known of the deployment.
    ///
    /// # Errors
    /// The deployment cannot be reached or is not one that can be migrated to.
    async fn describe(&self) -> Result<Deployment>;

    /// As [`Source::members`](crate::Source::members).
    ///
    /// # Errors
    /// A server error.
    async fn members(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// What others write after this position of the sink's own history, or from now on; never a write of this crate. The first item comes at
    /// once and says where that is; others come each second or more often, also when nobody writes, and a few of them later `until` is at what
    /// [`sentinel`](Self::sentinel) answered. Default: `None`, that is not known.
    ///
    /// # Errors
    /// [`PositionLost`](crate::ErrorKind::PositionLost) when the history does not hold `after` any more, from the call or as the last item
    /// of the stream, or a server error.
    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        let _ = after;
        Ok(None)
    }

    /// Every collection and view, the server's internal ones left out.
    ///
    /// # Errors
    /// A server error.
    async fn collections(&self) -> Result<Vec<Collection>>;

    /// Those of `names` that are collections or views, as [`collections`](Sink::collections) gives them. It is asked for between two changes,
    /// so that a sink which has many should find these without listing all. Default: taken from [`collections`](Sink::collections).
    ///
    /// # Errors
    /// A server error.
    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| names.contains(&collection.namespace));
        Ok(collections)
    }

    /// The names of those of [`collections`](Sink::collections) that are in a database. Default: taken from there.
    ///
    /// # Errors
    /// A server error.
    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        let standing = self.collections().await?.into_iter();
        let names = standing.map(|collection| collection.namespace);
        Ok(names.filter(|name| name.database() == database).collect())
    }

    /// The sink's own uuids of those of these names that exist, whatever they are; all zeros for what has none, such as a view. A collection
    /// keeps it for as long as it is not made anew. A run asks for them before it makes or drops something, so that they should be had faster
    /// than a whole listing. Default: taken from [`collections`](Self::collections).
    ///
    /// # Errors
    /// A server error.
    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        let standing = self.collections().await?.into_iter();
        Ok(standing
            .filter(|collection| names.contains(&collection.namespace))
            .map(|collection| (collection.namespace, collection.id))
            .collect())
    }

    /// Makes a change to the catalogue. Each is idempotent: what already is as asked is no error.
    ///
    /// # Errors
    /// [`TargetRefused`](crate::ErrorKind::TargetRefused) with the server's reason.
    async fn execute(&self, command: &CatalogCommand) -> Result<()>;

    /// Builds one index and returns when it is built. Building one that exists with the same specification is no error. A collection that does
    /// not exist is not made, nor is a build tried again where another one has taken the name.
    ///
    /// # Errors
    /// [`TargetRefused`](crate::ErrorKind::TargetRefused) with the server's reason, duplicate keys and a missing collection among them.
    ///
    /// # Cancellation
    /// Dropping the future can leave the build going on. [`CatalogCommand::DropIndex`] gives it up; building the same index again joins it.
    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()>;

    /// Inserts documents in order; one whose `_id` exists replaces the document there.
    ///
    /// # Errors
    /// A server error. What the target refuses document by document is in the answer instead.
    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>>;

    /// Applies writes. Those of one document are applied in the order given; others in any order. The answer names the writes
    /// that the target refused, by their index.
    ///
    /// # Errors
    /// A server error that concerns the call as a whole.
    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>>;

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged), or a server error.
    async fn flush(&self) -> Result<()>;

    /// Waits until no write is being carried out any more that was sent before, by this process or by one whose place it takes. A run calls
    /// it once it has the lease and before it reads anything. Default: there is nothing to wait for.
    ///
    /// # Errors
    /// A retryable error when that takes longer than a bounded time, or a server error.
    async fn quiesce(&self) -> Result<()> {
        Ok(())
    }

    /// A position in the sink's own history, as [`Source::sentinel`](crate::Source::sentinel): at or after everything that was written before
    /// the call, and returned once it is majority-committed. From there a migration in the opposite direction can follow, with a source on
    /// the same deployment. Default: `None`, for a sink whose history cannot be followed.
    ///
    /// # Errors
    /// A server error.
    async fn sentinel(&self) -> Result<Option<Position>> {
        Ok(None)
    }

    /// The documents of a range, in `_id` order where the kind has ranges, else in natural order.
    ///
    /// # Errors
    /// A server error, from the call or from the stream.
    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>>;

    /// Those of the documents that exist, in any order.
    ///
    /// # Errors
    /// A server error.
    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>>;

    /// As [`Source::inspect`](crate::Source::inspect).
    ///
    /// # Errors
    /// The deployment cannot be reached. What it refuses to tell is among the facts.
    async fn inspect(&self) -> Result<Inspection> {
        Ok(Inspection::default())
    }

    /// As [`Source::digest`](crate::Source::digest).
    ///
    /// # Errors
    /// A server error.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>>;

    /// A document of the migration's own records on the sink, by name. They are in no user namespace.
    ///
    /// # Errors
    /// A server error.
    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>>;

    /// Stores a record durably if the stored one's field `fence` (an int64; missing counts as 0) equals `expected`; the new record
    /// carries its own `fence`. Returns whether it was stored.
    ///
    /// # Errors
    /// A server error.
    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool>;

    /// Deletes a record. One that does not exist is no error.
    ///
    /// # Errors
    /// A server error.
    async fn delete_record(&self, name: &str) -> Result<()>;
}

/// A change to the sink's catalogue.
#[derive(Clone, Debug, PartialEq)]
pub enum CatalogCommand {
    /// Makes a collection or view with the options that the source lists; one that exists is left as it is.
    Create {
        /// Its name on the sink; for time-series data that of the buckets.
        namespace: Namespace,
        /// How its documents are kept.
        kind: CollectionKind,
        /// The source's options, unchanged, and with them `idIndex`: the specification of the index on `_id`, where that is not the one
        /// that a server makes unasked.
        options: RawDocumentBuf,
    },
    /// Drops a collection or view; a missing one is no error.
    Drop {
        /// Its name on the sink.
        namespace: Namespace,
    },
    /// Drops a database; a missing one is no error.
    DropDatabase {
        /// Its name on the sink.
        database: String,
    },
    /// Renames a collection, replacing what has the new name. A missing `from` is no error.
    Rename {
        /// The name before.
        from: Namespace,
        /// The name after.
        to: Namespace,
    },
    /// Changes options of a collection or view, or of one of its indexes; a missing one is no error.
    Modify {
        /// Its name on the sink.
        namespace: Namespace,
        /// The fields of `collMod`, without the one that names the collection.
        arguments: RawDocumentBuf,
    },
    /// Drops an index, and gives up its build where it is being built; a missing one is no error.
    DropIndex {
        /// The collection's name on the sink.
        namespace: Namespace,
        /// The index's name.
        name: String,
    },
}

/// A range to read from the sink.
#[derive(Clone, Debug)]
pub struct SinkRead {
    /// The collection's name on the sink.
    pub namespace: Namespace,
    /// How its documents are kept.
    pub kind: CollectionKind,
    /// Which documents.
    pub range: Range,
    /// About how many bytes a batch should have.
    pub batch_bytes: usize,
    /// About how many bytes a document has; 0 when not known.
    pub document_bytes: usize,
}

/// What others wrote to the sink; see [`Sink::foreign_writes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritesSeen {
    /// The collections, once for each write.
    pub collections: Vec<Namespace>,
    /// Every such write up to this position in the sink's own history has been seen with this. It is one that the history keeps whatever
    /// member is lost.
    pub until: Position,
}

/// A write that the target refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Index of the write, or of the document in its batch.
    pub index: usize,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Another document holds the same key in a unique secondary index.
    DuplicateKey(String),
    /// An update cannot be applied to the document as it stands, or there is none.
    CannotApply(String),
    /// What an update makes of the document as it stands cannot be told from the two: it changes a field of which there are several with
    /// one name. The document has to be read from the source.
    Ambiguous(String),
    /// Anything else, with the server's error code and message.
    Other {
        /// The server's error code, 0 when there is none.
        code: i32,
        /// The server's message.
        message: String,
    },
}

impl std::fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DuplicateKey(message) | Self::CannotApply(message) | Self::Ambiguous(message) => f.write_str(message),
            Self::Other { code, message } => write!(f, "{message} (code {code})"),
        }
    }
}

impl From<DeltaError> for RefusalReason {
    fn from(error: DeltaError) -> Self {
        match error {
            DeltaError::RepeatedName { .. } => Self::Ambiguous(error.to_string()),
            _ => Self::CannotApply(error.to_string()),
        }
    }
}
