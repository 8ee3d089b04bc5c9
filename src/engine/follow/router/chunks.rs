//! Gives chunks of collections to walkers, and takes finished chunks back.

use super::*;
use crate::catalog::to_create;

/// Number of refused snapshots in a row after which a chunk is read as an interval.
const SNAPSHOT_ATTEMPTS: u32 = 3;

/// Limit in bytes for the `_id`s that are sent to the appliers for one refetch.
const REFETCH_BYTES: usize = 256 << 10;

impl Router {
    /// Keeps the memory that held changes take within its limit.
    ///
    /// At half of the limit, chunks and comparisons are asked to finish. At the limit, comparisons are stopped, and changes held back for
    /// index builds move to files. If that is not enough, the chunk that holds most is cancelled and read again later in smaller parts. If
    /// its collection has no ranges, its held changes move to a file instead.
    pub(super) async fn relieve(&mut self) -> Result<()> {
        if self.held < self.held_limit / 2 {
            self.hurried = false;
            return Ok(());
        }
        if !std::mem::replace(&mut self.hurried, true) {
            self.hurry_chunks();
            self.hurry_checks();
        }
        if self.held < self.held_limit {
            return Ok(());
        }
        // A comparison can be repeated later. Giving up a chunk costs more.
        self.stop_checks().await?;
        self.spill_held_back().await?;
        if self.held < self.held_limit {
            return Ok(());
        }
        let Some((id, chunk)) = self.largest_chunk() else {
            return Ok(());
        };
        let ranged = self
            .tracked
            .get(&id)
            .is_some_and(|tracked| tracked.target.kind.has_ranges());
        if ranged {
            self.give_up(id, chunk);
        } else if let Some(chunk) = self
            .tracked
            .get_mut(&id)
            .and_then(|tracked| tracked.chunks.get_mut(&chunk))
        {
            self.held -= chunk.held.spill().await?;
            self.progress.held_bytes.store(self.held as u64, Relaxed);
        }
        Ok(())
    }

    /// Asks every chunk to finish.
    fn hurry_chunks(&mut self) {
        for id in self.tracked.in_flight() {
            let chunks = self
                .tracked
                .get(&id)
                .into_iter()
                .flat_map(|tracked| tracked.chunks.values());
            for chunk in chunks {
                chunk.hurry.cancel();
            }
        }
    }

    /// Returns the chunk whose held changes take the most memory.
    fn largest_chunk(&mut self) -> Option<(Uuid, ChunkId)> {
        let in_flight = self.tracked.in_flight();
        let collections = in_flight.iter().filter_map(|id| Some((id, self.tracked.get(id)?)));
        let chunks = collections.flat_map(|(id, tracked)| tracked.chunks.iter().map(move |chunk| (*id, chunk)));
        chunks
            .max_by_key(|(_, (_, chunk))| chunk.held.bytes())
            .map(|(id, (chunk, _))| (id, *chunk))
    }

    /// Cancels a chunk and drops its held changes. Its range will be read again at a newer position.
    pub(crate) fn give_up(&mut self, collection: Uuid, chunk: ChunkId) {
        if let Some(tracked) = self.tracked.get_mut(&collection)
            && let Some(chunk) = tracked.chunks.get_mut(&chunk)
        {
            chunk.cancel.cancel();
            let held = std::mem::take(&mut chunk.held);
            self.held -= held.bytes();
            self.progress.dropped.fetch_add(held.count(), Relaxed);
            tracked.chunk_divisor = (tracked.chunk_divisor * 2).min(64);
            self.progress.held_bytes.store(self.held as u64, Relaxed);
        }
    }

    /// Gives work to waiting walkers: first chunks, then comparisons. A comparison that somebody waits for can come before chunks.
    pub(super) async fn serve_idle(&mut self) -> Result<()> {
        while let Some((majority, reply)) = self.idle.pop_front() {
            if reply.is_closed() {
                continue;
            }
            let asked = match self.is_turn_of_asked() {
                true => self.next_check().await?,
                false => None,
            };
            self.asked_last = asked.is_some();
            let mut work = asked.map(Work::Check).or_else(|| self.next_work(majority));
            if work.is_none() {
                work = self.next_check().await?.map(Work::Check);
            }
            let Some(work) = work else {
                self.idle.push_front((majority, reply));
                return Ok(());
            };
            match reply.send(work) {
                Err(Work::Chunk(lost)) => self.release(lost.target.id, lost.chunk, false),
                Err(Work::Check(_)) => self.stop_checks().await?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    pub(super) fn next_work(&mut self, majority: Position) -> Option<Work> {
        if self.routed < self.replay_until {
            // An earlier run may have carried out a rename whose entry is still to be replayed. Until then, a walker would create a
            // collection with the old name, which would then replace the renamed one.
            return None;
        }
        let id = self.tracked.next_unread()?;
        self.assign(id, majority).map(Work::Chunk)
    }

    /// Registers a chunk. Its position is never before what has been routed (I1): changes that were dropped because the range was not read
    /// yet are in its snapshot.
    pub(super) fn assign(&mut self, collection: Uuid, majority: Position) -> Option<Assignment> {
        let at = majority.max(self.routed);
        let tracked = self.tracked.get_mut(&collection)?;
        let chunk = ChunkId(self.next_chunk);
        let (range, repair) = tracked.ranges.take(chunk)?;
        self.next_chunk += 1;
        // The new chunk has not been asked to finish yet.
        self.hurried = false;
        let (cancel, hurry) = (self.cancel.child_token(), CancellationToken::new());
        tracked.chunks.insert(
            chunk,
            Chunk {
                low: at,
                held: HeldChanges::default(),
                cancel: cancel.clone(),
                hurry: hurry.clone(),
            },
        );
        // A smaller chunk may finish before its snapshot expires. An interval read need not be small.
        let interval = tracked.target.kind == CollectionKind::Capped || tracked.snapshots_refused >= SNAPSHOT_ATTEMPTS;
        let shrunk = if interval { 1 } else { 1 << tracked.snapshots_refused };
        Some(Assignment {
            chunk,
            target: Arc::clone(&tracked.target),
            made: tracked.made,
            options: to_create(&tracked.options, &tracked.indexes),
            range,
            repair,
            at,
            mode: if interval {
                ReadMode::Interval
            } else {
                ReadMode::Snapshot
            },
            chunk_bytes: (self.chunk_bytes / tracked.chunk_divisor / shrunk).max(1),
            document_bytes: tracked.document_bytes(),
            cancel,
            hurry,
        })
    }

    pub(crate) fn release(&mut self, collection: Uuid, chunk: ChunkId, snapshot_refused: bool) {
        let Some(tracked) = self.tracked.get_mut(&collection) else {
            return;
        };
        tracked.ranges.release(chunk);
        if let Some(chunk) = tracked.chunks.remove(&chunk) {
            self.held -= chunk.held.bytes();
            self.progress.held_bytes.store(self.held as u64, Relaxed);
        }
        if snapshot_refused {
            tracked.snapshots_refused += 1;
        }
    }

    /// Finishes chunks whose reads no entry can contradict any more, and sends on the changes held for them (I2).
    pub(crate) async fn finish_chunks(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.finishing.len() {
            let (finished, _) = &self.finishing[at];
            let cancelled = self
                .tracked
                .get(&finished.collection)
                .and_then(|tracked| tracked.chunks.get(&finished.chunk))
                .is_none_or(|chunk| chunk.cancel.is_cancelled());
            if !cancelled && self.routed < finished.opened.max(finished.high.unwrap_or(finished.opened)) {
                at += 1;
                continue;
            }
            let (finished, reply) = self.finishing.swap_remove(at);
            if cancelled {
                self.release(finished.collection, finished.chunk, false);
            } else {
                self.finish_chunk(finished).await?;
            }
            let _ = reply.send(());
        }
        Ok(())
    }

    pub(super) async fn finish_chunk(&mut self, finished: Finished) -> Result<()> {
        let Some(tracked) = self.tracked.get_mut(&finished.collection) else {
            return Ok(());
        };
        let Some(chunk) = tracked.chunks.remove(&finished.chunk) else {
            return Ok(());
        };
        tracked.snapshots_refused = 0;
        tracked.made = finished.made.or(tracked.made);
        // Let chunks grow again. Otherwise a range would never end if the application adds more to it than a small chunk in the time that
        // the chunk takes.
        tracked.chunk_divisor = (tracked.chunk_divisor / 2).max(1);
        tracked
            .ranges
            .finish(finished.chunk, finished.last.clone(), chunk.low, finished.repair);
        tracked.ranges.join(self.routed);
        self.held -= chunk.held.bytes();
        self.progress.held_bytes.store(self.held as u64, Relaxed);
        self.dirty = true;
        let target = Arc::clone(&tracked.target);
        let copied = tracked.ranges.all_done();
        // An interval read may or may not have seen a change that was made during it, so the changed documents are read again. In a capped
        // collection only inserts matter, and sending all changes again in order gives the same result.
        let refetch_until = finished
            .high
            .filter(|_| target.kind != CollectionKind::Capped)
            .unwrap_or(Position::ZERO);
        let mut refetch: BTreeSet<Key> = finished.refused.into_iter().collect();
        let mut refetch_bytes = 0;
        let mut held = chunk.held.read().await?;
        while let Some((position, write)) = held.next().await? {
            // Documents above the last one that was read are in a later chunk's snapshot.
            if finished.last.as_ref().is_some_and(|last| write.key > *last) {
                continue;
            }
            if position <= refetch_until {
                refetch_bytes += write.key.size_in_bytes();
                refetch.insert(write.key);
                if refetch_bytes < REFETCH_BYTES {
                    continue;
                }
                refetch_bytes = 0;
                // A document that changes once more is refetched once more.
                self.refetch(&target, std::mem::take(&mut refetch)).await?;
                continue;
            }
            if !refetch.is_empty() {
                self.refetch(&target, std::mem::take(&mut refetch)).await?;
            }
            self.send(Routed {
                target: Arc::clone(&target),
                position,
                write,
            })
            .await?;
        }
        self.refetch(&target, refetch).await?;
        if copied {
            self.events.send(Event::CollectionCopied {
                namespace: target.namespace.clone(),
            });
        }
        self.update_progress();
        Ok(())
    }

    /// Refetches the documents that the checkpoint could not vouch for. Those in a range that is not done are read with that range.
    pub(super) async fn refetch_again(&mut self) -> Result<()> {
        for UnsettledDocuments { collection, ids } in std::mem::take(&mut self.checkpoint.unsettled) {
            let Some(tracked) = self.tracked.get(&collection) else {
                continue;
            };
            let done = |key: &Key| matches!(tracked.ranges.status(key), RangeStatus::Done(_));
            let keys = ids.into_iter().filter(done).collect();
            let target = Arc::clone(&tracked.target);
            self.refetch(&target, keys).await?;
        }
        Ok(())
    }

    pub(super) async fn refetch(&mut self, target: &Arc<CollectionMapping>, keys: BTreeSet<Key>) -> Result<()> {
        let mut of_applier: HashMap<usize, Vec<Key>> = HashMap::new();
        for key in keys {
            of_applier.entry(self.applier_of(target, &key)).or_default().push(key);
        }
        for (applier, keys) in of_applier {
            self.flush_buffer(applier).await?;
            let permit = self.applier_permit(keys.iter().map(Key::size_in_bytes).sum()).await?;
            let target = Arc::clone(target);
            self.message(applier, ApplierMessage::Refetch { target, keys, permit })
                .await?;
        }
        Ok(())
    }

    /// Cancels the chunks of a collection that are in flight, stops its index builds, and waits until all have stopped.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub(crate) async fn stop_work_on(&mut self, collection: Uuid) -> Result<()> {
        let chunks: Vec<ChunkId> = self
            .tracked
            .get(&collection)
            .map(|t| t.chunks.keys().copied().collect())
            .unwrap_or_default();
        for chunk in chunks {
            self.give_up(collection, chunk);
        }
        self.finish_chunks().await?;
        while self
            .tracked
            .get(&collection)
            .is_some_and(|tracked| !tracked.chunks.is_empty())
        {
            let request = tokio::select! {
                () = self.cancel.cancelled() => return Err(Error::stopped("stop a chunk")),
                request = self.requests.recv() => request.ok_or_else(|| Error::stopped("stop a chunk"))?,
            };
            match request {
                Request::Take { .. } | Request::Save { .. } | Request::CopyAgain { .. } => {
                    self.deferred.push_back(request)
                }
                other => self.handle(other).await?,
            }
        }
        self.stop_builds(collection).await
    }
}
