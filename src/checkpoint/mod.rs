//! The checkpoint of a migration, and the stores that keep it.
//!
//! A run saves a checkpoint continuously, so a later run continues from it and never starts from the beginning.

mod collection_state;
mod file;
mod layer;
#[cfg(feature = "test-util")]
mod memory;
mod on_target;
mod parts;
mod states;
mod store;
#[cfg(test)]
mod tests;
mod way_back;
mod window;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::record;
use crate::model::{DEFAULT_ID, LeftSelection, Namespace, Position, Selection};
use crate::order::Key;
use crate::rules::RuleRecord;
use crate::users::UsersAtHandOver;

pub use collection_state::{CollectionState, ComparedState, RangeState};
pub use file::FileStore;
pub use layer::CheckpointStoreLayer;
#[cfg(feature = "test-util")]
pub use memory::MemoryStore;
pub use on_target::SinkStore;
pub(crate) use states::{Compared, ComparedUntil, PendingCheckpoint, State, States};
pub use store::CheckpointStore;
pub use way_back::WayBack;
pub use window::CutoverWindow;

/// The version of the format that this crate writes. It reads this version and all earlier ones.
pub const FORMAT: i32 = 1;

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
