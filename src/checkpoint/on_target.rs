//! A checkpoint store on the target, beside the data it describes.

use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::{Uuid, rawdoc};

use super::CheckpointStore;
use super::parts::{PART, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::model::MigrationId;
use crate::sink::{Records, Sink};

/// Name of the record on the sink.
const RECORD: &str = "checkpoint";

/// Maximum number of attempts of a claim against a process that saves concurrently. One attempt is the rule, because the other process's
/// lease has run out.
const CLAIMS: usize = 10;

/// Maximum number of reads of a checkpoint that another process keeps replacing.
const READS: usize = 10;

/// Keeps the checkpoint among the migration's own records on the sink.
///
/// Each save names the checkpoint that it replaces. A process that has lost the migration to another one can therefore not overwrite the
/// other's checkpoint. This holds even before the new process has saved its first one, because a run claims the record when it begins. A
/// checkpoint of tens of thousands of collections is too large for one record and is kept in several.
pub struct SinkStore {
    records: Records,
    /// Distinguishes this store's records from those of other processes.
    writer: Uuid,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The fence of the record, as far as it is known.
    fence: i64,
    /// Number of the next set of parts. No number is used twice.
    next_set: i64,
    /// Sets of parts that may be on the sink, including the one that the record names.
    sets: Vec<Parts>,
}

impl SinkStore {
    /// Creates a store on `sink` for the migration with the default id. Without a store of the host, a migration keeps its checkpoint in one
    /// with its own id.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self::of(Records::new(sink, MigrationId::default()))
    }

    /// Creates a store on `sink` for the migration with this [id](crate::MigrationBuilder::id).
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if this is no id.
    pub fn with_id(sink: Arc<dyn Sink>, id: &str) -> Result<Self> {
        Ok(Self::of(Records::new(sink, id.parse()?)))
    }

    pub(crate) fn of(records: Records) -> Self {
        Self {
            records,
            writer: Uuid::new(),
            state: tokio::sync::Mutex::default(),
        }
    }
}

impl SinkStore {
    /// Saves the record if the stored one has the given fence, and advances the fence. Returns whether the record was saved.
    async fn save_over(&self, fence: &mut i64, content: &Content<'_>) -> Result<bool> {
        let next = *fence + 1;
        let mut record = rawdoc! { "fence": next, "writer": self.writer.to_string() };
        match content {
            Content::Nothing => {}
            Content::Whole(checkpoint) => record.append(cstr!("checkpoint"), *checkpoint),
            Content::Parts(parts) => {
                let parts = rawdoc! { "writer": parts.writer.to_string(), "set": parts.set, "count": parts.count };
                record.append(cstr!("parts"), parts);
            }
        }
        let saved = self.records.save(RECORD, &record, *fence).await?;
        if saved {
            *fence = next;
        }
        Ok(saved)
    }

    /// Does the same, and retries if the stored record is this store's own. An earlier save may have arrived although its response was lost
    /// or its future dropped.
    async fn save_over_own(&self, fence: &mut i64, content: &Content<'_>) -> Result<bool> {
        if self.save_over(fence, content).await? {
            return Ok(true);
        }
        if let Some(record) = self.records.load(RECORD).await?
            && record
                .get_str("writer")
                .is_ok_and(|writer| writer == self.writer.to_string())
            && let Ok(stored) = record.get_i64("fence")
        {
            *fence = stored;
            return self.save_over(fence, content).await;
        }
        Ok(false)
    }

    /// Deletes the sets of parts that the record just saved does not name. Sets that cannot be deleted now are deleted later.
    async fn tidy(&self, state: &mut State, kept: Option<Parts>) {
        let mut left = Vec::new();
        for parts in std::mem::take(&mut state.sets) {
            if Some(parts) == kept || parts.delete(&self.records).await.is_err() {
                left.push(parts);
            }
        }
        state.sets = left;
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
        let mut state = self.state.lock().await;
        for _ in 0..READS {
            let Some(record) = self.records.load(RECORD).await? else {
                state.fence = 0;
                return Ok(None);
            };
            state.fence = record.get_i64("fence").map_err(damaged)?;
            match content_of(&record)? {
                Content::Nothing => return Ok(None),
                Content::Whole(checkpoint) => return Ok(Some(checkpoint.to_owned())),
                Content::Parts(parts) => {
                    if let Some(checkpoint) = parts.load(&self.records).await? {
                        return Ok(Some(checkpoint));
                    }
                }
            }
        }
        Err(damaged("a part of it is missing"))
    }

    async fn claim(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        for _ in 0..CLAIMS {
            let record = self.records.load(RECORD).await?;
            let content = match &record {
                Some(record) => {
                    state.fence = record.get_i64("fence").map_err(damaged)?;
                    content_of(record)?
                }
                None => {
                    state.fence = 0;
                    Content::Nothing
                }
            };
            if self.save_over(&mut state.fence, &content).await? {
                if let Content::Parts(parts) = content
                    && parts.writer != self.writer
                {
                    state.sets.push(parts);
                    state.sets.extend(parts.neighbours());
                }
                return Ok(());
            }
        }
        Err(taken("claim the checkpoint"))
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        let mut state = self.state.lock().await;
        let bytes = checkpoint.as_bytes();
        let parts = (bytes.len() > PART).then(|| Parts {
            writer: self.writer,
            set: state.next_set,
            count: i64::try_from(bytes.len().div_ceil(PART)).unwrap_or(i64::MAX),
        });
        if let Some(parts) = parts {
            state.next_set += 1;
            state.sets.push(parts);
            parts.save(&self.records, bytes).await?;
        }
        let content = parts.map_or(Content::Whole(checkpoint), Content::Parts);
        if !self.save_over_own(&mut state.fence, &content).await? {
            return Err(taken("save the checkpoint"));
        }
        self.tidy(&mut state, parts).await;
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if let Some(record) = self.records.load(RECORD).await?
            && let Content::Parts(parts) = content_of(&record)?
        {
            state.sets.push(parts);
        }
        self.records.delete(RECORD).await?;
        self.tidy(&mut state, None).await;
        state.fence = 0;
        Ok(())
    }
}

/// What a record contains of the checkpoint.
#[derive(Clone, Copy)]
enum Content<'a> {
    /// The record was claimed before anything was saved.
    Nothing,
    Whole(&'a RawDocument),
    Parts(Parts),
}

fn content_of(record: &RawDocument) -> Result<Content<'_>> {
    if record.get("checkpoint").map_err(damaged)?.is_some() {
        return record.get_document("checkpoint").map(Content::Whole).map_err(damaged);
    }
    if record.get("parts").map_err(damaged)?.is_some() {
        let parts = record.get_document("parts").map_err(damaged)?;
        return Ok(Content::Parts(Parts {
            writer: Uuid::parse_str(parts.get_str("writer").map_err(damaged)?).map_err(damaged)?,
            set: parts.get_i64("set").map_err(damaged)?,
            count: parts.get_i64("count").map_err(damaged)?,
        }));
    }
    Ok(Content::Nothing)
}

pub(super) fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        ErrorKind::CheckpointMismatch,
        "load the checkpoint",
        "the record on the target is damaged",
    )
    .with_source(error)
}

fn taken(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        operation,
        "another process has saved a checkpoint since: it has taken the migration over",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{JournalEntry, MemorySink, SinkCall};

    #[tokio::test]
    async fn a_save_without_an_answer_is_known_as_our_own() {
        let sink = MemorySink::new();
        let store = SinkStore::new(Arc::new(sink.clone()));
        store.save(&rawdoc! { "n": 1 }).await.unwrap();
        sink.lose_next_answer(SinkCall::SaveRecord);
        assert!(store.save(&rawdoc! { "n": 2 }).await.unwrap_err().is_retryable());
        store.save(&rawdoc! { "n": 3 }).await.unwrap();
        // The same for a save that is dropped after it has arrived.
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
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::LeaseLost, false));
        }
        assert_eq!(second.load().await.unwrap(), Some(rawdoc! { "n": 2 }));
    }

    #[tokio::test]
    async fn a_claimed_checkpoint_refuses_its_earlier_owner() {
        let sink = Arc::new(MemorySink::new());
        for saved in [None, Some(rawdoc! { "n": 1 })] {
            let (first, second) = (SinkStore::new(sink.clone()), SinkStore::new(sink.clone()));
            first.load().await.unwrap();
            if let Some(checkpoint) = &saved {
                first.claim().await.unwrap();
                first.save(checkpoint).await.unwrap();
            }
            // The second store has not saved anything yet.
            second.claim().await.unwrap();
            assert_eq!(second.load().await.unwrap(), saved);
            assert_eq!(
                first.save(&rawdoc! { "n": 2 }).await.unwrap_err().kind(),
                ErrorKind::LeaseLost
            );
            assert_eq!(second.load().await.unwrap(), saved);
            second.save(&rawdoc! { "n": 3 }).await.unwrap();
            second.clear().await.unwrap();
        }
    }

    /// The names of the existing records, derived from the journal.
    fn records(sink: &MemorySink) -> std::collections::BTreeSet<String> {
        let mut records = std::collections::BTreeSet::new();
        for entry in sink.journal() {
            match entry {
                JournalEntry::RecordSaved { name, .. } => records.insert(name),
                JournalEntry::RecordDeleted { name } => records.remove(&name),
                _ => false,
            };
        }
        records
    }

    /// A checkpoint of the given number of parts.
    fn large(n: i32, parts: usize) -> RawDocumentBuf {
        rawdoc! { "n": n, "large": "x".repeat(PART * parts - 100) }
    }

    #[tokio::test]
    async fn a_large_checkpoint_is_kept_in_parts_and_leaves_none_behind() {
        let sink = MemorySink::new();
        let (first, second) = (
            SinkStore::new(Arc::new(sink.clone())),
            SinkStore::new(Arc::new(sink.clone())),
        );
        for (n, parts) in [(1, 3), (2, 1), (3, 4), (4, 2)] {
            first.save(&large(n, parts)).await.unwrap();
            assert_eq!(first.load().await.unwrap(), Some(large(n, parts)));
            let expected = if parts == 1 { 1 } else { 1 + parts };
            assert_eq!(records(&sink).len(), expected, "{:?}", records(&sink));
        }
        assert_eq!(second.load().await.unwrap(), Some(large(4, 2)));
        second.claim().await.unwrap();
        assert_eq!(second.load().await.unwrap(), Some(large(4, 2)));
        // The parts of the stale store arrive, but the record that names them does not.
        assert_eq!(first.save(&large(5, 3)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(second.load().await.unwrap(), Some(large(4, 2)));
        second.save(&large(6, 3)).await.unwrap();
        assert_eq!(second.load().await.unwrap(), Some(large(6, 3)));
        assert_eq!(records(&sink).len(), 4, "{:?}", records(&sink));
        second.clear().await.unwrap();
        assert_eq!(second.load().await.unwrap(), None);
        assert_eq!(records(&sink).len(), 0, "{:?}", records(&sink));
    }

    #[tokio::test]
    async fn a_large_save_cut_off_anywhere_leaves_one_or_the_other() {
        for passes in 0..12 {
            for lost in [false, true] {
                let sink = MemorySink::new();
                let store = SinkStore::new(Arc::new(sink.clone()));
                store.save(&large(1, 3)).await.unwrap();
                let (save, delete) = (SinkCall::SaveRecord, SinkCall::DeleteRecord);
                let gates = if lost {
                    [sink.hold_answer(save), sink.hold_answer(delete)]
                } else {
                    [sink.hold(save), sink.hold(delete)]
                };
                // Four saves, then three deletions.
                for pass in 0..passes {
                    gates[usize::from(pass >= 4)].let_one_pass();
                }
                let two = large(2, 3);
                tokio::select! {
                    saved = store.save(&two) => saved.unwrap(),
                    () = gates[0].reached() => {}
                    () = gates[1].reached() => {}
                }
                drop(gates);
                // A process that takes over finds one of the two checkpoints, and leaves nothing of the other behind.
                let next = SinkStore::new(Arc::new(sink.clone()));
                let found = next.load().await.unwrap().unwrap();
                let arrived = passes >= 4 || (lost && passes == 3);
                assert_eq!(found, if arrived { two } else { large(1, 3) }, "{passes} {lost}");
                next.claim().await.unwrap();
                next.save(&large(3, 2)).await.unwrap();
                assert_eq!(next.load().await.unwrap(), Some(large(3, 2)));
                assert_eq!(records(&sink).len(), 3, "{passes} {lost} {:?}", records(&sink));
            }
        }
    }
}
