//! A source whose documents have the form that the rules give them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant;

use super::{Form, Outcomes, Shaping};
use crate::error::Result;
use crate::model::{Batch, Namespace};
use crate::order::Key;
use crate::rules::DocumentRule;
use crate::source::{PointRequest, ReadRequest, Source, SourceLayer};

/// How long documents are gathered for a batch if a filter leaves few of each batch.
const GATHER: Duration = Duration::from_millis(500);

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
        let mut reading = Reading {
            rule: Some(rule),
            shaping: Arc::clone(&self.shaping),
            purpose: self.purpose,
            namespace: request.namespace.clone(),
            batch_bytes: request.batch_bytes,
            batches: stream::empty().boxed(),
        };
        let query = reading.rule.as_ref().and_then(|rule| rule.query());
        reading.batches = match query {
            Some(query) => self.inner.read_matching(request, &query).await?,
            None => self.inner.read(request).await?,
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
                outcomes.missing(request.keys);
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
    rule: Option<Arc<DocumentRule>>,
    shaping: Arc<Shaping>,
    purpose: Purpose,
    namespace: Namespace,
    batch_bytes: usize,
    batches: BoxStream<'static, Result<Batch>>,
}
