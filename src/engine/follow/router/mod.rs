//! The router: the one task that sees every change in order.
//!
//! It drops a change, holds it, or sends it to its applier.

mod barriers;
mod builds;
mod chunks;
#[cfg(feature = "test-util")]
pub(crate) mod fixture;
mod late_writes;
#[cfg(test)]
mod tests;
mod verification;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bson::Uuid;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::barriers::{Barrier, GivenUp};
use self::builds::BlockedByIndex;
use crate::checkpoint::{Checkpoint, ComparedUntil, PendingCheckpoint, Renaming, States, UnsettledDocuments};
use crate::config::DdlPolicy;
use crate::engine::messages::{ApplierMessage, BarrierReached, ResolveStep, Routed, SaveRequest, Stuck, Unsettled};
use crate::engine::ownership::Ownership;
use crate::engine::track::collection::{Chunk, CollectionProgress, Route};
use crate::engine::track::collections::{Collections, Noticed};
use crate::engine::track::held_changes::HeldChanges;
use crate::engine::track::ranges::{ChunkId, RangeStatus};
use crate::engine::track::verification::{CollectionVerification, Compared, RangeVerification, VerificationState};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, CollectionKind, CollectionMapping, Namespace, Operation, Position, Selection};
use crate::oplog::{Entry, Item};
use crate::order::Key;
use crate::report::{Event, Events, Phase};
use crate::runtime::index_builds::IndexBuilds;
use crate::runtime::progress::RunState;
use crate::sink::Sink;
use crate::source::{ReadMode, Source};

pub(crate) use self::barriers::BARRIERS_PER_APPLIER;
pub(crate) use crate::engine::messages::{Assignment, Finished, ReadAhead, Report, Request, VerificationRequest, Work};

/// Interval at which the watermark is moved.
const BARRIER_INTERVAL: Duration = Duration::from_millis(250);

/// Changes are sent to an applier once this many bytes are buffered, or when the router has nothing else to do.
const APPLIER_BUFFER_BYTES: usize = 256 << 10;

/// Parameters of `Router::new`.
pub(crate) struct RouterParts {
    pub source: Arc<dyn Source>,
    pub sink: Arc<dyn Sink>,
    pub ownership: Arc<Ownership>,
    pub builds: OwnedMutexGuard<IndexBuilds>,
    /// Maximum number of concurrent index builds.
    pub most_builds: usize,
    pub selection: Selection,
    pub ddl: DdlPolicy,
    pub progress: Arc<RunState>,
    pub entries: mpsc::Receiver<ReadAhead>,
    pub requests: mpsc::Receiver<Request>,
    pub appliers: Vec<mpsc::Sender<ApplierMessage>>,
    pub applier_bytes: usize,
    pub held_limit: usize,
    pub chunk_bytes: u64,
    /// Whether collections are verified continuously.
    pub verify: bool,
    /// Limit in bytes for the `_id`s of documents that have changed since they were compared.
    pub changed_limit: usize,
    pub reached: mpsc::Receiver<BarrierReached>,
    pub saves: mpsc::Sender<SaveRequest>,
    pub cancel: CancellationToken,
    /// The checkpoint to resume from.
    pub checkpoint: Checkpoint,
    pub collections: Vec<CollectionProgress>,
    /// Changes up to here may already have been applied by an earlier run.
    pub replay_until: Position,
}

pub(crate) struct Router {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) ownership: Arc<Ownership>,
    builds: OwnedMutexGuard<IndexBuilds>,
    most_builds: usize,
    pub(crate) selection: Selection,
    pub(crate) ddl: DdlPolicy,
    pub(crate) events: Events,
    pub(crate) tracked: Collections,
    pub(crate) views: Noticed<BTreeMap<Namespace, CollectionProgress>>,
    /// Collections that were renamed into the selection, but were renamed again or dropped since. A later entry says which.
    pub(crate) ghosts: HashSet<Uuid>,
    /// Changes up to here may already have been applied by an earlier run.
    pub(crate) replay_until: Position,
    /// Position up to which everything is routed.
    pub(crate) routed: Position,
    /// Position from which a tail would have to start again.
    resume: Position,
    pub(crate) progress: Arc<RunState>,
    entries: mpsc::Receiver<ReadAhead>,
    requests: mpsc::Receiver<Request>,
    /// Requests that arrived while the router was waiting for something else.
    deferred: VecDeque<Request>,
    idle: VecDeque<(Position, oneshot::Sender<Work>)>,
    finishing: Vec<(Finished, oneshot::Sender<()>)>,
    /// Requesters that wait for a position to be applied.
    reports: Vec<(Position, oneshot::Sender<Report>)>,
    /// A cutover that wants to end the migration, and the number of late writes that it knows of.
    completing: Option<(u64, oneshot::Sender<()>)>,
    /// Results of comparisons that do not count yet.
    compared: Vec<(Uuid, ChunkId, Compared)>,
    appliers: Vec<ApplierOut>,
    applier_permits: Arc<Semaphore>,
    applier_bytes: usize,
    /// Changes of collections that are held back for an index build.
    held_back: HashMap<Uuid, BlockedByIndex>,
    held: usize,
    held_limit: usize,
    /// Whether everything that changes are held for was asked to finish.
    hurried: bool,
    chunk_bytes: u64,
    pub(crate) verify: bool,
    changed_limit: usize,
    /// Number of bytes that can still be noted as changed.
    changed_room: usize,
    /// Changed documents are not compared again before this time, unless there is little room left.
    compare_again_at: Instant,
    /// Whether the last work given to a walker was a comparison that somebody waits for.
    asked_last: bool,
    next_chunk: u64,
    next_barrier: u64,
    reached: mpsc::Receiver<BarrierReached>,
    barriers: HashMap<u64, Barrier>,
    stuck_since: HashMap<(Uuid, Key), StuckSince>,
    /// Documents that the target refused for good.
    given_up: GivenUp,
    saves: mpsc::Sender<SaveRequest>,
    saving: Option<oneshot::Receiver<bool>>,
    next_save: Option<PendingCheckpoint>,
    /// Position of the last barrier that was sent to move the watermark.
    marked: Position,
    /// When that barrier was sent.
    last_barrier_at: Instant,
    dirty: bool,
    /// The checkpoint that the run started with. New checkpoints copy the fields that they do not set themselves.
    checkpoint: Checkpoint,
    cancel: CancellationToken,
}

struct ApplierOut {
    sender: mpsc::Sender<ApplierMessage>,
    buffer: Vec<Routed>,
    bytes: usize,
}

/// State of the appliers once all have applied everything they were sent.
pub(crate) struct Drained {
    /// What a run that resumes from here has to read again.
    unsettled: Unsettled,
    /// A position at or after the newest document state on the sink.
    ahead: Position,
}

/// When a document was first found to be stuck.
#[derive(Clone, Copy)]
struct StuckSince {
    time: Instant,
    /// The source's newest position at that time. Until it is routed, the document as read from the source can be refused because of
    /// another document whose change is still to come.
    position: Position,
}

impl Router {
    pub fn new(parts: RouterParts) -> Self {
        let (mut tracked, mut views) = (Collections::default(), BTreeMap::new());
        for mut collection in parts.collections {
            if parts.verify && !collection.verification.is_wanted() {
                collection.verification.begin();
            } else if !parts.verify {
                collection.verification = RangeVerification::default();
            }
            if collection.target.kind == CollectionKind::View {
                views.insert(collection.target.namespace.clone(), collection);
            } else {
                tracked.insert(collection.target.id, collection);
            }
        }
        Self {
            source: parts.source,
            sink: parts.sink,
            ownership: parts.ownership,
            builds: parts.builds,
            most_builds: parts.most_builds,
            selection: parts.selection,
            ddl: parts.ddl,
            events: parts.progress.events.clone(),
            tracked,
            views: Noticed::new(views),
            ghosts: parts.checkpoint.gone.iter().copied().collect(),
            replay_until: parts.replay_until,
            routed: parts.checkpoint.watermark,
            resume: parts.checkpoint.resume,
            progress: parts.progress,
            entries: parts.entries,
            requests: parts.requests,
            deferred: VecDeque::new(),
            idle: VecDeque::new(),
            finishing: Vec::new(),
            reports: Vec::new(),
            completing: None,
            compared: Vec::new(),
            appliers: parts
                .appliers
                .into_iter()
                .map(|sender| ApplierOut {
                    sender,
                    buffer: Vec::new(),
                    bytes: 0,
                })
                .collect(),
            applier_permits: Arc::new(Semaphore::new(parts.applier_bytes)),
            applier_bytes: parts.applier_bytes,
            held_back: HashMap::new(),
            held: 0,
            held_limit: parts.held_limit,
            hurried: false,
            chunk_bytes: parts.chunk_bytes,
            verify: parts.verify,
            changed_limit: parts.changed_limit,
            changed_room: 0,
            compare_again_at: Instant::now(),
            asked_last: false,
            next_chunk: 0,
            next_barrier: 0,
            reached: parts.reached,
            barriers: HashMap::new(),
            stuck_since: HashMap::new(),
            given_up: GivenUp::default(),
            saves: parts.saves,
            saving: None,
            next_save: None,
            marked: parts.checkpoint.watermark,
            last_barrier_at: Instant::now(),
            dirty: true,
            checkpoint: Checkpoint {
                collections: Vec::new(),
                ..parts.checkpoint
            },
            cancel: parts.cancel,
        }
    }

    /// Routes until the run ends.
    ///
    /// # Errors
    /// An entry cannot be applied, or the source or sink failed for good.
    pub async fn run(mut self) -> Result<()> {
        let mut tick = interval(BARRIER_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.update_progress();
        self.refetch_again().await?;
        loop {
            while let Some(request) = self.deferred.pop_front() {
                self.handle(request).await?;
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(()),
                Some(request) = self.requests.recv() => self.handle(request).await?,
                Some(reached) = self.reached.recv() => self.barrier_reached(reached).await?,
                Some(ended) = self.builds.ended() => self.build_ended(ended).await?,
                _ = tick.tick() => self.send_barrier_if_due().await?,
                entries = self.entries.recv() => {
                    let Some(read) = entries else { return Err(Error::stopped("follow the oplog")) };
                    self.route_all(read).await?;
                    self.finish_chunks().await?;
                    self.finish_checks().await?;
                    // There is nothing more to route, so the watermark need not wait for the next tick.
                    if self.entries.is_empty() && self.last_barrier_at.elapsed() >= BARRIER_INTERVAL {
                        tick.reset();
                        self.send_barrier_if_due().await?;
                    }
                }
            }
            self.flush_buffers().await?;
            self.serve_cutover().await?;
            self.serve_idle().await?;
            self.begin_builds();
        }
    }

    /// Routes entries. If they end within a transaction, also routes the entries that follow, up to its end. Nothing else is done before
    /// the whole transaction is routed, because no position says that a part of it is.
    async fn route_all(&mut self, mut read: ReadAhead) -> Result<()> {
        loop {
            let mut is_whole = true;
            for entry in read.entries {
                is_whole = !entry.continues;
                self.route(entry).await?;
            }
            drop(read.taken);
            if is_whole {
                return Ok(());
            }
            read = tokio::select! {
                () = self.cancel.cancelled() => return Err(Error::stopped("follow the oplog")),
                entries = self.entries.recv() => entries.ok_or_else(|| Error::stopped("follow the oplog"))?,
            };
        }
    }

    async fn route(&mut self, entry: Entry) -> Result<()> {
        if entry.position <= self.routed {
            // A tail that starts before a transaction that was open at the checkpoint repeats entries that are already durable. They must
            // not be applied again: if their collection was dropped since, its name may belong to another collection by now.
            self.resume = entry.resume;
            return Ok(());
        }
        if self.progress.late_writes.is_on() {
            self.note_late_writes(&entry);
        }
        if entry.continues {
            // Otherwise the comparisons would be held up by the whole transaction.
            self.stop_checks().await?;
        }
        let mut renamed = false;
        for item in entry.items {
            match item {
                Item::Change(change) => self.route_change(change).await?,
                Item::Command(command) => renamed |= self.apply_command(command).await?,
            }
        }
        if entry.continues {
            return Ok(());
        }
        self.routed = entry.position;
        self.resume = entry.resume;
        if renamed {
            // Replaying a rename after later entries could move another collection. So nothing may come between the rename and its
            // checkpoint.
            self.save_now(None).await?;
        }
        Ok(())
    }

    async fn route_change(&mut self, change: Change) -> Result<()> {
        let Some(tracked) = self.tracked.get_routed(&change.collection) else {
            if self.selection.contains(&change.namespace) && !self.ghosts.contains(&change.collection) {
                return Err(Error::new(
                    ErrorKind::UnsupportedEntry,
                    "route a change",
                    "it belongs to a collection whose creation was never seen",
                )
                .with_context("namespace", &change.namespace)
                .with_context("position", change.position));
            }
            return Ok(());
        };
        tracked.changes += 1;
        match tracked.route(&change.write.key, change.position) {
            Route::Drop => {
                self.progress.dropped.fetch_add(1, Relaxed);
                Ok(())
            }
            Route::Hold(chunk) => {
                self.held += tracked.hold(chunk, change);
                self.progress.held_bytes.store(self.held as u64, Relaxed);
                self.relieve().await
            }
            Route::HoldCheck => {
                let running = tracked.verification.running_mut();
                self.held += running.map_or(0, |running| running.hold(change));
                self.progress.held_bytes.store(self.held as u64, Relaxed);
                self.relieve().await
            }
            Route::Send => {
                if let Some(held_back) = self.held_back.get_mut(&change.collection) {
                    self.held += held_back.push(change);
                    self.progress.held_bytes.store(self.held as u64, Relaxed);
                    return self.relieve().await;
                }
                let target = Arc::clone(&tracked.target);
                let noted = tracked.verification.note(&change.write.key);
                self.noted(noted);
                let routed = Routed {
                    target,
                    position: change.position,
                    write: change.write,
                };
                self.send(routed).await
            }
        }
    }

    /// Buffers a change for the applier of its document.
    pub(crate) async fn send(&mut self, routed: Routed) -> Result<()> {
        let applier = self.applier_of(&routed.target, &routed.write.key);
        let out = &mut self.appliers[applier];
        let bytes = size_of::<Routed>() + routed.write.size_in_bytes();
        out.bytes += bytes;
        out.buffer.push(routed);
        if out.bytes >= APPLIER_BUFFER_BYTES {
            self.flush_buffer(applier).await
        } else {
            Ok(())
        }
    }

    fn applier_of(&self, target: &CollectionMapping, key: &Key) -> usize {
        let bytes = target.id.bytes();
        let collection = bytes
            .iter()
            .fold(0u64, |hash, byte| hash.rotate_left(5) ^ u64::from(*byte));
        // The order of all inserts into a capped collection is data, so they share one applier. So do `_id`s with a collation: two that
        // differ here may be equal to the collation.
        let document = match target.kind {
            CollectionKind::Capped => 0,
            CollectionKind::Unordered if key.is_collated() => 0,
            _ => key.stable_hash(),
        };
        ((collection ^ document) % self.appliers.len() as u64) as usize
    }

    async fn flush_buffer(&mut self, applier: usize) -> Result<()> {
        let out = &mut self.appliers[applier];
        if out.buffer.is_empty() {
            return Ok(());
        }
        let (changes, bytes) = (std::mem::take(&mut out.buffer), std::mem::take(&mut out.bytes));
        let permit = self.applier_permit(bytes).await?;
        self.message(applier, ApplierMessage::Changes { changes, bytes, permit })
            .await
    }

    /// Waits until the appliers have room for `bytes`. A single change can be larger than the whole budget. It then waits for all of it.
    async fn applier_permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.min(self.applier_bytes)).unwrap_or(u32::MAX);
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::stopped("apply changes")),
            permit = Arc::clone(&self.applier_permits).acquire_many_owned(permits) => {
                permit.map_err(|_| Error::stopped("apply changes"))
            }
        }
    }

    pub(crate) async fn flush_buffers(&mut self) -> Result<()> {
        for applier in 0..self.appliers.len() {
            self.flush_buffer(applier).await?;
        }
        Ok(())
    }

    async fn message(&self, applier: usize, message: ApplierMessage) -> Result<()> {
        // An applier that is gone has failed. Its own error is the one that counts.
        self.appliers[applier]
            .sender
            .send(message)
            .await
            .map_err(|_| Error::stopped("apply changes"))
    }

    async fn handle(&mut self, request: Request) -> Result<()> {
        match request {
            Request::Take { majority, reply } => self.idle.push_back((majority, reply)),
            Request::Finish { finished, reply } => {
                self.finishing.push((finished, reply));
                self.finish_chunks().await?;
            }
            Request::Release {
                collection,
                chunk,
                snapshot_refused,
            } => self.release(collection, chunk, snapshot_refused),
            Request::CopyAgain { collection, reply } => {
                self.stop_builds(collection).await?;
                self.drain().await?;
                if let Some(tracked) = self.tracked.get_mut(&collection) {
                    tracked.copy_again(self.verify);
                }
                self.given_up.forget(collection);
                self.update_progress();
                // A walker may create the collection again on the target. From then on no checkpoint may say that it is copied.
                self.save_now(None).await?;
                let _ = reply.send(());
            }
            Request::Checked {
                collection,
                chunk,
                result,
            } => self.checked(collection, chunk, result).await?,
            Request::Verify(request) => self.verify(request).await?,
            Request::WatchForLateWrites { reply } => {
                let _ = reply.send(self.watch_for_late_writes().await);
            }
            Request::Report { at, reply } => self.reports.push((at, reply)),
            Request::Save { reply } => {
                self.save_now(None).await?;
                let _ = reply.send(());
            }
            Request::States { reply } => {
                let _ = reply.send(self.states());
            }
            Request::Complete { late_writes, reply } => self.completing = Some((late_writes, reply)),
        }
        Ok(())
    }

    /// Updates the progress of the copy and the indexes, and the phase that follows from it.
    pub(crate) fn update_progress(&mut self) {
        self.count_changed();
        let copied = self.tracked.are_copied();
        if copied {
            self.tracked.advance_index_work(self.routed);
        }
        let indexed = self.tracked.are_indexed();
        self.progress.set_copied(copied, indexed);
        if self.verify {
            self.progress.set_all_compared(indexed && self.tracked.are_settled());
        }
        self.progress.set_cutover_work(self.tracked.cutover_work());
        // A run in `CatchUp` or `Ready` is not set back here: the work may be done within a moment. `watch_source` sets it back if not.
        let next = match (self.progress.phase(), copied, indexed) {
            (Phase::Preflight | Phase::Index, false, _) => Phase::Copy,
            (Phase::Preflight | Phase::Copy, true, false) => Phase::Index,
            (Phase::Preflight | Phase::Copy | Phase::Index, true, true) => Phase::CatchUp,
            _ => return,
        };
        self.progress.set_phase(next);
    }

    /// Notifies every applier that a collection is gone.
    pub(crate) async fn announce_drop(&mut self, collection: Uuid) -> Result<()> {
        for applier in 0..self.appliers.len() {
            self.message(applier, ApplierMessage::Dropped { collection }).await?;
        }
        self.stuck_since.retain(|(id, _), _| *id != collection);
        self.given_up.forget(collection);
        Ok(())
    }

    /// Notifies every applier that a collection was renamed.
    pub(crate) async fn announce_rename(&mut self, target: &Arc<CollectionMapping>) -> Result<()> {
        for applier in 0..self.appliers.len() {
            self.message(
                applier,
                ApplierMessage::Renamed {
                    target: Arc::clone(target),
                },
            )
            .await?;
        }
        Ok(())
    }
}
