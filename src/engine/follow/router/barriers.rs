//! Barriers through the appliers, and the checkpoints that follow from them.
//!
//! A barrier tells what is applied for certain and which documents are stuck.

use super::*;

/// Minimum time between barriers while appliers have not reached the last one.
///
/// A barrier ends the batch that an applier applies at once, and larger batches are better. With slow appliers the watermark still moves in
/// small steps. This does not apply during the copy, where each barrier is one more checkpoint that knows what is copied.
const BUSY_BARRIER_INTERVAL: Duration = Duration::from_secs(2);

/// With this many barriers in flight, no other is sent to move the watermark.
const MOST_BARRIERS: usize = 8;

/// With this many barriers in flight, no other is sent for a comparison.
pub(super) const MAX_VERIFICATION_BARRIERS: usize = 16;

/// Maximum number of barriers in flight. The additional one is for a barrier that the router sends and waits for at once.
pub(crate) const BARRIERS_PER_APPLIER: usize = MAX_VERIFICATION_BARRIERS + 1;

/// A document that stays refused for this long, through many attempts, is reported and abandoned.
const STUCK_PATIENCE: Duration = Duration::from_secs(30);

/// Limit in bytes for the `_id`s of documents that a checkpoint names to be read again. A document holds at most 16 MiB.
const UNSETTLED_BYTES: usize = 4 << 20;

/// Limit in bytes for the `_id`s of abandoned documents that are remembered. The comparison at the cutover names all of them.
const GIVEN_UP_BYTES: usize = 1 << 20;

/// A barrier that not every applier has reached yet.
pub(super) struct Barrier {
    pub(super) waiting: usize,
    pub(super) stuck: Vec<Stuck>,
    pub(super) more_stuck: bool,
    pub(super) unsettled: Unsettled,
    pub(super) ahead: Position,
    pub(super) checkpoint: Option<PendingCheckpoint>,
}

/// Documents that the target refused for good, as far as there is room for their `_id`s.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    documents: HashSet<(Uuid, Key)>,
    bytes: usize,
}

impl GivenUp {
    /// Adds a document. Returns `true` if it was added.
    pub(super) fn insert(&mut self, document: (Uuid, Key)) -> bool {
        let bytes = document.1.size_in_bytes();
        let is_new = self.bytes + bytes <= GIVEN_UP_BYTES && self.documents.insert(document);
        if is_new {
            self.bytes += bytes;
        }
        is_new
    }

    /// Forgets the documents of a collection.
    pub(super) fn forget(&mut self, collection: Uuid) {
        self.documents.retain(|(id, _)| *id != collection);
        self.bytes = self.documents.iter().map(|(_, key)| key.size_in_bytes()).sum();
    }
}

impl Router {
    /// The states of all collections and views.
    pub(super) fn states(&mut self) -> States {
        if self.views.may_have_changed() {
            self.tracked.set_views(self.views.values());
        }
        self.tracked.states()
    }

    pub(super) fn checkpoint_now(&mut self) -> PendingCheckpoint {
        let (watermark, resume) = self.applied_until();
        let compared = self.compared_until();
        let head = Checkpoint {
            watermark,
            resume,
            collections: Vec::new(),
            watched: compared.as_ref().map(|compared| compared.watched),
            durable: None,
            renaming: None,
            left_over: Vec::new(),
            gone: self.ghosts.iter().copied().collect(),
            created: true,
            copied: self.progress.is_indexed(),
            copied_documents: self.progress.copied_documents.load(Relaxed),
            copied_bytes: self.progress.copied_bytes.load(Relaxed),
            ..self.checkpoint.clone()
        };
        PendingCheckpoint {
            head,
            states: self.states(),
            compared,
        }
    }

    pub(super) async fn send_barrier_if_due(&mut self) -> Result<()> {
        match self.saving.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(oneshot::error::TryRecvError::Empty)) => {}
            Some(saved) => {
                self.saving = None;
                // The checkpoint was not saved. A later one has to record what it contained.
                self.dirty |= saved == Ok(false);
            }
        }
        self.update_progress();
        self.progress.set_indexes(self.tracked.index_counts());
        self.stop_slow_checks().await?;
        if self.saving.is_none()
            && let Some(checkpoint) = self.next_save.take()
        {
            self.saving = Some(self.request_save(checkpoint, false).await?);
        }
        let is_busy = self.barriers.len() >= MOST_BARRIERS
            || (self.progress.is_indexed()
                && !self.barriers.is_empty()
                && self.last_barrier_at.elapsed() < BUSY_BARRIER_INTERVAL);
        if is_busy || (self.routed == self.marked && !self.dirty) {
            return Ok(());
        }
        (self.marked, self.last_barrier_at) = (self.routed, Instant::now());
        self.tracked.join_ranges(self.routed);
        let checkpoint = self.checkpoint_now();
        self.dirty = false;
        self.send_barrier(Some(checkpoint), UNSETTLED_BYTES / self.appliers.len())
            .await?;
        Ok(())
    }

    /// Sends a barrier to every applier. Each one answers with its unsettled documents, unless their `_id`s take more than
    /// `unsettled_bytes`.
    pub(super) async fn send_barrier(
        &mut self,
        checkpoint: Option<PendingCheckpoint>,
        unsettled_bytes: usize,
    ) -> Result<u64> {
        self.flush_buffers().await?;
        let id = self.next_barrier;
        self.next_barrier += 1;
        self.barriers.insert(
            id,
            Barrier {
                waiting: self.appliers.len(),
                stuck: Vec::new(),
                more_stuck: false,
                unsettled: Unsettled::default(),
                ahead: Position::ZERO,
                checkpoint,
            },
        );
        for applier in 0..self.appliers.len() {
            self.message(
                applier,
                ApplierMessage::Barrier {
                    id,
                    routed: self.routed,
                    unsettled_bytes,
                },
            )
            .await?;
        }
        Ok(id)
    }

    /// Notes that one applier has reached a barrier. Returns the barrier once all have.
    pub(super) fn note(&mut self, reached: BarrierReached) -> Option<Barrier> {
        let barrier = self.barriers.get_mut(&reached.id)?;
        barrier.waiting -= 1;
        barrier.stuck.extend(reached.stuck);
        barrier.ahead = barrier.ahead.max(reached.ahead);
        barrier.more_stuck |= reached.more_stuck;
        barrier.unsettled.documents.extend(reached.unsettled.documents);
        barrier.unsettled.collections.extend(reached.unsettled.collections);
        if barrier.waiting > 0 {
            return None;
        }
        self.barriers.remove(&reached.id)
    }

    /// Handles an applier's acknowledgement of a barrier. Once all appliers have reached the barrier, its checkpoint is saved.
    ///
    /// The checkpoint names the documents that are stuck, and those that were refetched when a rename may have come in between.
    /// These may not be on the sink as of the watermark.
    pub(super) async fn barrier_reached(&mut self, reached: BarrierReached) -> Result<()> {
        let id = reached.id;
        let Some(barrier) = self.note(reached) else {
            return Ok(());
        };
        self.let_compare(id, &barrier).await?;
        if barrier.stuck.is_empty() {
            self.stuck_since.clear();
        } else {
            self.dirty = true;
            self.resolve(barrier.stuck).await?;
        }
        let Some(mut checkpoint) = barrier.checkpoint else {
            return Ok(());
        };
        if !barrier.unsettled.collections.is_empty() {
            // They become fewer as the watermark passes the positions at which they were read. A later barrier tries again.
            self.dirty = true;
            return Ok(());
        }
        checkpoint.head.unsettled = by_collection(self.with_given_up(barrier.unsettled.documents));
        // While a checkpoint is being saved, only the newest one after it is kept.
        if self.saving.is_some() {
            self.next_save = Some(checkpoint);
        } else {
            self.saving = Some(self.request_save(checkpoint, false).await?);
        }
        Ok(())
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

    /// Waits until every applier has applied everything sent so far, except for stuck documents.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn drain(&mut self) -> Result<Drained> {
        self.stop_checks().await?;
        loop {
            let id = self.send_barrier(None, UNSETTLED_BYTES / self.appliers.len()).await?;
            let barrier = loop {
                let reached = tokio::select! {
                    () = self.cancel.cancelled() => return Err(Error::stopped("apply changes")),
                    reached = self.reached.recv() => reached.ok_or_else(|| Error::stopped("apply changes"))?,
                };
                let reached_id = reached.id;
                match self.note(reached) {
                    Some(barrier) if reached_id == id => break barrier,
                    // This is an older barrier. What is stuck there is still stuck at the new one. Its checkpoint is replaced by a later
                    // one.
                    Some(_) => self.dirty = true,
                    None => {}
                }
            };
            let mut drained = Drained {
                unsettled: barrier.unsettled,
                ahead: barrier.ahead,
            };
            if barrier.stuck.is_empty() {
                self.stuck_since.clear();
                return Ok(drained);
            }
            let is_resolved = self.resolve(barrier.stuck).await?;
            if is_resolved && barrier.more_stuck {
                continue;
            }
            // A unique key may belong to a document whose own change is not routed yet. Nothing more can be done at this position then.
            if is_resolved || self.stuck_since.values().any(|since| !self.is_hopeless(since)) {
                drained.ahead = drained.ahead.max(self.source.read_position().await?);
                return Ok(drained);
            }
        }
    }

    /// Tries to resolve stuck documents. Every applier has applied everything else. Returns `true` if no document is stuck any more.
    pub(super) async fn resolve(&mut self, mut stuck: Vec<Stuck>) -> Result<bool> {
        stuck.sort_by_key(|stuck| stuck.position);
        for step in [
            ResolveStep::Retry,
            ResolveStep::Clear,
            ResolveStep::Retry,
            ResolveStep::Refetch,
        ] {
            let mut still = Vec::new();
            for document in stuck {
                if !self.ask(&document, step).await? {
                    still.push(document);
                }
            }
            stuck = still;
        }
        if stuck.is_empty() {
            self.stuck_since.clear();
            return Ok(true);
        }
        let now = StuckSince {
            time: Instant::now(),
            position: self.source.read_position().await?,
        };
        let before = std::mem::take(&mut self.stuck_since);
        let mut all = true;
        for document in stuck {
            let name = (document.target.id, document.key.clone());
            let since = before.get(&name).copied().unwrap_or(now);
            if !self.is_hopeless(&since) {
                self.stuck_since.insert(name, since);
                all = false;
                continue;
            }
            self.ask(&document, ResolveStep::Forget).await?;
            self.give_up_document(name);
            self.progress.document_refused(
                document.target.namespace.clone(),
                format!("{:?}", document.key),
                document.reason.to_string(),
            );
        }
        Ok(all)
    }

    /// Remembers a document that the target refused for good. A run that resumes from the checkpoint reads it again.
    fn give_up_document(&mut self, document: (Uuid, Key)) {
        self.dirty |= self.given_up.insert(document);
    }

    fn with_given_up(&self, mut unsettled: Vec<(Uuid, Key)>) -> Vec<(Uuid, Key)> {
        unsettled.extend(self.given_up.documents.iter().cloned());
        unsettled
    }

    fn is_hopeless(&self, since: &StuckSince) -> bool {
        since.time.elapsed() >= STUCK_PATIENCE && self.routed >= since.position
    }

    pub(super) async fn ask(&self, stuck: &Stuck, step: ResolveStep) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        self.message(
            stuck.applier,
            ApplierMessage::Resolve {
                stuck: stuck.clone(),
                step,
                reply,
            },
        )
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
        let Unsettled { documents, collections } = self.drain().await?.unsettled;
        let unsettled = by_collection(self.with_given_up(documents));
        // An older checkpoint must not be saved after this one.
        self.next_save = None;
        let mut checkpoint = self.checkpoint_now();
        checkpoint.head.unsettled = unsettled;
        if !collections.is_empty() {
            // A run that resumes from here compares these collections as a whole.
            checkpoint.states = self.tracked.states_without_ranges(&collections);
        }
        change(&mut checkpoint.head);
        let saved = self.request_save(checkpoint, now).await?;
        let saved = saved.await.map_err(|_| Error::stopped("save a checkpoint"))?;
        // If the checkpoint was not saved, a later one has to record what it contained.
        self.dirty |= !saved;
        Ok(saved)
    }
}

fn by_collection(documents: Vec<(Uuid, Key)>) -> Vec<UnsettledDocuments> {
    let mut all: HashMap<Uuid, Vec<Key>> = HashMap::new();
    for (collection, id) in documents {
        all.entry(collection).or_default().push(id);
    }
    all.into_iter()
        .map(|(collection, ids)| UnsettledDocuments { collection, ids })
        .collect()
}
