//! Replies.

use bson::raw::{RawDocument, RawDocumentBuf};

use super::{HEADER, MAX_MESSAGE, malformed};
use crate::error::Result;
use crate::model::Batch;

const OP_REPLY: i32 = 1;

/// Size in bytes of the smallest document.
const MIN_DOCUMENT: usize = 5;

/// The part of a reply before its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mongo::legacy) struct Prefix {
    /// Size of the documents in bytes.
    pub length: usize,
    /// The id of the request.
    pub answers: i32,
    flags: i32,
    cursor: i64,
    count: usize,
}

/// A reply with its documents.
#[derive(Debug)]
pub(in crate::mongo::legacy) struct Reply {
    /// The cursor, or 0 if it is at its end.
    pub cursor: i64,
    /// Whether the server does not know the cursor. There are no documents then.
    pub is_cursor_unknown: bool,
    /// Whether the query failed. The only document then says why.
    pub is_failure: bool,
    count: usize,
    documents: Vec<u8>,
}

impl Prefix {
    /// Size of the prefix in bytes.
    pub const SIZE: usize = HEADER + 20;

    /// Reads the prefix. What it says of the size of the documents is within bounds.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) if no server sends this.
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Result<Self> {
        let number = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (length, operation, count) = (number(0), number(12), number(32));
        if operation != OP_REPLY {
            return Err(malformed(format!(
                "the message is of the kind {operation}, which is no reply; see whether a MongoDB server up to 5.0 listens there"
            )));
        }
        let documents = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(Self::SIZE));
        let Some(documents) = documents.filter(|documents| *documents <= MAX_MESSAGE - Self::SIZE) else {
            return Err(malformed(format!("a reply of {length} bytes is out of bounds")));
        };
        let Some(count) = usize::try_from(count)
            .ok()
            .filter(|count| *count <= documents / MIN_DOCUMENT)
        else {
            return Err(malformed(format!("{documents} bytes cannot contain {count} documents")));
        };
        let mut cursor = [0; 8];
        cursor.copy_from_slice(&bytes[20..28]);
        Ok(Self {
            length: documents,
            answers: number(8),
            flags: number(16),
            cursor: i64::from_le_bytes(cursor),
            count,
        })
    }
}

impl Reply {
    /// Puts a reply together.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) if the bytes are not the documents that the prefix promises.
    pub fn new(prefix: Prefix, documents: Vec<u8>) -> Result<Self> {
        let mut rest = documents.as_slice();
        for _ in 0..prefix.count {
            let size = size_of_first(rest).ok_or_else(|| malformed("a reply contains what is not a document"))?;
            rest = &rest[size..];
        }
        if documents.len() != prefix.length || !rest.is_empty() {
            return Err(malformed(format!(
                "{} bytes follow the documents of a reply",
                rest.len()
            )));
        }
        let has = |bit: i32| prefix.flags & bit != 0;
        let reply = Self {
            cursor: prefix.cursor,
            is_cursor_unknown: has(1),
            is_failure: has(2),
            count: prefix.count,
            documents,
        };
        if reply.is_failure && reply.count == 0 {
            return Err(malformed("the server reports a failure and gives no reason"));
        }
        Ok(reply)
    }

    /// Number of documents.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Iterates over the documents.
    pub fn iter(&self) -> impl Iterator<Item = &RawDocument> {
        let mut rest = self.documents.as_slice();
        std::iter::from_fn(move || {
            let (first, others) = rest.split_at_checked(size_of_first(rest)?)?;
            rest = others;
            RawDocument::from_bytes(first).ok()
        })
    }

    /// Returns the first documents, at most so many, as a batch. They are copied once: in a reply they have no array around them.
    pub fn into_batch(self, most: usize) -> Batch {
        let count = self.count.min(most);
        // A document in an array has its number in decimal digits, and two bytes more.
        let around = 2 + count.checked_ilog10().unwrap_or_default() as usize + 1;
        let mut batch = Batch::with_capacity(self.documents.len() + count * around + MIN_DOCUMENT);
        self.iter().take(count).for_each(|document| batch.push(document));
        batch
    }

    /// Returns the only document, as commands have it.
    ///
    /// # Errors
    /// [`Protocol`](crate::ErrorKind::Protocol) if there is none, or more than one.
    pub fn into_document(self) -> Result<RawDocumentBuf> {
        if self.count != 1 {
            return Err(malformed(format!("a command has {} answers", self.count)));
        }
        RawDocumentBuf::from_bytes(self.documents).map_err(|_| malformed("the answer to a command is not a document"))
    }
}

/// The size of the first document, if the bytes begin with a whole one.
fn size_of_first(bytes: &[u8]) -> Option<usize> {
    let size = i32::from_le_bytes(bytes.first_chunk().copied()?);
    let size = usize::try_from(size).ok().filter(|size| *size >= MIN_DOCUMENT)?;
    (bytes.get(size - 1) == Some(&0)).then_some(size)
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::error::ErrorKind;

    /// A reply with a cursor and two documents, as the documentation has it.
    fn message() -> Vec<u8> {
        #[rustfmt::skip]
        let message = vec![
            53, 0, 0, 0,  9, 0, 0, 0,  7, 0, 0, 0,  1, 0, 0, 0,
            8, 0, 0, 0,  2, 1, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0,  2, 0, 0, 0,
            12, 0, 0, 0, 0x10, b'x', 0, 1, 0, 0, 0, 0,
            5, 0, 0, 0, 0,
        ];
        message
    }

    fn parse(message: &[u8]) -> Result<Reply> {
        let (prefix, documents) = message.split_first_chunk().unwrap();
        let prefix = Prefix::parse(prefix)?;
        assert!(prefix.length <= MAX_MESSAGE && prefix.count <= prefix.length / MIN_DOCUMENT);
        Reply::new(prefix, documents.to_vec())
    }

    #[test]
    fn a_reply_is_read() {
        let message = message();
        let prefix = Prefix::parse(message.first_chunk().unwrap()).unwrap();
        assert_eq!((prefix.length, prefix.answers), (17, 7));
        let reply = parse(&message).unwrap();
        assert_eq!((reply.cursor, reply.len()), (258, 2));
        assert!(!reply.is_cursor_unknown && !reply.is_failure);
        let documents: Vec<RawDocumentBuf> = reply.iter().map(ToOwned::to_owned).collect();
        assert_eq!(documents, [rawdoc! { "x": 1 }, rawdoc! {}]);
        assert_eq!(reply.into_document().unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_reply_becomes_the_batch_of_its_documents() {
        let documents: Vec<RawDocumentBuf> = (0..120).map(|id| rawdoc! { "_id": id, "text": "a text" }).collect();
        let bytes: Vec<u8> = documents
            .iter()
            .flat_map(|document| document.as_bytes().to_vec())
            .collect();
        let prefix = Prefix {
            length: bytes.len(),
            answers: 7,
            flags: 0,
            cursor: 0,
            count: documents.len(),
        };
        for (most, expected) in [(usize::MAX, 120), (121, 120), (101, 101), (1, 1), (0, 0)] {
            let batch = Reply::new(prefix, bytes.clone()).unwrap().into_batch(most);
            assert_eq!(batch.len(), expected);
            let expected: bson::RawArrayBuf = documents[..expected].iter().cloned().collect();
            assert_eq!(batch.as_array().as_bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn flags_are_read() {
        let mut unknown = message();
        unknown.truncate(Prefix::SIZE);
        (unknown[0], unknown[16], unknown[32]) = (36, 1, 0);
        let reply = parse(&unknown).unwrap();
        assert!(reply.is_cursor_unknown && !reply.is_failure && reply.iter().next().is_none());
        // A failure without a reason.
        unknown[16] = 2;
        assert!(parse(&unknown).is_err());
        let mut failed = message();
        failed[16] = 2;
        assert!(parse(&failed).unwrap().is_failure);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_before_it_is_read() {
        let with = |at: usize, number: i32| {
            let mut message = message();
            message[at..at + 4].copy_from_slice(&number.to_le_bytes());
            message
        };
        let limit = i32::try_from(MAX_MESSAGE).unwrap();
        for message in [
            with(0, 35),
            with(0, -1),
            with(0, limit + 1),
            with(0, i32::MAX),
            with(12, 2013),
            with(32, -1),
            with(32, 4),
            with(32, i32::MAX),
        ] {
            let error = Prefix::parse(message.first_chunk().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol);
        }
        assert!(Prefix::parse(with(0, limit).first_chunk().unwrap()).is_ok());
    }

    #[test]
    fn documents_must_fill_the_reply() {
        for (at, byte) in [
            (32, 1),
            (32, 3),
            (36, 13),
            (36, 11),
            (36, 4),
            (39, 0x80),
            (47, 1),
            (48, 6),
            (0, 52),
            (0, 54),
        ] {
            let mut message = message();
            message[at] = byte;
            assert!(parse(&message).is_err(), "{at}: {byte}");
        }
    }

    /// Each byte with each value, and each length: nothing panics, and what is accepted is whole.
    #[test]
    fn damaged_replies_are_refused_or_whole() {
        let whole = message();
        for at in 0..whole.len() {
            for byte in 0..=u8::MAX {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                if let Ok(reply) = parse(&damaged) {
                    assert_eq!(reply.iter().count(), reply.len(), "{at}: {byte}");
                }
            }
            if at >= Prefix::SIZE {
                assert!(parse(&whole[..at]).is_err(), "{at}");
            }
        }
    }
}
