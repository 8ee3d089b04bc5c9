//! The documents that an applier has read from the source itself, at positions that are not routed yet.
//!
//! With more of them than there is room for, their names go to a file, and it is only remembered up to which position changes of their
//! collections may be in a document already: a document that changes up to there is read once more.

use std::collections::HashMap;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, BufReader};

use super::Refetched;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::order::Key;
use crate::spill::{Spill, failed};

/// Documents that were read from the source.
#[derive(Debug)]
pub(super) struct RefetchedDocuments {
    documents: HashMap<(Uuid, Key), Refetched>,
    /// What they take in memory, and may take.
    bytes: usize,
    limit: usize,
    more: Option<More>,
}

/// Documents whose names are in a file.
#[derive(Debug)]
struct More {
    file: Spill,
    /// The collections that some are of, and the position up to which a change may be in one of them.
    until: HashMap<Uuid, Position>,
}

/// What is known of a change of a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is not in the document.
    Nothing,
    /// It is in the document that was read.
    Contained,
    /// It may be in the document, which has to be read again.
    Unclear,
}

impl RefetchedDocuments {
    pub fn new(limit: usize) -> Self {
        Self {
            documents: HashMap::new(),
            bytes: 0,
            limit,
            more: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.more.is_none()
    }

    /// What they take in memory.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the document was read last, where it is known.
    pub fn read_at(&self, document: &(Uuid, Key)) -> Option<Position> {
        self.documents.get(document).map(|refetched| refetched.at)
    }

    /// Whether a change at this position is in the document that was read.
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
    /// [`Io`](ErrorKind::Io) when there is no room for it and the temporary file cannot be written.
    pub async fn insert(&mut self, document: (Uuid, Key), refetched: Refetched) -> Result<()> {
        let bytes = bytes_of(&document.1);
        if self.documents.insert(document, refetched).is_none() {
            self.bytes += bytes;
        }
        if self.bytes > self.limit {
            self.spill().await?;
        }
        Ok(())
    }

    /// Forgets what is routed by now.
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

    /// The documents, unless there are more than are in memory.
    pub fn names(&self) -> Option<impl Iterator<Item = &(Uuid, Key)>> {
        self.more.is_none().then(|| self.documents.keys())
    }

    /// The collections that they are of; one can come more than once.
    pub fn collections(&self) -> impl Iterator<Item = Uuid> {
        let more = self.more.iter().flat_map(|more| more.until.keys());
        self.documents.keys().map(|(id, _)| *id).chain(more.copied())
    }

    /// A position at or after the newest state of one of them.
    pub fn ahead(&self) -> Position {
        let read = self.documents.values().map(|refetched| refetched.read_until);
        let more = self.more.iter().flat_map(|more| more.until.values().copied());
        read.chain(more).max().unwrap_or(Position::ZERO)
    }

    /// Up to which position documents of a collection with a collation were read. A change up to here, of whatever `_id`, is not applied but
    /// its document read as well: the collation may take the `_id` for that of a document that was read with later changes in it.
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

    /// Takes the names of all documents out that are of a collection, those in memory as a whole.
    pub fn of_collection(&self, collection: Uuid) -> Vec<Key> {
        let documents = self.documents.keys().filter(|(id, _)| *id == collection);
        documents.map(|(_, key)| key.clone()).collect()
    }

    /// Takes those out whose names are in a file.
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

    /// Puts a document back whose name was in a file.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub async fn put_back(&mut self, document: (Uuid, Key), until: Position) -> Result<()> {
        if self.documents.contains_key(&document) {
            return Ok(());
        }
        // A change up to there may be in it or not.
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
    }

    async fn spill(&mut self) -> Result<()> {
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
        more.file.append(&encoded).await?;
        Ok(())
    }
}

/// Reads the names of documents from a file.
pub(super) struct NamesReader {
    file: BufReader<File>,
    until: HashMap<Uuid, Position>,
}

impl NamesReader {
    /// The next document of a collection that is not forgotten, with the position up to which a change may be in it.
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

/// The memory that the name of a document takes, in bytes. A map has about as much room again.
pub(super) fn bytes_of(key: &Key) -> usize {
    (size_of::<Uuid>() + size_of::<Refetched>() + key.size_in_bytes()) * 2
}
