//! The journal of a sink in memory.

use crate::model::{Namespace, Write};
use crate::order::Key;
use crate::sink::{CatalogCommand, RefusalReason};

/// An action of a [`MemorySink`](super::MemorySink). The journal lists them in the order in which they happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JournalEntry {
    /// A call of [`Sink::insert`](crate::Sink::insert) wrote these documents.
    Inserted {
        /// The collection.
        namespace: Namespace,
        /// Their `_id`s, in order.
        keys: Vec<Key>,
    },
    /// A call of [`Sink::apply`](crate::Sink::apply) made this write.
    Applied {
        /// The collection.
        namespace: Namespace,
        /// The write.
        write: Write,
    },
    /// A write or document was refused.
    Refused {
        /// The collection.
        namespace: Namespace,
        /// The document's `_id`.
        key: Key,
        /// The reason.
        reason: RefusalReason,
    },
    /// A command was executed.
    Executed(CatalogCommand),
    /// A write found no collection and created one with default options.
    ImplicitlyCreated {
        /// The collection.
        namespace: Namespace,
    },
    /// An index that did not exist before was built.
    IndexBuilt {
        /// The collection.
        namespace: Namespace,
        /// The index's name.
        name: String,
    },
    /// Everything before this entry became durable.
    Flushed,
    /// Everything since the last flush was lost.
    Crashed,
    /// A record was stored.
    RecordSaved {
        /// Its name.
        name: String,
        /// Its fence.
        fence: i64,
    },
    /// A record was deleted.
    RecordDeleted {
        /// Its name.
        name: String,
    },
}
