//! The typed form of oplog entries.

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{DateTime, Uuid};

use crate::model::{Change, Namespace, Position};

/// One committed step of the source's history: an oplog entry, or a transaction at its commit position. A transaction that is too large for
/// memory comes as several of these, one after the other and at the same position.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where in the history.
    pub position: Position,
    /// The position that a tail must start after so that nothing not yet yielded is missed: `position` itself, or one before the
    /// first entry of the oldest transaction that is still open.
    pub resume: Position,
    /// The server's clock when the entry was written.
    pub wall: DateTime,
    /// What is done, in order. Empty for the server's own no-ops, which only move the position.
    pub items: Vec<Item>,
    /// Bytes the entry had in the oplog.
    pub bytes: usize,
    /// Whether the next entry is a further part of the same transaction. It has the same position, and until the last one has come
    /// [`resume`](Self::resume) lies before all of them.
    pub continues: bool,
}

impl Entry {
    /// About how many bytes of memory it takes.
    pub(crate) fn size_in_memory(&self) -> usize {
        self.bytes + size_of::<Self>() + self.items.len() * size_of::<Item>()
    }
}

/// One part of an entry.
#[derive(Clone, Debug)]
pub enum Item {
    /// A write of one document.
    Change(Change),
    /// A change to the catalogue.
    Command(Command),
}

/// A change to the catalogue, as the source logged it.
#[derive(Clone, Debug)]
pub struct Command {
    /// Where in the history.
    pub position: Position,
    /// The collection that the entry's `ui` names; for a rename the collection that moves.
    pub collection: Option<Uuid>,
    /// What is done.
    pub operation: CommandOperation,
    /// The `o` of the entry, unchanged, for error messages.
    pub raw: RawDocumentBuf,
}

/// The kinds of change to the catalogue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandOperation {
    /// A collection was made.
    Create {
        /// Its name.
        namespace: Arc<Namespace>,
        /// The fields of the command without the one that names the collection, in the shape that `listCollections` gives `options`
        /// (no `idIndex`, no `temp`).
        options: RawDocumentBuf,
        /// The specification of the index on `_id`, where there is one.
        id_index: Option<RawDocumentBuf>,
    },
    /// Indexes were built.
    CreateIndexes {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// Their specifications.
        indexes: Vec<RawDocumentBuf>,
    },
    /// An index was dropped.
    DropIndex {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// The index's name.
        name: String,
    },
    /// Options of a collection or of one of its indexes were changed.
    Modify {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// The fields of `collMod` without the one that names the collection.
        arguments: RawDocumentBuf,
    },
    /// A collection was dropped.
    Drop {
        /// Its name.
        namespace: Arc<Namespace>,
    },
    /// A database was dropped; its collections were dropped by entries of their own before.
    DropDatabase {
        /// Its name.
        database: String,
    },
    /// A collection was renamed.
    Rename {
        /// The name before.
        from: Arc<Namespace>,
        /// The name after.
        to: Arc<Namespace>,
        /// The collection that had the new name and was dropped by the rename.
        dropped: Option<Uuid>,
    },
    /// A view was made or changed: the document of `system.views`.
    SetView {
        /// The view's name.
        namespace: Arc<Namespace>,
        /// The options that `listCollections` gives for it: `viewOn`, `pipeline`, and `collation` where it has one.
        options: RawDocumentBuf,
    },
    /// A view was changed by a delta on its document in `system.views`.
    ChangeView {
        /// The view's name.
        namespace: Arc<Namespace>,
        /// The `o` of the update.
        delta: RawDocumentBuf,
    },
    /// A view was dropped.
    DropView {
        /// The view's name.
        namespace: Arc<Namespace>,
    },
    /// Something that this version cannot apply. The run stops unless it concerns only namespaces that are not selected.
    Unsupported {
        /// The namespace or database it concerns.
        namespace: String,
        /// What it is and why it is not supported.
        reason: String,
    },
}
