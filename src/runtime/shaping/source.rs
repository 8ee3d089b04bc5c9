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

/// Documents are gathered until they have this part of a batch's bytes. What is gathered, with all of one more batch, then stays close to the
/// memory that a batch has.
const GATHER_PARTS: usize = 4;

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

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
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
    batch_bytes: usize,
    /// Whether empty batches report how far the source was read while all documents were left out. A comparison gets ahead by that, and does
    /// not read them again.
    reports_passed: bool,
    /// Fused, because the last documents are returned before the end.
    batches: Fuse<BoxStream<'static, Result<Batch>>>,
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
        while let Some(batch) = self.batches.next().await {
            let batch = batch?;
            if self.shape.append(&batch, &mut gathered).await? == Appended::Nothing {
                return Ok(Some(batch));
            }
            let is_long = since.elapsed() >= GATHER;
            if !gathered.is_empty() && (is_long || gathered.size_in_bytes() >= self.batch_bytes / GATHER_PARTS) {
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
}

/// What was appended of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Appended {
    /// Nothing, because all documents stay as they are, and there were no others before them.
    Nothing,
    /// All documents that the target has.
    All,
}

impl Shape {
    /// Appends the documents of a batch in the form that they have on the target.
    async fn append(&self, batch: &Batch, gathered: &mut Batch) -> Result<Appended> {
        let mut outcomes = self.shaping.outcomes();
        let any_failed = self.shaping.any_failed(&self.namespace);
        let mut may_stay = gathered.is_empty();
        for (index, document) in batch.iter().enumerate() {
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
                Form::Absent | Form::Failed(_) => {}
            }
        }
        if self.purpose == Purpose::Write {
            self.shaping.settle(&self.namespace, outcomes).await?;
        }
        Ok(match may_stay {
            true => Appended::Nothing,
            false => Appended::All,
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
