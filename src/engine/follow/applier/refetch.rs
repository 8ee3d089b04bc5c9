//! Refetches documents from the source, and resolves documents whose changes were refused.

use bson::raw::RawDocumentBuf;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::images::images_of;
use super::refetched::Refetched;
use super::*;
use crate::compare::by_id::{self, Portions};
use crate::engine::messages::{ResolveStep, Stuck};
use crate::source::{PointRequest, ReadMode};

/// Maximum number of documents that are read from the source at once.
const REFETCH_DOCUMENTS: usize = 200;
/// Approximate number of bytes that are read from the source at once.
const REFETCH_BYTES: usize = 1 << 20;

/// Number of attempts to refetch with a snapshot before reading without one.
const SNAPSHOT_ATTEMPTS: u32 = 3;

impl Applier {
    /// Writes documents as the source has them now, and remembers the position of the read.
    pub(super) fn refetch<'a>(
        &'a mut self,
        target: &'a Arc<CollectionMapping>,
        keys: Vec<Key>,
    ) -> BoxFuture<'a, Result<()>> {
        // Boxed here, so that it is compiled once and not in each caller.
        async move {
            if self.shaping.of(&target.namespace).is_some() {
                self.ruled.insert(target.id);
            }
            let mut portions = Portions::of(&keys, REFETCH_BYTES, 0).at_most(REFETCH_DOCUMENTS);
            while let Some(keys) = portions.next() {
                let (at, documents, exact) = self.read_refetched(target, keys).await?;
                let read_until = self.source.read_position().await?;
                portions.took(keys.len(), by_id::bytes_of(&documents));
                let writes = images_of(keys, documents);
                let refusals = self.sink.apply(&target.target, target.kind, &writes).await?;
                for key in keys {
                    let refetched = Refetched { at, read_until, exact };
                    self.refetched.insert((target.id, key.clone()), refetched).await?;
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
                    self.refuse(target, &write.key, at, refusal.reason.clone());
                    self.refused
                        .queue(&(target.id, write.key.clone()), (at, write.clone()), true);
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// Refetches again every document of a collection that was refetched at a position that may not be routed yet.
    pub(super) async fn refetch_all(&mut self, target: &Arc<CollectionMapping>) -> Result<()> {
        let keys = self.refetched.of_collection(target.id);
        let more = self.refetched.take_more().await?;
        self.refetch(target, keys).await?;
        let Some(mut more) = more else { return Ok(()) };
        let mut keys = Vec::new();
        while let Some((collection, key, until)) = more.next().await? {
            if collection != target.id {
                self.refetched.put_back((collection, key), until).await?;
                continue;
            }
            keys.push(key);
            if keys.len() >= REFETCH_DOCUMENTS {
                self.refetch(target, std::mem::take(&mut keys)).await?;
            }
        }
        self.refetch(target, keys).await
    }

    /// Applies changes of a refetched document that are newer than the read.
    async fn apply_later(&mut self, target: &Arc<CollectionMapping>, writes: Vec<(Position, Write)>) -> Result<()> {
        for write in writes {
            self.apply_group(target, vec![write]).await?;
        }
        Ok(())
    }

    /// Returns the position of the read, the documents, and whether they are exactly as of that position. If not, each is as it stood at
    /// some point between the position and the end of the read. Nothing that this applier has been sent is newer than the position.
    async fn read_refetched(
        &self,
        target: &CollectionMapping,
        keys: &[Key],
    ) -> Result<(Position, Vec<RawDocumentBuf>, bool)> {
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
                // Under heavy writes, the server's history can be shorter than one command takes. The next snapshot is newer.
                Err(error) if error.kind() == ErrorKind::SnapshotUnavailable && exact => attempts += 1,
                Err(error) => return Err(error.with_context("namespace", &target.namespace)),
            }
        }
    }

    pub(super) async fn resolve(&mut self, stuck: &Stuck, step: ResolveStep) -> Result<bool> {
        let document = (stuck.target.id, stuck.key.clone());
        match step {
            // Changes of another document, which the collation takes for the same one, may have been applied since.
            ResolveStep::Retry if stuck.target.kind == CollectionKind::Unordered && stuck.key.is_collated() => {
                self.refetch(&stuck.target, vec![stuck.key.clone()]).await?;
            }
            ResolveStep::Retry => {
                // Some of the document's writes were made, so only a refetch can resolve it.
                if self.refused.get(&document).is_some_and(|refused| refused.partly) {
                    return Ok(false);
                }
                if let Some(refused) = self.refused.remove(&document) {
                    let before = self.refetched.read_at(&document);
                    for (position, write) in refused.writes {
                        if self.refused.contains(&document) {
                            self.refused.queue(&document, (position, write), false);
                        } else {
                            self.apply_group(&stuck.target, vec![(position, write)]).await?;
                        }
                        if self.refetched.read_at(&document) != before {
                            // The document was read from the source meanwhile, with all of the writes in it.
                            break;
                        }
                    }
                }
            }
            ResolveStep::Refetch => self.refetch(&stuck.target, vec![stuck.key.clone()]).await?,
            ResolveStep::Clear => self.clear(&document).await?,
            ResolveStep::Forget => {
                self.refused.remove(&document);
            }
        }
        Ok(!self.refused.contains(&document))
    }

    /// Combines the changes of a stuck document into one image, as it would be after them, and deletes the document from the sink.
    async fn clear(&mut self, document: &(Uuid, Key)) -> Result<()> {
        let Some(refused) = self.refused.get(document) else {
            return Ok(());
        };
        if !matches!(refused.reason, RefusalReason::DuplicateKey(_)) {
            return Ok(());
        }
        let (target, key) = (Arc::clone(&refused.target), &document.1);
        let delete = Write {
            key: key.clone(),
            operation: Operation::Delete,
        };
        if refused.partly {
            // The queued writes were forgotten, so a refetch will write the document as the source has it.
            if refused.writes.is_empty() {
                self.sink.apply(&target.target, target.kind, &[delete]).await?;
            }
            return Ok(());
        }
        let mut image = self
            .sink
            .read_documents(&target.target, std::slice::from_ref(key))
            .await?
            .pop();
        let Some(refused) = self.refused.get(document) else {
            return Ok(());
        };
        let mut last = refused.position;
        for (position, write) in &refused.writes {
            last = *position;
            image = match (&write.operation, image) {
                (Operation::Insert(whole) | Operation::Replace(whole), _) => Some(whole.clone()),
                (Operation::Delete, _) => None,
                (Operation::Delta(change), Some(before)) => match delta::apply(&before, change) {
                    Ok(after) => Some(after),
                    // Only a refetch can resolve it.
                    Err(_) => return Ok(()),
                },
                (Operation::Delta(_), None) => return Ok(()),
            };
        }
        let operation = image.map_or(Operation::Delete, Operation::Replace);
        let image = Write {
            key: key.clone(),
            operation,
        };
        if !self.refused.replace(document, (last, image)) {
            return Ok(());
        }
        self.sink.apply(&target.target, target.kind, &[delete]).await?;
        Ok(())
    }
}
