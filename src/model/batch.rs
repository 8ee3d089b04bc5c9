//! A batch of documents.

use std::io::Write;

#[cfg(feature = "legacy")]
use bson::raw::RawDocumentBuf;
use bson::raw::{RawArray, RawArrayBuf, RawDocument};
use mongodb::raw_batch_cursor::RawBatch;

#[cfg(feature = "legacy")]
use crate::error::{Error, ErrorKind};
#[cfg(feature = "legacy")]
use crate::model::raw::batch_cursor::OPERATION;
use crate::order::{Key, element_type};

/// Documents in the order they were read, stored as one raw BSON array that can be inserted into a command unchanged.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Empty if there is a `reply`, or if documents were appended.
    documents: RawArrayBuf,
    /// The reply of a server, unchanged, so that a batch of a few MB is not copied out of it.
    reply: Option<Reply>,
    /// A document whose only field is the array, once documents were appended. The array can be borrowed from it, and unlike a
    /// [`RawArrayBuf`] it can have room for all documents before the first one is appended.
    appended: Vec<u8>,
    count: usize,
    passed: Option<Key>,
}

/// A cursor's reply.
#[derive(Clone, Debug)]
enum Reply {
    /// From the driver.
    Driver(RawBatch),
    /// From the client for old servers.
    #[cfg(feature = "legacy")]
    Legacy(RawDocumentBuf),
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
            reply: Some(Reply::Driver(reply)),
            count,
            ..Self::default()
        })
    }

    /// Creates a batch from a cursor's reply that is not the driver's.
    ///
    /// # Errors
    /// The reply or its array is malformed, or one of the values in the array is not a document.
    #[cfg(feature = "legacy")]
    pub(crate) fn from_legacy_reply(reply: RawDocumentBuf) -> crate::error::Result<Self> {
        let malformed = |error| Error::malformed(OPERATION, error);
        let missing = |what| {
            Error::new(
                ErrorKind::Protocol,
                OPERATION,
                format!("a reply of the server has no {what}"),
            )
        };
        let mut count = 0;
        for value in array_of_cursor(&reply).ok_or_else(|| missing("batch of a cursor"))? {
            let document = value.map_err(malformed)?.as_document();
            document.ok_or_else(|| missing("document in a place of its batch"))?;
            count += 1;
        }
        Ok(Self {
            reply: Some(Reply::Legacy(reply)),
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
            Some(reply) => reply.documents(),
            None => array_in(&self.appended),
        };
        array.unwrap_or(&self.documents)
    }

    /// The bytes that contain the array: the whole reply, if there is one.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.reply {
            Some(reply) => reply.as_bytes(),
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

impl Reply {
    fn documents(&self) -> Option<&RawArray> {
        match self {
            Self::Driver(reply) => reply.doc_slices().ok(),
            #[cfg(feature = "legacy")]
            Self::Legacy(reply) => array_of_cursor(reply),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Driver(reply) => reply.as_raw_document().as_bytes(),
            #[cfg(feature = "legacy")]
            Self::Legacy(reply) => reply.as_bytes(),
        }
    }
}

/// The documents in a reply to `find`, `getMore`, or another command that opens a cursor.
#[cfg(feature = "legacy")]
fn array_of_cursor(reply: &RawDocument) -> Option<&RawArray> {
    let mut fields = reply.get_document("cursor").ok()?.iter().flatten();
    let is_batch = |name: &str| matches!(name, "firstBatch" | "nextBatch");
    fields.find_map(|(name, value)| value.as_array().filter(|_| is_batch(name.as_str())))
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
    use bson::raw::{RawArrayBuf, cstr};
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

    #[cfg(feature = "legacy")]
    #[test]
    fn a_reply_is_the_batch_without_a_copy() {
        for name in [cstr!("firstBatch"), cstr!("nextBatch")] {
            let mut cursor = rawdoc! { "id": 7_i64, "ns": "d.c" };
            let documents: Vec<_> = (0..3).map(|number| rawdoc! { "_id": number }).collect();
            cursor.append(cstr!("partialResultsReturned"), false);
            cursor.append(name, documents.iter().cloned().collect::<RawArrayBuf>());
            let reply = rawdoc! { "ok": 1, "cursor": cursor };
            let at = reply.as_bytes().as_ptr();
            let mut batch = Batch::from_legacy_reply(reply).unwrap();
            assert_eq!(batch.as_bytes().as_ptr(), at);
            assert_eq!(batch.len(), 3);
            assert!(batch.iter().eq(documents.iter().map(AsRef::as_ref)));
            batch.push(&documents[0]);
            assert_eq!((batch.len(), batch.iter().count()), (4, 4));
        }
    }

    #[cfg(feature = "legacy")]
    #[test]
    fn a_reply_without_documents_in_a_batch_is_an_error() {
        for reply in [
            rawdoc! { "ok": 1 },
            rawdoc! { "cursor": { "id": 1_i64 } },
            rawdoc! { "cursor": { "firstBatch": {} } },
            rawdoc! { "cursor": { "firstBatch": [{ "_id": 1 }, 2] } },
        ] {
            let error = Batch::from_legacy_reply(reply).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
        }
    }
}
