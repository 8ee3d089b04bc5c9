//! Performs what was decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Router;
use super::state::{Action, CopyProgress, Replay, ReplayStep, Reply, Routing};
use crate::checkpoint::PendingCheckpoint;
use crate::engine::messages::{ApplierMessage, Routed, SaveRequest};
use crate::error::{Error, Result};
use crate::model::{Amount, CollectionMapping, Position, Write};
use crate::order::Key;
use crate::report::{Event, Phase};
use crate::runtime::limits::memory::MemoryPermit;

/// Changes are sent to an applier once this many bytes are buffered, or when the router has nothing else to do.
const APPLIER_BUFFER_BYTES: usize = 256 << 10;

/// The changes on their way to one applier.
pub(super) struct ApplierOut {
    sender: mpsc::Sender<ApplierMessage>,
    buffer: Vec<Routed>,
    bytes: usize,
}

impl ApplierOut {
    pub fn new(sender: mpsc::Sender<ApplierMessage>) -> Self {
        Self {
            sender,
            buffer: Vec::new(),
            bytes: 0,
        }
    }
}

impl Router {
    /// Performs everything that was decided, in order.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(super) async fn perform(&mut self) -> Result<()> {
        if !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.perform_one(action).await?;
            }
            // Keeps its allocation.
            self.actions = actions;
        }
        self.publish();
        Ok(())
    }

    /// Publishes how many changes were dropped, and how much memory is taken by those that are held.
    pub(super) fn publish(&mut self) {
        let dropped = std::mem::take(&mut self.state.dropped);
        self.progress.dropped.fetch_add(dropped, Relaxed);
        self.progress.held_bytes.store(self.state.held as u64, Relaxed);
    }

    async fn perform_one(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Cancel(token) | Action::Hurry(token) => token.cancel(),
            Action::AllowComparison(applied) => {
                let _ = applied.send(());
            }
            Action::EndComparison { target, running } => {
                running.cancel.cancel();
                for (position, write) in running.into_held() {
                    self.state.count_applied(target.id);
                    self.send_write(&target, position, write).await?;
                }
            }
            Action::Replay(replay) => self.replay(*replay).await?,
            Action::SendHeldBack { collection, held } => {
                let mut held = held.read().await?;
                while let Some((position, write)) = held.next().await? {
                    let routing = self.state.send_on(collection, position, write, Instant::now());
                    if let Routing::Send(applier, routed) = routing {
                        self.send(applier, routed).await?;
                    }
                }
            }
            Action::Spill(holder) => {
                if let Some(mut held) = self.state.take_out(holder) {
                    held.spill().await?;
                    self.state.put_back(holder, held);
                }
            }
            Action::Refetch { target, keys } => self.refetch(&target, keys).await?,
            Action::SendBarrier { id, unsettled_bytes } => self.send_barrier(id, unsettled_bytes).await?,
            Action::Save(checkpoint) => self.saving = Some(self.request_save(*checkpoint, false).await?),
            Action::Reply(reply) => answer(reply),
            Action::Report(event) => {
                if let Event::IndexFailed {
                    namespace,
                    name,
                    reason,
                } = &event
                {
                    let text = format!("the index {name} could not be built: {reason}");
                    self.progress.collections.note_error(namespace, text);
                }
                self.events.send(event);
            }
            Action::NoteError { target, error } => self.progress.collections.note_error(&target.namespace, error),
            Action::ShowProgress(progress) => self.show(progress),
            Action::ShowIndexes(counts) => self.progress.set_indexes(counts),
            Action::CountVerified {
                documents,
                bytes,
                differences,
            } => self.progress.comparison.add(Amount { documents, bytes }, differences),
        }
        Ok(())
    }

    /// Buffers a change for the applier of its document.
    pub(super) async fn send(&mut self, applier: usize, routed: Routed) -> Result<()> {
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

    async fn send_write(&mut self, target: &Arc<CollectionMapping>, position: Position, write: Write) -> Result<()> {
        match self.state.send(Arc::clone(target), position, write) {
            Routing::Send(applier, routed) => self.send(applier, routed).await,
            Routing::Ignored | Routing::Dropped | Routing::Held => Ok(()),
        }
    }

    pub(crate) async fn flush_buffers(&mut self) -> Result<()> {
        for applier in 0..self.appliers.len() {
            self.flush_buffer(applier).await?;
        }
        Ok(())
    }

    pub(super) async fn message(&self, applier: usize, message: ApplierMessage) -> Result<()> {
        // An applier that is gone has failed. Its own error is the one that counts.
        self.appliers[applier]
            .sender
            .send(message)
            .await
            .map_err(|_| Error::stopped("apply changes"))
    }

    pub(super) async fn request_save(
        &self,
        checkpoint: PendingCheckpoint,
        now: bool,
    ) -> Result<oneshot::Receiver<bool>> {
        let (done, saved) = oneshot::channel();
        let request = SaveRequest { checkpoint, now, done };
        self.saves
            .send(request)
            .await
            .map_err(|_| Error::stopped("save a checkpoint"))?;
        Ok(saved)
    }

    /// Shows the progress of the copy and the indexes, and moves to the phase that follows from it.
    pub(super) fn show(&self, progress: CopyProgress) {
        let (copied, indexed) = (progress.is_copied, progress.is_indexed);
        self.progress.comparison.set_done(progress.all_compared);
        self.progress.copy.set_done(copied, indexed);
        self.progress.comparison.set_cutover_work(progress.cutover);
        // A run in `CatchUp` or `Ready` is not set back here: the work may be done within a moment. `watch_source` sets it back if not.
        let next = match (self.progress.phase(), copied, indexed) {
            (Phase::Preflight | Phase::Index, false, _) => Phase::Copy,
            (Phase::Preflight | Phase::Copy, true, false) => Phase::Index,
            (Phase::Preflight | Phase::Copy | Phase::Index, true, true) => Phase::CatchUp,
            _ => return,
        };
        self.progress.set_phase(next);
    }

    async fn replay(&mut self, replay: Replay) -> Result<()> {
        let Replay {
            target,
            held,
            mut rules,
        } = replay;
        let mut held = held.read().await?;
        while let Some((position, write)) = held.next().await? {
            match rules.step(position, write) {
                ReplayStep::Nothing => {}
                ReplayStep::Refetch(keys) => self.refetch(&target, keys).await?,
                ReplayStep::Send { refetch, write } => {
                    self.refetch(&target, refetch).await?;
                    self.state.count_applied(target.id);
                    self.send_write(&target, position, write).await?;
                }
            }
        }
        self.refetch(&target, rules.end()).await
    }

    async fn refetch(&mut self, target: &Arc<CollectionMapping>, keys: BTreeSet<Key>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        for (applier, keys) in self.state.by_applier(target, keys) {
            self.flush_buffer(applier).await?;
            let permit = self.applier_permit(keys.iter().map(Key::size_in_bytes).sum()).await?;
            let target = Arc::clone(target);
            self.message(applier, ApplierMessage::Refetch { target, keys, permit })
                .await?;
        }
        Ok(())
    }

    async fn send_barrier(&mut self, id: u64, unsettled_bytes: usize) -> Result<()> {
        self.flush_buffers().await?;
        for applier in 0..self.appliers.len() {
            let routed = self.state.routed;
            let barrier = ApplierMessage::Barrier {
                id,
                routed,
                unsettled_bytes,
            };
            self.message(applier, barrier).await?;
        }
        Ok(())
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
    async fn applier_permit(&self, bytes: usize) -> Result<MemoryPermit> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::stopped("apply changes")),
            permit = self.applier_memory.take(bytes) => permit,
        }
    }
}

fn answer(reply: Reply) {
    match reply {
        Reply::Done(reply) => drop(reply.send(())),
        Reply::Verification(reply, states) => drop(reply.send(states)),
        Reply::Open(reply, documents) => drop(reply.send(documents)),
    }
}
