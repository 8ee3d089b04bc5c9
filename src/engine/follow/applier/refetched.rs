//! Documents that an applier has refetched at positions that are not routed yet.
//!
//! If there are more than memory allows, their names go to a file. What remains in memory is a position for each collection. Up to it, a
//! change of the collection may already be in one of these documents. A document with such a change is read once more.

use std::collections::{HashMap, HashSet};

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, BufReader};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::order::Key;
use crate::runtime::limits::allowance::Allowance;
use crate::spill::{Spill, failed};

/// The documents that were refetched.
#[derive(Debug)]
pub(super) struct RefetchedDocuments {
    documents: HashMap<(Uuid, Key), Refetched>,
    /// Bytes of memory that the documents take.
    bytes: usize,
    /// Memory that `bytes` is taken from.
    memory: Allowance,
    more: Option<More>,
}

/// A read of a document from the source.
#[derive(Debug)]
pub(super) struct Refetched {
    /// Position of the read. The document contains its changes up to here.
    pub at: Position,
    /// A position at or after the end of the read. A rename up to here may have misled the read.
    pub read_until: Position,
    /// Whether the read was a snapshot. If not, the document may or may not contain a change up to `read_until`. It is then read again.
    pub exact: bool,
}

/// Documents whose names are in a file.
#[derive(Debug)]
struct More {
    file: Spill,
    /// For each of their collections, the position up to which a change may be in one of the documents.
    until: HashMap<Uuid, Position>,
}

/// Whether a document that was read contains a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The document does not contain the change.
    Nothing,
    /// The document contains the change.
    Contained,
    /// The document may contain the change and has to be read again.
    Unclear,
}

/// Returns what an applier remembers after it has refetched `documents` documents, with a limit of `bytes`.
#[cfg(feature = "test-util")]
pub(crate) async fn refetched_for_bench(documents: u32, bytes: usize) -> Result<impl std::fmt::Debug> {
    let mut refetched = RefetchedDocuments::new(Allowance::alone(bytes));
    for id in 0..documents {
        let refetched_now = Refetched {
            at: Position::ZERO,
            read_until: Position::ZERO,
            exact: true,
        };
        let key = Key::from(bson::RawBsonRef::Int64(id.into()));
        refetched
            .insert((Uuid::from_bytes([1; 16]), key), refetched_now)
            .await?;
    }
    Ok(refetched)
}

impl RefetchedDocuments {
    pub fn new(memory: Allowance) -> Self {
        Self {
            documents: HashMap::new(),
            bytes: 0,
            memory,
            more: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.more.is_none()
    }

    /// Bytes of memory that the documents take.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the position of the last read of a document, if it is known.
    pub fn read_at(&self, document: &(Uuid, Key)) -> Option<Position> {
        self.documents.get(document).map(|refetched| refetched.at)
    }

    /// Whether a document that was read contains a change at `position`.
    pub fn know(&self, document: &(Uuid, Key), position: Position) -> Known {
        match self.documents.get(document) {
            Some(refetched) if position <= refetched.at => Known::Contained,
            Some(refetched) if !refetched.exact && position <= refetched.read_until => Known::Unclear,
            Some(_) => Known::Nothing,
            None => {
                let until = self.more.as_ref().and_then(|more| more.until.get(&document.0));
                match until {
                    Some(until) if position <= *until => Known::Unclear,
                    _ => Known::Nothing,
                }
            }
        }
    }

    /// Notes that a document was read.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if there is no room for the document and the temporary file cannot be written.
    pub async fn insert(&mut self, document: (Uuid, Key), refetched: Refetched) -> Result<()> {
        let bytes = bytes_of(&document.1);
        if self.documents.insert(document, refetched).is_none() {
            self.bytes += bytes;
        }
        if self.bytes > self.memory.update(self.bytes) {
            self.spill().await?;
        }
        Ok(())
    }

    /// Forgets documents whose reads ended at or before `routed`.
    pub fn pass(&mut self, routed: Position) {
        let is_ahead = |refetched: &Refetched| refetched.at.max(refetched.read_until) > routed;
        self.retain(|_, refetched| is_ahead(refetched));
        if let Some(more) = &mut self.more {
            more.until.retain(|_, until| *until > routed);
            if more.until.is_empty() {
                self.more = None;
            }
        }
    }

    /// Forgets the documents of a collection.
    pub fn forget(&mut self, collection: Uuid) {
        self.retain(|(id, _), _| *id != collection);
        if let Some(more) = &mut self.more {
            more.until.remove(&collection);
            if more.until.is_empty() {
                self.more = None;
            }
        }
    }

    /// Returns the documents of all collections but some, or `None` if some of them are in the file.
    pub fn names<'a>(&'a self, but_of: &'a HashSet<Uuid>) -> Option<impl Iterator<Item = &'a (Uuid, Key)>> {
        let mut in_file = self.more.iter().flat_map(|more| more.until.keys());
        let of_others = |(id, _): &&(Uuid, Key)| !but_of.contains(id);
        (!in_file.any(|id| !but_of.contains(id))).then(|| self.documents.keys().filter(of_others))
    }

    /// Returns the collections of the documents. A collection can occur more than once.
    pub fn collections(&self) -> impl Iterator<Item = Uuid> {
        let more = self.more.iter().flat_map(|more| more.until.keys());
        self.documents.keys().map(|(id, _)| *id).chain(more.copied())
    }

    /// Returns a position at or after the newest state of any of the documents.
    pub fn ahead(&self) -> Position {
        let read = self.documents.values().map(|refetched| refetched.read_until);
        let more = self.more.iter().flat_map(|more| more.until.values().copied());
        read.chain(more).max().unwrap_or(Position::ZERO)
    }

    /// Returns the position up to which documents of a collection with a collation were read.
    ///
    /// A change up to this position is not applied, whatever its `_id`. Its document is read instead: to the collation, its `_id` may equal
    /// that of a document that was read with later changes in it.
    pub fn collated_until(&self, collection: Uuid) -> Position {
        let of_it = self.documents.iter();
        let of_it = of_it.filter(|((id, key), _)| *id == collection && key.is_collated());
        let read = of_it.map(|(_, refetched)| {
            if refetched.exact {
                refetched.at
            } else {
                refetched.read_until
            }
        });
        let more = self.more.iter().filter_map(|more| more.until.get(&collection).copied());
        read.chain(more).max().unwrap_or(Position::ZERO)
    }

    /// Returns the `_id`s of the documents of a collection that are in memory.
    pub fn of_collection(&self, collection: Uuid) -> Vec<Key> {
        let documents = self.documents.keys().filter(|(id, _)| *id == collection);
        documents.map(|(_, key)| key.clone()).collect()
    }

    /// Takes out the documents whose names are in the file.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) when the file cannot be read.
    pub async fn take_more(&mut self) -> Result<Option<NamesReader>> {
        let Some(more) = self.more.take() else { return Ok(None) };
        Ok(Some(NamesReader {
            file: more.file.into_reader().await?,
            until: more.until,
        }))
    }

    /// Puts back a document whose name was in the file.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub async fn put_back(&mut self, document: (Uuid, Key), until: Position) -> Result<()> {
        if self.documents.contains_key(&document) {
            return Ok(());
        }
        // The document may or may not contain a change up to `until`.
        let refetched = Refetched {
            at: Position::ZERO,
            read_until: until,
            exact: false,
        };
        self.insert(document, refetched).await
    }

    fn retain(&mut self, is_kept: impl Fn(&(Uuid, Key), &Refetched) -> bool) {
        let bytes = &mut self.bytes;
        self.documents.retain(|document, refetched| {
            let is_kept = is_kept(document, refetched);
            if !is_kept {
                *bytes -= bytes_of(&document.1);
            }
            is_kept
        });
        self.memory.update(self.bytes);
    }

    fn spill(&mut self) -> BoxFuture<'_, Result<()>> {
        // Boxed here, so that it is compiled once and not in each caller.
        async move {
            let more = match self.more.take() {
                Some(more) => more,
                None => More {
                    file: Spill::create().await?,
                    until: HashMap::new(),
                },
            };
            let more = self.more.insert(more);
            let mut encoded = Vec::with_capacity(self.bytes);
            for ((collection, key), refetched) in self.documents.drain() {
                let until = more.until.entry(collection).or_insert(Position::ZERO);
                *until = refetched.at.max(refetched.read_until).max(*until);
                encoded.extend_from_slice(&collection.bytes());
                encoded.extend_from_slice(key.document_bytes());
            }
            self.documents.shrink_to_fit();
            self.bytes = 0;
            self.memory.update(0);
            more.file.append(&encoded).await?;
            Ok(())
        }
        .boxed()
    }
}

/// Reads the names of documents back from the file.
pub(super) struct NamesReader {
    file: BufReader<File>,
    until: HashMap<Uuid, Position>,
}

impl NamesReader {
    /// Returns the next document of a collection that is not forgotten, and the position up to which a change may be in it.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) when the file cannot be read.
    pub async fn next(&mut self) -> Result<Option<(Uuid, Key, Position)>> {
        loop {
            let mut head = [0; 20];
            match self.file.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
            let [collection @ .., a, b, c, d] = head;
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            let mut document = vec![0; length.max(5)];
            document[..4].copy_from_slice(&head[16..]);
            self.file.read_exact(&mut document[4..]).await.map_err(failed)?;
            let document = RawDocumentBuf::from_bytes(document).map_err(|error| damaged().with_source(error))?;
            let key = Key::of_document(&document).ok_or_else(damaged)?;
            let collection = Uuid::from_bytes(collection);
            if let Some(until) = self.until.get(&collection) {
                return Ok(Some((collection, key, *until)));
            }
        }
    }
}

fn damaged() -> Error {
    Error::new(
        ErrorKind::Io,
        "read the names of documents in a temporary file",
        "the file is damaged",
    )
}

/// The memory in bytes that the name of a document takes. A map has about as much spare room again.
pub(super) fn bytes_of(key: &Key) -> usize {
    (size_of::<Uuid>() + size_of::<Refetched>() + key.size_in_bytes()) * 2
}
