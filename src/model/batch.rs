//! A batch of documents.

use bson::raw::{RawArray, RawArrayBuf, RawDocument};
use mongodb::raw_batch_cursor::RawBatch;

/// Documents in the order they were read, stored as one raw BSON array that can be inserted into a command unchanged.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Empty if there is a `reply`.
    documents: RawArrayBuf,
    /// The reply of a server, unchanged, so that a batch of a few MB is not copied out of it.
    reply: Option<RawBatch>,
    count: usize,
}

impl Batch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a batch from an array of documents. Its element names must be "0", "1" and so on.
    ///
    /// # Errors
    /// The array is malformed, or one of its values is not a document.
    pub fn from_array(documents: &RawArray) -> Result<Self, bson::error::Error> {
        Ok(Self {
            documents: documents.to_owned(),
            reply: None,
            count: count(documents)?,
        })
    }

    /// Creates a batch from a cursor's reply.
    ///
    /// # Errors
    /// The reply or its array is malformed.
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
        self.documents.push(document);
        self.count += 1;
    }

    /// Returns the documents as one array.
    pub fn as_array(&self) -> &RawArray {
        match &self.reply {
            // `from_reply` has verified that the reply contains an array.
            Some(reply) => reply.doc_slices().unwrap_or(&self.documents),
            None => &self.documents,
        }
    }

    /// The bytes that contain the array: the whole reply, if there is one.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.reply {
            Some(reply) => reply.as_raw_document().as_bytes(),
            None => self.documents.as_bytes(),
        }
    }

    /// Iterates over the documents. A value that is not a document ends the iteration; [`Batch::from_array`] accepts none.
    pub fn iter(&self) -> impl Iterator<Item = &RawDocument> {
        self.as_array()
            .into_iter()
            .map_while(|value| value.ok().and_then(|value| value.as_document()))
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
}

fn count(documents: &RawArray) -> Result<usize, bson::error::Error> {
    documents
        .into_iter()
        .try_fold(0, |count, value| value.map(|_| count + 1))
}
