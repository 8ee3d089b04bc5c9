//! Documents that are read from the source itself, and those whose changes were refused.

use super::*;
use crate::by_id::{self, Portions};
use crate::source::{PointRequest, ReadMode};

/// Documents that are re-read from the source at once: at most so many, and about so many bytes.
const SETTLE_DOCUMENTS: usize = 200;
const SETTLE_BYTES: usize = 1 << 20;

/// So often a settling read asks for a snapshot before it does without.
const SNAPSHOT_ATTEMPTS: u32 = 3;

impl Lane {
    /// Writes documents as the source has them now, and remembers at which position that was.
    pub(super) async fn settle(&mut self, target: &Arc<Target>, keys: Vec<Key>) -> Result<()> {
        let mut portions = Portions::of(&keys, SETTLE_BYTES, 0).at_most(SETTLE_DOCUMENTS);
        while let Some(keys) = portions.next() {
            let (at, documents, exact) = self.read_settled(target, keys).await?;
            let read_until = self.source.read_position().await?;
            portions.took(keys.len(), by_id::bytes_of(&documents));
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

    pub(super) async fn resolve(&mut self, stuck: &Stuck, step: ResolveStep) -> Result<bool> {
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
