//! Walkers copy ranges from the source to the sink, and compare them.
//!
//! A walker requests work from the router, does it, and reports what is durable. It reads each range at one position.

use std::sync::Arc;

use bson::Uuid;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

use crate::engine::copy::copy_chunk::{ChunkCopy, CopiedChunk};
use crate::engine::messages::{Assignment, Request, Work};
use crate::engine::ownership::Ownership;
use crate::engine::track::ranges::ChunkId;
use crate::error::{ErrorKind, Result};
use crate::model::Namespace;
use crate::mongo::retry::{Attempts, RetryPolicy};
use crate::report::TARGET;
use crate::runtime::flush::SharedFlush;
use crate::runtime::limits::memory::MemoryBudget;
use crate::runtime::limits::walker_slots::WalkerSlot;
use crate::runtime::progress::RunState;
use crate::runtime::tasks::flatten;
use crate::sink::Sink;
use crate::source::{ReadMode, Source};

/// Maximum size in bytes of a chunk that waits for its flush while the next one is copied.
const SMALL: u64 = 64 << 10;

/// Maximum number of such chunks per walker.
const ENDINGS: usize = 32;

/// A task that copies and compares chunks.
#[derive(Clone)]
pub(crate) struct Walker {
    pub source: Arc<dyn Source>,
    /// The source, for documents that are written to the sink.
    pub writing_source: Arc<dyn Source>,
    pub sink: Arc<dyn Sink>,
    pub ownership: Arc<Ownership>,
    pub durability: SharedFlush,
    pub progress: Arc<RunState>,
    pub requests: mpsc::Sender<Request>,
    /// Approximate size of a batch in bytes. A walker holds up to three batches.
    pub batch_bytes: usize,
    /// Memory for the batches of all walkers. A batch with large documents takes more than `batch_bytes`.
    pub batches: MemoryBudget,
    pub cancel: CancellationToken,
}

impl Walker {
    /// Requests work from the router and does it, until the run ends.
    ///
    /// # Errors
    /// A permanent error of the source or the sink, or one that outlasts the retries.
    pub async fn run(self) -> Result<()> {
        let mut attempts = RetryPolicy::SERVER.begin();
        // Tasks that make small chunks durable while the next ones are read.
        let mut endings = JoinSet::new();
        while !self.cancel.is_cancelled() {
            let mut next = Box::pin(self.next_work());
            let next = loop {
                tokio::select! {
                    biased;
                    Some(ended) = endings.join_next() => Self::ended(flatten(ended), &mut attempts).await?,
                    next = &mut next => break next?,
                }
            };
            let Some((mut place, work)) = next else { break };
            match work {
                Work::Chunk(assignment) => {
                    let span = debug_span!(target: TARGET, "chunk", namespace = %assignment.target.namespace,
                        chunk = assignment.chunk.0, repair = assignment.repair);
                    let copy = self.copy(assignment, &mut place, &mut attempts);
                    if let Some(read) = copy.instrument(span).await? {
                        endings.spawn(self.clone().end(read).in_current_span());
                    }
                    if endings.len() >= ENDINGS
                        && let Some(ended) = endings.join_next().await
                    {
                        Self::ended(flatten(ended), &mut attempts).await?;
                    }
                }
                Work::Check(check) => {
                    place.note_use();
                    let span = debug_span!(target: TARGET, "compare", namespace = %check.target.namespace,
                        chunk = check.chunk.0);
                    self.check(check).instrument(span).await;
                }
            }
        }
        while let Some(ended) = endings.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }

    /// Waits for a walker slot and for work. Returns `None` when the run ends.
    async fn next_work(&self) -> Result<Option<(WalkerSlot<'_>, Work)>> {
        // Take the slot before the range. Otherwise changes would be held for the range, and its snapshot would age, during the wait for
        // the slot.
        let place = tokio::select! {
            () = self.cancel.cancelled() => return Ok(None),
            place = self.place() => place,
        };
        let majority = self.source.position().await?;
        let (reply, work) = oneshot::channel();
        if self.requests.send(Request::Take { majority, reply }).await.is_err() {
            return Ok(None);
        }
        // If the router is gone, the run is ending, and the reason is reported elsewhere.
        Ok(work.await.ok().map(|work| (place, work)))
    }

    /// Makes a chunk durable and reports it to the router.
    async fn end(self, read: CopiedChunk) -> Result<()> {
        let finished = read.finished;
        if let Err(error) = self.durability.flush().await {
            self.release(finished.collection, finished.chunk, false).await;
            return Err(error);
        }
        #[cfg(feature = "metrics")]
        self.progress.metrics.note_chunk(read.began.elapsed());
        self.progress.copy.add(finished.copied);
        let (reply, done) = oneshot::channel();
        let _ = self.requests.send(Request::Finish { finished, reply }).await;
        // An error means that the router is gone. The next request detects that.
        let _ = done.await;
        Ok(())
    }

    /// Handles the result of a chunk. Resets the retries after a success; pauses or fails after an error.
    async fn ended(result: Result<()>, attempts: &mut Attempts) -> Result<()> {
        let Err(error) = result else {
            *attempts = RetryPolicy::SERVER.begin();
            return Ok(());
        };
        if error.kind() == ErrorKind::PrimaryChanged {
            // More than this chunk may be lost: the run has to go back to its checkpoint.
            return Err(error);
        }
        match attempts.next_pause(&error) {
            Some(pause) => {
                sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    async fn release(&self, collection: Uuid, chunk: ChunkId, snapshot_refused: bool) {
        let _ = self
            .requests
            .send(Request::Release {
                collection,
                chunk,
                snapshot_refused,
            })
            .await;
    }

    /// Waits until walkers may start work, for a walker slot, and for the throttle.
    async fn place(&self) -> WalkerSlot<'_> {
        self.progress.whole_copies.opened().await;
        let place = self.progress.walker_slots.take().await;
        self.progress.limits.copy.ready().await;
        place
    }

    /// Copies a chunk. Returns a small chunk without a flush, to be [ended](Self::end) while others are copied: a flush for each would take
    /// most of the time of a source with thousands of collections.
    async fn copy(
        &self,
        assignment: Assignment,
        place: &mut WalkerSlot<'_>,
        attempts: &mut Attempts,
    ) -> Result<Option<CopiedChunk>> {
        place.note_use();
        let is_whole = !assignment.target.kind.has_ranges();
        let _whole = is_whole.then(|| self.progress.whole_copies.begin());
        let chunk = ChunkCopy {
            walker: self,
            assignment: &assignment,
            place,
        };
        let result = match chunk.run().await {
            Err(error) if error.kind() == ErrorKind::Stopped && assignment.cancel.is_cancelled() => Ok(None),
            other => other.map(Some),
        };
        let (collection, chunk) = (assignment.target.id, assignment.chunk);
        let error = match result {
            // A collection without ranges is complete at this point, and a pause waits for that. So it is made durable at once.
            Ok(Some(read)) if !is_whole && read.finished.last.is_none() && read.finished.copied.bytes <= SMALL => {
                return Ok(Some(read));
            }
            Ok(Some(read)) => {
                let ended = self.clone().end(read).await;
                return Self::ended(ended, attempts)
                    .await
                    .map(|()| None)
                    .map_err(|error| error.with_context("namespace", &assignment.target.namespace));
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let snapshot_refused = error
            .as_ref()
            .is_some_and(|error| error.kind() == ErrorKind::SnapshotUnavailable);
        self.release(collection, chunk, snapshot_refused).await;
        let Some(error) = error else { return Ok(None) };
        if snapshot_refused && assignment.mode == ReadMode::Snapshot {
            // After a few refusals the router requests no more snapshots, however long each took and whether or not another one is
            // available.
            sleep(RetryPolicy::SERVER.first_pause).await;
            return Ok(None);
        }
        Self::ended(Err(error), attempts)
            .await
            .map(|()| None)
            .map_err(|error| error.with_context("namespace", &assignment.target.namespace))
    }

    /// Returns the batch size for reads. Smaller batches keep a throttle's rate more evenly.
    pub(crate) fn batch_bytes(&self) -> usize {
        let most = self.batch_bytes as u64;
        usize::try_from(self.progress.limits.copy.portion(most)).unwrap_or(self.batch_bytes)
    }

    /// Memory in bytes for reading a batch. `bytes` is the size of a document, or of the batch before. With rules, the documents are in memory
    /// in two forms. A batch has room for both, unless its documents are large.
    pub(crate) fn memory_to_read(&self, namespace: &Namespace, bytes: usize) -> usize {
        let forms = if self.progress.shaping.of(namespace).is_some() {
            2
        } else {
            1
        };
        self.batch_bytes.max(bytes * forms)
    }
}
