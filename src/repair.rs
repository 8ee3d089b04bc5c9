//! Compares a range of the source with the same range of the sink, document by document, in bounded memory.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{BoxStream, Fuse};

use crate::document::{Batch, Operation, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::order::Key;

/// The documents of a stream of batches one by one, with their keys.
struct Documents {
    /// One side is asked again and again after its end while the other goes on, which not every stream bears.
    batches: Fuse<BoxStream<'static, Result<Batch>>>,
    ready: VecDeque<(Key, RawDocumentBuf)>,
}

impl Documents {
    async fn next(&mut self) -> Result<Option<&(Key, RawDocumentBuf)>> {
        while self.ready.is_empty() {
            let Some(batch) = self.batches.next().await else {
                return Ok(None);
            };
            for document in batch?.iter() {
                let key = Key::of_document(document)
                    .ok_or_else(|| Error::new(ErrorKind::Protocol, "compare both sides", "a document has no `_id`"))?;
                self.ready.push_back((key, document.to_owned()));
            }
        }
        Ok(self.ready.front())
    }

    fn take(&mut self) -> Option<(Key, RawDocumentBuf)> {
        self.ready.pop_front()
    }
}

/// The writes that make the sink's range equal to the source's, in ascending order of `_id`.
pub(crate) struct Differences {
    source: Documents,
    sink: Documents,
    /// Documents and bytes of the source seen so far.
    pub documents: u64,
    pub bytes: u64,
    /// The last `_id` up to which both sides have been compared.
    pub last: Option<Key>,
    /// The sink's document of the last step, where it differs from the source's.
    pub theirs: Option<RawDocumentBuf>,
}

impl Differences {
    /// Both streams must be in ascending order of `_id`.
    pub fn between(source: BoxStream<'static, Result<Batch>>, sink: BoxStream<'static, Result<Batch>>) -> Self {
        let documents = |batches: BoxStream<'static, Result<Batch>>| Documents {
            batches: batches.fuse(),
            ready: VecDeque::new(),
        };
        Self {
            source: documents(source),
            sink: documents(sink),
            documents: 0,
            bytes: 0,
            last: None,
            theirs: None,
        }
    }

    /// The next step of the comparison: `None` at the end, else the write that is needed at the next `_id`, if one is.
    ///
    /// # Errors
    /// What either stream answers.
    pub async fn next(&mut self) -> Result<Option<Option<Write>>> {
        let (ours, theirs) = futures::try_join!(self.source.next(), self.sink.next())?;
        let order = match (ours, theirs) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((ours, _)), Some((theirs, _))) => ours.cmp(theirs),
        };
        let mut step = None;
        self.theirs = None;
        let ours = if order == Ordering::Greater {
            None
        } else {
            self.source.take()
        };
        let theirs = if order == Ordering::Less {
            None
        } else {
            self.sink.take()
        };
        if let Some((key, document)) = ours {
            self.documents += 1;
            self.bytes += document.as_bytes().len() as u64;
            self.last = Some(key.clone());
            step = match theirs {
                None => Some(Write {
                    key,
                    operation: Operation::Insert(document),
                }),
                Some((_, theirs)) if theirs.as_bytes() != document.as_bytes() => {
                    self.theirs = Some(theirs);
                    Some(Write {
                        key,
                        operation: Operation::Replace(document),
                    })
                }
                Some(_) => None,
            };
        } else if let Some((key, document)) = theirs {
            self.last = Some(key.clone());
            self.theirs = Some(document);
            step = Some(Write {
                key,
                operation: Operation::Delete,
            });
        }
        Ok(Some(step))
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;
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
        let mut differences = Differences::between(source, sink);
        let mut seen = Vec::new();
        while let Some(step) = differences.next().await.unwrap() {
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
    }
}
