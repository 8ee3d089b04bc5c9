//! The router's decisions: functions from its state and an input to actions. Does no I/O and knows no clock.
//!
//! The task in [`router`](super) performs the actions in order, before it asks for the next decision. Tokens and reply channels are values
//! here: they are passed on with an action, and nothing but an action uses them.

mod actions;
mod barriers;
mod builds;
mod checkpoints;
mod chunks;
mod comparisons;
mod late_writes;
mod relief;
mod replay;
mod stuck;
#[cfg(test)]
mod tests;
mod verification;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bson::Uuid;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::barriers::Barrier;
use self::builds::BlockedByIndex;
use self::stuck::StuckSince;
use crate::checkpoint::{Checkpoint, PendingCheckpoint};
use crate::config::CollectionRules;
use crate::engine::messages::{Finished, Routed};
use crate::engine::track::collection::{CollectionProgress, Route};
use crate::engine::track::collections::{Collections, Noticed};
use crate::engine::track::ranges::ChunkId;
use crate::engine::track::verification::{Compared, RangeVerification};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Change, CollectionKind, CollectionMapping, Namespace, Position, Selection, Write};
use crate::order::Key;
use crate::runtime::limits::allowance::Allowance;

pub(crate) use self::actions::{Action, CopyProgress, Reply, Routing};
pub(crate) use self::barriers::BARRIERS_PER_APPLIER;
pub(crate) use self::builds::Ended;
pub(crate) use self::checkpoints::CheckpointFacts;
pub(crate) use self::replay::{Replay, ReplayStep};
pub(crate) use self::stuck::{GivenUp, Resolution};

/// What [`RoutingState::new`] starts from.
pub(crate) struct RoutingParts {
    pub selection: Selection,
    pub rules: CollectionRules,
    /// Number of appliers.
    pub appliers: usize,
    /// Memory for held changes.
    pub held_memory: Allowance,
    pub chunk_bytes: u64,
    /// Memory for the `_id`s of documents that have changed since they were compared.
    pub changed_memory: Allowance,
    /// Stops the run. The tokens of chunks and comparisons are its children.
    pub cancel: CancellationToken,
    /// The checkpoint to resume from.
    pub checkpoint: Checkpoint,
    pub collections: Vec<CollectionProgress>,
    /// Changes up to here may already have been applied by an earlier run.
    pub replay_until: Position,
}

/// What the router knows, and decides by.
pub(crate) struct RoutingState {
    pub selection: Selection,
    pub tracked: Collections,
    /// Whether some collection may be compared while the run follows the source.
    any_continuous: bool,
    pub views: Noticed<BTreeMap<Namespace, CollectionProgress>>,
    /// Collections that were renamed into the selection, but were renamed again or dropped since. A later entry says which.
    /// Each with its name, unless an earlier version wrote the checkpoint.
    pub ghosts: HashMap<Uuid, Option<Namespace>>,
    /// Changes up to here may already have been applied by an earlier run.
    pub replay_until: Position,
    /// Position up to which everything is routed.
    pub routed: Position,
    /// Position from which a tail would have to start again.
    resume: Position,
    /// Number of appliers.
    appliers: usize,
    /// Chunks whose documents are durable, and that wait for entries that could contradict their reads.
    pub finishing: Vec<(Finished, oneshot::Sender<()>)>,
    /// Results of comparisons that do not count yet.
    compared: Vec<(Uuid, ChunkId, Compared)>,
    /// Changes of collections that are held back for an index build.
    held_back: HashMap<Uuid, BlockedByIndex>,
    /// Memory taken by everything that is held, in bytes.
    pub held: usize,
    pub held_limit: usize,
    held_memory: Allowance,
    /// Number of changes that were dropped and are not counted elsewhere yet.
    pub dropped: u64,
    /// Whether everything that changes are held for was asked to finish.
    hurried: bool,
    chunk_bytes: u64,
    changed_limit: usize,
    changed_memory: Allowance,
    /// Number of bytes that can still be noted as changed.
    changed_room: usize,
    /// Changed documents are not compared again before this time, unless there is little room left.
    compare_again_at: Instant,
    /// Whether the last work given to a walker was a comparison that somebody waits for.
    asked_last: bool,
    next_chunk: u64,
    next_barrier: u64,
    pub barriers: HashMap<u64, Barrier>,
    stuck_since: HashMap<(Uuid, Key), StuckSince>,
    /// Documents that the target refused for good.
    given_up: GivenUp,
    /// Whether everything was copied and indexed when the progress was last computed.
    is_indexed: bool,
    /// Whether a checkpoint is being saved.
    is_saving: bool,
    /// The checkpoint to save after that.
    next_save: Option<PendingCheckpoint>,
    /// Position of the last barrier that was sent to move the watermark.
    marked: Position,
    /// When that barrier was sent.
    pub last_barrier_at: Instant,
    /// Whether there is something to save, even if nothing is routed.
    pub dirty: bool,
    /// The checkpoint that the run started with. New checkpoints copy the fields that they do not set themselves.
    checkpoint: Checkpoint,
    cancel: CancellationToken,
}

/// What decisions depend on besides the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside {
    pub now: Instant,
    /// Time of the source's newest known position.
    pub newest: u32,
    /// Whether a cutover has stopped the source's writers.
    pub is_handing_over: bool,
}

impl RoutingState {
    pub fn new(parts: RoutingParts, now: Instant) -> Self {
        let (mut tracked, mut views) = (Collections::new(parts.rules.clone()), BTreeMap::new());
        for mut collection in parts.collections {
            collection.rule = parts.rules.of(&collection.target.namespace);
            match collection.rule.is_continuous() {
                true if collection.verification.is_wanted() => {}
                is_continuous => collection.verification = RangeVerification::wanted_if(is_continuous),
            }
            if collection.target.kind == CollectionKind::View {
                views.insert(collection.target.namespace.clone(), collection);
            } else {
                tracked.insert(collection.target.id, collection);
            }
        }
        Self {
            selection: parts.selection,
            tracked,
            views: Noticed::new(views),
            ghosts: parts.checkpoint.gone_with_names().collect(),
            replay_until: parts.replay_until,
            routed: parts.checkpoint.watermark,
            resume: parts.checkpoint.resume,
            any_continuous: parts.rules.any_continuous(),
            appliers: parts.appliers,
            finishing: Vec::new(),
            compared: Vec::new(),
            held_back: HashMap::new(),
            held: 0,
            held_limit: parts.held_memory.limit(),
            held_memory: parts.held_memory,
            dropped: 0,
            hurried: false,
            chunk_bytes: parts.chunk_bytes,
            changed_limit: parts.changed_memory.limit(),
            changed_memory: parts.changed_memory,
            changed_room: 0,
            compare_again_at: now,
            asked_last: false,
            next_chunk: 0,
            next_barrier: 0,
            barriers: HashMap::new(),
            stuck_since: HashMap::new(),
            given_up: GivenUp::default(),
            is_indexed: false,
            is_saving: false,
            next_save: None,
            marked: parts.checkpoint.watermark,
            last_barrier_at: now,
            dirty: true,
            checkpoint: Checkpoint {
                collections: Vec::new(),
                ..parts.checkpoint
            },
            cancel: parts.cancel,
        }
    }

    /// Begins an entry. Returns `false` if its items are to be skipped.
    ///
    /// A tail that starts before a transaction that was open at the checkpoint repeats entries that are already durable. They must not be
    /// applied again: if their collection was dropped since, its name may belong to another collection by now.
    pub fn begin_entry(&mut self, position: Position, resume: Position) -> bool {
        let is_new = position > self.routed;
        if !is_new {
            self.resume = resume;
        }
        is_new
    }

    /// Decides about one change. It is dropped, held or sent, and nothing else.
    ///
    /// # Errors
    /// [`UnsupportedEntry`](ErrorKind::UnsupportedEntry) if it belongs to a collection that is not known and should be.
    pub fn change(&mut self, change: Change, now: Instant, actions: &mut Vec<Action>) -> Result<Routing> {
        let Some(tracked) = self.tracked.get_routed(&change.collection) else {
            if self.selection.contains(&change.namespace) && !self.ghosts.contains_key(&change.collection) {
                return Err(Error::new(
                    ErrorKind::UnsupportedEntry,
                    "route a change",
                    "it belongs to a collection whose creation was never seen",
                )
                .with_context("namespace", &change.namespace)
                .with_context("position", change.position));
            }
            return Ok(Routing::Ignored);
        };
        tracked.changes += 1;
        match tracked.route(&change.write.key, change.position) {
            Route::Drop => {
                self.dropped += 1;
                return Ok(Routing::Dropped);
            }
            Route::Hold(chunk) => {
                self.held += tracked.hold(chunk, change);
            }
            Route::HoldCheck => {
                let running = tracked.verification.running_mut();
                self.held += running.map_or(0, |running| running.hold(change));
            }
            Route::Send => {
                let Some(held_back) = self.held_back.get_mut(&change.collection) else {
                    tracked.applied += 1;
                    let target = Arc::clone(&tracked.target);
                    let noted = tracked.verification.note(&change.write.key, now);
                    self.noted(noted, now);
                    let (position, write) = (change.position, change.write);
                    return Ok(self.send(target, position, write));
                };
                self.held += held_back.push(change);
            }
        }
        self.relieve(now, actions);
        Ok(Routing::Held)
    }

    /// Ends an entry. Everything up to its position is routed. Not called within a transaction, because no position says that a part of it
    /// is routed (I6).
    pub fn end_entry(&mut self, position: Position, resume: Position) {
        self.routed = position;
        self.resume = resume;
    }

    /// Sends a change that was held back, and notes that its document has changed since it was compared.
    pub fn send_on(&mut self, collection: Uuid, position: Position, write: Write, now: Instant) -> Routing {
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return Routing::Ignored;
        };
        tracked.applied += 1;
        let target = Arc::clone(&tracked.target);
        let noted = tracked.verification.note(&write.key, now);
        self.noted(noted, now);
        self.send(target, position, write)
    }

    /// Counts a change that was held and is sent now.
    pub fn count_applied(&mut self, collection: Uuid) {
        if let Some(tracked) = self.tracked.get_routed(&collection) {
            tracked.applied += 1;
        }
    }

    /// Sends a change to the applier of its document.
    pub fn send(&self, target: Arc<CollectionMapping>, position: Position, write: Write) -> Routing {
        let applier = self.applier_of(&target, &write.key);
        Routing::Send(
            applier,
            Routed {
                target,
                position,
                write,
            },
        )
    }

    /// Returns the applier of a document. It is always the same, so that changes of the document stay in order (I5).
    pub fn applier_of(&self, target: &CollectionMapping, key: &Key) -> usize {
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
        ((collection ^ document) % self.appliers as u64) as usize
    }

    /// Advances what follows from the work that is done, and returns what remains.
    pub fn advance(&mut self) -> CopyProgress {
        self.count_changed();
        let is_copied = self.tracked.are_copied();
        if is_copied {
            self.tracked.advance_index_work(self.routed);
        }
        let is_indexed = self.tracked.are_indexed();
        self.is_indexed = is_copied && is_indexed;
        CopyProgress {
            is_copied,
            is_indexed,
            all_compared: self.any_continuous && is_indexed && self.tracked.are_settled(),
            cutover: self.tracked.cutover_work(),
        }
    }

    /// Resets a collection, so that it is copied again.
    pub fn copy_again(&mut self, collection: Uuid) {
        if let Some(tracked) = self.tracked.get_mut(&collection) {
            tracked.copy_again();
        }
        self.given_up.forget(collection);
    }

    /// Forgets what is stuck or given up in a collection that is gone.
    pub fn forget_documents(&mut self, collection: Uuid) {
        self.stuck_since.retain(|(id, _), _| *id != collection);
        self.given_up.forget(collection);
    }
}
