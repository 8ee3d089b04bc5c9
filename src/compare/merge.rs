//! Compares a range of the source and the sink, document by document, in bounded memory.

use std::cmp::Ordering;

use bson::raw::{RawDocument, RawDocumentBuf};
use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};

use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::batch_cursor::Documents;
use crate::model::{Batch, Operation, Write};
use crate::order::Key;

/// Computes the writes that make the sink's range equal to the source's, in ascending order of `_id`.
pub(crate) struct MergeDiff {
    source: Side,
    sink: Side,
    /// Number and bytes of the source documents seen so far.
    pub documents: u64,
    pub bytes: u64,
    /// Whether the document of the last step exists only in the sink.
    extra: bool,
    /// The `_id` that the last step has passed, if it was for documents that a filter leaves out.
    passed: Option<Key>,
    /// The sink's document of the last step, if it differs from the source's.
    pub theirs: Option<RawDocumentBuf>,
}

impl MergeDiff {
    /// Compares two streams. Both must be in ascending order of `_id`.
    pub fn between(source: BoxStream<'static, Result<Batch>>, sink: BoxStream<'static, Result<Batch>>) -> Self {
        Self {
            source: Side::of(source),
            sink: Side::of(sink),
            documents: 0,
            bytes: 0,
            extra: false,
            passed: None,
            theirs: None,
        }
    }

    /// Advances to the next `_id`. Returns `None` at the end, else the write that is needed for that `_id`, if any. A source that leaves out
    /// many documents may also report that it has [passed](Batch::passed) an `_id`, and no document with that `_id` is on either side.
    ///
    /// # Errors
    /// Any error of either stream.
    pub async fn next(&mut self) -> Result<Option<Option<Write>>> {
        futures::try_join!(self.source.fill(), self.sink.fill())?;
        let (ours, theirs) = (self.source.first()?, self.sink.first()?);
        self.passed = None;
        if let Some(passed) = &self.source.passed
            && theirs.map(key).transpose()?.is_none_or(|theirs| theirs > *passed)
        {
            self.passed = self.source.passed.take();
            self.theirs = None;
            return Ok(Some(None));
        }
        // Nearly all documents are the same. For those, skip comparing the keys.
        let are_same = matches!((ours, theirs), (Some(ours), Some(theirs)) if ours.as_bytes() == theirs.as_bytes());
        let order = match (ours, theirs) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), Some(_)) if are_same => Ordering::Equal,
            (Some(ours), Some(theirs)) => key(ours)?.cmp(&key(theirs)?),
        };
        let ours = ours.filter(|_| order != Ordering::Greater);
        let theirs = theirs.filter(|_| order != Ordering::Less && !are_same);
        let write = |document, operation| {
            Ok::<_, Error>(Some(Write {
                key: key(document)?,
                operation,
            }))
        };
        let step = match (ours, theirs) {
            _ if are_same => None,
            (Some(ours), None) => write(ours, Operation::Insert(ours.to_owned()))?,
            (Some(ours), Some(_)) => write(ours, Operation::Replace(ours.to_owned()))?,
            (None, Some(theirs)) => write(theirs, Operation::Delete)?,
            (None, None) => None,
        };
        self.theirs = theirs.map(RawDocument::to_owned);
        self.extra = ours.is_none();
        if let Some(ours) = ours {
            self.documents += 1;
            self.bytes += ours.as_bytes().len() as u64;
        }
        if order != Ordering::Greater {
            self.source.advance()?;
        }
        if order != Ordering::Less {
            self.sink.advance()?;
        }
        Ok(Some(step))
    }

    /// Whether the next step needs documents that are not in memory yet.
    ///
    /// # Errors
    /// A batch is malformed.
    pub fn has_to_read(&self) -> Result<bool> {
        Ok(self.source.has_to_read()? || self.sink.has_to_read()?)
    }

    /// The `_id` of the last step. Both sides have been compared up to it, inclusive.
    ///
    /// # Errors
    /// The document has no `_id`, or there was no step yet.
    pub fn last(&self) -> Result<Key> {
        match &self.passed {
            Some(passed) => Ok(passed.clone()),
            None if self.extra => self.sink.before(),
            None => self.source.before(),
        }
    }
}

/// Reads the documents of a stream of batches one by one.
struct Side {
    /// Fused, because a side is polled again after its end while the other one continues, and not every stream allows that.
    batches: Fuse<BoxStream<'static, Result<Batch>>>,
    batch: Option<Documents<Batch>>,
    /// The `_id` that the batch has passed. No batch is read before all documents of the other side up to it are compared.
    passed: Option<Key>,
}

impl Side {
    fn of(batches: BoxStream<'static, Result<Batch>>) -> Self {
        Self {
            batches: batches.fuse(),
            batch: None,
            passed: None,
        }
    }

    /// Reads the next batch if all documents read so far have been compared.
    async fn fill(&mut self) -> Result<()> {
        while self.passed.is_none() && self.first()?.is_none() {
            let Some(batch) = self.batches.next().await else {
                break;
            };
            let batch = batch?;
            self.passed = batch.passed().cloned();
            self.batch = Some(Documents::new(batch)?);
        }
        Ok(())
    }

    fn has_to_read(&self) -> Result<bool> {
        Ok(self.passed.is_none() && self.first()?.is_none() && !self.batches.is_done())
    }

    /// The first document that has not been compared yet; `None` at the end.
    fn first(&self) -> Result<Option<&RawDocument>> {
        self.batch.as_ref().map_or(Ok(None), Documents::first)
    }

    fn advance(&mut self) -> Result<()> {
        self.batch.as_mut().map_or(Ok(()), Documents::advance)
    }

    /// The `_id` of the document that was compared last.
    fn before(&self) -> Result<Key> {
        let document = self.batch.as_ref().map_or(Ok(None), Documents::before)?;
        document.map_or_else(|| Err(no_key()), key)
    }
}

fn key(document: &RawDocument) -> Result<Key> {
    Key::of_document(document).ok_or_else(no_key)
}

fn no_key() -> Error {
    Error::new(ErrorKind::Protocol, "compare both sides", "a document has no `_id`")
}

#[cfg(test)]
mod tests {
    use bson::{RawBsonRef, rawdoc};
    use futures::stream;

    use super::*;

    fn batches(documents: &[(i32, i32)]) -> BoxStream<'static, Result<Batch>> {
        let batches: Vec<_> = documents
            .chunks(2)
            .map(|documents| {
                let mut batch = Batch::new();
                for (id, value) in documents {
                    batch.push(&rawdoc! { "_id": *id, "v": *value });
                }
                Ok(batch)
            })
            .collect();
        stream::iter(batches).boxed()
    }

    #[tokio::test]
    async fn only_what_differs_is_written() {
        let source = batches(&[(1, 1), (2, 2), (4, 4), (5, 5)]);
        let sink = batches(&[(0, 0), (1, 1), (2, 9), (3, 3), (5, 5), (6, 6), (7, 7)]);
        let mut differences = MergeDiff::between(source, sink);
        let (mut seen, mut lasts) = (Vec::new(), Vec::new());
        while let Some(step) = differences.next().await.unwrap() {
            lasts.push(differences.last().unwrap());
            if let Some(write) = step {
                let what = match write.operation {
                    Operation::Insert(_) => "insert",
                    Operation::Replace(_) => "replace",
                    Operation::Delete => "delete",
                    Operation::Delta(_) => "delta",
                };
                seen.push(format!("{what} {:?}", write.key));
            }
        }
        let expected = ["delete 0", "replace 2", "delete 3", "insert 4", "delete 6", "delete 7"];
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
        for (seen, expected) in seen.iter().zip(expected) {
            assert_eq!(seen.split(' ').next(), expected.split(' ').next());
        }
        assert_eq!(differences.documents, 4);
        assert_eq!(
            lasts,
            (0..=7).map(|id| Key::from(RawBsonRef::Int32(id))).collect::<Vec<_>>()
        );
    }

    #[tokio::test]
    async fn passed_documents_are_steps_of_their_own() {
        let id = |id: i32| Key::from(RawBsonRef::Int32(id));
        let passed = |upper: i32| stream::iter([Ok(Batch::of_left_out(id(upper)))]).boxed();
        let parts = [passed(10), batches(&[(12, 1)]), passed(20), passed(30)];
        let source = stream::iter(parts).flatten().boxed();
        let sink = batches(&[(5, 5), (10, 1), (12, 1), (25, 1)]);
        let mut differences = MergeDiff::between(source, sink);
        let mut seen = Vec::new();
        while let Some(step) = differences.next().await.unwrap() {
            seen.push((differences.last().unwrap(), step.map(|write| write.key)));
        }
        let extra = |number| (id(number), Some(id(number)));
        let same = |number| (id(number), None);
        let expected = [extra(5), extra(10), same(10), same(12), same(20), extra(25), same(30)];
        assert_eq!(seen, expected);
        assert_eq!(differences.documents, 1);
    }

    #[tokio::test]
    async fn what_was_passed_needs_no_read_for_extra_documents() {
        let passed = Batch::of_left_out(Key::from(RawBsonRef::Int32(10)));
        let source = stream::iter([Ok(passed)]).boxed();
        let mut differences = MergeDiff::between(source, batches(&[(5, 1), (7, 1)]));
        let mut reads = Vec::new();
        while differences.next().await.unwrap().is_some() {
            reads.push(differences.has_to_read().unwrap());
        }
        assert_eq!(reads, [false, true, true]);
    }

    #[tokio::test]
    async fn a_range_never_ends_at_a_document_without_an_id() {
        let side = || {
            let mut batch = Batch::new();
            batch.push(&rawdoc! { "v": 1 });
            stream::iter([Ok(batch)]).boxed()
        };
        let mut differences = MergeDiff::between(side(), side());
        assert!(differences.last().is_err());
        assert!(differences.next().await.unwrap().is_some());
        assert!(differences.last().is_err());
    }
}
