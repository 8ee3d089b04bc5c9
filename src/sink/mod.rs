//! The `Sink` trait and its types: where a migration writes to.

mod layer;
#[cfg(feature = "test-util")]
mod memory;
mod records;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Deployment, Inspection, Namespace,
    Position, Range, Selection, Write,
};
use crate::oplog::delta::DeltaError;
use crate::order::Key;

pub use crate::mongo::sink::MongoSink;
pub use layer::SinkLayer;
#[cfg(feature = "test-util")]
pub use memory::{JournalEntry, MemorySink, SinkCall};
pub(crate) use records::{Records, Turn};

/// A replica set, or anything that can take the documents, indexes and catalog commands of one.
///
/// # Contract
/// - `Ok` means acknowledged: a later read through the sink sees the write. `Ok` of [`flush`](Sink::flush) means that everything
///   acknowledged before the call is durable, whichever member of the deployment is lost.
/// - If something acknowledged since the last flush may have been lost because the primary changed, `flush` returns
///   [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged) once, and [`losses`](Sink::losses) is one more from then on. Every run that uses
///   the sink then goes back to its last checkpoint.
/// - Documents are stored byte for byte as given, field order included.
/// - Every write may be sent twice, because its response may be lost. The second write gives the same result.
/// - Implementations retry through elections for a bounded time and then return a retryable error.
/// - Every method may be dropped at any await point. Its writes may then be partly applied.
///
/// # How to
/// - Write to MongoDB: [`MongoSink`].
/// - Change some methods of another sink: implement [`SinkLayer`] and pass it as [`Layered`](crate::Layered).
/// - Share a sink among migrations, or choose one at run time: `Arc<dyn Sink>` and `Box<dyn Sink>` are sinks, too. Migrations may share a
///   sink that implements [`losses`](Sink::losses), as [`MongoSink`] does. A migration writes only while it holds its lease on the target;
///   what the host writes through its own `Arc` is not held back by that.
/// - Write one of your own: implement the methods without a default first, run `conformance::check_sink` of the feature `test-util` in a
///   test, and then add those defaults that the sink can do better.
///
/// ```no_run
/// use mongoferry::{Migration, MongoSink, MongoSource, Result, Sink};
///
/// # async fn example(source: MongoSource, only_a_test: bool) -> Result<()> {
/// let uri = if only_a_test { "mongodb://test.example/?replicaSet=rs2" } else { "mongodb://new.example/?replicaSet=rs1" };
/// let sink: Box<dyn Sink> = Box::new(MongoSink::connect(uri).await?);
/// println!("the target has {} collections", sink.collections().await?.len());
/// let migration = Migration::builder(source, sink).build()?;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Describes the deployment.
    ///
    /// # Errors
    /// The deployment cannot be reached, or it is not one that can be migrated to.
    async fn describe(&self) -> Result<Deployment>;

    /// Same as [`Source::members`](crate::Source::members).
    ///
    /// # Errors
    /// A server error.
    async fn members(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Streams the writes that other programs make after this position of the sink's own history, or from now on if `after` is `None`.
    /// Writes of this crate are never among them.
    ///
    /// The first item arrives at once and reports the start position. Further items arrive at least once a second, even if nobody writes.
    /// After a call of [`sentinel`](Self::sentinel), `until` reaches the returned position within a few items. The default returns `None`:
    /// foreign writes are unknown.
    ///
    /// # Errors
    /// [`PositionLost`](crate::ErrorKind::PositionLost) if the history no longer contains `after`, from the call or as the last item of the
    /// stream. Otherwise a server error.
    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        let _ = after;
        Ok(None)
    }

    /// Lists every collection and view, except the server's internal ones.
    ///
    /// # Errors
    /// A server error.
    async fn collections(&self) -> Result<Vec<Collection>>;

    /// Lists the collections and views among `names`, in the same form as [`collections`](Sink::collections). A run calls this between two
    /// changes, so a sink with many collections should look these up without listing all. The default filters
    /// [`collections`](Sink::collections).
    ///
    /// # Errors
    /// A server error.
    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| names.contains(&collection.namespace));
        Ok(collections)
    }

    /// Lists the collections and views whose names a migration of `selection` may write to, in the same form as
    /// [`collections`](Sink::collections). The list may contain others. Those may lack their indexes and sizes.
    ///
    /// A sink with many databases should leave out those that the selection [does not reach](Selection::target_reaches). The default lists
    /// all collections.
    ///
    /// # Errors
    /// A server error.
    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let _ = selection;
        self.collections().await
    }

    /// Returns the names of the [`collections`](Sink::collections) in a database. The default filters that list.
    ///
    /// # Errors
    /// A server error.
    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        let standing = self.collections().await?.into_iter();
        let names = standing.map(|collection| collection.namespace);
        Ok(names.filter(|name| name.database() == database).collect())
    }

    /// Returns the sink's own uuids of those `names` that exist, whatever they are. Anything without a uuid, such as a view, gets all
    /// zeros. A collection keeps its uuid until it is created again.
    ///
    /// A run calls this before it creates or drops something, so it should be faster than a full listing. The default filters
    /// [`collections`](Self::collections).
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

    /// Executes a catalog command. Each command is idempotent: if the catalog already is as requested, that is no error.
    ///
    /// # Errors
    /// [`TargetRefused`](crate::ErrorKind::TargetRefused) with the server's reason.
    async fn execute(&self, command: &CatalogCommand) -> Result<()>;

    /// Builds one index and returns once it is built. If an index with the same specification exists, that is no error. A missing
    /// collection is not created. A build is not retried if another index has taken the name.
    ///
    /// # Errors
    /// [`TargetRefused`](crate::ErrorKind::TargetRefused) with the server's reason, including for duplicate keys and a missing collection.
    ///
    /// # Cancellation
    /// Dropping the future may leave the build running on the server. [`CatalogCommand::DropIndex`] aborts it. Building the same index
    /// again joins it.
    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()>;

    /// Inserts documents in order. A document whose `_id` exists replaces the stored one.
    ///
    /// # Errors
    /// A server error. Documents that the target refuses individually are in the result instead.
    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>>;

    /// Applies writes. Writes to the same document are applied in the given order, others in any order. The result names the writes that
    /// the target refused, by their index.
    ///
    /// # Errors
    /// A server error that affects the call as a whole.
    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>>;

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// [`PrimaryChanged`](crate::ErrorKind::PrimaryChanged), or a server error.
    async fn flush(&self) -> Result<()>;

    /// Returns how many times a [`flush`](Sink::flush) has found that something acknowledged may be lost, whoever called it.
    ///
    /// Several migrations can share a sink only if it counts: the flush of one may find what another has lost. A flush that found a loss
    /// must have counted it before any later flush returns. The default returns 0, so that each migration needs a sink of its own.
    fn losses(&self) -> u64 {
        0
    }

    /// Waits until no write of a migration with this selection that was sent before is running any more. This covers writes of this process
    /// and of a process whose place it takes. Writes to names that the selection does not [produce](Selection::produces) belong to other
    /// migrations or programs, and are neither waited for nor ended. A run calls this once it has the lease and before it reads anything.
    /// The default returns at once.
    ///
    /// # Errors
    /// A retryable error if this takes longer than a bounded time, or a server error.
    async fn quiesce(&self, selection: &Selection) -> Result<()> {
        let _ = selection;
        Ok(())
    }

    /// Returns a position in the sink's own history, like [`Source::sentinel`](crate::Source::sentinel): at or after everything that was
    /// written before the call, once it is majority-committed.
    ///
    /// A migration in the opposite direction can follow the history from there, with a source on the same deployment. The default returns
    /// `None`, for a sink whose history cannot be followed.
    ///
    /// # Errors
    /// A server error.
    async fn sentinel(&self) -> Result<Option<Position>> {
        Ok(None)
    }

    /// Streams the documents of a range: in `_id` order if collections of this kind have ranges, otherwise in natural order.
    ///
    /// # Errors
    /// A server error, from the call or from the stream.
    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>>;

    /// Returns the requested documents that exist, in any order.
    ///
    /// # Errors
    /// A server error.
    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>>;

    /// Same as [`Source::inspect`](crate::Source::inspect).
    ///
    /// # Errors
    /// The deployment cannot be reached. Information that the deployment refuses to give is recorded in the returned facts.
    async fn inspect(&self) -> Result<Inspection> {
        Ok(Inspection::default())
    }

    /// Same as [`Source::digest`](crate::Source::digest).
    ///
    /// # Errors
    /// A server error.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>>;

    /// Returns those of the named users and roles that exist, and what the sink knows of authentication. A role's document may have another
    /// form than the stored one, as long as it means the same. A run calls this if it [carries](crate::MigrationBuilder::users) users and
    /// roles. The default refuses.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the sink does not support this, [`Unauthorized`](crate::ErrorKind::Unauthorized) if the
    /// user lacks the permission, or a server error.
    async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
        let _ = names;
        Err(accounts_refused("read users and roles"))
    }

    /// Returns those of the given actions that roles of this sink cannot have, such as those of other versions; `None` if it is not known.
    /// Changes nothing. [Preflight](crate::preflight) calls this for roles that are carried. The default does not know.
    ///
    /// # Errors
    /// A server error.
    async fn unknown_actions(&self, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
        let _ = actions;
        Ok(None)
    }

    /// Puts users and roles as their documents say, and drops others: first roles and then users are put, then users and then roles are
    /// dropped. What is already so is no error. `Ok` means durable, whichever member of the deployment is lost. A user that exists may be
    /// dropped for a moment before it is put in its new form.
    ///
    /// What an earlier call left behind in temporary collections, because the process was killed, is removed, also by a call without any
    /// change. The default refuses.
    ///
    /// # Errors
    /// Same as [`accounts`](Self::accounts). Some of the changes may then have been made.
    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        let _ = changes;
        Err(accounts_refused("change users and roles"))
    }

    /// Loads one of the records that migrations keep on the sink, by name. Records are in no user namespace. Names consist of ASCII letters
    /// and digits, `.`, `_`, `-` and `/`.
    ///
    /// # Errors
    /// A server error.
    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>>;

    /// Stores a record durably if the field `fence` of the stored record equals `expected`. The field is an int64, and a missing one counts
    /// as 0. The new record carries its own `fence`. Returns `true` if the record was stored.
    ///
    /// # Errors
    /// A server error.
    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool>;

    /// Deletes a record. If it does not exist, that is no error.
    ///
    /// # Errors
    /// A server error.
    async fn delete_record(&self, name: &str) -> Result<()>;
}

/// The error of a sink without users and roles.
fn accounts_refused(operation: &'static str) -> Error {
    let message = "this sink cannot do that: start with `.users(Users::None)`";
    Error::new(ErrorKind::Refused, operation, message)
}

/// A change to the sink's catalog.
#[derive(Clone, Debug, PartialEq)]
pub enum CatalogCommand {
    /// Creates a collection or view with the options that the source lists. An existing one is left unchanged.
    Create {
        /// Its name on the sink. For time-series data, the name of the buckets.
        namespace: Namespace,
        /// Its kind.
        kind: CollectionKind,
        /// The source's options, unchanged. They include `idIndex`, the specification of the index on `_id`, if it differs from the one
        /// that a server creates by default.
        options: RawDocumentBuf,
    },
    /// Drops a collection or view. If it is missing, that is no error.
    Drop {
        /// Its name on the sink.
        namespace: Namespace,
    },
    /// Drops a database. If it is missing, that is no error.
    DropDatabase {
        /// Its name on the sink.
        database: String,
    },
    /// Renames a collection. Whatever has the new name is replaced. If `from` is missing, that is no error.
    Rename {
        /// The name before.
        from: Namespace,
        /// The name after.
        to: Namespace,
    },
    /// Changes options of a collection or view, or of one of its indexes. If it is missing, that is no error.
    Modify {
        /// Its name on the sink.
        namespace: Namespace,
        /// The fields of `collMod`, except the one that names the collection.
        arguments: RawDocumentBuf,
    },
    /// Drops an index, and aborts its build if it is being built. If the index is missing, that is no error.
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
    /// The collection's kind.
    pub kind: CollectionKind,
    /// The documents to read.
    pub range: Range,
    /// Approximate size of a batch in bytes.
    pub batch_bytes: usize,
    /// Approximate size of a document in bytes; 0 if unknown.
    pub document_bytes: usize,
}

/// Writes that other programs made to the sink; see [`Sink::foreign_writes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WritesSeen {
    /// The collections written to, once for each write.
    pub collections: Vec<Namespace>,
    /// Every foreign write up to this position in the sink's own history has been reported with this item or an earlier one. The position
    /// stays in the history whichever member is lost.
    pub until: Position,
}

impl WritesSeen {
    /// Creates the writes seen up to a position.
    pub fn new(collections: Vec<Namespace>, until: Position) -> Self {
        Self { collections, until }
    }
}

/// A write that the target refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Index of the write, or of the document in its batch.
    pub index: usize,
    /// The reason.
    pub reason: RefusalReason,
}

impl Refusal {
    /// Creates a refusal of the write, or of the document, at an index.
    pub fn new(index: usize, reason: RefusalReason) -> Self {
        Self { index, reason }
    }
}

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Another document has the same key in a unique secondary index.
    DuplicateKey(String),
    /// An update does not apply to the stored document.
    CannotApply(String),
    /// There is no document that an update could apply to.
    NoDocument(String),
    /// The result of an update cannot be derived from the update and the stored document, because it changes a field whose name occurs more
    /// than once. The document has to be read from the source.
    Ambiguous(String),
    /// Any other refusal, with the server's error code and message.
    Other {
        /// The server's error code; 0 if there is none.
        code: i32,
        /// The server's message.
        message: String,
    },
}

impl std::fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DuplicateKey(message)
            | Self::CannotApply(message)
            | Self::NoDocument(message)
            | Self::Ambiguous(message) => f.write_str(message),
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
