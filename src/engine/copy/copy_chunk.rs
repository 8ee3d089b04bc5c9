//! Copies one chunk from the source to the sink.
//!
//! The next batch is read while the previous one is written. A chunk that was begun before is compared with the sink instead, and the
//! differences are written.

use std::time::Duration;

use bson::Uuid;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep};

use crate::catalog::expiry::expiry_held_back;
use crate::compare::merge::MergeDiff;
use crate::engine::copy::walker::Walker;
use crate::engine::messages::{Assignment, Finished};
use crate::error::{Error, Result};
use crate::model::{Amount, Batch, Position, Write};
use crate::order::Key;
use crate::runtime::limits::memory::MemoryPermit;
use crate::runtime::limits::walker_slots::WalkerSlot;
use crate::sink::{Refusal, SinkRead};
use crate::source::{ReadMode, ReadRequest};

/// Time limit for a chunk. It keeps the chunk's snapshot within the source's history.
const CHUNK_TIME: Duration = Duration::from_secs(10);

/// Maximum wait for the throttle between two batches of a collection without ranges. A server closes a cursor that is idle for ten minutes,
/// and the copy of such a collection would then start again from the beginning.
const CURSOR_REST: Duration = Duration::from_secs(240);

/// The copy of one chunk by a walker.
pub(super) struct ChunkCopy<'a, 'p> {
    pub walker: &'a Walker,
    pub assignment: &'a Assignment,
    pub place: &'a mut WalkerSlot<'p>,
}

/// A chunk that is on the sink but not durable yet.
pub(super) struct CopiedChunk {
    pub finished: Finished,
    #[cfg(feature = "metrics")]
    pub began: Instant,
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

impl ChunkCopy<'_, '_> {
    /// Copies the assigned range, or the first part of it.
    ///
    /// # Errors
    /// [`Stopped`](crate::ErrorKind::Stopped) if the chunk is cancelled, or an error of the source or the sink.
    pub async fn run(mut self) -> Result<CopiedChunk> {
        let assignment = self.assignment;
        #[cfg(feature = "metrics")]
        let began = Instant::now();
        let ranged = assignment.target.kind.has_ranges();
        let compare = assignment.repair && ranged;
        let mut made = None;
        if assignment.repair && !ranged {
            made = self.empty().await?;
        }
        let copied = if compare {
            self.repair().await?
        } else {
            self.insert().await?
        };
        let high = match assignment.mode {
            ReadMode::Snapshot => None,
            ReadMode::Interval => Some(self.walker.source.read_position().await?),
        };
        Ok(CopiedChunk {
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

    async fn open(&self) -> Result<BoxStream<'static, Result<Batch>>> {
        let assignment = self.assignment;
        let request = ReadRequest {
            namespace: assignment.target.namespace.clone(),
            kind: assignment.target.kind,
            range: assignment.range.clone(),
            at: assignment.at,
            mode: assignment.mode,
            batch_bytes: self.walker.batch_bytes(),
            document_bytes: assignment.document_bytes,
        };
        self.walker.writing_source.read(request).await
    }

    /// Recreates a collection without ranges. It cannot be compared in order, so the leftovers of an earlier attempt are dropped. Returns
    /// its new uuid.
    async fn empty(&self) -> Result<Option<Uuid>> {
        let target = &self.assignment.target;
        let options = expiry_held_back(&self.assignment.options);
        self.walker
            .ownership
            .replace(&target.target, self.assignment.made, target.kind, options)
            .await
    }

    /// Returns the next batch of a read, unless the chunk is cancelled. A write in flight is never dropped: the server might carry it out
    /// after whatever comes next.
    async fn next(&self, batches: &mut BoxStream<'static, Result<Batch>>) -> Result<Option<Batch>> {
        tokio::select! {
            biased;
            () = self.assignment.cancel.cancelled() => Err(Error::stopped("copy a range")),
            batch = batches.next() => batch.transpose(),
        }
    }

    /// Waits until memory for another batch of `bytes` is free, unless the chunk is cancelled.
    async fn room(&self, bytes: usize) -> Result<MemoryPermit> {
        tokio::select! {
            biased;
            () = self.assignment.cancel.cancelled() => Err(Error::stopped("copy a range")),
            taken = self.walker.batches.take(bytes) => taken,
        }
    }

    /// Returns `true` if the chunk should end with what was read so far.
    fn is_enough(&mut self, bytes: u64, started: Instant) -> bool {
        let assignment = self.assignment;
        self.place.note_use();
        assignment.target.kind.has_ranges()
            && (bytes >= assignment.chunk_bytes
                || started.elapsed() >= CHUNK_TIME
                || assignment.hurry.is_cancelled()
                || self.place.is_wanted_back())
    }

    /// Counts `bytes` against the throttle. Returns `true` if the chunk has to end because the copy must wait. A chunk that cannot end
    /// waits here.
    async fn spend(&self, bytes: u64) -> bool {
        let assignment = self.assignment;
        let limit = &self.walker.progress.limits.copy;
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

    async fn insert(&mut self) -> Result<Copied> {
        let (walker, assignment) = (self.walker, self.assignment);
        let bytes = walker.memory_to_read(&assignment.target.namespace, assignment.document_bytes);
        let taken = self.room(bytes).await?;
        let started = Instant::now();
        let mut batches = self.open().await?;
        let mut ready = self.next(&mut batches).await?.map(|batch| (batch, taken));
        let opened = walker.source.read_position().await?;
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
            let must_wait = self.spend(writing.size_in_bytes() as u64).await;
            let enough = must_wait || self.is_enough(copied.bytes, started);
            let write = async {
                let refusals = walker.sink.insert(&assignment.target.target, &writing).await;
                drop(taken);
                refusals
            };
            let refusals = if enough {
                copied.last = writing.iter().last().and_then(Key::of_document);
                write.await?
            } else {
                // The next batch may be as large as this one. If memory has no room for both, it waits until this one is written.
                let bytes = walker.memory_to_read(&assignment.target.namespace, writing.size_in_bytes());
                let read = async {
                    let taken = self.room(bytes).await?;
                    let batch = self.next(&mut batches).await?;
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

    async fn repair(&mut self) -> Result<Copied> {
        let (walker, assignment) = (self.walker, self.assignment);
        let bytes = walker.memory_to_read(&assignment.target.namespace, assignment.document_bytes);
        // Memory for a batch of each side.
        let _taken = self.room(bytes * 2).await?;
        let started = Instant::now();
        let source = self.open().await?;
        let sink = walker
            .sink
            .read(SinkRead {
                namespace: assignment.target.target.clone(),
                kind: assignment.target.kind,
                range: assignment.range.clone(),
                batch_bytes: walker.batch_bytes(),
                document_bytes: assignment.document_bytes,
            })
            .await?;
        let mut differences = MergeDiff::between(source, sink);
        let (mut refused, mut writes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut opened = None;
        let mut last = None;
        let (mut spent, portion) = (0, walker.batch_bytes() as u64);
        loop {
            let step = tokio::select! {
                biased;
                () = assignment.cancel.cancelled() => return Err(Error::stopped("repair a range")),
                step = differences.next() => step?,
            };
            if opened.is_none() {
                opened = Some(walker.source.read_position().await?);
            }
            let ended = step.is_none();
            if let Some(Some(write)) = step {
                bytes += write.size_in_bytes();
                writes.push(write);
            }
            let mut must_wait = false;
            if ended || differences.bytes - spent >= portion {
                must_wait = self.spend(differences.bytes - spent).await;
                spent = differences.bytes;
            }
            let enough = !ended && (must_wait || self.is_enough(differences.bytes, started));
            if bytes >= walker.batch_bytes || ended || enough {
                refused.extend(self.write(std::mem::take(&mut writes)).await?);
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

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Key>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let target = &self.assignment.target;
        let refusals = self.walker.sink.apply(&target.target, target.kind, &writes).await?;
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
