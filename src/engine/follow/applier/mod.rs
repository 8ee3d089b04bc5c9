//! Applies changes to the sink.
//!
//! All changes of one document go through the same applier, in source order.

pub(crate) mod coalesce;
mod images;
mod refetch;
mod refetched;
mod refused;
#[cfg(test)]
mod tests;
mod unsettled;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bson::Uuid;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span};

use self::images::{Images, Step};
#[cfg(feature = "test-util")]
pub(crate) use self::refetched::refetched_for_bench;
use self::refetched::{Known, RefetchedDocuments};
use self::refused::RefusedDocuments;
use crate::engine::follow::applier::coalesce::coalesce;
use crate::engine::messages::{ApplierMessage, BarrierReached, Routed};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{CollectionKind, CollectionMapping, Operation, Position, Write};
use crate::oplog::delta::{self, DeltaFormat, format_of};
use crate::order::Key;
use crate::report::TARGET;
use crate::runtime::limits::allowance::Allowance;
use crate::runtime::limits::memory::MemoryPermit;
use crate::runtime::progress::RunState;
use crate::runtime::shaping::{Outcomes, Shaping};
use crate::sink::{RefusalReason, Sink};
use crate::source::Source;

/// Maximum rest after a batch. An applier rests for as long as the batch took, so that more changes come together. Per change, a command
/// with few changes costs the target many times more than a command with many.
const MOST_REST: Duration = Duration::from_millis(50);

/// Number of bytes of changes that are worth a command. The applier does not wait for more.
const WORTHWHILE: usize = 256 << 10;

/// Parameters of `Applier::new`.
pub(crate) struct ApplierParts {
    pub index: usize,
    /// Its documents have the form that the rules give them.
    pub source: Arc<dyn Source>,
    pub shaping: Arc<Shaping>,
    pub sink: Arc<dyn Sink>,
    pub progress: Arc<RunState>,
    pub messages: mpsc::Receiver<ApplierMessage>,
    pub reached: mpsc::Sender<BarrierReached>,
    /// Limit in bytes for what the applier remembers of refetched documents.
    pub refetched: Allowance,
    /// Limit in bytes for the documents that the sink refused, with their changes.
    pub refused: Allowance,
    /// Bytes of changes to apply at once. In a larger batch more changes are coalesced, and the target writes a page once for many of them.
    pub batch_bytes: usize,
    /// Changes up to here may already have been applied by an earlier run.
    pub replay_until: Position,
}

/// Applies the changes of the documents that are assigned to it.
pub(crate) struct Applier {
    index: usize,
    source: Arc<dyn Source>,
    shaping: Arc<Shaping>,
    sink: Arc<dyn Sink>,
    progress: Arc<RunState>,
    messages: mpsc::Receiver<ApplierMessage>,
    reached: mpsc::Sender<BarrierReached>,
    batch_bytes: usize,
    replay_until: Position,
    refetched: RefetchedDocuments,
    /// Collections with rules. When one is renamed, it is copied again, so that no read can have been misled.
    ruled: HashSet<Uuid>,
    refused: RefusedDocuments,
    /// Collections with a unique index that refused a write. Their writes stay in source order: in another order more would be refused.
    in_source_order: HashSet<Uuid>,
    /// When images are read at the positions of their changes again, after the source had no snapshot of one.
    images_exact_from: Instant,
    /// A message that was received and not handled yet.
    next: Option<ApplierMessage>,
    /// Until then a small batch waits for more changes.
    rested: Instant,
}

/// Changes that are added to a batch.
struct MoreChanges {
    changes: Vec<Routed>,
    bytes: usize,
    permit: MemoryPermit,
}

/// The writes to one collection, in order.
type Group = (Arc<CollectionMapping>, Vec<(Position, Write)>);

/// Changes by collection, and the documents to read from the source again instead.
#[derive(Default)]
struct Sorted {
    groups: Vec<Group>,
    to_refetch: Vec<(Arc<CollectionMapping>, Vec<Key>)>,
    /// For each group, the documents of which only the image says what they are on the target.
    images: Vec<Images>,
    /// What became of the documents to which rules apply, by group.
    outcomes: Vec<Outcomes>,
}

impl Applier {
    pub fn new(parts: ApplierParts) -> Self {
        Self {
            index: parts.index,
            source: parts.source,
            shaping: parts.shaping,
            sink: parts.sink,
            progress: parts.progress,
            messages: parts.messages,
            reached: parts.reached,
            batch_bytes: parts.batch_bytes,
            replay_until: parts.replay_until,
            refetched: RefetchedDocuments::new(parts.refetched),
            refused: RefusedDocuments::new(parts.refused),
            ruled: HashSet::new(),
            in_source_order: HashSet::new(),
            images_exact_from: Instant::now(),
            next: None,
            rested: Instant::now(),
        }
    }

    /// Handles messages until the router is gone or the run is cancelled.
    ///
    /// # Errors
    /// The source or sink failed for good. The run then goes back to its last checkpoint.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        loop {
            let message = match self.next.take() {
                Some(message) => message,
                None => match self.messages.recv().await {
                    Some(message) => message,
                    None => return Ok(()),
                },
            };
            if cancel.is_cancelled() {
                // Queued changes must not be applied any more: another process may have taken over.
                return Ok(());
            }
            self.handle(message, &cancel).await?;
        }
    }

    async fn handle(&mut self, message: ApplierMessage, cancel: &CancellationToken) -> Result<()> {
        match message {
            ApplierMessage::Changes {
                mut changes,
                mut bytes,
                permit,
            } => {
                let mut permits = vec![permit];
                while bytes < self.batch_bytes
                    && let Some(more) = self.more_changes(bytes).await
                {
                    changes.extend(more.changes);
                    bytes += more.bytes;
                    permits.push(more.permit);
                }
                let (started, count) = (Instant::now(), changes.len() as u64);
                let span = debug_span!(target: TARGET, "batch", applier = self.index, changes = count, bytes);
                self.apply(changes, cancel).instrument(span).await?;
                let elapsed = started.elapsed();
                #[cfg(feature = "metrics")]
                self.progress.metrics.note_batch(count, elapsed);
                self.rested = Instant::now() + elapsed.min(MOST_REST);
            }
            ApplierMessage::Refetch { target, keys, permit } => {
                self.refetch(&target, keys).await?;
                drop(permit);
            }
            ApplierMessage::Dropped { collection } => {
                self.refetched.forget(collection);
                self.refused.forget(collection);
                self.in_source_order.remove(&collection);
                self.ruled.remove(&collection);
            }
            ApplierMessage::Renamed { target } => {
                self.refused.rename(&target);
                self.refetch_all(&target).await?;
            }
            ApplierMessage::Barrier {
                id,
                routed,
                unsettled_bytes,
            } => {
                self.refetched.pass(routed);
                let (stuck, more_stuck) = self.refused.stuck(self.index);
                let reached = BarrierReached {
                    id,
                    stuck,
                    more_stuck,
                    unsettled: unsettled::names(&self.refetched, &self.refused, &self.ruled, unsettled_bytes),
                    ahead: self.refetched.ahead(),
                };
                // The router may be gone when the run ends. Nobody needs the answer then.
                let _ = self.reached.send(reached).await;
            }
            ApplierMessage::Resolve { stuck, step, reply } => {
                let resolved = self.resolve(&stuck, step).await?;
                let _ = reply.send(resolved);
            }
        }
        Ok(())
    }

    /// Returns further changes for a batch that has `bytes` bytes. If the batch is small, waits a moment for them. Any other message is kept
    /// and ends the batch.
    async fn more_changes(&mut self, bytes: usize) -> Option<MoreChanges> {
        let message = match self.messages.try_recv() {
            Ok(message) => message,
            Err(_) if bytes >= WORTHWHILE => return None,
            Err(_) => timeout_at(self.rested, self.messages.recv()).await.ok().flatten()?,
        };
        match message {
            ApplierMessage::Changes { changes, bytes, permit } => Some(MoreChanges { changes, bytes, permit }),
            other => {
                self.next = Some(other);
                None
            }
        }
    }

    async fn apply(&mut self, changes: Vec<Routed>, cancel: &CancellationToken) -> Result<()> {
        let applied = changes.len() as u64;
        let Sorted {
            groups,
            to_refetch,
            images,
            outcomes,
        } = self.sort(changes)?;
        for ((target, _), outcomes) in groups.iter().zip(outcomes) {
            self.shaping.settle(&target.namespace, outcomes).await?;
        }
        let targets: Vec<Arc<CollectionMapping>> = groups.iter().map(|(target, _)| Arc::clone(target)).collect();
        for (target, writes) in groups {
            if cancel.is_cancelled() {
                // The rest may take longer than a run is given to end.
                return Ok(());
            }
            self.apply_group(&target, writes).await?;
        }
        for (target, mut keys) in to_refetch {
            keys.sort_unstable();
            keys.dedup();
            self.refetch(&target, keys).await?;
        }
        for (target, images) in targets.iter().zip(images) {
            if cancel.is_cancelled() {
                return Ok(());
            }
            self.write_images(target, images).await?;
        }
        self.progress.applied.fetch_add(applied, Relaxed);
        Ok(())
    }

    /// Sorts changes by collection. Leaves out those that a refetched document contains, queues those of refused documents, and gives
    /// documents the form that they have on the target.
    ///
    /// # Errors
    /// [`Rule`](ErrorKind::Rule) if a rule failed and the run has to end then.
    fn sort(&mut self, changes: Vec<Routed>) -> Result<Sorted> {
        let Sorted {
            mut groups,
            mut to_refetch,
            mut images,
            mut outcomes,
        } = Sorted::default();
        let newest = changes.last().map_or(Position::ZERO, |last| last.position);
        let mut group_of: HashMap<Uuid, usize> = HashMap::new();
        let mut read_until: HashMap<Uuid, Position> = HashMap::new();
        for Routed {
            target,
            position,
            mut write,
        } in changes
        {
            let group = *group_of.entry(target.id).or_insert_with(|| {
                groups.push((Arc::clone(&target), Vec::new()));
                to_refetch.push((Arc::clone(&target), Vec::new()));
                images.push(Images::new(self.shaping.of(&target.namespace), newest));
                outcomes.push(self.shaping.outcomes());
                groups.len() - 1
            });
            if !(self.refetched.is_empty() && self.refused.is_empty()) {
                let document = (target.id, write.key.clone());
                match self.refetched.know(&document, position) {
                    Known::Contained => continue,
                    Known::Unclear => {
                        to_refetch[group].1.push(write.key);
                        continue;
                    }
                    Known::Nothing => {}
                }
                if target.kind == CollectionKind::Unordered && write.key.is_collated() {
                    let until = read_until.entry(target.id);
                    if position <= *until.or_insert_with(|| self.refetched.collated_until(target.id)) {
                        to_refetch[group].1.push(write.key);
                        continue;
                    }
                }
            }
            let mut is_left_out = false;
            if let Some(rule) = images[group].rule() {
                let any_failed = self.shaping.any_failed(&target.namespace);
                match images::shape(
                    &self.shaping,
                    &rule,
                    (&target.namespace, any_failed),
                    &mut write,
                    &mut outcomes[group],
                )? {
                    Step::Apply => {}
                    Step::Nothing => continue,
                    Step::LeaveOut => is_left_out = true,
                    Step::Image => {
                        images[group].add(write.key, position);
                        continue;
                    }
                }
                if images[group].cover(&write, position) {
                    continue;
                }
            }
            if !self.refused.is_empty() {
                let document = (target.id, write.key.clone());
                if self.refused.contains(&document) {
                    self.refused.queue(&document, (position, write), false);
                    continue;
                }
            }
            // A document that the source has just inserted is not on the target, unless an earlier run has written a newer one.
            if images[group].has_rule() && position > self.replay_until {
                if is_left_out && !(target.kind == CollectionKind::Unordered && write.key.is_collated()) {
                    images[group].leave_out(write.key.clone());
                }
                if images[group].is_idle(&write) {
                    continue;
                }
            }
            // Replaying such a delta on a newer document can leave its fields in another order than on the source.
            if position <= self.replay_until
                && let Operation::Delta(delta) = &write.operation
                && matches!(format_of(delta), Ok(Some(DeltaFormat::Unversioned | DeltaFormat::V1)))
            {
                to_refetch[group].1.push(write.key);
                continue;
            }
            groups[group].1.push((position, write));
        }
        for (((_, writes), (_, refetched)), images) in groups.iter_mut().zip(&to_refetch).zip(&mut images) {
            if !images.is_empty() {
                // They are read as they are now. An image of an earlier position would be written over that, and what has changed in between
                // would be taken for contained.
                refetched.iter().for_each(|key| images.remove(key));
                // The images contain them.
                writes.retain(|(_, write)| !images.contains(&write.key));
            }
        }
        Ok(Sorted {
            groups,
            to_refetch,
            images,
            outcomes,
        })
    }

    /// Applies the writes of one collection. Documents whose writes are refused become stuck.
    async fn apply_group(&mut self, target: &Arc<CollectionMapping>, writes: Vec<(Position, Write)>) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        // In a capped collection the order of all inserts is data, so writes must not be reordered.
        let (positions, writes) = if target.kind == CollectionKind::Capped {
            writes.into_iter().unzip()
        } else {
            // The target's pages hold documents roughly in `_id` order.
            let by_id = target.kind.has_ranges() && !self.in_source_order.contains(&target.id);
            coalesce(writes.into_iter(), by_id)
        };
        let refusals = self.sink.apply(&target.target, target.kind, &writes).await?;
        if refusals.is_empty() {
            return Ok(());
        }
        let mut reasons: HashMap<usize, RefusalReason> = HashMap::new();
        let mut to_refetch = Vec::new();
        for refusal in refusals {
            let replayed = positions
                .get(refusal.index)
                .is_some_and(|position| *position <= self.replay_until);
            let Some(write) = writes.get(refusal.index) else {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "apply changes",
                    "the sink named a write that it was not given",
                ));
            };
            let is_missing = matches!(refusal.reason, RefusalReason::NoDocument(_));
            if is_missing && !replayed && self.may_be_left_out(target) {
                continue;
            }
            // A replayed delta can meet a document that is newer than itself, or none. With rules, the document may be missing because they
            // failed for it, or because the target refused it.
            let met_newer = replayed && (is_missing || matches!(refusal.reason, RefusalReason::CannotApply(_)));
            let may_have_failed = is_missing && self.shaping.of(&target.namespace).is_some();
            if met_newer || may_have_failed || matches!(refusal.reason, RefusalReason::Ambiguous(_)) {
                to_refetch.push(write.key.clone());
                continue;
            }
            if matches!(refusal.reason, RefusalReason::DuplicateKey(_)) {
                self.in_source_order.insert(target.id);
            }
            reasons.insert(refusal.index, refusal.reason);
        }
        let mut refused_here: HashSet<Key> = HashSet::new();
        for (index, (position, write)) in positions.into_iter().zip(writes).enumerate() {
            let reason = reasons.remove(&index);
            if reason.is_none() && !refused_here.contains(&write.key) {
                continue;
            }
            refused_here.insert(write.key.clone());
            let document = (target.id, write.key.clone());
            let is_made = reason.is_none();
            let reason = reason.unwrap_or_else(|| RefusalReason::CannotApply(String::new()));
            self.refuse(target, &write.key, position, reason);
            if is_made {
                self.refused.note_partly(&document);
            }
            self.refused.queue(&document, (position, write), false);
        }
        to_refetch.sort_unstable();
        to_refetch.dedup();
        Box::pin(self.refetch(target, to_refetch)).await
    }

    /// Notes that the sink refused a document. If there is no room for it, the document is reported and abandoned at once.
    fn refuse(&mut self, target: &Arc<CollectionMapping>, key: &Key, position: Position, reason: RefusalReason) {
        let text = reason.to_string();
        if !self.refused.refuse(target, key, position, reason) {
            let reason = format!("{text}; too many others were refused before it");
            self.progress
                .document_refused(target.namespace.clone(), format!("{key:?}"), reason);
        }
    }
}
