//! The router: the one task that sees every change in order.
//!
//! It drops a change, holds it, or sends it to its applier. What it does with a change, a request or an answer is decided in [`state`]: a
//! function from the state and an input to actions, without I/O and without a clock. The task performs the actions in order, before it asks
//! for the next decision. What has to wait for answers is a loop of the task: draining the appliers, resolving stuck documents, stopping
//! chunks, saving a checkpoint at once, and changes of the catalog.
//!
//! # Routing table
//! For a change at `ts`. The first row that applies counts. Each one names its test.
//!
//! | The collection, or the range of the document, is | The change is | Test |
//! |---|---|---|
//! | not known and not selected | ignored | `a_change_outside_the_selection_is_ignored` |
//! | not known, and a later entry says what became of it | ignored | `a_change_of_a_ghost_is_ignored` |
//! | not known otherwise | an error | `a_change_of_a_collection_never_seen_is_an_error` |
//! | not read yet | dropped: a later snapshot has it | `a_change_of_an_unread_range_is_dropped` |
//! | in flight, and given up | dropped: the range is read again | `a_change_of_a_chunk_given_up_is_dropped` |
//! | in flight at `S`, `ts <= S` | dropped: the snapshot has it | `a_change_of_a_range_in_flight_is_held_after_its_position` |
//! | in flight at `S`, `ts > S` | held until the chunk is durable | `a_change_of_a_range_in_flight_is_held_after_its_position` |
//! | done at `S`, `ts <= S` | dropped: the copy has it | `a_change_that_the_copy_has_is_dropped` |
//! | done, and in the part that is compared at `low`, `ts > low` | held until the comparison ends | `a_change_of_a_part_being_compared_is_held` |
//! | done, and outside that part | sent | `a_change_below_the_part_being_compared_is_sent` |
//! | done, while a refused index is built again | held until the build ends | `a_change_is_held_back_while_a_refused_index_is_built_again` |
//! | done otherwise | sent | `a_change_of_a_done_range_is_sent` |
//!
//! # Invariants
//! All of them hold for random inputs: `random_inputs_keep_the_invariants`. Each one also has tests of its own:
//! - I1: a chunk is registered at a position at or after everything routed, so its snapshot has what was dropped before:
//!   `a_chunk_is_never_registered_before_what_is_routed`.
//! - I2: nothing held for a chunk is applied before the chunk's documents are durable: `held_changes_are_sent_once_their_chunk_is_durable`. A
//!   chunk does not count before every entry that could contradict its read is routed: `a_chunk_waits_for_entries_that_may_contradict_its_read`.
//! - I3: what is held takes a limited amount of memory. The steps are `everything_is_hurried_once_at_half_of_the_limit`,
//!   `comparisons_are_stopped_first_at_the_limit`, `held_back_changes_are_spilled_before_a_chunk_is_given_up`,
//!   `the_chunk_that_holds_most_is_given_up_last` and `a_chunk_of_a_collection_without_ranges_is_spilled`.
//! - I4: a checkpoint says of nothing that it is applied before it is: `a_checkpoint_is_saved_once_all_have_reached_its_barrier`,
//!   `a_watermark_stays_before_what_is_held_for_a_comparison`, `a_watermark_stays_before_what_is_held_back_for_an_index`,
//!   `a_range_in_flight_is_not_done_in_a_checkpoint`, `a_checkpoint_names_unsettled_documents`.
//! - I5: changes of one document are applied in source order. They go to one applier, `changes_of_a_document_go_to_one_applier`, and those
//!   that were held go before those that follow, `held_changes_are_sent_once_their_chunk_is_durable`.
//!   Nothing is compared while its changes are held back: `a_collection_whose_changes_are_held_back_is_not_compared`.
//! - I6: a transaction is routed as a whole, `nothing_is_done_between_parts_of_a_transaction`, and an entry that is shown once more is not
//!   routed once more, `an_entry_that_is_routed_is_not_routed_again`.

mod barriers;
mod builds;
mod chunks;
mod cutover;
#[cfg(feature = "test-util")]
pub(crate) mod fixture;
mod perform;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bson::Uuid;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::perform::ApplierOut;
use self::state::{Action, Routing, RoutingParts, RoutingState};
use crate::checkpoint::Checkpoint;
use crate::config::{CollectionRules, DdlPolicy};
use crate::engine::messages::{ApplierMessage, BarrierReached, ReadAhead, Report, Request, SaveRequest, Work};
use crate::engine::ownership::Ownership;
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, Result};
use crate::model::{Change, CollectionMapping, Position, Selection};
use crate::oplog::{Entry, Item};
use crate::report::Events;
use crate::runtime::index_builds::IndexBuilds;
use crate::runtime::limits::allowance::Allowance;
use crate::runtime::limits::memory::MemoryBudget;
use crate::runtime::progress::RunState;
use crate::runtime::shaping::Shaping;
use crate::sink::Sink;
use crate::source::Source;

pub(crate) use self::state::BARRIERS_PER_APPLIER;

/// Interval at which the watermark is moved.
const BARRIER_INTERVAL: Duration = Duration::from_millis(250);

/// Parameters of `Router::new`.
pub(crate) struct RouterParts {
    pub source: Arc<dyn Source>,
    pub shaping: Arc<Shaping>,
    pub sink: Arc<dyn Sink>,
    pub ownership: Arc<Ownership>,
    pub builds: OwnedMutexGuard<IndexBuilds>,
    /// Maximum number of concurrent index builds.
    pub most_builds: usize,
    pub selection: Selection,
    pub ddl: DdlPolicy,
    pub rules: CollectionRules,
    pub progress: Arc<RunState>,
    pub entries: mpsc::Receiver<ReadAhead>,
    pub requests: mpsc::Receiver<Request>,
    pub appliers: Vec<mpsc::Sender<ApplierMessage>>,
    /// Memory for changes queued or in flight in all appliers.
    pub applier_memory: MemoryBudget,
    /// Memory for held changes.
    pub held_memory: Allowance,
    pub chunk_bytes: u64,
    /// Memory for the `_id`s of documents that have changed since they were compared.
    pub changed_memory: Allowance,
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
    pub(crate) state: RoutingState,
    /// Actions that were decided and are not performed yet. Empty except between the two.
    actions: Vec<Action>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) shaping: Arc<Shaping>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) ownership: Arc<Ownership>,
    builds: OwnedMutexGuard<IndexBuilds>,
    most_builds: usize,
    pub(crate) ddl: DdlPolicy,
    pub(crate) events: Events,
    pub(crate) progress: Arc<RunState>,
    entries: mpsc::Receiver<ReadAhead>,
    requests: mpsc::Receiver<Request>,
    /// Requests that arrived while the router was waiting for something else.
    deferred: VecDeque<Request>,
    /// Walkers that wait for work.
    idle: VecDeque<(Position, oneshot::Sender<Work>)>,
    /// Requesters that wait for a position to be applied.
    reports: Vec<(Position, oneshot::Sender<Report>)>,
    /// A cutover that wants to end the migration, and the number of late writes that it knows of.
    completing: Option<(u64, oneshot::Sender<()>)>,
    appliers: Vec<ApplierOut>,
    applier_memory: MemoryBudget,
    reached: mpsc::Receiver<BarrierReached>,
    saves: mpsc::Sender<SaveRequest>,
    saving: Option<oneshot::Receiver<bool>>,
    cancel: CancellationToken,
}

impl Router {
    pub fn new(mut parts: RouterParts) -> Self {
        let applied = parts.progress.collections.applied();
        for collection in &mut parts.collections {
            collection.applied = applied.get(&collection.target.id).copied().unwrap_or_default();
        }
        let state = RoutingParts {
            selection: parts.selection,
            rules: parts.rules,
            appliers: parts.appliers.len(),
            held_memory: parts.held_memory,
            chunk_bytes: parts.chunk_bytes,
            changed_memory: parts.changed_memory,
            cancel: parts.cancel.clone(),
            checkpoint: parts.checkpoint,
            collections: parts.collections,
            replay_until: parts.replay_until,
        };
        Self {
            state: RoutingState::new(state, Instant::now()),
            actions: Vec::new(),
            source: parts.source,
            shaping: parts.shaping,
            sink: parts.sink,
            ownership: parts.ownership,
            builds: parts.builds,
            most_builds: parts.most_builds,
            ddl: parts.ddl,
            events: parts.progress.events.clone(),
            progress: parts.progress,
            entries: parts.entries,
            requests: parts.requests,
            deferred: VecDeque::new(),
            idle: VecDeque::new(),
            reports: Vec::new(),
            completing: None,
            appliers: parts.appliers.into_iter().map(ApplierOut::new).collect(),
            applier_memory: parts.applier_memory,
            reached: parts.reached,
            saves: parts.saves,
            saving: None,
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
        self.state.refetch_again(&mut self.actions);
        self.perform().await?;
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
                    self.finish().await?;
                    // There is nothing more to route, so the watermark need not wait for the next tick.
                    if self.entries.is_empty() && self.state.last_barrier_at.elapsed() >= BARRIER_INTERVAL {
                        tick.reset();
                        self.send_barrier_if_due().await?;
                    }
                }
            }
            self.state.share_memory();
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
        if !self.state.begin_entry(entry.position, entry.resume) {
            return Ok(());
        }
        if self.progress.late_writes.is_on() {
            let writes = self.state.late_writes_of(&entry);
            self.progress.late_writes.note(entry.position, entry.continues, writes);
        }
        if entry.continues {
            // Otherwise the comparisons would be held up by the whole transaction.
            self.stop_checks().await?;
        }
        let now = Instant::now();
        let mut renamed = false;
        for item in entry.items {
            match item {
                Item::Change(change) => self.route_change(change, now).await?,
                Item::Command(command) => renamed |= self.apply_command(command).await?,
            }
        }
        if entry.continues {
            return Ok(());
        }
        self.state.end_entry(entry.position, entry.resume);
        if renamed {
            // Replaying a rename after later entries could move another collection. So nothing may come between the rename and its
            // checkpoint.
            self.save_now(None).await?;
        }
        Ok(())
    }

    async fn route_change(&mut self, change: Change, now: Instant) -> Result<()> {
        match self.state.change(change, now, &mut self.actions)? {
            Routing::Send(applier, routed) => self.send(applier, routed).await,
            Routing::Ignored => Ok(()),
            Routing::Dropped | Routing::Held if self.actions.is_empty() => {
                self.publish();
                Ok(())
            }
            Routing::Dropped | Routing::Held => self.perform().await,
        }
    }

    /// Ends chunks and comparisons whose reads no entry can contradict any more.
    async fn finish(&mut self) -> Result<()> {
        self.state.finish_chunks(&mut self.actions);
        self.perform().await?;
        self.state.finish_checks(Instant::now(), &mut self.actions);
        self.perform().await
    }

    async fn handle(&mut self, request: Request) -> Result<()> {
        let now = Instant::now();
        match request {
            Request::Take { majority, reply } => self.idle.push_back((majority, reply)),
            Request::Finish { finished, reply } => {
                self.state.finishing.push((finished, reply));
                self.state.finish_chunks(&mut self.actions);
            }
            Request::Release {
                collection,
                chunk,
                snapshot_refused,
            } => self.state.release(collection, chunk, snapshot_refused),
            Request::CopyAgain { collection, reply } => {
                self.copy_again(collection).await?;
                let _ = reply.send(());
            }
            Request::Checked {
                collection,
                chunk,
                result,
            } => self.state.checked((collection, chunk), result, now, &mut self.actions),
            Request::Verify(request) => self.state.verify(request, now, &mut self.actions),
            Request::WatchForLateWrites { reply } => {
                let _ = reply.send(self.watch_for_late_writes().await);
            }
            Request::Report { at, reply } => self.reports.push((at, reply)),
            Request::Save { reply } => {
                self.save_now(None).await?;
                let _ = reply.send(());
            }
            Request::States { reply } => {
                let _ = reply.send(self.state.states());
            }
            Request::Complete { late_writes, reply } => self.completing = Some((late_writes, reply)),
        }
        self.perform().await
    }

    /// Starts copying a collection from the beginning.
    async fn copy_again(&mut self, collection: Uuid) -> Result<()> {
        self.stop_builds(collection).await?;
        self.drain().await?;
        self.state.copy_again(collection);
        self.update_progress();
        // A walker may create the collection again on the target. From then on no checkpoint may say that it is copied.
        self.save_now(None).await
    }

    /// Updates the progress of the copy and the indexes, and the phase that follows from it.
    pub(crate) fn update_progress(&mut self) {
        let progress = self.state.advance();
        self.show(progress);
    }

    /// Notifies every applier that a collection is gone.
    pub(crate) async fn announce_drop(&mut self, collection: Uuid) -> Result<()> {
        for applier in 0..self.appliers.len() {
            self.message(applier, ApplierMessage::Dropped { collection }).await?;
        }
        self.state.forget_documents(collection);
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
