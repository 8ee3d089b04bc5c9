//! Walkers copy ranges from the source to the sink.
//!
//! A walker reads each range at one position. It reads the next batch while it writes the previous one.

use std::sync::Arc;
use std::time::Duration;

use bson::Uuid;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

use crate::catalog::expiry::expiry_held_back;
use crate::compare::merge::MergeDiff;
use crate::engine::messages::{Assignment, Finished, Request, Work};
use crate::engine::ownership::Ownership;
use crate::engine::track::ranges::ChunkId;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Amount, Batch, Namespace, Position, Write};
use crate::mongo::retry::{Attempts, RetryPolicy};
use crate::order::Key;
use crate::report::TARGET;
use crate::runtime::flush::SharedFlush;
use crate::runtime::limits::memory::{MemoryBudget, MemoryPermit};
use crate::runtime::limits::walker_slots::WalkerSlot;
use crate::runtime::progress::RunState;
use crate::runtime::tasks::flatten;
use crate::sink::{Refusal, Sink, SinkRead};
use crate::source::{ReadMode, ReadRequest, Source};

/// Time limit for a chunk. It keeps the chunk's snapshot within the source's history.
const CHUNK_TIME: Duration = Duration::from_secs(10);

/// Maximum wait for the throttle between two batches of a collection without ranges. A server closes a cursor that is idle for ten minutes,
/// and the copy of such a collection would then start again from the beginning.
const CURSOR_REST: Duration = Duration::from_secs(240);

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

/// The result of reading a chunk.
struct Copied {
    /// The last `_id` that is on the sink; `None` if the whole range is.
    last: Option<Key>,
    /// A position at or after the start of the read.
    opened: Position,
    refused: Vec<Key>,
    documents: u64,
    bytes: u64,
}

/// A chunk that is on the sink but not durable yet.
struct Read {
    finished: Finished,
    #[cfg(feature = "metrics")]
    began: Instant,
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
    async fn end(self, read: Read) -> Result<()> {
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
    ) -> Result<Option<Read>> {
        place.note_use();
        let is_whole = !assignment.target.kind.has_ranges();
        let _whole = is_whole.then(|| self.progress.whole_copies.begin());
        let result = match self.copy_range(&assignment, place).await {
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

    /// Copies the assigned range, or the first part of it.
    async fn copy_range(&self, assignment: &Assignment, place: &mut WalkerSlot<'_>) -> Result<Read> {
        #[cfg(feature = "metrics")]
        let began = Instant::now();
        let ranged = assignment.target.kind.has_ranges();
        let compare = assignment.repair && ranged;
        let mut made = None;
        if assignment.repair && !ranged {
            made = self.empty(assignment).await?;
        }
        let copied = if compare {
            self.repair(assignment, place).await?
        } else {
            self.insert(assignment, place).await?
        };
        let high = match assignment.mode {
            ReadMode::Snapshot => None,
            ReadMode::Interval => Some(self.source.read_position().await?),
        };
        Ok(Read {
            #[cfg(feature = "metrics")]
            began,
            finished: Finished {
                collection: assignment.target.id,
                chunk: assignment.chunk,
                made,
                copied: Amount {
                    documents: copied.documents,
                    bytes: copied.bytes,
                },
                last: copied.last,
                repair: compare,
                opened: copied.opened,
                high,
                refused: copied.refused,
            },
        })
    }

    async fn open(&self, assignment: &Assignment) -> Result<BoxStream<'static, Result<Batch>>> {
        let request = ReadRequest {
            namespace: assignment.target.namespace.clone(),
            kind: assignment.target.kind,
            range: assignment.range.clone(),
            at: assignment.at,
            mode: assignment.mode,
            batch_bytes: self.batch_bytes(),
            document_bytes: assignment.document_bytes,
        };
        self.writing_source.read(request).await
    }

    /// Returns the batch size for reads. Smaller batches keep a throttle's rate more evenly.
    pub(crate) fn batch_bytes(&self) -> usize {
        let most = self.batch_bytes as u64;
        usize::try_from(self.progress.limits.copy.portion(most)).unwrap_or(self.batch_bytes)
    }

    /// Recreates a collection without ranges. It cannot be compared in order, so the leftovers of an earlier attempt are dropped. Returns
    /// its new uuid.
    async fn empty(&self, assignment: &Assignment) -> Result<Option<Uuid>> {
        let target = &assignment.target;
        let options = expiry_held_back(&assignment.options);
        self.ownership
            .replace(&target.target, assignment.made, target.kind, options)
            .await
    }

    /// Returns the next batch of a read, unless the chunk is cancelled. A write in flight is never dropped: the server might carry it out
    /// after whatever comes next.
    async fn next(assignment: &Assignment, batches: &mut BoxStream<'static, Result<Batch>>) -> Result<Option<Batch>> {
        tokio::select! {
            biased;
            () = assignment.cancel.cancelled() => Err(Error::stopped("copy a range")),
            batch = batches.next() => batch.transpose(),
        }
    }

    /// Waits until memory for another batch of `bytes` is free, unless the chunk is cancelled.
    async fn room(assignment: &Assignment, batches: &MemoryBudget, bytes: usize) -> Result<MemoryPermit> {
        tokio::select! {
            biased;
            () = assignment.cancel.cancelled() => Err(Error::stopped("copy a range")),
            taken = batches.take(bytes) => taken,
        }
    }

    /// Returns `true` if a chunk should end with what was read so far.
    fn is_enough(assignment: &Assignment, bytes: u64, started: Instant, place: &mut WalkerSlot<'_>) -> bool {
        place.note_use();
        assignment.target.kind.has_ranges()
            && (bytes >= assignment.chunk_bytes
                || started.elapsed() >= CHUNK_TIME
                || assignment.hurry.is_cancelled()
                || place.is_wanted_back())
    }

    /// Counts `bytes` against the throttle. Returns `true` if the chunk has to end because the copy must wait. A chunk that cannot end
    /// waits here.
    async fn spend(&self, assignment: &Assignment, bytes: u64) -> bool {
        let limit = &self.progress.limits.copy;
        limit.spend(bytes);
        if assignment.target.kind.has_ranges() {
            return limit.wait().is_some();
        }
        tokio::select! {
            () = assignment.cancel.cancelled() => {}
            // Better to exceed the limit a little than to copy everything again.
            () = sleep(CURSOR_REST) => {}
            () = limit.ready() => {}
        }
        false
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

    async fn insert(&self, assignment: &Assignment, place: &mut WalkerSlot<'_>) -> Result<Copied> {
        let bytes = self.memory_to_read(&assignment.target.namespace, assignment.document_bytes);
        let taken = Self::room(assignment, &self.batches, bytes).await?;
        let started = Instant::now();
        let mut batches = self.open(assignment).await?;
        let mut ready = Self::next(assignment, &mut batches).await?.map(|batch| (batch, taken));
        let opened = self.source.read_position().await?;
        let mut copied = Copied {
            last: None,
            opened,
            refused: Vec::new(),
            documents: 0,
            bytes: 0,
        };
        while let Some((writing, taken)) = ready.take() {
            copied.bytes += writing.size_in_bytes() as u64;
            copied.documents += writing.len() as u64;
            let must_wait = self.spend(assignment, writing.size_in_bytes() as u64).await;
            let enough = must_wait || Self::is_enough(assignment, copied.bytes, started, place);
            let write = async {
                let refusals = self.sink.insert(&assignment.target.target, &writing).await;
                drop(taken);
                refusals
            };
            let refusals = if enough {
                copied.last = writing.iter().last().and_then(Key::of_document);
                write.await?
            } else {
                // The next batch may be as large as this one. If memory has no room for both, it waits until this one is written.
                let bytes = self.memory_to_read(&assignment.target.namespace, writing.size_in_bytes());
                let read = async {
                    let taken = Self::room(assignment, &self.batches, bytes).await?;
                    let batch = Self::next(assignment, &mut batches).await?;
                    Ok::<_, Error>(batch.map(|batch| (batch, taken)))
                };
                let (refusals, next) = futures::join!(write, read);
                ready = next?;
                refusals?
            };
            copied.refused.extend(refused_documents(&writing, &refusals));
        }
        Ok(copied)
    }

    async fn repair(&self, assignment: &Assignment, place: &mut WalkerSlot<'_>) -> Result<Copied> {
        let bytes = self.memory_to_read(&assignment.target.namespace, assignment.document_bytes);
        // Memory for a batch of each side.
        let _taken = Self::room(assignment, &self.batches, bytes * 2).await?;
        let started = Instant::now();
        let source = self.open(assignment).await?;
        let sink = self
            .sink
            .read(SinkRead {
                namespace: assignment.target.target.clone(),
                kind: assignment.target.kind,
                range: assignment.range.clone(),
                batch_bytes: self.batch_bytes(),
                document_bytes: assignment.document_bytes,
            })
            .await?;
        let mut differences = MergeDiff::between(source, sink);
        let (mut refused, mut writes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut opened = None;
        let mut last = None;
        let (mut spent, portion) = (0, self.batch_bytes() as u64);
        loop {
            let step = tokio::select! {
                biased;
                () = assignment.cancel.cancelled() => return Err(Error::stopped("repair a range")),
                step = differences.next() => step?,
            };
            if opened.is_none() {
                opened = Some(self.source.read_position().await?);
            }
            let ended = step.is_none();
            if let Some(Some(write)) = step {
                bytes += write.size_in_bytes();
                writes.push(write);
            }
            let mut must_wait = false;
            if ended || differences.bytes - spent >= portion {
                must_wait = self.spend(assignment, differences.bytes - spent).await;
                spent = differences.bytes;
            }
            let enough = !ended && (must_wait || Self::is_enough(assignment, differences.bytes, started, place));
            if bytes >= self.batch_bytes || ended || enough {
                refused.extend(self.write(assignment, std::mem::take(&mut writes)).await?);
                bytes = 0;
            }
            if enough {
                last = Some(differences.last()?);
            }
            if ended || enough {
                break;
            }
        }
        let opened = opened.unwrap_or(assignment.at);
        Ok(Copied {
            last,
            opened,
            refused,
            documents: differences.documents,
            bytes: differences.bytes,
        })
    }

    async fn write(&self, assignment: &Assignment, writes: Vec<Write>) -> Result<Vec<Key>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let refusals = self
            .sink
            .apply(&assignment.target.target, assignment.target.kind, &writes)
            .await?;
        Ok(refusals
            .iter()
            .filter_map(|refusal| writes.get(refusal.index))
            .map(|write| write.key.clone())
            .collect())
    }
}

fn refused_documents(batch: &Batch, refusals: &[Refusal]) -> Vec<Key> {
    let mut keys = Vec::with_capacity(refusals.len());
    for refusal in refusals {
        keys.extend(batch.iter().nth(refusal.index).and_then(Key::of_document));
    }
    keys
}
