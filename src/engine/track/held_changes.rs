//! Changes held for a chunk, in order.
//!
//! They are kept in memory, or in a temporary file if the chunk cannot be made smaller.

use std::vec;

use bson::raw::RawDocumentBuf;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, BufReader};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Operation, Position, Write};
use crate::order::Key;
use crate::spill::{Spill, failed};

/// The changes held for one chunk.
#[derive(Debug, Default)]
pub(crate) struct HeldChanges {
    memory: Vec<(Position, Write)>,
    bytes: usize,
    file: Option<Spill>,
    count: u64,
}

/// Reads the held changes of a durable chunk, in the order in which they were held.
pub(crate) struct HeldReader {
    file: Option<BufReader<File>>,
    memory: vec::IntoIter<(Position, Write)>,
}

impl HeldChanges {
    /// Adds a change. Returns the memory it takes in bytes.
    pub fn push(&mut self, position: Position, write: Write) -> usize {
        let bytes = size_of::<Position>() + write.size_in_bytes();
        self.bytes += bytes;
        self.count += 1;
        self.memory.push((position, write));
        bytes
    }

    /// Memory taken by the changes, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of changes, in memory and in the file.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Moves all changes in memory to the file. Returns the number of bytes of memory that this frees.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the temporary folder cannot be written.
    pub async fn spill(&mut self) -> Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => Spill::create().await?,
        };
        let file = self.file.insert(file);
        let mut encoded = Vec::with_capacity(self.bytes);
        for (position, write) in self.memory.drain(..) {
            encode(position, &write, &mut encoded);
        }
        file.append(&encoded).await?;
        self.memory.shrink_to_fit();
        Ok(std::mem::take(&mut self.bytes))
    }

    /// Returns a reader of the changes, oldest first.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be read.
    pub async fn read(self) -> Result<HeldReader> {
        let file = match self.file {
            Some(file) => Some(file.into_reader().await?),
            None => None,
        };
        Ok(HeldReader {
            file,
            memory: self.memory.into_iter(),
        })
    }
}

impl HeldReader {
    /// Returns the next change, or `None` at the end.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be read.
    pub async fn next(&mut self) -> Result<Option<(Position, Write)>> {
        if let Some(file) = &mut self.file {
            match file.read_u32_le().await {
                Ok(length) => {
                    let mut record = vec![0; length as usize];
                    file.read_exact(&mut record).await.map_err(failed)?;
                    return decode(&record).map(Some);
                }
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => self.file = None,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(self.memory.next())
    }
}

/// Encodes length, position, kind, key, and the document if there is one.
fn encode(position: Position, write: &Write, to: &mut Vec<u8>) {
    let (kind, document) = match &write.operation {
        Operation::Insert(document) => (0, Some(document)),
        Operation::Replace(document) => (1, Some(document)),
        Operation::Delta(delta) => (2, Some(delta)),
        Operation::Delete => (3, None),
    };
    let key = write.key.document_bytes();
    let document = document.map(|document| document.as_bytes()).unwrap_or_default();
    // A change is at most two documents, far below 4 GiB.
    to.extend_from_slice(&((17 + key.len() + document.len()) as u32).to_le_bytes());
    to.extend_from_slice(&position.time.to_le_bytes());
    to.extend_from_slice(&position.increment.to_le_bytes());
    to.extend_from_slice(&position.term.to_le_bytes());
    to.push(kind);
    to.extend_from_slice(key);
    to.extend_from_slice(document);
}

fn decode(record: &[u8]) -> Result<(Position, Write)> {
    let damaged = || {
        Error::new(
            ErrorKind::Io,
            "read changes held in a temporary file",
            "the file is damaged",
        )
    };
    let number = |at: usize| {
        record
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let (time, increment) = (number(0).ok_or_else(damaged)?, number(4).ok_or_else(damaged)?);
    let term = record
        .get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i64::from_le_bytes)
        .ok_or_else(damaged)?;
    let kind = *record.get(16).ok_or_else(damaged)?;
    let key_length = number(17).ok_or_else(damaged)? as usize;
    let document = |bytes: Option<&[u8]>| -> Result<RawDocumentBuf> {
        RawDocumentBuf::from_bytes(bytes.ok_or_else(damaged)?.to_vec()).map_err(|error| damaged().with_source(error))
    };
    let key = Key::of_document(&document(record.get(17..17 + key_length))?).ok_or_else(damaged)?;
    let rest = record.get(17 + key_length..);
    let operation = match kind {
        0 => Operation::Insert(document(rest)?),
        1 => Operation::Replace(document(rest)?),
        2 => Operation::Delta(document(rest)?),
        _ => Operation::Delete,
    };
    Ok((Position { time, increment, term }, Write { key, operation }))
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};

    use super::*;

    #[tokio::test]
    async fn changes_come_back_in_order_from_file_and_memory() {
        let write = |number: u32| {
            let document = rawdoc! { "_id": i64::from(number), "text": "x".repeat(number as usize % 50) };
            let operation = match number % 4 {
                0 => Operation::Insert(document),
                1 => Operation::Replace(document),
                2 => Operation::Delta(document),
                _ => Operation::Delete,
            };
            (
                Position {
                    time: number,
                    increment: 7,
                    term: -1,
                },
                Write {
                    key: Key::from(RawBsonRef::Int64(number.into())),
                    operation,
                },
            )
        };
        let mut held = HeldChanges::default();
        let mut bytes = 0;
        for number in 0..1000 {
            let (position, change) = write(number);
            bytes += held.push(position, change);
            if number % 300 == 299 {
                assert_eq!(held.spill().await.unwrap(), bytes);
                assert_eq!(held.bytes(), 0);
                bytes = 0;
            }
        }
        assert_eq!((held.bytes(), held.count()), (bytes, 1000));
        let mut reader = held.read().await.unwrap();
        for number in 0..1000 {
            assert_eq!(
                format!("{:?}", reader.next().await.unwrap().unwrap()),
                format!("{:?}", write(number))
            );
        }
        assert!(reader.next().await.unwrap().is_none());
    }
}
