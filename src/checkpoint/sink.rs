//! A checkpoint on the target, beside the data it describes.

use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::{Uuid, rawdoc};

use super::CheckpointStore;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;

/// The record's name on the sink.
const RECORD: &str = "checkpoint";

/// How often a claim is tried against a process that saves at the same time. The other's lease has run out, so that once is the rule.
const CLAIMS: usize = 10;

/// Keeps the checkpoint among the migration's own records on the sink.
///
/// Each save states which one it replaces, so that a process that has lost the migration to another cannot overwrite the other's: not
/// even before that one has saved its first, since it claims the record as it begins.
pub struct SinkStore {
    sink: Arc<dyn Sink>,
    /// Tells this store's records from those of other processes.
    writer: Uuid,
    fence: tokio::sync::Mutex<i64>,
}

impl SinkStore {
    /// A store on `sink`.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            writer: Uuid::new(),
            fence: tokio::sync::Mutex::new(0),
        }
    }
}

impl SinkStore {
    /// Saves the checkpoint over the one with the fence, which then moves. Answers whether that one was there.
    async fn save_over(&self, fence: &mut i64, checkpoint: Option<&RawDocument>) -> Result<bool> {
        let next = *fence + 1;
        let mut record = rawdoc! { "fence": next, "writer": self.writer.to_string() };
        if let Some(checkpoint) = checkpoint {
            record.append(cstr!("checkpoint"), checkpoint);
        }
        let saved = self.sink.save_record(RECORD, &record, *fence).await?;
        if saved {
            *fence = next;
        }
        Ok(saved)
    }
}

impl std::fmt::Debug for SinkStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SinkStore")
    }
}

#[async_trait]
impl CheckpointStore for SinkStore {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        let mut fence = self.fence.lock().await;
        let Some(record) = self.sink.load_record(RECORD).await? else {
            *fence = 0;
            return Ok(None);
        };
        *fence = record.get_i64("fence").map_err(damaged)?;
        Ok(checkpoint_of(&record)?.map(ToOwned::to_owned))
    }

    async fn claim(&self) -> Result<()> {
        let mut fence = self.fence.lock().await;
        for _ in 0..CLAIMS {
            let record = self.sink.load_record(RECORD).await?;
            let checkpoint = match &record {
                Some(record) => {
                    *fence = record.get_i64("fence").map_err(damaged)?;
                    checkpoint_of(record)?
                }
                None => {
                    *fence = 0;
                    None
                }
            };
            if self.save_over(&mut fence, checkpoint).await? {
                return Ok(());
            }
        }
        Err(taken("claim the checkpoint"))
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        let mut fence = self.fence.lock().await;
        if self.save_over(&mut fence, Some(checkpoint)).await? {
            return Ok(());
        }
        // A save before this one may have arrived although its answer was lost or its future dropped. Then the record is our own.
        if let Some(record) = self.sink.load_record(RECORD).await?
            && record
                .get_str("writer")
                .is_ok_and(|writer| writer == self.writer.to_string())
            && let Ok(stored) = record.get_i64("fence")
        {
            *fence = stored;
            if self.save_over(&mut fence, Some(checkpoint)).await? {
                return Ok(());
            }
        }
        Err(taken("save the checkpoint"))
    }

    async fn clear(&self) -> Result<()> {
        self.sink.delete_record(RECORD).await?;
        *self.fence.lock().await = 0;
        Ok(())
    }
}

/// The checkpoint in a record; one that was claimed before anything was saved has none.
fn checkpoint_of(record: &RawDocument) -> Result<Option<&RawDocument>> {
    match record.get("checkpoint").map_err(damaged)? {
        Some(_) => record.get_document("checkpoint").map(Some).map_err(damaged),
        None => Ok(None),
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        ErrorKind::CheckpointMismatch,
        "load the checkpoint",
        "the record on the target is damaged",
    )
    .with_source(error)
}

fn taken(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Lease,
        operation,
        "another process has saved one since: it has taken the migration over",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{MemorySink, SinkCall};

    #[tokio::test]
    async fn a_save_whose_answer_was_lost_is_not_taken_for_another_process() {
        let sink = MemorySink::new();
        let store = SinkStore::new(Arc::new(sink.clone()));
        store.save(&rawdoc! { "n": 1 }).await.unwrap();
        sink.lose_next_answer(SinkCall::SaveRecord);
        assert!(store.save(&rawdoc! { "n": 2 }).await.unwrap_err().is_retryable());
        store.save(&rawdoc! { "n": 3 }).await.unwrap();
        // The same for a save that is dropped when it has arrived.
        let gate = sink.hold_answer(SinkCall::SaveRecord);
        let (four, five) = (rawdoc! { "n": 4 }, rawdoc! { "n": 5 });
        tokio::select! {
            _ = store.save(&four) => unreachable!("the gate is closed"),
            () = gate.reached() => {}
        }
        gate.release();
        store.save(&five).await.unwrap();
        assert_eq!(store.load().await.unwrap(), Some(five));
    }

    #[tokio::test]
    async fn the_process_that_lost_the_migration_cannot_save() {
        let sink = Arc::new(MemorySink::new());
        let (first, second) = (SinkStore::new(sink.clone()), SinkStore::new(sink));
        first.save(&rawdoc! { "n": 1 }).await.unwrap();
        assert_eq!(second.load().await.unwrap(), Some(rawdoc! { "n": 1 }));
        second.save(&rawdoc! { "n": 2 }).await.unwrap();
        for _ in 0..2 {
            let error = first.save(&rawdoc! { "n": 3 }).await.unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Lease, false));
        }
        assert_eq!(second.load().await.unwrap(), Some(rawdoc! { "n": 2 }));
    }

    #[tokio::test]
    async fn a_claimed_checkpoint_is_kept_and_refuses_whoever_had_it_before() {
        let sink = Arc::new(MemorySink::new());
        for saved in [None, Some(rawdoc! { "n": 1 })] {
            let (first, second) = (SinkStore::new(sink.clone()), SinkStore::new(sink.clone()));
            first.load().await.unwrap();
            if let Some(checkpoint) = &saved {
                first.claim().await.unwrap();
                first.save(checkpoint).await.unwrap();
            }
            // The second has not saved anything yet.
            second.claim().await.unwrap();
            assert_eq!(second.load().await.unwrap(), saved);
            assert_eq!(
                first.save(&rawdoc! { "n": 2 }).await.unwrap_err().kind(),
                ErrorKind::Lease
            );
            assert_eq!(second.load().await.unwrap(), saved);
            second.save(&rawdoc! { "n": 3 }).await.unwrap();
            second.clear().await.unwrap();
        }
    }
}
