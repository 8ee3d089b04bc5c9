//! Reads of ranges and documents from the in-memory source.

use std::collections::VecDeque;

use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::state::State;
use super::table::{Limits, View};
use super::{MemorySource, PointRequest, ReadRequest, SourceCall};
use crate::error::Result;
use crate::model::{Batch, Collection, Position};
use crate::order::Key;
use crate::source::ReadMode;
use crate::test_util::lock;

struct Reader {
    source: MemorySource,
    request: ReadRequest,
    /// Index of the collection in the state.
    index: usize,
    progress: Progress,
}

enum Progress {
    /// In `_id` order: the last key that was examined. Each batch is read when it is requested, so later batches of an interval read see
    /// later writes.
    After(Option<Key>),
    /// In natural order: the documents left to yield.
    Rest(VecDeque<RawDocumentBuf>),
}

pub(super) async fn read(source: MemorySource, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
    source.wait_for(request.at).await;
    let reader = {
        let mut state = lock(&source.shared.state);
        state.check_snapshot(request.at, request.mode)?;
        let Some(index) = state.resolve(&request.namespace, request.at, request.mode)? else {
            return Ok(stream::empty().boxed());
        };
        let progress = if request.kind.has_ranges() {
            Progress::After(None)
        } else {
            let State { tables, random, .. } = &mut *state;
            Progress::Rest(tables[index].read_natural(random, &request.range, view(request.at, request.mode)))
        };
        drop(state);
        Reader {
            source,
            request,
            index,
            progress,
        }
    };
    Ok(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(batch) if batch.is_empty() => None,
            Ok(batch) => Some((Ok(batch), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

pub(super) async fn read_documents(source: &MemorySource, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
    source.wait_for(request.at).await;
    let mut state = lock(&source.shared.state);
    state.check_snapshot(request.at, request.mode)?;
    let Some(index) = state.resolve(request.namespace, request.at, request.mode)? else {
        return Ok(Vec::new());
    };
    let State { tables, random, .. } = &mut *state;
    let mut documents: Vec<_> = request
        .keys
        .iter()
        .filter_map(|key| tables[index].read_key(random, key, view(request.at, request.mode)))
        .collect();
    // The contract leaves the order open. The reversed order exposes callers that rely on one.
    documents.reverse();
    Ok(documents)
}

impl Reader {
    /// The next batch; empty at the end.
    async fn next(&mut self) -> Result<Batch> {
        self.source.before(SourceCall::ReadBatch).await?;
        let request = &self.request;
        let mut state = lock(&self.source.shared.state);
        state.check_snapshot(request.at, request.mode)?;
        state.check_cursor(self.index, &request.namespace)?;
        let limits = Limits {
            documents: state.batch_documents,
            bytes: request.batch_bytes,
        };
        match &mut self.progress {
            Progress::After(after) => {
                let State { tables, random, .. } = &mut *state;
                let view = view(request.at, request.mode);
                let (batch, last) = tables[self.index].read_range(random, &request.range, after.as_ref(), view, limits);
                if last.is_some() {
                    *after = last;
                }
                Ok(batch)
            }
            Progress::Rest(rest) => {
                let mut batch = Batch::new();
                while !limits.reached(&batch)
                    && let Some(document) = rest.pop_front()
                {
                    batch.push(&document);
                }
                Ok(batch)
            }
        }
    }
}

fn view(at: Position, mode: ReadMode) -> View {
    View { at, mode }
}

impl MemorySource {
    /// Waits until the history has reached the position, as a server does for a read at a future time.
    async fn wait_for(&self, position: Position) {
        let mut changes = self.shared.changes.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = changes
            .wait_for(|_| lock(&self.shared.state).newest() >= position)
            .await;
    }
}

impl State {
    /// Keys that split the current collection into ranges of about `bytes` bytes.
    pub(super) fn split(&self, collection: &Collection, bytes: u64) -> Vec<Key> {
        let Some(table) = self.tables.iter().find(|table| table.id == collection.id) else {
            return Vec::new();
        };
        if !collection.kind.has_ranges() {
            return Vec::new();
        }
        let mut keys = Vec::new();
        let mut size = 0;
        let mut last: Option<&Key> = None;
        for (key, document) in table.live_documents() {
            if size >= bytes.max(1) {
                keys.extend(last.cloned());
                size = 0;
            }
            size += document.as_bytes().len() as u64;
            last = Some(key);
        }
        keys
    }
}
