//! A batch of documents.

use std::io::Write;

use bson::raw::{RawArray, RawArrayBuf, RawDocument};
use mongodb::raw_batch_cursor::RawBatch;

use crate::order::{Key, element_type};

/// Documents in the order they were read, stored as one raw BSON array that can be inserted into a command unchanged.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Empty if there is a `reply`, or if documents were appended.
    documents: RawArrayBuf,
    /// The reply of a server, unchanged, so that a batch of a few MB is not copied out of it.
    reply: Option<RawBatch>,
    /// A document whose only field is the array, once documents were appended. The array can be borrowed from it, and unlike a
    /// [`RawArrayBuf`] it can have room for all documents before the first one is appended.
    appended: Vec<u8>,
    count: usize,
    passed: Option<Key>,
}

/// Bytes of `appended` before the array: the length of the document, and a field with an empty name.
const BEFORE_ARRAY: usize = 4 + 1 + 1;

/// What ends both the array and the document around it.
const ENDS: [u8; 2] = [0, 0];

impl Batch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty batch with room for an array of `bytes` bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut batch = Self::new();
        batch.appended.reserve_exact(BEFORE_ARRAY + bytes + 1);
        batch
    }

    /// Creates an empty batch for a part of a range in which a filter has left out all documents, up to the one with this `_id`.
    pub(crate) fn of_left_out(passed: Key) -> Self {
        Self {
            passed: Some(passed),
            ..Self::default()
        }
    }

    /// Creates a batch from an array of documents. Its element names must be "0", "1" and so on.
    ///
    /// # Errors
    /// The array is malformed, or one of its values is not a document.
    pub fn from_array(documents: &RawArray) -> Result<Self, bson::error::Error> {
        Ok(Self {
            documents: documents.to_owned(),
            count: count(documents)?,
            ..Self::default()
        })
    }

    /// Creates a batch from a cursor's reply.
    ///
    /// # Errors
    /// The reply or its array is malformed.
    pub(crate) fn from_reply(reply: RawBatch) -> Result<Self, mongodb::error::Error> {
        let count = count(reply.doc_slices()?)?;
        Ok(Self {
            reply: Some(reply),
            count,
            ..Self::default()
        })
    }

    /// Appends a document.
    pub fn push(&mut self, document: &RawDocument) {
        if self.appended.is_empty() {
            self.begin_to_append();
        }
        self.appended.truncate(self.appended.len() - ENDS.len());
        self.appended.push(element_type::DOCUMENT);
        // Writing to a vector cannot fail.
        let _ = write!(self.appended, "{}", self.count);
        self.appended.push(0);
        self.appended.extend_from_slice(document.as_bytes());
        self.appended.extend_from_slice(&ENDS);
        self.correct_lengths();
        self.count += 1;
    }

    /// Returns the documents as one array.
    pub fn as_array(&self) -> &RawArray {
        // `from_reply` has verified that the reply contains an array, and `push` has framed one.
        let array = match &self.reply {
            Some(reply) => reply.doc_slices().ok(),
            None => array_in(&self.appended),
        };
        array.unwrap_or(&self.documents)
    }

    /// The bytes that contain the array: the whole reply, if there is one.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.reply {
            Some(reply) => reply.as_raw_document().as_bytes(),
            None if self.appended.is_empty() => self.documents.as_bytes(),
            None => &self.appended,
        }
    }

    /// Iterates over the documents. A value that is not a document ends the iteration; [`Batch::from_array`] accepts none.
    pub fn iter(&self) -> impl Iterator<Item = &RawDocument> {
        self.as_array()
            .into_iter()
            .map_while(|value| value.ok().and_then(|value| value.as_document()))
    }

    /// The `_id` up to which a filter has left out all documents, if the batch is for that alone.
    pub(crate) fn passed(&self) -> Option<&Key> {
        self.passed.as_ref()
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the batch has no documents.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the array in bytes.
    pub fn size_in_bytes(&self) -> usize {
        self.as_array().as_bytes().len()
    }

    /// Moves the documents to where others can be appended.
    fn begin_to_append(&mut self) {
        let mut appended = std::mem::take(&mut self.appended);
        let array = self.as_array().as_bytes();
        appended.reserve_exact(BEFORE_ARRAY + array.len() + 1);
        appended.extend_from_slice(&[0, 0, 0, 0, element_type::ARRAY, 0]);
        appended.extend_from_slice(array);
        appended.push(0);
        self.appended = appended;
        self.correct_lengths();
        self.reply = None;
        self.documents = RawArrayBuf::new();
    }

    fn correct_lengths(&mut self) {
        let whole = self.appended.len();
        for (at, length) in [(0, whole), (BEFORE_ARRAY, whole - BEFORE_ARRAY - 1)] {
            // Lengths beyond 2 GB make the array unreadable. Nothing gathers so much.
            let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
            if let Some(prefix) = self.appended.get_mut(at..at + length.len()) {
                prefix.copy_from_slice(&length);
            }
        }
    }
}

/// The array in a document whose only field it is.
fn array_in(document: &[u8]) -> Option<&RawArray> {
    let document = RawDocument::from_bytes(document).ok()?;
    document.into_iter().next()?.ok()?.1.as_array()
}

fn count(documents: &RawArray) -> Result<usize, bson::error::Error> {
    documents
        .into_iter()
        .try_fold(0, |count, value| value.map(|_| count + 1))
}

#[cfg(test)]
mod tests {
    use bson::raw::RawArrayBuf;
    use bson::rawdoc;

    use super::*;

    #[test]
    fn appended_documents_are_the_array_that_the_bson_crate_makes() {
        let mut expected = RawArrayBuf::new();
        let mut batch = Batch::new();
        let mut roomy = Batch::with_capacity(10_000);
        assert_eq!(roomy.as_array().as_bytes(), expected.as_bytes());
        let room = roomy.appended.capacity();
        for number in 0..120 {
            let document = rawdoc! { "_id": number, "text": "a text" };
            batch.push(&document);
            roomy.push(&document);
            expected.push(document);
            assert_eq!(batch.as_array().as_bytes(), expected.as_bytes());
            assert_eq!(roomy.as_array().as_bytes(), expected.as_bytes());
        }
        assert_eq!((batch.len(), batch.iter().count()), (120, 120));
        assert_eq!(roomy.appended.capacity(), room, "it grew, although there was room");
        let mut continued = Batch::from_array(&expected).unwrap();
        let last = rawdoc! { "_id": "last" };
        continued.push(&last);
        expected.push(last);
        assert_eq!(continued.as_array().as_bytes(), expected.as_bytes());
        assert_eq!(continued.size_in_bytes(), expected.as_bytes().len());
    }
}
