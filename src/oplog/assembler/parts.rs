//! Stores the entries of a transaction in memory or in a temporary file.

use std::collections::VecDeque;

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::oplog::raw_entry::OPERATION;
use crate::spill::{Place, Spill};

/// The entries of a transaction, in order.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: VecDeque<Part>,
    file: Option<Spill>,
    /// Size in bytes of the entries in memory.
    bytes: usize,
}

#[derive(Debug)]
enum Part {
    Memory(RawDocumentBuf),
    File(Place),
}

impl Parts {
    pub fn push_back(&mut self, raw: &RawDocument) {
        self.bytes += raw.as_bytes().len();
        self.parts.push_back(Part::Memory(raw.to_owned()));
    }

    pub fn push_front(&mut self, raw: &RawDocument) {
        self.bytes += raw.as_bytes().len();
        self.parts.push_front(Part::Memory(raw.to_owned()));
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Size in bytes of the entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some entries are in a file.
    pub fn are_in_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns all entries, provided that none is in a file.
    pub fn into_memory(self) -> impl Iterator<Item = RawDocumentBuf> {
        self.parts.into_iter().filter_map(|part| match part {
            Part::Memory(raw) => Some(raw),
            Part::File(_) => None,
        })
    }

    /// Removes and returns the first entry. Do not [`spill`](Self::spill) afterwards.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be read.
    pub async fn pop_front(&mut self) -> Result<Option<RawDocumentBuf>> {
        match (self.parts.pop_front(), &mut self.file) {
            (Some(Part::Memory(raw)), _) => {
                self.bytes -= raw.as_bytes().len();
                Ok(Some(raw))
            }
            (Some(Part::File(place)), Some(file)) => {
                let raw = RawDocumentBuf::from_bytes(file.read(place).await?);
                raw.map(Some).map_err(|error| {
                    Error::new(
                        ErrorKind::Io,
                        OPERATION,
                        "a part of a transaction in a temporary file is damaged",
                    )
                    .with_source(error)
                })
            }
            _ => Ok(None),
        }
    }

    /// Moves the entries in memory to the file.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be written.
    pub async fn spill(&mut self) -> Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => Spill::create().await?,
        };
        let file = self.file.insert(file);
        for part in &mut self.parts {
            if let Part::Memory(raw) = part {
                let place = file.append(raw.as_bytes()).await?;
                self.bytes -= place.length();
                *part = Part::File(place);
            }
        }
        Ok(())
    }
}
