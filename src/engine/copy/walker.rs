//! Copies ranges: reads each at one position and writes it to the sink, the next batch being read while the last one is written.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bson::Uuid;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::catalog::expiry::expiry_held_back;
use crate::compare::merge::MergeDiff;
use crate::engine::messages::{Assignment, Finished, Request, Work};
use crate::engine::ownership::Ownership;
use crate::engine::track::ranges::ChunkId;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Batch, Position, Write};
use crate::mongo::retry::{Attempts, RetryPolicy};
use crate::order::Key;
use crate::runtime::flush::SharedFlush;
use crate::runtime::limits::memory::{MemoryBudget, MemoryPermit};
use crate::runtime::limits::walker_slots::WalkerSlot;
use crate::runtime::progress::RunState;
use crate::runtime::tasks::flatten;
use crate::sink::{Refusal, Sink, SinkRead};
use crate::source::{ReadMode, ReadRequest, Source};

/// A chunk is finished when it has taken so long, so that its snapshot stays within the source's history.
const CHUNK_TIME: Duration = Duration::from_secs(10);

/// A server closes a cursor that it was not asked for anything for ten minutes. The copy of a collection without ranges would then begin anew,
/// so that it asks for the next batch after so long whatever the limit says.
const CURSOR_REST: Duration = Duration::from_secs(240);

/// A chunk of at most so many bytes waits for its flush while the next one is copied.
const SMALL: u64 = 64 << 10;

/// The most chunks of one walker that do.
const ENDINGS: usize = 32;

/// What a walker is made from.
#[derive(Clone)]
pub(crate) struct Walker {
    pub source: Arc<dyn Source>,
    pub sink: Arc<dyn Sink>,
    pub ownership: Arc<Ownership>,
    pub durability: SharedFlush,
    pub progress: Arc<RunState>,
    pub requests: mpsc::Sender<Request>,
    /// About how many bytes a batch has; a walker holds up to three.
    pub batch_bytes: usize,
    /// What the batches of all walkers may take: one with large documents is larger.
    pub batches: MemoryBudget,
    pub cancel: CancellationToken,
}

/// How the reading of a chunk ended.
struct Copied {
    /// The last `_id` that is on the sink; `None` when the whole range is.
    last: Option<Key>,
    /// A position at or after the opening of the read.
    opened: Position,
    refused: Vec<Key>,
    documents: u64,
    bytes: u64,
}

/// A chunk that is on the sink and not durable yet.
struct Read {
    finished: Finished,
    documents: u64,
    bytes: u64,
}

impl Walker {
    /// Asks the router for work and does it, until the run ends.
    ///
    /// # Errors
    /// What source or sink answered for good, or for longer than patience lasts.
    pub async fn run(self) -> Result<()> {
        let mut attempts = RetryPolicy::SERVER.begin();
        // The tasks that make small collections durable while the next ones are read.
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
                    if let Some(read) = self.copy(assignment, &mut place, &mut attempts).await? {
                        endings.spawn(self.clone().end(read));
                    }
                    if endings.len() >= ENDINGS
                        && let Some(ended) = endings.join_next().await
                    {
                        Self::ended(flatten(ended), &mut attempts).await?;
                    }
                }
                Work::Check(check) => {
                    place.note_use();
                    self.check(check).await;
                }
            }
        }
        while let Some(ended) = endings.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }

    /// Waits for a place and for work; `None` when the run ends.
    async fn next_work(&self) -> Result<Option<(WalkerSlot<'_>, Work)>> {
        // Before a range is taken: changes would have to be held for it, and its snapshot would age.
        let place = tokio::select! {
            () = self.cancel.cancelled() => return Ok(None),
            place = self.place() => place,
        };
        let majority = self.source.position().await?;
        let (reply, work) = oneshot::channel();
        if self.requests.send(Request::Take { majority, reply }).await.is_err() {
            return Ok(None);
        }
        // Where the router is gone the run ends, and the reason is reported elsewhere.
        Ok(work.await.ok().map(|work| (place, work)))
    }

    /// Makes a chunk durable and gives it back.
    async fn end(self, read: Read) -> Result<()> {
        let finished = read.finished;
        if let Err(error) = self.durability.flush().await {
            self.release(finished.collection, finished.chunk, false).await;
            return Err(error);
        }
        self.progress.copied_documents.fetch_add(read.documents, Relaxed);
        self.progress.copied_bytes.fetch_add(read.bytes, Relaxed);
        let (reply, done) = oneshot::channel();
        let _ = self.requests.send(Request::Finish { finished, reply }).await;
        // An error means that the router is gone, which the next request finds out.
        let _ = done.await;
        Ok(())
    }

    /// What follows from how a chunk ended.
    async fn ended(result: Result<()>, attempts: &mut Attempts) -> Result<()> {
        let Err(error) = result else {
            *attempts = RetryPolicy::SERVER.begin();
            return Ok(());
        };
        if error.kind() == ErrorKind::PrimaryChanged {
            // Not only this chunk may be lost: the run has to go back to its checkpoint.
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

    /// Waits until another walker may be at work, and for the throttle.
    async fn place(&self) -> WalkerSlot<'_> {
        self.progress.whole_copies.opened().await;
        let place = self.progress.places.take().await;
        self.progress.limits.copy.ready().await;
        place
    }

    /// Copies a chunk. A small one is given back, to be [ended](Self::end) while others are copied: a flush for each would take most of the
    /// time of a source with thousands of collections.
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
            // What is copied whole is at its end, and a pause waits for that.
            Ok(Some(read)) if !is_whole && read.finished.last.is_none() && read.bytes <= SMALL => {
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
            // After a few of these, however long each took and whether or not another snapshot may be given, the router asks for none.
            sleep(RetryPolicy::SERVER.first_pause).await;
            return Ok(None);
        }
        Self::ended(Err(error), attempts)
            .await
            .map(|()| None)
            .map_err(|error| error.with_context("namespace", &assignment.target.namespace))
    }

    /// Copies the assigned range, or a first part of it.
    async fn copy_range(&self, assignment: &Assignment, place: &mut WalkerSlot<'_>) -> Result<Read> {
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
            documents: copied.documents,
            bytes: copied.bytes,
            finished: Finished {
                collection: assignment.target.id,
                chunk: assignment.chunk,
                made,
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
        self.source.read(request).await
    }

    /// Smaller batches keep a limit more evenly.
    pub(crate) fn batch_bytes(&self) -> usize {
        let most = self.batch_bytes as u64;
        usize::try_from(self.progress.limits.copy.portion(most)).unwrap_or(self.batch_bytes)
    }

    /// A collection without ranges cannot be compared in order, so that what an earlier attempt left is dropped. Answers its new uuid.
    async fn empty(&self, assignment: &Assignment) -> Result<Option<Uuid>> {
        let target = &assignment.target;
        let options = expiry_held_back(&assignment.options);
        self.ownership
            .replace(&target.target, assignment.made, target.kind, options)
            .await
    }

    /// The next batch of a read, unless the chunk is given up. A write under way is never dropped: the server might carry it out after
    /// whatever comes next.
    async fn next(assignment: &Assignment, batches: &mut BoxStream<'static, Result<Batch>>) -> Result<Option<Batch>> {
        tokio::select! {
            biased;
            () = assignment.cancel.cancelled() => Err(Error::stopped("copy a range")),
            batch = batches.next() => batch.transpose(),
        }
    }

    /// Waits until another batch of so many bytes may be read, unless the chunk is given up.
    async fn room(assignment: &Assignment, batches: &MemoryBudget, bytes: usize) -> Result<MemoryPermit> {
        tokio::select! {
            biased;
            () = assignment.cancel.cancelled() => Err(Error::stopped("copy a range")),
            taken = batches.take(bytes) => taken,
        }
    }

    /// Whether a chunk is to end with what was read so far.
    fn is_enough(assignment: &Assignment, bytes: u64, started: Instant, place: &mut WalkerSlot<'_>) -> bool {
        place.note_use();
        assignment.target.kind.has_ranges()
            && (bytes >= assignment.chunk_bytes
                || started.elapsed() >= CHUNK_TIME
                || assignment.hurry.is_cancelled()
                || place.is_wanted_back())
    }

    /// Counts bytes that were read. Answers whether the copy has to wait, for which a chunk ends; one that cannot end has waited here.
    async fn spend(&self, assignment: &Assignment, bytes: u64) -> bool {
        let limit = &self.progress.limits.copy;
        limit.spend(bytes);
        if assignment.target.kind.has_ranges() {
            return limit.wait().is_some();
        }
        tokio::select! {
            () = assignment.cancel.cancelled() => {}
            // Rather a little more than the limit than all of it once more.
            () = sleep(CURSOR_REST) => {}
            () = limit.ready() => {}
        }
        false
    }

    async fn insert(&self, assignment: &Assignment, place: &mut WalkerSlot<'_>) -> Result<Copied> {
        let bytes = self.batch_bytes.max(assignment.document_bytes);
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
                // The next batch may be as large as this one; where both have no room it waits for this one to be written.
                let bytes = self.batch_bytes.max(writing.size_in_bytes());
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
        let bytes = self.batch_bytes.max(assignment.document_bytes);
        // A batch of each side.
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
