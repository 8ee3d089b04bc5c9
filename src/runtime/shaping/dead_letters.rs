//! The collection on the target for documents for which a rule failed.

use std::sync::Arc;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::{RawBson, rawdoc};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::failed::Failed;
use crate::checkpoint::FailedDocuments;
use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::writer::RawWriter;
use crate::model::{CollectionKind, Namespace, Operation, Range, Write};
use crate::order::Key;
use crate::rules::FailedRule;
use crate::sink::{Sink, SinkRead};

/// Maximum size of a document in a letter. A larger one would not fit into it.
const MOST_BYTES: usize = (16 << 20) - (64 << 10);

/// Size in bytes of the batches in which letters are read and written.
const BATCH_BYTES: usize = 4 << 20;

const OPERATION: &str = "keep the documents for which a rule failed";

/// The collection, and the sink that it is on.
pub(crate) struct DeadLetters {
    sink: Arc<dyn Sink>,
    collection: Namespace,
}

/// A document as the collection has it, without its `_id`.
#[derive(Debug)]
pub(super) struct Letter(RawDocumentBuf);

impl Letter {
    pub fn new(failed: &FailedRule, document: RawDocumentBuf) -> Self {
        let mut letter = rawdoc! {
            "kind": failed.kind.to_string(),
            "rule": failed.rule.as_str(),
            "pattern": failed.pattern.as_str(),
            "reason": failed.error.to_string(),
        };
        let bytes = document.as_bytes().len();
        if bytes > MOST_BYTES {
            letter.append(cstr!("bytes"), i64::try_from(bytes).unwrap_or(i64::MAX));
        } else {
            letter.append(cstr!("document"), document);
        }
        Self(letter)
    }
}

impl DeadLetters {
    pub fn new(sink: Arc<dyn Sink>, collection: Namespace) -> Self {
        Self { sink, collection }
    }

    pub(super) fn collection(&self) -> &Namespace {
        &self.collection
    }

    /// Adds every document that the collection has to `failed`.
    ///
    /// # Errors
    /// A server error.
    pub(super) async fn load(&self, failed: &Failed) -> Result<()> {
        let mut letters = self.sink.read(self.request(Range::FULL)).await?;
        while let Some(batch) = letters.next().await {
            for letter in batch?.iter() {
                let Some((namespace, id)) = address(letter) else {
                    continue;
                };
                failed.restore(&[FailedDocuments {
                    namespace,
                    ids: vec![id],
                }]);
            }
        }
        Ok(())
    }

    /// Whether the collection has documents that are no letters, which others keep there.
    ///
    /// # Errors
    /// A server error.
    pub async fn has_others(&self) -> Result<bool> {
        let is_letter = |letter: &RawDocument| {
            let has = |name| letter.get_str(name).is_ok();
            address(letter).is_some() && has("kind") && has("rule") && has("reason")
        };
        let mut letters = self.sink.read(self.request(Range::FULL)).await?;
        while let Some(batch) = letters.next().await {
            if !batch?.iter().all(is_letter) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes letters, and removes those without a content.
    ///
    /// # Errors
    /// A server error, or [`TargetRefused`](ErrorKind::TargetRefused) if the target refuses one.
    pub(super) fn write<'a>(
        &'a self,
        namespace: &'a Namespace,
        letters: Vec<(Key, Option<Letter>)>,
    ) -> BoxFuture<'a, Result<()>> {
        // Boxed here, so that it is compiled once and not in each caller.
        async move {
            let (mut writes, mut bytes) = (Vec::new(), 0);
            for (id, letter) in letters {
                let address = self::id(namespace, &id);
                let key = Key::from(RawBsonRef::Document(&address));
                let operation = match letter {
                    Some(Letter(content)) => {
                        let mut letter = rawdoc! { "_id": address.clone() };
                        for field in &content {
                            let (name, value) = field.map_err(|error| Error::malformed(OPERATION, error))?;
                            letter.append(name, value);
                        }
                        Operation::Replace(letter)
                    }
                    None => Operation::Delete,
                };
                let write = Write { key, operation };
                bytes += write.size_in_bytes();
                writes.push(write);
                if bytes >= BATCH_BYTES {
                    self.apply(&std::mem::take(&mut writes)).await?;
                    bytes = 0;
                }
            }
            self.apply(&writes).await
        }
        .boxed()
    }

    /// Removes the letters of a namespace.
    ///
    /// # Errors
    /// A server error.
    pub(super) async fn forget(&self, namespace: &Namespace) -> Result<()> {
        let lower = rawdoc! { "ns": namespace.as_str() };
        let upper = rawdoc! { "ns": namespace.as_str(), "id": RawBson::MaxKey };
        let range = Range {
            lower: Some(Key::from(RawBsonRef::Document(&lower))),
            upper: Some(Key::from(RawBsonRef::Document(&upper))),
        };
        let mut letters = self.sink.read(self.request(range)).await?;
        while let Some(batch) = letters.next().await {
            let keys = batch?.iter().filter_map(Key::of_document).collect::<Vec<_>>();
            let delete = |key| Write {
                key,
                operation: Operation::Delete,
            };
            self.apply(&keys.into_iter().map(delete).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    async fn apply(&self, writes: &[Write]) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let refusals = self.sink.apply(&self.collection, CollectionKind::Plain, writes).await?;
        match refusals.into_iter().next() {
            None => Ok(()),
            Some(refusal) => Err(
                Error::new(ErrorKind::TargetRefused, OPERATION, refusal.reason.to_string())
                    .with_context("namespace", &self.collection),
            ),
        }
    }

    fn request(&self, range: Range) -> SinkRead {
        SinkRead {
            namespace: self.collection.clone(),
            kind: CollectionKind::Plain,
            range,
            batch_bytes: BATCH_BYTES,
            document_bytes: 0,
        }
    }
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DeadLetters").field(&self.collection).finish()
    }
}

/// The `_id` of a letter.
fn id(namespace: &Namespace, id: &Key) -> RawDocumentBuf {
    let mut address = RawWriter::with_capacity(id.document_bytes().len() + namespace.as_str().len() + 16);
    address.string("ns", namespace.as_str()).value("id", id.as_raw());
    address.finish()
}

/// The document that a letter is about.
fn address(letter: &RawDocument) -> Option<(Namespace, Key)> {
    let id = letter.get_document("_id").ok()?;
    let namespace = id.get_str("ns").ok()?.parse().ok()?;
    Some((namespace, Key::from(id.get("id").ok()??)))
}
