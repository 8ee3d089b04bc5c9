//! A checkpoint on the target, beside the data it describes.

use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::{Uuid, rawdoc};

use super::CheckpointStore;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;

/// The record's name on the sink.
const RECORD: &str = "checkpoint";

/// Keeps the checkpoint among the migration's own records on the sink.
///
/// Each save states which one it replaces, so that a process that has lost the migration to another cannot overwrite the other's.
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
    async fn save_over(&self, fence: &mut i64, checkpoint: &RawDocumentBuf) -> Result<bool> {
        let next = *fence + 1;
        let record = rawdoc! { "fence": next, "writer": self.writer.to_string(), "checkpoint": checkpoint.clone() };
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
        let damaged = |error| {
            Error::new(
                ErrorKind::CheckpointMismatch,
                "load the checkpoint",
                "the record on the target is damaged",
            )
            .with_source(error)
        };
        *fence = record.get_i64("fence").map_err(damaged)?;
        Ok(Some(record.get_document("checkpoint").map_err(damaged)?.to_owned()))
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        let mut fence = self.fence.lock().await;
        if self.save_over(&mut fence, checkpoint).await? {
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
            if self.save_over(&mut fence, checkpoint).await? {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::Lease,
            "save the checkpoint",
            "another process has saved one since: it has taken the migration over",
        ))
    }

    async fn clear(&self) -> Result<()> {
        self.sink.delete_record(RECORD).await?;
        *self.fence.lock().await = 0;
        Ok(())
    }
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
}
