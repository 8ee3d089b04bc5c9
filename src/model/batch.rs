//! Documents that are read together.

use bson::raw::{RawArray, RawArrayBuf, RawDocument};
use mongodb::raw_batch_cursor::RawBatch;

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
