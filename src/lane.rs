//! Applies changes to the sink. Changes of one document always come through the same lane, in source order.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::document::{CollectionKind, Operation, Position, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Side;
use crate::fold::fold;
use crate::namespace::Namespace;
use crate::oplog::delta::{self, DeltaFormat, format_of};
use crate::order::Key;
use crate::progress::Progress;
use crate::sink::{RefusalReason, Sink};
use crate::source::{PointRequest, ReadMode, Source};
use crate::waiting::telling;

/// Bytes of changes that a lane applies at once; more waiting changes mean more folding.
const BATCH_BYTES: usize = 4 << 20;

/// Documents that are re-read from the source at once: at most so many, and about so many bytes.
const SETTLE_DOCUMENTS: usize = 200;
const SETTLE_BYTES: usize = 1 << 20;

/// So often a settling read asks for a snapshot before it does without.
const SNAPSHOT_ATTEMPTS: u32 = 3;

/// A collection as a lane and a walker need to know it. It is replaced as a whole when the collection is renamed.
#[derive(Debug)]
pub(crate) struct Target {
    pub id: Uuid,
    pub namespace: Namespace,
    pub target: Namespace,
    pub kind: CollectionKind,
}

/// A change on its way to the sink.
#[derive(Debug)]
pub(crate) struct Routed {
    pub target: Arc<Target>,
    pub position: Position,
    pub write: Write,
}

/// What the router sends to a lane. A lane handles its messages strictly in order.
pub(crate) enum LaneMessage {
    /// Changes to apply; the permit is their share of the byte budget.
    Changes {
        changes: Vec<Routed>,
        bytes: usize,
        permit: OwnedSemaphorePermit,
    },
    /// Re-read these documents from the source and write them as they are there; drop their changes up to that position.
    Settle { target: Arc<Target>, keys: Vec<Key> },
    /// Settle again, under this name, what was settled by a read that may have come after the rename.
    Renamed { target: Arc<Target> },
    /// The collection is gone: forget its documents.
    Dropped { collection: Uuid },
    /// Everything up to `routed` has been sent: acknowledge that it has been applied.
    Marker {
        id: u64,
        routed: Position,
        /// With more documents that are not settled than this none need be named.
        unsettled_bytes: usize,
    },
    /// Do something about a document whose changes were refused; answers whether the document is no longer stuck.
    Resolve {
        stuck: Stuck,
        step: ResolveStep,
        reply: oneshot::Sender<bool>,
    },
}

/// How a stuck document is treated, in the order in which the router tries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResolveStep {
    /// Apply its changes again, in order.
    Retry,
    /// Write the source's present document.
    Settle,
    /// Put its changes together into one image, and delete it from the sink, so that it no longer blocks the unique keys of others; it
    /// stays stuck until that image is written.
    Clear,
    /// Give it up and answer that it is no longer stuck.
    Forget,
}

/// A document whose changes the sink refused.
#[derive(Clone, Debug)]
pub(crate) struct Stuck {
    pub lane: usize,
    pub target: Arc<Target>,
    pub key: Key,
    pub position: Position,
    pub reason: RefusalReason,
}

/// The acknowledgement of a marker, with everything that is stuck.
#[derive(Debug)]
pub(crate) struct MarkerReached {
    pub id: u64,
    pub stuck: Vec<Stuck>,
    /// The documents that are stuck, and those that were read by name from a source that is further than what has been routed: an entry in
    /// between may say that the name was another collection's by then. `None` when they are too many.
    pub unsettled: Option<Vec<(Uuid, Key)>>,
    /// A position at or after the newest state of a document on the sink, as far as this lane has read documents.
    pub ahead: Position,
}

/// The state of one lane.
pub(crate) struct Lane {
    pub index: usize,
    pub source: Arc<dyn Source>,
    pub sink: Arc<dyn Sink>,
    pub progress: Arc<Progress>,
    pub messages: mpsc::Receiver<LaneMessage>,
    pub reached: mpsc::UnboundedSender<MarkerReached>,
    /// Changes up to here may have been applied by an earlier run already.
    pub replay_until: Position,
    settled: HashMap<(Uuid, Key), Settled>,
    refused: HashMap<(Uuid, Key), Refused>,
}

/// The writes to one collection, in order.
type Group = (Arc<Target>, Vec<(Position, Write)>);

/// A document that was read from the source itself.
struct Settled {
    /// The position the document was read at: its changes up to here are in it.
    at: Position,
    /// A position at or after the end of the read. A rename up to here may have misled the read.
    read_until: Position,
    /// Whether the read was a snapshot. Else a change up to `read_until` may or may not be in the document, which is then read again.
    exact: bool,
}

/// The writes of a document that wait because the first of them was refused.
struct Refused {
    target: Arc<Target>,
    writes: VecDeque<(Position, Write)>,
    position: Position,
    reason: RefusalReason,
    /// Whether a write that follows a refused one was made. All of them, made again, could leave the fields in another order.
    partly: bool,
}

impl Lane {
    pub fn new(
        index: usize,
        source: Arc<dyn Source>,
        sink: Arc<dyn Sink>,
        progress: Arc<Progress>,
        messages: mpsc::Receiver<LaneMessage>,
        reached: mpsc::UnboundedSender<MarkerReached>,
        replay_until: Position,
    ) -> Self {
        let (settled, refused) = (HashMap::new(), HashMap::new());
        Self {
            index,
            source,
            sink,
            progress,
            messages,
            reached,
            replay_until,
            settled,
            refused,
        }
    }

    /// Handles messages until the router is gone or the run is cancelled.
    ///
    /// # Errors
    /// What the source or sink answered for good. The run then goes back to its last checkpoint.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        let mut next = None;
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => match self.messages.recv().await {
                    Some(message) => message,
                    None => return Ok(()),
                },
            };
            if cancel.is_cancelled() {
                // What still waits in the queue must not be applied: another process may be at work by now.
                return Ok(());
            }
            match message {
                LaneMessage::Changes {
                    mut changes,
                    mut bytes,
                    permit,
                } => {
                    let mut permits = vec![permit];
                    while bytes < BATCH_BYTES && next.is_none() {
                        match self.messages.try_recv() {
                            Ok(LaneMessage::Changes {
                                changes: more,
                                bytes: more_bytes,
                                permit,
                            }) => {
                                changes.extend(more);
                                permits.push(permit);
                                bytes += more_bytes;
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.apply(changes).await?;
                }
                LaneMessage::Settle { target, keys } => self.settle(&target, keys).await?,
                LaneMessage::Dropped { collection } => {
                    self.settled.retain(|(id, _), _| *id != collection);
                    self.refused.retain(|(id, _), _| *id != collection);
                }
                LaneMessage::Renamed { target } => {
                    for ((id, _), refused) in &mut self.refused {
                        if *id == target.id {
                            refused.target = Arc::clone(&target);
                        }
                    }
                    let keys = self
                        .settled
                        .keys()
                        .filter(|(id, _)| *id == target.id)
                        .map(|(_, key)| key.clone())
                        .collect();
                    self.settle(&target, keys).await?;
                }
                LaneMessage::Marker {
                    id,
                    routed,
                    unsettled_bytes,
                } => {
                    self.settled
                        .retain(|_, settled| settled.at.max(settled.read_until) > routed);
                    let unsettled = || self.settled.keys().chain(self.refused.keys());
                    let bytes: usize = unsettled()
                        .map(|(_, key)| size_of::<Uuid>() + key.size_in_bytes())
                        .sum();
                    // The router may be gone when the run ends; then nobody needs the answer.
                    let _ = self.reached.send(MarkerReached {
                        id,
                        stuck: self.stuck(),
                        unsettled: (bytes <= unsettled_bytes).then(|| unsettled().cloned().collect()),
                        ahead: self
                            .settled
                            .values()
                            .map(|settled| settled.read_until)
                            .max()
                            .unwrap_or(Position::ZERO),
                    });
                }
                LaneMessage::Resolve { stuck, step, reply } => {
                    let resolved = self.resolve(&stuck, step).await?;
                    let _ = reply.send(resolved);
                }
            }
        }
    }

    fn stuck(&self) -> Vec<Stuck> {
        let of = |((_, key), refused): (&(Uuid, Key), &Refused)| Stuck {
            lane: self.index,
            target: Arc::clone(&refused.target),
            key: key.clone(),
            position: refused.position,
            reason: refused.reason.clone(),
        };
        self.refused.iter().map(of).collect()
    }

    async fn apply(&mut self, changes: Vec<Routed>) -> Result<()> {
        let mut groups: Vec<Group> = Vec::new();
        let mut to_settle: Vec<(Arc<Target>, Vec<Key>)> = Vec::new();
        let mut group_of: HashMap<Uuid, usize> = HashMap::new();
        let mut applied = 0;
        for Routed {
            target,
            position,
            write,
        } in changes
        {
            let group = *group_of.entry(target.id).or_insert_with(|| {
                groups.push((Arc::clone(&target), Vec::new()));
                to_settle.push((Arc::clone(&target), Vec::new()));
                groups.len() - 1
            });
            applied += 1;
            if !(self.settled.is_empty() && self.refused.is_empty()) {
                let document = (target.id, write.key.clone());
                match self.settled.get(&document) {
                    Some(settled) if position <= settled.at => continue,
                    Some(settled) if !settled.exact && position <= settled.read_until => {
                        to_settle[group].1.push(write.key);
                        continue;
                    }
                    _ => {}
                }
                if let Some(refused) = self.refused.get_mut(&document) {
                    refused.writes.push_back((position, write));
                    continue;
                }
            }
            // Replaying a `$v: 1` delta over a newer document can leave its fields in another order than the source has.
            if position <= self.replay_until
                && let Operation::Delta(delta) = &write.operation
                && matches!(format_of(delta), Ok(Some(DeltaFormat::V1)))
            {
                to_settle[group].1.push(write.key);
                continue;
            }
            groups[group].1.push((position, write));
        }
        for (target, writes) in groups {
            self.apply_group(&target, writes).await?;
        }
        for (target, mut keys) in to_settle {
            keys.sort_unstable();
            keys.dedup();
            self.settle(&target, keys).await?;
        }
        self.progress.applied.fetch_add(applied, Relaxed);
        Ok(())
    }

    /// Applies the writes of one collection; those that are refused make their documents stuck.
    async fn apply_group(&mut self, target: &Arc<Target>, writes: Vec<(Position, Write)>) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        // In a capped collection the order of all inserts is data, so nothing may be moved.
        let (positions, writes) = if target.kind == CollectionKind::Capped {
            writes.into_iter().unzip()
        } else {
            fold(writes.into_iter())
        };
        let applied = self.sink.apply(&target.target, target.kind, &writes);
        let refusals = telling(&self.progress.events, Side::Target, "apply changes", applied).await?;
        if refusals.is_empty() {
            return Ok(());
        }
        let mut reasons: HashMap<usize, RefusalReason> = HashMap::new();
        let mut newer = Vec::new();
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
            // A delta that is replayed can meet a document newer than itself, or none.
            if replayed && matches!(refusal.reason, RefusalReason::CannotApply(_)) {
                newer.push(write.key.clone());
                continue;
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
            let partly = reason.is_none();
            let refused = self
                .refused
                .entry((target.id, write.key.clone()))
                .or_insert_with(|| Refused {
                    target: Arc::clone(target),
                    writes: VecDeque::new(),
                    position,
                    reason: reason.unwrap_or_else(|| RefusalReason::CannotApply(String::new())),
                    partly: false,
                });
            refused.partly |= partly;
            refused.writes.push_back((position, write));
        }
        newer.sort_unstable();
        newer.dedup();
        Box::pin(self.settle(target, newer)).await
    }

    /// Writes documents as the source has them now, and remembers at which position that was.
    async fn settle(&mut self, target: &Arc<Target>, keys: Vec<Key>) -> Result<()> {
        // The first batch is small, since nothing is known of the documents' size yet.
        let (mut rest, mut size) = (keys.as_slice(), 8);
        while !rest.is_empty() {
            let (keys, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let (at, documents, exact) = self.read_settled(target, keys).await?;
            let read_until = self.source.sentinel().await?;
            let bytes: usize = documents.iter().map(|document| document.as_bytes().len()).sum();
            size = (SETTLE_BYTES * keys.len() / bytes.max(1)).clamp(1, SETTLE_DOCUMENTS);
            let mut found: HashMap<Key, Operation> = HashMap::new();
            for document in documents {
                if let Some(key) = Key::of_document(&document) {
                    found.insert(key, Operation::Replace(document));
                }
            }
            let writes: Vec<Write> = keys
                .iter()
                .map(|key| Write {
                    key: key.clone(),
                    operation: found.remove(key).unwrap_or(Operation::Delete),
                })
                .collect();
            let refusals = self.sink.apply(&target.target, target.kind, &writes).await?;
            for key in keys {
                let settled = Settled { at, read_until, exact };
                self.settled.insert((target.id, key.clone()), settled);
                if let Some(refused) = self.refused.remove(&(target.id, key.clone())) {
                    let later: Vec<_> = refused
                        .writes
                        .into_iter()
                        .filter(|(position, _)| *position > at)
                        .collect();
                    self.apply_later(target, later).await?;
                }
            }
            for refusal in refusals {
                let Some(write) = writes.get(refusal.index) else {
                    continue;
                };
                let document = (target.id, write.key.clone());
                let refused = self.refused.entry(document).or_insert_with(|| Refused {
                    target: Arc::clone(target),
                    writes: VecDeque::new(),
                    position: at,
                    reason: refusal.reason.clone(),
                    partly: false,
                });
                refused.writes.push_front((at, write.clone()));
            }
        }
        Ok(())
    }

    /// Applies changes of a settled document that are newer than the document read.
    async fn apply_later(&mut self, target: &Arc<Target>, writes: Vec<(Position, Write)>) -> Result<()> {
        for write in writes {
            self.apply_group(target, vec![write]).await?;
        }
        Ok(())
    }

    /// The documents as they stood at a position, or, where the answer is false, at some point between it and the end of the read. Nothing
    /// that this lane has been sent is newer than the position.
    async fn read_settled(&self, target: &Target, keys: &[Key]) -> Result<(Position, Vec<RawDocumentBuf>, bool)> {
        let mut attempts = 0;
        loop {
            let at = self.source.position().await?;
            let exact = attempts < SNAPSHOT_ATTEMPTS && target.kind != CollectionKind::Capped;
            let mode = if exact { ReadMode::Snapshot } else { ReadMode::Interval };
            let namespace = &target.namespace;
            match self
                .source
                .read_documents(PointRequest {
                    namespace,
                    keys,
                    at,
                    mode,
                })
                .await
            {
                Ok(documents) => return Ok((at, documents, exact)),
                // The history that a server keeps can be shorter than one command under heavy writes; the next snapshot is newer.
                Err(error) if error.kind() == ErrorKind::SnapshotUnavailable && exact => attempts += 1,
                Err(error) => return Err(error.with_context("namespace", &target.namespace)),
            }
        }
    }

    async fn resolve(&mut self, stuck: &Stuck, step: ResolveStep) -> Result<bool> {
        let document = (stuck.target.id, stuck.key.clone());
        match step {
            ResolveStep::Retry => {
                if let Some(refused) = self.refused.remove(&document) {
                    if refused.partly {
                        // Settling is what is left for it.
                        self.refused.insert(document, refused);
                        return Ok(false);
                    }
                    let before = self.settled.get(&document).map(|settled| settled.at);
                    for (position, write) in refused.writes {
                        match self.refused.get_mut(&document) {
                            Some(again) => again.writes.push_back((position, write)),
                            None => self.apply_group(&stuck.target, vec![(position, write)]).await?,
                        }
                        if self.settled.get(&document).map(|settled| settled.at) != before {
                            // It was read from the source meanwhile, with all of the writes in it.
                            break;
                        }
                    }
                }
            }
            ResolveStep::Settle => self.settle(&stuck.target, vec![stuck.key.clone()]).await?,
            ResolveStep::Clear => self.clear(&document).await?,
            ResolveStep::Forget => {
                self.refused.remove(&document);
            }
        }
        Ok(!self.refused.contains_key(&document))
    }

    /// Puts the changes of a stuck document together into one image, as it would stand after them, and deletes it from the sink.
    async fn clear(&mut self, document: &(Uuid, Key)) -> Result<()> {
        let Some(refused) = self.refused.get_mut(document) else {
            return Ok(());
        };
        if refused.partly || !matches!(refused.reason, RefusalReason::DuplicateKey(_)) {
            return Ok(());
        }
        let (target, key) = (Arc::clone(&refused.target), &document.1);
        let mut image = self
            .sink
            .read_documents(&target.target, std::slice::from_ref(key))
            .await?
            .pop();
        let mut last = refused.position;
        for (position, write) in &refused.writes {
            last = *position;
            image = match (&write.operation, image) {
                (Operation::Insert(whole) | Operation::Replace(whole), _) => Some(whole.clone()),
                (Operation::Delete, _) => None,
                (Operation::Delta(change), Some(before)) => match delta::apply(&before, change) {
                    Ok(after) => Some(after),
                    // Settling is what is left for it.
                    Err(_) => return Ok(()),
                },
                (Operation::Delta(_), None) => return Ok(()),
            };
        }
        let operation = image.map_or(Operation::Delete, Operation::Replace);
        refused.writes = VecDeque::from([(
            last,
            Write {
                key: key.clone(),
                operation,
            },
        )]);
        let delete = Write {
            key: key.clone(),
            operation: Operation::Delete,
        };
        self.sink.apply(&target.target, target.kind, &[delete]).await?;
        Ok(())
    }
}
