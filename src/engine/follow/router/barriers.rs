//! Sends barriers, waits for them, and has checkpoints saved.

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::Instant;

use super::Router;
use super::state::{CheckpointFacts, Resolution};
use crate::checkpoint::{Checkpoint, Renaming};
use crate::engine::messages::{ApplierMessage, BarrierReached, ResolveStep, Stuck, Unsettled};
use crate::error::{Error, Result};
use crate::model::Position;

/// State of the appliers once all have applied everything they were sent.
pub(crate) struct Drained {
    /// What a run that resumes from here has to read again.
    pub(super) unsettled: Unsettled,
    /// A position at or after the newest document state on the sink.
    pub(super) ahead: Position,
}

impl Router {
    pub(super) async fn send_barrier_if_due(&mut self) -> Result<()> {
        match self.saving.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => {}
            Some(saved) => {
                self.saving = None;
                self.state.saved(saved != Ok(false));
            }
        }
        self.state.tick(Instant::now(), &mut self.actions);
        self.perform().await?;
        self.progress.collections.set(self.state.tracked.statuses());
        let now = Instant::now();
        if self.state.is_barrier_due(now) {
            let facts = self.checkpoint_facts();
            self.state.send_watermark_barrier(now, facts, &mut self.actions);
            self.perform().await?;
        }
        Ok(())
    }

    /// Handles an applier's acknowledgement of a barrier. Once all appliers have reached the barrier, its checkpoint is saved.
    pub(super) async fn barrier_reached(&mut self, reached: BarrierReached) -> Result<()> {
        let barrier = self.state.barrier_reached(reached, Instant::now(), &mut self.actions);
        self.perform().await?;
        let Some(mut barrier) = barrier else {
            return Ok(());
        };
        let stuck = std::mem::take(&mut barrier.stuck);
        if !stuck.is_empty() {
            self.resolve(stuck).await?;
        }
        self.state.save_barrier(barrier, &mut self.actions);
        self.perform().await
    }

    /// Waits until every applier has applied everything sent so far, except for stuck documents.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn drain(&mut self) -> Result<Drained> {
        self.stop_checks().await?;
        loop {
            let id = self.state.send_awaited_barrier(&mut self.actions);
            self.perform().await?;
            let barrier = loop {
                let reached = tokio::select! {
                    () = self.cancel.cancelled() => return Err(Error::stopped("apply changes")),
                    reached = self.reached.recv() => reached.ok_or_else(|| Error::stopped("apply changes"))?,
                };
                if let Some(barrier) = self.state.note_awaited(reached, id) {
                    break barrier;
                }
            };
            let mut drained = Drained {
                unsettled: barrier.unsettled,
                ahead: barrier.ahead,
            };
            if barrier.stuck.is_empty() {
                self.state.none_is_stuck();
                return Ok(drained);
            }
            let is_resolved = self.resolve(barrier.stuck).await?;
            if self.state.is_drained(is_resolved, barrier.more_stuck, Instant::now()) {
                drained.ahead = drained.ahead.max(self.source.read_position().await?);
                return Ok(drained);
            }
        }
    }

    /// Tries to resolve stuck documents. Every applier has applied everything else. Returns `true` if no document is stuck any more.
    async fn resolve(&mut self, stuck: Vec<Stuck>) -> Result<bool> {
        let mut resolution = Resolution::new(stuck);
        while let Some((document, step)) = resolution.next() {
            let is_resolved = self.ask(document, step).await?;
            resolution.answered(is_resolved);
        }
        let stuck = resolution.into_stuck();
        if stuck.is_empty() {
            self.state.none_is_stuck();
            return Ok(true);
        }
        let newest = self.source.read_position().await?;
        for document in self.state.still_stuck(stuck, Instant::now(), newest) {
            self.ask(&document, ResolveStep::Forget).await?;
            self.progress.document_refused(
                document.target.namespace.clone(),
                format!("{:?}", document.key),
                document.reason.to_string(),
            );
        }
        Ok(!self.state.is_any_stuck())
    }

    async fn ask(&self, stuck: &Stuck, step: ResolveStep) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        let stuck = stuck.clone();
        self.message(stuck.applier, ApplierMessage::Resolve { stuck, step, reply })
            .await?;
        answer.await.map_err(|_| Error::stopped("apply changes"))
    }

    /// Makes everything routed so far durable and saves a checkpoint of it.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn save_now(&mut self, renaming: Option<Renaming>) -> Result<()> {
        self.save(|checkpoint| checkpoint.renaming = renaming, true)
            .await
            .map(drop)
    }

    /// Makes everything routed so far durable and saves a checkpoint of it. Unless `now` is set, the save may be left to a later
    /// checkpoint. Returns `true` if the checkpoint was saved.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(super) async fn save(&mut self, change: impl FnOnce(&mut Checkpoint), now: bool) -> Result<bool> {
        self.send_all_held_back().await?;
        let unsettled = self.drain().await?.unsettled;
        // The run may end with this checkpoint.
        self.progress.collections.set(self.state.tracked.statuses());
        let facts = self.checkpoint_facts();
        let mut checkpoint = self.state.checkpoint_of_all(unsettled, facts);
        change(&mut checkpoint.head);
        let saved = self.request_save(checkpoint, now).await?;
        let saved = saved.await.map_err(|_| Error::stopped("save a checkpoint"))?;
        self.state.note_saved(saved);
        Ok(saved)
    }

    /// Sends on everything that is held back. An index that is refused meanwhile is built once more.
    pub(super) async fn send_all_held_back(&mut self) -> Result<()> {
        self.state.send_all_held_back(&mut self.actions);
        self.perform().await
    }

    pub(super) fn checkpoint_facts(&self) -> CheckpointFacts {
        let copied = self.progress.copy.amount();
        CheckpointFacts {
            copied_documents: copied.documents,
            copied_bytes: copied.bytes,
            // Read before the list: writes seen after this come after it.
            watched: self.progress.foreign_writes.known_until(),
            foreign: self
                .progress
                .foreign_writes
                .all()
                .into_iter()
                .map(|writes| writes.namespace)
                .collect(),
        }
    }
}
