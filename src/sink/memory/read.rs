//! Reads of a sink in memory, batch by batch.

use std::collections::VecDeque;

use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{MemorySink, SinkCall};
use crate::error::Result;
use crate::model::Batch;
use crate::order::Key;
use crate::sink::SinkRead;
use crate::test_util::lock;

/// Returns what is requested, in batches that are read as they are asked for.
pub(super) fn batches(sink: MemorySink, request: SinkRead) -> BoxStream<'static, Result<Batch>> {
    let progress = if request.kind.has_ranges() {
        Progress::After(None)
    } else {
        Progress::Rest(lock(&sink.shared.state).natural(&request.namespace).into())
    };
    let reader = Reader {
        sink,
        request,
        progress,
    };
    let stream = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(batch) if batch.is_empty() => None,
            Ok(batch) => Some((Ok(batch), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    });
    stream.boxed()
}

struct Reader {
    sink: MemorySink,
    request: SinkRead,
    progress: Progress,
}

enum Progress {
    /// In `_id` order: the last key read.
    After(Option<Key>),
    /// In natural order: the documents left to yield.
    Rest(VecDeque<RawDocumentBuf>),
}

impl Reader {
    /// The next batch; empty at the end.
    async fn next(&mut self) -> Result<Batch> {
        self.sink.before(SinkCall::ReadBatch).await?;
        let request = &self.request;
        let state = lock(&self.sink.shared.state);
        match &mut self.progress {
            Progress::After(after) => {
                let (batch, last) =
                    state.read_range(&request.namespace, &request.range, after.as_ref(), request.batch_bytes);
                if last.is_some() {
                    *after = last;
                }
                Ok(batch)
            }
            Progress::Rest(rest) => {
                let mut batch = Batch::new();
                while batch.len() < state.batch_documents.max(1)
                    && (batch.is_empty() || batch.size_in_bytes() < request.batch_bytes)
                    && let Some(document) = rest.pop_front()
                {
                    batch.push(&document);
                }
                Ok(batch)
            }
        }
    }
}
