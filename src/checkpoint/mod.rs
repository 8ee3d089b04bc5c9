//! The checkpoint of a migration, and the stores that keep it.
//!
//! A run saves a checkpoint continuously, so a later run continues from it and never starts from the beginning.

mod file;
mod layer;
#[cfg(feature = "test-util")]
mod memory;
mod on_target;
mod parts;
mod states;
mod way_back;
mod window;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::record;
use crate::model::{CollectionKind, DEFAULT_ID, LeftSelection, Namespace, Position, Selection};
use crate::order::Key;
use crate::rules::RuleRecord;
use crate::users::UsersAtHandOver;

pub use file::FileStore;
pub use layer::CheckpointStoreLayer;
#[cfg(feature = "test-util")]
pub use memory::MemoryStore;
pub use on_target::SinkStore;
pub(crate) use states::{Compared, ComparedUntil, PendingCheckpoint, State, States};
pub use way_back::WayBack;
pub use window::CutoverWindow;

/// The version of the format that this crate writes. It reads this version and all earlier ones.
pub const FORMAT: i32 = 1;

/// Storage for the checkpoint of one migration.
///
/// # Contract
/// - `Ok` of [`save`](CheckpointStore::save) means durable. A save that fails, or whose future is dropped, leaves either the old checkpoint
///   or the new one, never a mixture.
/// - A store holds one checkpoint.
///
/// # How to
/// - Keep it on the target: do nothing, [`SinkStore`] is the default.
/// - Keep it in a file: [`FileStore`].
/// - Keep it elsewhere: implement this trait, and run `conformance::check_checkpoint_store` of the feature `test-util` in a test.
/// - Change some methods of another store: implement [`CheckpointStoreLayer`].
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

/// The progress of a migration. Everything in it is durable on the sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The version of the format, [`FORMAT`].
    pub format: i32,
    /// The [id](crate::MigrationBuilder::id) of the migration.
    #[serde(default = "default_id")]
    pub id: String,
    /// The identity of the source.
    pub source: String,
    /// The identity of the sink.
    pub sink: String,
    /// What is migrated, and under which names.
    pub selection: Selection,
    /// The position up to which every change is durable on the sink, in the ranges that are done.
    pub watermark: Position,
    /// The position after which the tail resumes: the watermark, or a position before the first entry of a transaction that was open there.
    pub resume: Position,
    /// The position up to which the source's history had been read when the checkpoint was saved. Changes up to this position may have been
    /// applied. A history that does not contain it is therefore a different history, even if it contains the watermark.
    #[serde(default = "nothing_seen")]
    pub seen: Position,
    /// Documents that a resumed run has to read from the source again, even if the watermark covers them.
    #[serde(default)]
    pub unsettled: Vec<UnsettledDocuments>,
    /// The collections as they were on the source at the watermark.
    pub collections: Vec<CollectionState>,
    /// Collections on the sink that a resync still has to drop or rename before it copies anything.
    #[serde(default)]
    pub left_over: Vec<LeftOver>,
    /// A rename on the sink that may or may not have been executed.
    #[serde(default)]
    pub renaming: Option<Renaming>,
    /// Collections that were renamed into the selection and no longer exist on the source under that name. A later entry of the history
    /// says what happened to them. Until then, entries about them are skipped.
    #[serde(default)]
    pub gone: Vec<Uuid>,
    /// The names that the collections in `gone` were renamed to, in the same order. Empty in checkpoints of earlier versions.
    #[serde(default)]
    pub gone_names: Vec<Namespace>,
    /// Whether every collection in this checkpoint has been created on the sink.
    #[serde(default)]
    pub created: bool,
    /// Whether every collection has been copied and its indexes have been built.
    pub copied: bool,
    /// Number of documents copied so far.
    #[serde(default)]
    pub copied_documents: u64,
    /// Number of bytes copied so far.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Number of resyncs: how often the position was lost and everything was compared with the source again.
    #[serde(default)]
    pub resyncs: u32,
    /// The cutover window: how long the source is followed until the cutover.
    #[serde(default)]
    pub window: CutoverWindow,
    /// Collections that were renamed out of the selection during the migration.
    #[serde(default)]
    pub left_selection: Vec<LeftSelection>,
    /// Whether an unfinished cutover may have blocked writes on the source. A run that resumes from this checkpoint lifts the block.
    #[serde(default)]
    pub source_writes_blocked: bool,
    /// Whether an unfinished cutover may have let documents expire on the target as they do on the source. A run that resumes from this
    /// checkpoint suspends expiry again first.
    #[serde(default)]
    pub expiry_final: bool,
    /// The hand-over that this migration reverses, if it is a way back.
    #[serde(default)]
    pub takes_back: Option<Uuid>,
    /// The filters and transforms by which everything on the sink was written, in the order in which they were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleRecord>,
    /// Documents that are missing on the sink because a filter or transform failed for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedDocuments>,
    /// The collection on the sink that has letters about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<Namespace>,
    /// Users and roles at the hand-over that this migration reverses. Only the first checkpoint of a way back has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<UsersAtHandOver>,
    /// The position in the sink's own history up to which writes of other programs were watched for (see
    /// [`Sink::foreign_writes`](crate::Sink::foreign_writes)). None of these writes was to a collection that has
    /// [`compared`](CollectionState::compared) set. `None` if the history was not watched.
    #[serde(default)]
    pub watched: Option<Position>,
    /// A position in the sink's own history at or after every write that this checkpoint covers. If the history does not contain it, the
    /// sink was restored from a backup. `None` if nothing was compared or the position is unknown.
    #[serde(default)]
    pub durable: Option<Position>,
    /// Whether the cutover has finished.
    pub complete: bool,
    /// Where a migration in the opposite direction starts, once this one is complete.
    #[serde(default)]
    pub way_back: Option<WayBack>,
    /// The encoded [certificate](crate::Certificate), once the migration is complete. [`Migration::certificate`](crate::Migration::certificate)
    /// reads it. `None` as well if an earlier version of this crate has completed the migration.
    #[serde(default)]
    pub certificate: Option<RawDocumentBuf>,
}

/// The progress of one collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CollectionState {
    /// The collection's uuid on the source.
    pub id: Uuid,
    /// Its name on the source.
    pub namespace: Namespace,
    /// Its name on the sink.
    pub target: Namespace,
    /// The sink's own uuid of the collection that this migration created. It tells that collection from one of the same name that another
    /// program created. `None` if it is not known yet.
    #[serde(default)]
    pub made: Option<Uuid>,
    /// The collection's kind.
    pub kind: CollectionKind,
    /// The source's options.
    pub options: RawDocumentBuf,
    /// The specifications of the source's indexes.
    pub indexes: Vec<RawDocumentBuf>,
    /// Whether the indexes have been built on the sink.
    pub indexed: bool,
    /// Number of documents on the source when the collection was listed.
    pub documents: u64,
    /// Number of bytes on the source when the collection was listed.
    pub bytes: u64,
    /// Number of documents copied so far.
    #[serde(default)]
    pub copied_documents: u64,
    /// Number of bytes copied so far.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Which ranges have been copied, in ascending order. The last range has no upper end.
    pub ranges: Vec<RangeState>,
    /// How far the collection has been verified; `None` if its verification starts over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<ComparedState>,
}

/// Verification state of one collection. It holds once everything up to the watermark is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComparedState {
    /// Every document up to this `_id` was compared and was the same on both sides. `None` if that is true of all documents.
    pub upper: Option<Key>,
    /// The compared documents that may have changed since.
    pub changed: Vec<Key>,
    /// The position of the range that was compared last; `None` if the collection was created during the migration.
    pub position: Option<Position>,
    /// Number of documents of the source that were compared.
    pub documents: u64,
    /// Number of bytes of these documents.
    pub bytes: u64,
}

/// A rename that was about to be executed on the sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Renaming {
    /// Uuid, on the source, of the collection that is renamed.
    pub collection: Uuid,
    /// Its new name on the source.
    pub to: Namespace,
    /// The collection that had the new name before and is dropped by the rename.
    pub dropped: Option<Uuid>,
    /// Position of the rename in the source's history. Nothing lies between it and the watermark.
    pub position: Position,
}

/// A collection or view on the sink that was migrated, but no longer exists on the source or has another name there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeftOver {
    /// Its name on the sink.
    pub target: Namespace,
    /// Same as [`CollectionState::made`].
    #[serde(default)]
    pub made: Option<Uuid>,
    /// The name it gets on the sink; `None` if it is dropped.
    pub moved_to: Option<Namespace>,
}

/// Documents of one collection that have to be read again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnsettledDocuments {
    /// The collection's uuid on the source.
    pub collection: Uuid,
    /// Their `_id`s.
    pub ids: Vec<Key>,
}

/// Documents of one namespace for which a filter or transform failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedDocuments {
    /// The collection's name on the source.
    pub namespace: Namespace,
    /// Their `_id`s.
    pub ids: Vec<Key>,
}

/// A range that ends at `upper` and begins where the previous one ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RangeState {
    /// The greatest `_id` in the range; `None` if it has no upper end.
    pub upper: Option<Key>,
    /// The position that the range was read at; `None` if it has not been read yet.
    pub done: Option<Position>,
}

impl Checkpoint {
    /// The collections in [`gone`](Self::gone), with their names where they are known.
    pub(crate) fn gone_with_names(&self) -> impl Iterator<Item = (Uuid, Option<Namespace>)> {
        let names = self.gone_names.iter().cloned().map(Some);
        self.gone.iter().copied().zip(names.chain(std::iter::repeat(None)))
    }

    /// The first checkpoint of a migration, without collections.
    pub(crate) fn begin(
        source: impl Into<String>,
        sink: impl Into<String>,
        selection: Selection,
        watermark: Position,
        resume: Position,
    ) -> Self {
        Self {
            format: FORMAT,
            id: default_id(),
            source: source.into(),
            sink: sink.into(),
            selection,
            watermark,
            resume,
            seen: watermark,
            unsettled: Vec::new(),
            collections: Vec::new(),
            left_over: Vec::new(),
            renaming: None,
            gone: Vec::new(),
            gone_names: Vec::new(),
            created: false,
            copied: false,
            copied_documents: 0,
            copied_bytes: 0,
            resyncs: 0,
            window: CutoverWindow::default(),
            left_selection: Vec::new(),
            source_writes_blocked: false,
            expiry_final: false,
            takes_back: None,
            rules: Vec::new(),
            failed: Vec::new(),
            dead_letters: None,
            users: None,
            watched: None,
            durable: None,
            complete: false,
            way_back: None,
            certificate: None,
        }
    }

    /// Discards verification results that cannot be relied on any more.
    pub(crate) fn forget_compared(&mut self) {
        (self.watched, self.durable) = (None, None);
        for collection in &mut self.collections {
            collection.compared = None;
        }
    }

    /// The checkpoint of the same migration from a new position on, without collections. Nothing counts as copied any more. Everything else
    /// about the migration is kept.
    pub(crate) fn begin_again(self, watermark: Position, resume: Position) -> Self {
        Self {
            resyncs: self.resyncs.saturating_add(1),
            rules: self.rules,
            failed: self.failed,
            dead_letters: self.dead_letters,
            window: self.window,
            left_selection: self.left_selection,
            source_writes_blocked: self.source_writes_blocked,
            expiry_final: self.expiry_final,
            takes_back: self.takes_back,
            id: self.id,
            ..Self::begin(self.source, self.sink, self.selection, watermark, resume)
        }
    }

    /// Encodes the checkpoint as the bytes that a store keeps.
    ///
    /// # Errors
    /// The checkpoint is larger than a document can be.
    pub fn encode(&self) -> Result<RawDocumentBuf> {
        record::encode(self).map_err(|error| {
            Error::new(
                ErrorKind::Protocol,
                "encode the checkpoint",
                "it does not fit into a document",
            )
            .with_source(error)
        })
    }

    /// Decodes the bytes that a store kept.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) if the bytes were written by a newer version of the crate, or are no
    /// checkpoint.
    pub fn decode(bytes: &RawDocumentBuf) -> Result<Self> {
        let format = bytes.get_i32("format").map_err(|error| {
            Error::new(
                ErrorKind::CheckpointMismatch,
                "read the checkpoint",
                "this is not a checkpoint of this crate",
            )
            .with_source(error)
        })?;
        if format > FORMAT {
            return Err(Error::new(
                ErrorKind::CheckpointMismatch,
                "read the checkpoint",
                format!(
                    "it has format {format}, this version reads up to {FORMAT}: continue with the newer version that wrote it"
                ),
            ));
        }
        record::decode(bytes.as_bytes()).map_err(|error| {
            Error::new(ErrorKind::CheckpointMismatch, "read the checkpoint", "it is damaged").with_source(error)
        })
    }
}

fn default_id() -> String {
    DEFAULT_ID.to_owned()
}

fn nothing_seen() -> Position {
    Position::ZERO
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};

    use super::*;

    fn checkpoint() -> Checkpoint {
        let mut selection = Selection::all();
        selection.include("shop.*").unwrap();
        selection.exclude("shop.tmp_*").unwrap();
        selection.rename("shop.orders", "store.orders").unwrap();
        let position = |increment| Position {
            time: 1_700_000_000,
            increment,
            term: 3,
        };
        let range = |upper: Option<RawBsonRef<'_>>, done| RangeState {
            upper: upper.map(Key::from),
            done,
        };
        Checkpoint {
            format: FORMAT,
            id: "tenant-42".to_owned(),
            source: "source".to_owned(),
            sink: "sink".to_owned(),
            selection,
            watermark: position(9),
            resume: position(4),
            seen: position(11),
            left_over: vec![LeftOver {
                target: Namespace::new("shop", "old"),
                made: None,
                moved_to: Some(Namespace::new("shop", "new")),
            }],
            collections: vec![CollectionState {
                id: Uuid::from_bytes([7; 16]),
                namespace: Namespace::new("shop", "orders"),
                target: Namespace::new("store", "orders"),
                made: Some(Uuid::from_bytes([8; 16])),
                kind: CollectionKind::Clustered,
                options: rawdoc! { "validator": { "z": 1, "a": -0.0 } },
                indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
                indexed: true,
                documents: u64::from(u32::MAX) + 1,
                bytes: 5,
                copied_documents: 2,
                copied_bytes: 3,
                ranges: vec![
                    range(Some(RawBsonRef::MinKey), Some(position(1))),
                    range(Some(RawBsonRef::Double(f64::NAN)), None),
                    range(Some(RawBsonRef::Int64(5)), Some(Position::ZERO)),
                    range(Some(RawBsonRef::String("a.b")), None),
                    range(
                        Some(RawBsonRef::Document(&rawdoc! { "z": [1, { "$x": 2 }], "a": 1 })),
                        None,
                    ),
                    range(None, Some(position(2))),
                ],
                compared: Some(ComparedState {
                    upper: Some(Key::from(RawBsonRef::Int64(5))),
                    changed: vec![Key::from(RawBsonRef::Double(5.0)), Key::from(RawBsonRef::Null)],
                    position: Some(position(7)),
                    documents: 3,
                    bytes: 4,
                }),
            }],
            unsettled: Vec::new(),
            renaming: None,
            gone: Vec::new(),
            gone_names: Vec::new(),
            created: true,
            copied: true,
            copied_documents: 12,
            copied_bytes: 3456,
            resyncs: 2,
            window: CutoverWindow {
                first_ready: Some(bson::DateTime::from_millis(1_700_000_000_123)),
                extended_millis: 86_400_000,
            },
            left_selection: vec![LeftSelection {
                from: Namespace::new("shop", "sold"),
                to: Namespace::new("archive", "sold"),
                position: position(8),
            }],
            source_writes_blocked: true,
            expiry_final: true,
            rules: Vec::new(),
            failed: Vec::new(),
            dead_letters: None,
            users: None,
            takes_back: None,
            watched: Some(position(20)),
            durable: Some(position(21)),
            complete: false,
            way_back: None,
            certificate: None,
        }
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let checkpoint = checkpoint();
        let bytes = checkpoint.encode().unwrap();
        let again = Checkpoint::decode(&bytes).unwrap();
        assert_eq!(again, checkpoint);
        // Keys compare by value. The bytes must be the same too, since 5 and 5.0 are written differently in a query.
        assert_eq!(again.encode().unwrap().as_bytes(), bytes.as_bytes());
        let upper = again.collections[0].ranges[2].upper.as_ref().unwrap();
        assert!(matches!(upper.to_bson_ref().unwrap(), RawBsonRef::Int64(5)));
    }

    /// The first released version wrote this checkpoint. It must stay readable, whatever is added to the format.
    #[test]
    fn a_checkpoint_of_format_1_stays_readable() {
        let path = format!("{}/tests/samples/checkpoint/1.bson", env!("CARGO_MANIFEST_DIR"));
        let bytes = RawDocumentBuf::from_bytes(std::fs::read(path).unwrap()).unwrap();
        let read = Checkpoint::decode(&bytes).unwrap();
        let mut expected = Checkpoint {
            id: "default".to_owned(),
            seen: Position::ZERO,
            left_over: Vec::new(),
            resyncs: 0,
            left_selection: Vec::new(),
            source_writes_blocked: false,
            expiry_final: false,
            window: CutoverWindow::default(),
            unsettled: vec![UnsettledDocuments {
                collection: Uuid::from_bytes([7; 16]),
                ids: vec![Key::from(RawBsonRef::String("a"))],
            }],
            renaming: Some(Renaming {
                collection: Uuid::from_bytes([7; 16]),
                to: Namespace::new("shop", "sold"),
                dropped: Some(Uuid::from_bytes([8; 16])),
                position: Position {
                    time: 1_700_000_001,
                    increment: 1,
                    term: 3,
                },
            }),
            gone: vec![Uuid::from_bytes([9; 16])],
            watched: None,
            durable: None,
            ..checkpoint()
        };
        (expected.collections[0].compared, expected.collections[0].made) = (None, None);
        (
            expected.collections[0].copied_documents,
            expected.collections[0].copied_bytes,
        ) = (0, 0);
        assert_eq!(read, expected);
        let upper = |range: usize| format!("{:?}", read.collections[0].ranges[range].upper);
        let expected_upper = |range: usize| format!("{:?}", expected.collections[0].ranges[range].upper);
        for range in 0..expected.collections[0].ranges.len() {
            // Keys compare by value. Their types must be the same, too.
            assert_eq!(upper(range), expected_upper(range));
        }
    }

    #[test]
    fn collections_that_are_gone_have_their_names_if_they_were_saved() {
        let ids = [8, 9].map(|byte| Uuid::from_bytes([byte; 16]));
        let name = || Namespace::new("shop", "gone");
        for (gone_names, expected) in [
            (vec![name(), name()], [Some(name()), Some(name())]),
            (Vec::new(), [None, None]),
        ] {
            let saved = Checkpoint {
                gone: ids.to_vec(),
                gone_names,
                ..checkpoint()
            };
            let read = Checkpoint::decode(&saved.encode().unwrap()).unwrap();
            let read: Vec<_> = read.gone_with_names().collect();
            assert_eq!(read, ids.into_iter().zip(expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_newer_format_is_refused_and_says_what_to_do() {
        let newer = Checkpoint {
            format: FORMAT + 1,
            ..checkpoint()
        };
        let error = Checkpoint::decode(&newer.encode().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointMismatch);
        assert!(error.to_string().contains("newer version"), "{error}");
        // The same if nothing else in it can be read.
        let error = Checkpoint::decode(&rawdoc! { "format": FORMAT + 1 }).unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        for bytes in [
            rawdoc! {},
            rawdoc! { "format": "1" },
            rawdoc! { "format": FORMAT },
            rawdoc! { "format": FORMAT, "source": 5 },
        ] {
            let error = Checkpoint::decode(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CheckpointMismatch, "{bytes:?}");
            assert!(!error.is_retryable());
        }
    }
}
