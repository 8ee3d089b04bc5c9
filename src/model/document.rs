//! The words that everything else is written in: positions, collections, ranges, batches of documents, and changes.

use std::fmt;
use std::sync::Arc;

use bson::raw::{RawArray, RawArrayBuf, RawDocument, RawDocumentBuf};
use bson::{Timestamp, Uuid};
use mongodb::raw_batch_cursor::RawBatch;
use serde::{Deserialize, Serialize};

use crate::model::namespace::Namespace;
use crate::order::Key;

/// A point in the source's history: the `ts` and the term `t` of an oplog entry. Totally ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Seconds since the Unix epoch.
    pub time: u32,
    /// Number of the entry within its second, from 1.
    pub increment: u32,
    /// The election term the entry was written in.
    pub term: i64,
}

impl Position {
    /// Before every entry.
    pub const ZERO: Position = Position {
        time: 0,
        increment: 0,
        term: -1,
    };

    /// From the fields `ts` and `t` of an entry or optime.
    pub fn new(timestamp: Timestamp, term: i64) -> Self {
        Self {
            time: timestamp.time,
            increment: timestamp.increment,
            term,
        }
    }

    /// The `ts` part.
    pub fn timestamp(self) -> Timestamp {
        Timestamp {
            time: self.time,
            increment: self.increment,
        }
    }
}

impl Position {
    /// After every entry before this position, and before this position.
    pub(crate) fn predecessor(self) -> Position {
        let (time, increment) = match self.increment.checked_sub(1) {
            Some(increment) => (self.time, increment),
            None => (self.time.saturating_sub(1), u32::MAX),
        };
        Position {
            time,
            increment,
            term: self.term,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.time, self.increment, self.term)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A collection or view as it stood on one side when it was listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    /// The server's identity of the collection: it stays through renames. Views have none; they carry a nil UUID.
    pub id: Uuid,
    /// Its name. A time-series collection is known by its buckets, `db.system.buckets.name`.
    pub namespace: Namespace,
    /// How its documents are kept, which decides how they can be read and written.
    pub kind: CollectionKind,
    /// The `options` of `listCollections`, unchanged.
    pub options: RawDocumentBuf,
    /// The specifications of `listIndexes`, the one on `_id` included, unchanged.
    pub indexes: Vec<RawDocumentBuf>,
    /// Documents, as the server's metadata counts them: an estimate after an unclean shutdown.
    pub documents: u64,
    /// Bytes of uncompressed BSON, as the server's metadata counts them.
    pub bytes: u64,
}

/// How the documents of a collection are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectionKind {
    /// Documents with an ordinary index on `_id` in simple binary order: any range can be read on its own.
    Plain,
    /// Insertion order is part of the data. One range, read in natural order.
    Capped,
    /// `_id` order is not the simple binary one, because the default collation is not. One range.
    Unordered,
    /// The collection is stored by `_id` itself (6.0 `clusteredIndex`), without an index on it.
    Clustered,
    /// The buckets of a time-series collection, stored by `_id` (5.0 and newer).
    TimeSeriesBuckets,
    /// What is listed as a time-series collection without buckets beside it: such a collection of 9.0 and newer, which cannot be
    /// migrated, or, with a nil `id`, a view that somebody made over the buckets of another one, which is left out.
    TimeSeries,
    /// A view: a definition without documents.
    View,
}

impl CollectionKind {
    /// Whether ranges of `_id` can be read, so that the collection can be copied in several chunks.
    pub fn has_ranges(self) -> bool {
        matches!(self, Self::Plain | Self::Clustered | Self::TimeSeriesBuckets)
    }
}

/// The documents whose `_id` is greater than `lower` and at most `upper`, in the server's comparison order.
///
/// `None` leaves that side open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The greatest `_id` that is not in the range.
    pub lower: Option<Key>,
    /// The greatest `_id` that is in the range.
    pub upper: Option<Key>,
}

impl Range {
    /// Every document.
    pub const FULL: Range = Range {
        lower: None,
        upper: None,
    };

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &Key) -> bool {
        self.lower.as_ref().is_none_or(|lower| key > lower) && self.upper.as_ref().is_none_or(|upper| key <= upper)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lower {
            Some(key) => write!(f, "({key:?}, ")?,
            None => f.write_str("(.., ")?,
        }
        match &self.upper {
            Some(key) => write!(f, "{key:?}]"),
            None => f.write_str("..)"),
        }
    }
}

/// Documents in the order they were read, as one raw BSON array that can be spliced into a command unchanged.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Empty where there is a reply.
    documents: RawArrayBuf,
    /// A server's reply as it came: a batch of a few MB is not copied out of it.
    reply: Option<RawBatch>,
    count: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over an array of documents whose field names are "0", "1" and so on.
    ///
    /// # Errors
    /// The array's bytes, or a value in it that is not a document.
    pub fn from_array(documents: &RawArray) -> Result<Self, bson::error::Error> {
        Ok(Self {
            documents: documents.to_owned(),
            reply: None,
            count: count(documents)?,
        })
    }

    /// Takes over the documents of a cursor's reply.
    ///
    /// # Errors
    /// What is wrong with the reply, or with its array.
    pub(crate) fn from_reply(reply: RawBatch) -> Result<Self, mongodb::error::Error> {
        let count = count(reply.doc_slices()?)?;
        Ok(Self {
            documents: RawArrayBuf::new(),
            reply: Some(reply),
            count,
        })
    }

    /// Appends a document.
    pub fn push(&mut self, document: &RawDocument) {
        if self.reply.is_some() {
            self.documents = self.as_array().to_owned();
            self.reply = None;
        }
        self.documents.push(document.to_owned());
        self.count += 1;
    }

    /// The documents as one array.
    pub fn as_array(&self) -> &RawArray {
        match &self.reply {
            // It was found to have an array when it was taken over.
            Some(reply) => reply.doc_slices().unwrap_or(&self.documents),
            None => &self.documents,
        }
    }

    /// The bytes that the array is in.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.reply {
            Some(reply) => reply.as_raw_document().as_bytes(),
            None => self.documents.as_bytes(),
        }
    }

    /// The documents one by one. Values that are not documents end the iteration; [`Batch::from_array`] lets none in.
    pub fn iter(&self) -> impl Iterator<Item = &RawDocument> {
        self.as_array()
            .into_iter()
            .map_while(|value| value.ok().and_then(|value| value.as_document()))
    }

    /// How many documents.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the array in bytes.
    pub fn size_in_bytes(&self) -> usize {
        self.as_array().as_bytes().len()
    }
}

fn count(documents: &RawArray) -> Result<usize, bson::error::Error> {
    documents
        .into_iter()
        .try_fold(0, |count, value| value.map(|_| count + 1))
}

/// One logical operation on one document, at a position. Transactions are flattened into these at their commit position.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where in the source's history.
    pub position: Position,
    /// The collection's identity.
    pub collection: Uuid,
    /// The collection's name when the entry was written.
    pub namespace: Arc<Namespace>,
    /// What is done, to which document.
    pub write: Write,
}

impl Change {
    /// Bytes this change holds in memory, roughly.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Change>() + self.write.size_in_bytes()
    }
}

/// What is done to one document.
#[derive(Clone, Debug)]
pub struct Write {
    /// The document's `_id`.
    pub key: Key,
    /// What is done.
    pub operation: Operation,
}

impl Write {
    /// Bytes this write holds in memory, roughly.
    pub fn size_in_bytes(&self) -> usize {
        size_of::<Write>() + self.key.size_in_bytes() + self.operation.size_in_bytes()
    }
}

/// The kinds of write.
#[derive(Clone, Debug)]
pub enum Operation {
    /// The document was inserted. Where one with its `_id` exists it is replaced.
    Insert(RawDocumentBuf),
    /// The document was replaced as a whole. Where none with its `_id` exists it is inserted.
    Replace(RawDocumentBuf),
    /// Parts were changed: the `o` of an update entry, in the format `$v: 1` or `$v: 2`, unchanged.
    Delta(RawDocumentBuf),
    /// The document was deleted. Where there is none nothing happens.
    Delete,
}

impl Operation {
    fn size_in_bytes(&self) -> usize {
        match self {
            Self::Insert(document) | Self::Replace(document) | Self::Delta(document) => document.as_bytes().len(),
            Self::Delete => 0,
        }
    }
}
