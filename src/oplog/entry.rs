//! Typed oplog entries.

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{DateTime, Uuid};

use crate::model::{Change, Namespace, Position};

/// One committed step of the source's history: an oplog entry, or a transaction at its commit position. A transaction that is too large for
/// memory becomes several consecutive values with the same position.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The position in the history.
    pub position: Position,
    /// The position to resume tailing after, so that nothing is missed that has not been yielded yet. It is `position`, or a position
    /// before the first entry of the oldest open transaction.
    pub resume: Position,
    /// The server's clock when the entry was written.
    pub wall: DateTime,
    /// The changes and commands of the entry, in order. Empty for no-ops of the server, which only advance the position.
    pub items: Vec<Item>,
    /// Size of the entry in the oplog, in bytes.
    pub bytes: usize,
    /// Whether the next entry is another part of the same transaction. All parts have the same position. Until the last part,
    /// [`resume`](Self::resume) is before all of them.
    pub continues: bool,
}

impl Entry {
    /// Approximate memory used, in bytes.
    pub(crate) fn size_in_memory(&self) -> usize {
        self.bytes + size_of::<Self>() + self.items.len() * size_of::<Item>()
    }
}

/// One part of an entry.
#[derive(Clone, Debug)]
pub enum Item {
    /// A write to one document.
    Change(Change),
    /// A change to the catalog.
    Command(Command),
}

/// A change to the catalog, as the source logged it.
#[derive(Clone, Debug)]
pub struct Command {
    /// The position in the history.
    pub position: Position,
    /// The collection in the entry's `ui`. For a rename, the collection that is renamed.
    pub collection: Option<Uuid>,
    /// The operation.
    pub operation: CommandOperation,
    /// The `o` of the entry, unchanged, for error messages.
    pub raw: RawDocumentBuf,
}

/// The kinds of change to the catalog.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandOperation {
    /// Creates a collection.
    Create {
        /// Its name.
        namespace: Arc<Namespace>,
        /// The fields of the command without the name of the collection, in the form of the `options` of `listCollections` (no `idIndex`,
        /// no `temp`).
        options: RawDocumentBuf,
        /// The specification of the index on `_id`, if there is one.
        id_index: Option<RawDocumentBuf>,
    },
    /// Builds indexes.
    CreateIndexes {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// The specifications of the indexes.
        indexes: Vec<RawDocumentBuf>,
    },
    /// Drops an index.
    DropIndex {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// The index's name.
        name: String,
    },
    /// Drops several indexes, or one that is not named. Servers from 3.6 on log a [`DropIndex`](Self::DropIndex) for each index instead.
    DropIndexes {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// The key of the index. `None` for all indexes except that on `_id`.
        key: Option<RawDocumentBuf>,
    },
    /// Changes options of a collection or of one of its indexes.
    Modify {
        /// The collection's name.
        namespace: Arc<Namespace>,
        /// The fields of `collMod` without the name of the collection.
        arguments: RawDocumentBuf,
    },
    /// Drops a collection.
    Drop {
        /// Its name.
        namespace: Arc<Namespace>,
    },
    /// Drops a database. Its collections have been dropped by entries of their own before.
    DropDatabase {
        /// Its name.
        database: String,
    },
    /// Renames a collection.
    Rename {
        /// The name before the rename.
        from: Arc<Namespace>,
        /// The name after the rename.
        to: Arc<Namespace>,
        /// The collection that had the new name, and was dropped by the rename.
        dropped: Option<Uuid>,
    },
    /// Creates or replaces a view: the document of `system.views`.
    SetView {
        /// The view's name.
        namespace: Arc<Namespace>,
        /// The options as in `listCollections`: `viewOn`, `pipeline`, and `collation` if the view has one.
        options: RawDocumentBuf,
    },
    /// Changes a view by a delta on its document in `system.views`.
    ChangeView {
        /// The view's name.
        namespace: Arc<Namespace>,
        /// The `o` of the update.
        delta: RawDocumentBuf,
    },
    /// Drops a view.
    DropView {
        /// The view's name.
        namespace: Arc<Namespace>,
    },
    /// An entry that this version cannot apply. The run stops, unless the entry concerns only namespaces outside of the selection.
    Unsupported {
        /// The namespace or database it concerns.
        namespace: String,
        /// What the entry is, and why it is not supported.
        reason: String,
    },
}

impl CommandOperation {
    /// The collections and views that it names. A dropped database and an unsupported entry name none.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let names = match self {
            Self::Create { namespace, .. }
            | Self::CreateIndexes { namespace, .. }
            | Self::DropIndex { namespace, .. }
            | Self::DropIndexes { namespace, .. }
            | Self::Modify { namespace, .. }
            | Self::Drop { namespace }
            | Self::SetView { namespace, .. }
            | Self::ChangeView { namespace, .. }
            | Self::DropView { namespace } => [Some(namespace), None],
            Self::Rename { from, to, .. } => [Some(from), Some(to)],
            Self::DropDatabase { .. } | Self::Unsupported { .. } => [None, None],
        };
        names.into_iter().flatten().map(|name| &**name)
    }
}
