//! A source whose documents have the form that the rules give them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::StreamExt;
use futures::stream::{self, BoxStream, Fuse};
use tokio::time::Instant;

use super::{Form, Outcomes, Shaping};
use crate::error::Result;
use crate::model::{Batch, Namespace};
use crate::order::Key;
use crate::rules::DocumentRule;
use crate::source::{PointRequest, ReadRequest, Source, SourceLayer};

/// How long documents are gathered for a batch if a filter leaves few of each batch, or none.
const GATHER: Duration = Duration::from_millis(500);

/// Documents are gathered until they have this part of a batch's bytes.
const GATHER_PARTS: usize = 4;

/// The wrapped source is asked for batches of this part of the size. One of them is in memory beside the documents that are gathered from it,
/// and all of that is to fit into the memory of one batch.
const READ_PARTS: usize = 2;

/// Reads documents in the form that they have on the target. The oplog stays as it is: what a change means for a form is decided where it is
/// applied.
pub(crate) struct ShapedSource {
    inner: Arc<dyn Source>,
    shaping: Arc<Shaping>,
    purpose: Purpose,
}

/// What documents are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be written to the target. Documents for which a rule fails are noted.
    Write,
    /// To be compared, or only looked at.
    Compare,
}

impl ShapedSource {
    pub fn new(inner: Arc<dyn Source>, shaping: Arc<Shaping>, purpose: Purpose) -> Self {
        Self {
            inner,
            shaping,
            purpose,
        }
    }
}

#[async_trait]
impl SourceLayer for ShapedSource {
    fn inner(&self) -> &dyn Source {
        &*self.inner
    }

    async fn read(&self, mut request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        let Some(rule) = self.shaping.of(&request.namespace) else {
            return self.inner.read(request).await;
        };
        let query = rule.query();
        let shape = Shape {
            rule,
            shaping: Arc::clone(&self.shaping),
            purpose: self.purpose,
            namespace: request.namespace.clone(),
        };
        let batch_bytes = request.batch_bytes;
        request.batch_bytes = batch_bytes / READ_PARTS;
        let reports_passed = self.purpose == Purpose::Compare && request.kind.has_ranges();
        let batches = match query {
            Some(query) => self.inner.read_matching(request, &query).await?,
            None => self.inner.read(request).await?,
        };
        let reading = Reading {
            shape,
            batch_bytes,
            reports_passed,
            batches: batches.fuse(),
            rest: None,
        };
        let batches = stream::unfold(Some(reading), |reading| async {
            let mut reading = reading?;
            match reading.next().await {
                Ok(batch) => Some((Ok(batch?), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(batches.boxed())
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        let documents = self.inner.read_documents(request).await?;
        let Some(rule) = self.shaping.of(request.namespace) else {
            return Ok(documents);
        };
        let mut outcomes = self.shaping.outcomes();
        let any_failed = self.shaping.any_failed(request.namespace);
        let mut shaped = Vec::with_capacity(documents.len());
        for document in documents {
            let form = self.shaping.form(&rule, request.namespace, &document)?;
            if self.purpose == Purpose::Write {
                note(&mut outcomes, any_failed, &form, &document);
            }
            match form {
                Form::Same => shaped.push(document),
                Form::Changed(changed) => shaped.push(changed),
                Form::Absent | Form::Failed(_) => {}
            }
        }
        if self.purpose == Purpose::Write {
            if any_failed {
                // Those that no longer exist have not failed either.
                request.keys.iter().for_each(|key| outcomes.missing(key));
            }
            self.shaping.settle(request.namespace, outcomes).await?;
        }
        Ok(shaped)
    }

    /// The server would compute it over the documents as they are.
    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        match self.shaping.of(namespace) {
            Some(_) => Ok(None),
            None => self.inner.digest(namespace).await,
        }
    }
}

/// A read of a range.
struct Reading {
    shape: Shape,
    /// Maximum size in bytes of a batch that was read and what is gathered from it, but for one document.
    batch_bytes: usize,
    /// Whether empty batches report how far the source was read while all documents were left out. A comparison gets ahead by that, and does
    /// not read them again.
    reports_passed: bool,
    /// Fused, because the last documents are returned before the end.
    batches: Fuse<BoxStream<'static, Result<Batch>>>,
    /// A batch of which only the first documents were gathered, and their number.
    rest: Option<(Batch, usize)>,
}

/// How the documents of a read get their form.
struct Shape {
    rule: Arc<DocumentRule>,
    shaping: Arc<Shaping>,
    purpose: Purpose,
    namespace: Namespace,
}

impl Reading {
    /// Returns the next batch. It is empty only if it reports that documents were left out.
    async fn next(&mut self) -> Result<Option<Batch>> {
        let mut gathered = Batch::new();
        let since = Instant::now();
        let enough = self.batch_bytes / GATHER_PARTS;
        while let Some((batch, from)) = self.unshaped().await? {
            let most = self.batch_bytes.saturating_sub(batch.size_in_bytes()).max(enough);
            match self.shape.append(&batch, from, &mut gathered, most).await? {
                Appended::Nothing => return Ok(Some(batch)),
                Appended::All => {}
                Appended::First(documents) => {
                    self.rest = Some((batch, documents));
                    break;
                }
            }
            let is_long = since.elapsed() >= GATHER;
            if !gathered.is_empty() && (is_long || gathered.size_in_bytes() >= enough) {
                break;
            }
            if is_long
                && self.reports_passed
                && let Some(last) = batch.iter().last().and_then(Key::of_document)
            {
                return Ok(Some(Batch::of_left_out(last)));
            }
        }
        Ok((!gathered.is_empty()).then_some(gathered))
    }

    /// Returns the next documents as the wrapped source has them: a batch, and how many of its documents were gathered before.
    async fn unshaped(&mut self) -> Result<Option<(Batch, usize)>> {
        match self.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => Ok(self.batches.next().await.transpose()?.map(|batch| (batch, 0))),
        }
    }
}

/// What was appended of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Appended {
    /// Nothing, because all documents stay as they are, and there were no others before them.
    Nothing,
    /// All documents that the target has.
    All,
    /// Those of so many first documents, because there is no room for more.
    First(usize),
}

impl Shape {
    /// Appends the documents of a batch from number `from` on, in the form that they have on the target, until there are `most` bytes.
    async fn append(&self, batch: &Batch, from: usize, gathered: &mut Batch, most: usize) -> Result<Appended> {
        let mut outcomes = self.shaping.outcomes();
        let any_failed = self.shaping.any_failed(&self.namespace);
        let mut may_stay = gathered.is_empty() && from == 0;
        let mut first = None;
        for (index, document) in batch.iter().enumerate().skip(from) {
            let form = self.shaping.form(&self.rule, &self.namespace, document)?;
            if self.purpose == Purpose::Write {
                note(&mut outcomes, any_failed, &form, document);
            }
            if may_stay {
                if matches!(form, Form::Same) {
                    continue;
                }
                may_stay = false;
                // Few rules make documents larger. Without room for all, the buffer would be moved again and again while it grows.
                *gathered = Batch::with_capacity(batch.size_in_bytes());
                batch.iter().take(index).for_each(|document| gathered.push(document));
            }
            match form {
                Form::Same => gathered.push(document),
                Form::Changed(document) => gathered.push(&document),
                Form::Absent | Form::Failed(_) => continue,
            }
            if gathered.size_in_bytes() >= most && index + 1 < batch.len() {
                first = Some(index + 1);
                break;
            }
        }
        if self.purpose == Purpose::Write {
            self.shaping.settle(&self.namespace, outcomes).await?;
        }
        Ok(match first {
            Some(documents) => Appended::First(documents),
            None if may_stay => Appended::Nothing,
            None => Appended::All,
        })
    }
}

fn note(outcomes: &mut Outcomes, any_failed: bool, form: &Form, document: &RawDocument) {
    let is_failed = matches!(form, Form::Failed(_));
    // Nearly always nothing has failed. Then nothing has to be forgotten.
    if !is_failed && !any_failed && outcomes.is_empty() {
        return;
    }
    match (form, Key::of_document(document)) {
        (Form::Failed(failed), Some(key)) => outcomes.failed(key, failed.clone(), document),
        (_, Some(key)) => outcomes.succeeded(key),
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use bson::{doc, rawdoc};
    use futures::TryStreamExt;

    use super::*;
    use crate::config::OnRuleError;
    use crate::model::{CollectionKind, Layered, Range};
    use crate::report::Events;
    use crate::rules::{FieldRules, FieldRulesBuilder, Query, RuleSet};
    use crate::source::{MemorySource, ReadMode};

    const BATCH: usize = 100_000;
    const DOCUMENT: usize = 1_100;

    /// Remembers the size of the batch that was read last.
    struct Measured {
        inner: MemorySource,
        last: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl SourceLayer for Measured {
        fn inner(&self) -> &dyn Source {
            &self.inner
        }

        async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
            let last = Arc::clone(&self.last);
            let batches = self.inner.read(request).await?;
            Ok(batches
                .inspect_ok(move |batch| last.store(batch.size_in_bytes(), Relaxed))
                .boxed())
        }
    }

    /// Reads 1,000 documents by rules. Returns their `_id`s, and how many batches they came in.
    async fn read(rules: RuleSet, document: usize) -> (Vec<i32>, usize) {
        let source = MemorySource::new();
        for id in 0..1_000 {
            let document = rawdoc! { "_id": id, "even": id % 2 == 0, "part": id / 100, "note": "x".repeat(1_000) };
            source.insert("a.b", document).unwrap();
        }
        let at = source.position().await.unwrap();
        let last = Arc::<AtomicUsize>::default();
        let source = Layered(Measured {
            inner: source,
            last: Arc::clone(&last),
        });
        let shaping = Shaping::new(rules, OnRuleError::Fail, None, Events::new());
        let shaped = ShapedSource::new(Arc::new(source), Arc::new(shaping), Purpose::Write);
        let request = ReadRequest {
            namespace: "a.b".parse().unwrap(),
            kind: CollectionKind::Plain,
            range: Range::FULL,
            at,
            mode: ReadMode::Snapshot,
            batch_bytes: BATCH,
            document_bytes: 0,
        };
        let mut batches = shaped.read(request).await.unwrap();
        let (mut ids, mut count) = (Vec::new(), 0);
        while let Some(batch) = batches.try_next().await.unwrap() {
            let bytes = last.load(Relaxed) + batch.size_in_bytes();
            assert!(bytes <= BATCH + DOCUMENT + document, "{bytes} bytes in memory");
            ids.extend(batch.iter().map(|document| document.get_i32("_id").unwrap()));
            count += 1;
        }
        (ids, count)
    }

    #[tokio::test]
    async fn what_is_read_and_gathered_fits_into_a_batch() {
        let changing = |fields: FieldRulesBuilder| {
            let mut rules = RuleSet::default();
            rules.transform("a.b", Arc::new(fields.build().unwrap())).unwrap();
            rules
        };
        let rules = || FieldRules::builder("rules", "1");
        let all: Vec<i32> = (0..1_000).collect();
        let shorter = changing(rules().drop("part"));
        let (ids, batches) = read(shorter, DOCUMENT).await;
        assert_eq!(ids, all);
        assert!(batches < 45, "{batches} batches");
        // Ten times as large as they were.
        let longer = changing(rules().set("more", "y".repeat(10_000)));
        let (ids, batches) = read(longer, 10 * DOCUMENT).await;
        assert_eq!(ids, all);
        assert!(batches < 450, "{batches} batches");
        let mut half = RuleSet::default();
        let even = Query::new(doc! { "even": true }).unwrap();
        half.filter("a.b", Arc::new(even)).unwrap();
        let (ids, batches) = read(half, DOCUMENT).await;
        assert_eq!(ids, (0..500).map(|id| id * 2).collect::<Vec<_>>());
        assert!(batches < 45, "{batches} batches");
    }
}
