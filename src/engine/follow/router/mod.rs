//! The one task that sees every change in order and drops it, holds it or sends it to its applier.

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

/// How often the watermark is moved.
const BARRIER_INTERVAL: Duration = Duration::from_millis(250);

/// Changes are sent to an applier when so many bytes have come together, or when the router has nothing else to do.
const APPLIER_BUFFER_BYTES: usize = 256 << 10;

/// What the router is made from.
pub(crate) struct RouterParts {
    pub source: Arc<dyn Source>,
    pub sink: Arc<dyn Sink>,
    pub ownership: Arc<Ownership>,
    pub builds: OwnedMutexGuard<IndexBuilds>,
    /// How many indexes are built at the same time.
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
    /// Whether collections are compared all the time.
    pub verify: bool,
    /// So many bytes of `_id`s are kept of documents that have changed since they were compared.
    pub changed_limit: usize,
    pub reached: mpsc::Receiver<BarrierReached>,
    pub saves: mpsc::Sender<SaveRequest>,
    pub cancel: CancellationToken,
    /// The checkpoint to go on from.
    pub checkpoint: Checkpoint,
    pub collections: Vec<CollectionProgress>,
    /// Changes up to here may have been applied by an earlier run already.
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
    /// Collections that were renamed into the selection but are gone from the source by now: a later entry says how.
    pub(crate) ghosts: HashSet<Uuid>,
    /// Changes up to here may have been applied by an earlier run already.
    pub(crate) replay_until: Position,
    /// The position up to which everything has been routed, and where a tail would have to start again.
    pub(crate) routed: Position,
    resume: Position,
    pub(crate) progress: Arc<RunState>,
    entries: mpsc::Receiver<ReadAhead>,
    requests: mpsc::Receiver<Request>,
    /// Requests that came while the router was waiting for something else.
    deferred: VecDeque<Request>,
    idle: VecDeque<(Position, oneshot::Sender<Work>)>,
    finishing: Vec<(Finished, oneshot::Sender<()>)>,
    /// Who waits for a position to be applied.
    reports: Vec<(Position, oneshot::Sender<Report>)>,
    /// A cutover that wants to end the migration, and how many late writes it knows of.
    completing: Option<(u64, oneshot::Sender<()>)>,
    /// What was found by comparing ranges, and does not count yet.
    compared: Vec<(Uuid, ChunkId, Compared)>,
    appliers: Vec<ApplierOut>,
    applier_permits: Arc<Semaphore>,
    applier_bytes: usize,
    /// The changes of collections that stand still for the sake of an index.
    held_back: HashMap<Uuid, BlockedByIndex>,
    held: usize,
    held_limit: usize,
    /// Whether everything that changes are held for was asked to come to its end.
    hurried: bool,
    chunk_bytes: u64,
    pub(crate) verify: bool,
    changed_limit: usize,
    /// So many bytes more can be noted.
    changed_room: usize,
    /// What has changed is not compared again before, unless there is little room left.
    compare_again_at: Instant,
    /// Whether a walker was last given something to compare that somebody waits for.
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
    /// How far the last barrier was, and when it was sent.
    marked: Position,
    marked_at: Instant,
    dirty: bool,
    /// What a new checkpoint has from the one that the run began with.
    checkpoint: Checkpoint,
    cancel: CancellationToken,
}

struct ApplierOut {
    sender: mpsc::Sender<ApplierMessage>,
    buffer: Vec<Routed>,
    bytes: usize,
}

/// The state of the appliers when all have applied everything they were sent.
pub(crate) struct Drained {
    /// What a run that goes on from here has to read again.
    unsettled: Unsettled,
    /// A position at or after the newest state of a document on the sink.
    ahead: Position,
}

/// When a document was first found to be stuck.
#[derive(Clone, Copy)]
struct StuckSince {
    time: Instant,
    /// The source's newest position then. Until it is routed the document, read from the source, can be refused for the sake of another
    /// one whose change is still to come.
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
            marked_at: Instant::now(),
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
    /// An entry that cannot be applied, or what source or sink answered for good.
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
                    // With nothing more to route the watermark need not wait for the next tick.
                    if self.entries.is_empty() && self.marked_at.elapsed() >= BARRIER_INTERVAL {
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

    /// Routes entries, and those that follow where they end within a transaction: nothing else is done before all of it is routed, since no
    /// position says that a part of it is.
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
            // A tail that starts before a transaction that was open at the checkpoint shows again what is durable already. It must not be
            // applied again: to a collection that was dropped since, it would do so under a name that may be another's by now.
            self.resume = entry.resume;
            return Ok(());
        }
        if self.progress.late_writes.is_on() {
            self.note_late_writes(&entry);
        }
        if entry.continues {
            // What is compared would be held up for as long as the whole transaction takes.
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
            // Replaying a rename after later entries could move another collection, so nothing may come between it and its checkpoint.
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

    /// Puts a change into the buffer of its document's applier.
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
        // The order of all inserts of a capped collection is data, and `_id`s that differ here may be one to a collation, so they share a
        // applier.
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

    /// Waits until the appliers have room for so many bytes. A single change can be larger than the whole share; it then waits for all of it.
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
        // An applier that is gone has failed; its own error is the one that counts.
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
                // A walker may make it anew on the target, after which no checkpoint may say that it is copied.
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

    /// Tells the host how far the copy and the indexes are.
    pub(crate) fn update_progress(&mut self) {
        self.count_changed();
        let copied = self.tracked.are_copied();
        if copied {
            self.tracked.advance_index_work(self.routed);
        }
        let indexed = self.tracked.are_indexed();
        let all_compared = self.verify && indexed && self.tracked.are_settled();
        self.progress.set_all_compared(all_compared);
        self.progress.set_copied(copied, indexed);
        // A run that is catching up or ready goes back to these phases when the work has turned out not to be done within a moment.
        let next = match (self.progress.phase(), copied, indexed) {
            (Phase::Preflight | Phase::Index, false, _) => Phase::Copy,
            (Phase::Preflight | Phase::Copy, true, false) => Phase::Index,
            (Phase::Preflight | Phase::Copy | Phase::Index, true, true) => Phase::CatchUp,
            _ => return,
        };
        self.progress.set_phase(next);
    }

    /// Tells every applier that a collection is gone.
    pub(crate) async fn announce_drop(&mut self, collection: Uuid) -> Result<()> {
        for applier in 0..self.appliers.len() {
            self.message(applier, ApplierMessage::Dropped { collection }).await?;
        }
        self.stuck_since.retain(|(id, _), _| *id != collection);
        self.given_up.forget(collection);
        Ok(())
    }

    /// Tells every applier that a collection has another name now.
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
