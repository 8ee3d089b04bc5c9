//! Iterates over the documents of a batch without copying them.

use std::ops::Range;

use bson::raw::RawDocument;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Batch;

pub(crate) const OPERATION: &str = "read a batch of documents";

/// The documents of a batch that have not been read yet. The whole batch, up to 16 MB, stays in memory until this is dropped.
#[derive(Debug)]
pub(crate) struct Documents<B> {
    batch: B,
    /// Byte range of the array in the batch. Stored because finding the array takes reading all fields of a reply.
    array: Range<usize>,
    /// Byte ranges in the array of the first document, and of the one before it.
    first: Option<Range<usize>>,
    before: Option<Range<usize>>,
}

/// Bytes that contain an array of documents.
pub(crate) trait Bytes {
    /// All bytes. Every call returns the same slice.
    fn whole(&self) -> &[u8];

    /// The bytes of the array.
    fn array(&self) -> Result<&[u8]>;
}

impl Bytes for Batch {
    fn whole(&self) -> &[u8] {
        self.as_bytes()
    }

    fn array(&self) -> Result<&[u8]> {
        Ok(self.as_array().as_bytes())
    }
}

impl<B: Bytes> Documents<B> {
    /// Starts at the first document of the batch.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the batch has no readable array of documents.
    pub fn new(batch: B) -> Result<Self> {
        let bytes = batch.array()?;
        let start = bytes.as_ptr().addr().checked_sub(batch.whole().as_ptr().addr());
        let start = start.ok_or_else(|| Error::new(ErrorKind::Protocol, OPERATION, "the array is not in the batch"))?;
        let array = start..start + bytes.len();
        let first = locate(bytes, 4)?;
        Ok(Self {
            batch,
            array,
            first,
            before: None,
        })
    }

    /// The first document that has not been passed yet, or `None` at the end.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not a document.
    pub fn first(&self) -> Result<Option<&RawDocument>> {
        self.document(self.first.clone())
    }

    /// The document before the first one, or `None` if there has been none.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub fn before(&self) -> Result<Option<&RawDocument>> {
        self.document(self.before.clone())
    }

    /// Moves to the next document.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) if the bytes are not an array of documents.
    pub fn advance(&mut self) -> Result<()> {
        if let Some(first) = self.first.take() {
            self.first = locate(self.array(), first.end)?;
            self.before = Some(first);
        }
        Ok(())
    }

    fn document(&self, at: Option<Range<usize>>) -> Result<Option<&RawDocument>> {
        let Some(at) = at else {
            return Ok(None);
        };
        RawDocument::from_bytes(self.array().get(at).unwrap_or_default())
            .map(Some)
            .map_err(|error| Error::malformed(OPERATION, error))
    }

    fn array(&self) -> &[u8] {
        self.batch.whole().get(self.array.clone()).unwrap_or_default()
    }
}

/// Finds the document in the array element at `at`. An element is a type byte, a name that ends with a NUL, and the value. The value starts
/// with its length.
fn locate(array: &[u8], at: usize) -> Result<Option<Range<usize>>> {
    const DOCUMENT: u8 = 3;
    let malformed = || Error::new(ErrorKind::Protocol, OPERATION, "the batch is not an array of documents");
    let element = array.get(at..).ok_or_else(malformed)?;
    match element.split_first() {
        Some((0, [])) => Ok(None),
        Some((&DOCUMENT, rest)) => {
            let name = rest.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
            let value = rest.get(name + 1..).ok_or_else(malformed)?;
            let length = value.first_chunk().ok_or_else(malformed)?;
            let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| malformed())?;
            if length > value.len() {
                return Err(malformed());
            }
            let start = at + 1 + name + 1;
            Ok(Some(start..start + length))
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, rawdoc};

    /// The documents that `locate` finds.
    fn documents(array: &[u8]) -> Result<Vec<RawDocumentBuf>> {
        let mut found = Vec::new();
        let mut at = 4;
        while let Some(range) = locate(array, at)? {
            found.push(RawDocumentBuf::from_bytes(array[range.clone()].to_vec()).unwrap());
            at = range.end;
        }
        Ok(found)
    }

    #[test]
    fn documents_are_found_one_after_another() {
        let expected: Vec<RawDocumentBuf> = (0..12).map(|n| rawdoc! { "_id": n, "a": [{ "b": n }] }).collect();
        let mut array = bson::RawArrayBuf::new();
        for document in &expected {
            array.push(document.clone());
        }
        assert_eq!(documents(array.as_bytes()).unwrap(), expected);
        assert_eq!(documents(bson::RawArrayBuf::new().as_bytes()).unwrap(), []);
    }

    #[test]
    fn other_bytes_are_an_error_wherever_they_are_cut() {
        let array = rawdoc! { "0": { "a": 1 }, "1": { "b": 2 } };
        let bytes = array.as_bytes();
        for length in 4..bytes.len() {
            assert!(documents(&bytes[..length]).is_err(), "{length}");
        }
        assert!(documents(rawdoc! { "0": 1 }.as_bytes()).is_err());
    }
}
