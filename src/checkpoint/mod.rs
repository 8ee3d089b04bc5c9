//! What a migration remembers of itself, so that it never starts again from the beginning.

mod file;
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
use crate::model::{CollectionKind, LeftSelection, Namespace, Position, Selection};
use crate::order::Key;

pub use file::FileStore;
#[cfg(feature = "test-util")]
pub use memory::MemoryStore;
pub use on_target::SinkStore;
pub(crate) use states::{Compared, ComparedUntil, PendingCheckpoint, State, States};
pub use way_back::WayBack;
pub use window::CutoverWindow;

/// The version of the format that this crate writes. It reads this one and all before it.
pub const FORMAT: i32 = 1;

/// Where a checkpoint is kept.
///
/// # Contract
/// - `Ok` of [`save`](CheckpointStore::save) means durable. A save that fails, or whose future is dropped, leaves the checkpoint before it
///   or the new one, never a mixture.
/// - A store holds one checkpoint.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// The last checkpoint saved, if there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn load(&self) -> Result<Option<RawDocumentBuf>>;

    /// Makes the checkpoint this store's own: from now on what another process saves, which has not claimed it later, is refused. A run calls
    /// it once it has the lease. Default: does nothing, so that a process whose lease has run out is kept from saving by itself alone.
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

    /// Removes the checkpoint; it is no error when there is none.
    ///
    /// # Errors
    /// The store cannot be written.
    async fn clear(&self) -> Result<()>;
}

/// How far a migration has come. Everything in it is durable on the sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The version of the format, [`FORMAT`].
    pub format: i32,
    /// The identity of the source.
    pub source: String,
    /// The identity of the sink.
    pub sink: String,
    /// What is migrated, and under which names.
    pub selection: Selection,
    /// Everything up to here is durable on the sink, in the ranges that are done.
    pub watermark: Position,
    /// Where the tail starts again: the watermark, or before the first entry of a transaction that was open there.
    pub resume: Position,
    /// How far the source's history had been read when the checkpoint was saved. Something up to here may have been applied, so that a
    /// history that does not hold it is another one, even where it holds the watermark.
    #[serde(default = "nothing_seen")]
    pub seen: Position,
    /// Documents that have to be read from the source again when the run goes on, whatever the watermark says of them.
    #[serde(default)]
    pub unsettled: Vec<UnsettledDocuments>,
    /// The collections as the source had them at the watermark.
    pub collections: Vec<CollectionState>,
    /// What a resync has still to put away on the sink before anything is copied.
    #[serde(default)]
    pub left_over: Vec<LeftOver>,
    /// A rename on the sink that may or may not have been carried out.
    #[serde(default)]
    pub renaming: Option<Renaming>,
    /// Collections that were renamed into the selection and are gone from the source by now, which a later entry will say. What concerns them
    /// is passed over.
    #[serde(default)]
    pub gone: Vec<Uuid>,
    /// Whether every collection in it has been made on the sink.
    #[serde(default)]
    pub created: bool,
    /// Whether every collection has been copied and its indexes have been built.
    pub copied: bool,
    /// Documents copied so far.
    #[serde(default)]
    pub copied_documents: u64,
    /// Bytes copied so far.
    #[serde(default)]
    pub copied_bytes: u64,
    /// How often the position was lost and everything compared with the source again.
    #[serde(default)]
    pub resyncs: u32,
    /// How long the source is followed until the cutover.
    #[serde(default)]
    pub window: CutoverWindow,
    /// Collections that were renamed out of the selection during the migration.
    #[serde(default)]
    pub left_selection: Vec<LeftSelection>,
    /// Whether writes on the source may be blocked by a cutover that has not come to its end. Whoever goes on from here lifts the block.
    #[serde(default)]
    pub source_writes_blocked: bool,
    /// Whether documents may expire on the target as on the source, by a cutover that has not come to its end. Whoever goes on from here
    /// holds that back first.
    #[serde(default)]
    pub expiry_final: bool,
    /// The hand-over that this migration takes back, where it is one that does.
    #[serde(default)]
    pub takes_back: Option<Uuid>,
    /// How far the sink's own history was watched for writes of others (see [`Sink::foreign_writes`](crate::Sink::foreign_writes)), none of
    /// which was to a collection of which it says that it was [compared](CollectionState::compared). `None` when it was not.
    #[serde(default)]
    pub watched: Option<Position>,
    /// A position of the sink's own history at or after everything that was written for this checkpoint. A history that does not hold it is
    /// that of a sink that was restored from a backup. `None` when nothing was compared, or where it is not known.
    #[serde(default)]
    pub durable: Option<Position>,
    /// Whether the cutover has been finished.
    pub complete: bool,
    /// What a migration in the opposite direction begins with, once this one is complete.
    #[serde(default)]
    pub way_back: Option<WayBack>,
}

/// How far a collection has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionState {
    /// The source's identity of the collection.
    pub id: Uuid,
    /// Its name on the source.
    pub namespace: Namespace,
    /// Its name on the sink.
    pub target: Namespace,
    /// The sink's own uuid of what this migration made there, by which it is told from what others make under the same name; `None` where it
    /// is not known yet.
    #[serde(default)]
    pub made: Option<Uuid>,
    /// How its documents are kept.
    pub kind: CollectionKind,
    /// The source's options.
    pub options: RawDocumentBuf,
    /// The specifications of the source's indexes.
    pub indexes: Vec<RawDocumentBuf>,
    /// Whether the indexes have been built on the sink.
    pub indexed: bool,
    /// The source's count of documents when it was listed.
    pub documents: u64,
    /// The source's count of bytes when it was listed.
    pub bytes: u64,
    /// Which ranges have been copied, in ascending order; the last is open above.
    pub ranges: Vec<RangeState>,
    /// How far it has been compared with the source; `None` when it begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<ComparedState>,
}

/// What is known of a collection's documents being the same on both sides, once everything up to the watermark is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedState {
    /// Every document up to this `_id` was compared, and was the same; `None` when that is true of all.
    pub upper: Option<Key>,
    /// Those of them that may have changed since.
    pub changed: Vec<Key>,
    /// The position of the range that was compared last; `None` when the collection was made during the migration.
    pub position: Option<Position>,
    /// Documents of the source that were compared.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A rename that was about to be carried out on the sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renaming {
    /// The source's identity of the collection that gets another name.
    pub collection: Uuid,
    /// Its new name on the source.
    pub to: Namespace,
    /// The collection that had the new name before and is dropped by the rename.
    pub dropped: Option<Uuid>,
    /// Where in the source's history. Nothing lies between it and the watermark.
    pub position: Position,
}

/// A collection or view on the sink that was migrated and is gone from the source, or has another name there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOver {
    /// Its name on the sink.
    pub target: Namespace,
    /// As [`CollectionState::made`].
    #[serde(default)]
    pub made: Option<Uuid>,
    /// The name it gets on the sink; `None` when it is dropped.
    pub moved_to: Option<Namespace>,
}

/// Documents of a collection that have to be read again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnsettledDocuments {
    /// The source's identity of the collection.
    pub collection: Uuid,
    /// Their `_id`s.
    pub ids: Vec<Key>,
}

/// A range that ends at `upper` and begins where the one before it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeState {
    /// The greatest `_id` in the range; `None` when it is open above.
    pub upper: Option<Key>,
    /// The position that the range was read at; `None` when it has still to be read.
    pub done: Option<Position>,
}

impl Checkpoint {
    /// The first checkpoint of a migration, with no collections yet.
    pub(crate) fn begin(
        source: impl Into<String>,
        sink: impl Into<String>,
        selection: Selection,
        watermark: Position,
        resume: Position,
    ) -> Self {
        Self {
            format: FORMAT,
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
            watched: None,
            durable: None,
            complete: false,
            way_back: None,
        }
    }

    /// Forgets what was compared, where it cannot be relied on.
    pub(crate) fn forget_compared(&mut self) {
        (self.watched, self.durable) = (None, None);
        for collection in &mut self.collections {
            collection.compared = None;
        }
    }

    /// The checkpoint of the same migration from a new position on, with no collections yet: nothing counts as copied any more, and whatever
    /// else is known of the migration stays.
    pub(crate) fn begin_again(self, watermark: Position, resume: Position) -> Self {
        Self {
            resyncs: self.resyncs.saturating_add(1),
            window: self.window,
            left_selection: self.left_selection,
            source_writes_blocked: self.source_writes_blocked,
            expiry_final: self.expiry_final,
            takes_back: self.takes_back,
            ..Self::begin(self.source, self.sink, self.selection, watermark, resume)
        }
    }

    /// The bytes that a store keeps.
    ///
    /// # Errors
    /// The checkpoint is larger than a document can be.
    pub fn encode(&self) -> Result<RawDocumentBuf> {
        bson::serialize_to_raw_document_buf(self).map_err(|error| {
            Error::new(
                ErrorKind::Protocol,
                "encode the checkpoint",
                "it does not fit into a document",
            )
            .with_source(error)
        })
    }

    /// Reads the bytes that a store kept.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) when they were written by a newer version of the crate, or are no checkpoint.
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
                    "it has format {format}, this version reads up to {FORMAT}: go on with the newer version that wrote it"
                ),
            ));
        }
        bson::deserialize_from_slice(bytes.as_bytes()).map_err(|error| {
            Error::new(ErrorKind::CheckpointMismatch, "read the checkpoint", "it is damaged").with_source(error)
        })
    }
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
            takes_back: None,
            watched: Some(position(20)),
            durable: Some(position(21)),
            complete: false,
            way_back: None,
        }
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let checkpoint = checkpoint();
        let bytes = checkpoint.encode().unwrap();
        let again = Checkpoint::decode(&bytes).unwrap();
        assert_eq!(again, checkpoint);
        // Keys are equal by value; the bytes must be the same too, since 5 and 5.0 are written differently in a query.
        assert_eq!(again.encode().unwrap().as_bytes(), bytes.as_bytes());
        let upper = again.collections[0].ranges[2].upper.as_ref().unwrap();
        assert!(matches!(upper.to_bson_ref().unwrap(), RawBsonRef::Int64(5)));
    }

    /// The first version that was released wrote it. Whatever is added to the format, this must stay readable.
    #[test]
    fn a_checkpoint_of_format_1_stays_readable() {
        let path = format!("{}/tests/samples/checkpoint/1.bson", env!("CARGO_MANIFEST_DIR"));
        let bytes = RawDocumentBuf::from_bytes(std::fs::read(path).unwrap()).unwrap();
        let read = Checkpoint::decode(&bytes).unwrap();
        let mut expected = Checkpoint {
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
        assert_eq!(read, expected);
        let upper = |range: usize| format!("{:?}", read.collections[0].ranges[range].upper);
        let expected_upper = |range: usize| format!("{:?}", expected.collections[0].ranges[range].upper);
        for range in 0..expected.collections[0].ranges.len() {
            // Keys are equal by value; their types must have stayed, too.
            assert_eq!(upper(range), expected_upper(range));
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
        // Also when nothing else of it can be read.
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
