//! Internal steps of a run, for the micro benchmarks in `benches/`.
//!
//! Hosts do not need them, and they change without notice.

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::engine::track::ranges::{ChunkId, RangeStatus, Ranges};
use crate::error::Result;
use crate::model::{Position, Write};
use crate::oplog::Entry;
use crate::order::Key;

/// Decodes raw oplog entries into typed ones.
#[derive(Debug)]
pub struct Decoder(crate::oplog::Assembler);

impl Default for Decoder {
    fn default() -> Self {
        Self(crate::oplog::Assembler::new(Position::ZERO, 1 << 30))
    }
}

impl Decoder {
    /// Decodes the next entry. Returns `None` for a transaction that began before the first decoded entry.
    ///
    /// # Errors
    /// The bytes are not an entry that a server writes.
    pub fn decode(&mut self, raw: &RawDocument) -> Result<Option<Entry>> {
        Ok(match self.0.take(raw)? {
            crate::oplog::Taken::Entry(entry) => Some(entry),
            crate::oplog::Taken::Missing(_) | crate::oplog::Taken::Large => None,
        })
    }
}

/// Coalesces writes to one collection, as an applier does.
pub fn fold(writes: Vec<(Position, Write)>) -> Vec<Write> {
    crate::engine::follow::applier::coalesce::coalesce(writes.into_iter(), true).1
}

/// The ranges of a collection, every second of which is copied.
#[derive(Debug)]
pub struct HalfCopied(Ranges);

impl HalfCopied {
    /// Creates ranges between these keys.
    pub fn new(cuts: Vec<Key>) -> Self {
        let mut ranges = Ranges::unread(cuts);
        let mut taken = Vec::new();
        while ranges.take(ChunkId(taken.len() as u64)).is_some() {
            taken.push(ChunkId(taken.len() as u64));
        }
        for (number, chunk) in taken.into_iter().enumerate() {
            if number % 2 == 0 {
                ranges.finish(chunk, None, Position::ZERO, false);
            } else {
                ranges.release(chunk);
            }
        }
        Self(ranges)
    }

    /// Whether changes of this document would be sent to an applier.
    pub fn is_copied(&self, key: &Key) -> bool {
        matches!(self.0.status(key), RangeStatus::Done(_))
    }
}

/// A router with many collections, ten of which are written to.
pub struct Routing(crate::engine::follow::router::fixture::Fixture);

impl Routing {
    /// Creates a router with `collections` collections, which are all copied. With `held`, the ten that are written to are still being
    /// copied, so their changes are held.
    pub fn new(collections: usize, held: bool) -> Self {
        Self(crate::engine::follow::router::fixture::Fixture::new(collections, held))
    }

    /// Creates `count` checkpoints that wait to be saved, each after a change in the state of a collection. Calling a returned closure
    /// encodes its checkpoint.
    pub fn checkpoints(&mut self, count: usize) -> Vec<impl Fn() -> Result<RawDocumentBuf> + use<>> {
        let checkpoints = self.0.checkpoints(count).into_iter();
        checkpoints.map(|checkpoint| move || checkpoint.encode()).collect()
    }

    /// Routes `thousands` thousand changes while a walker waits for work.
    pub async fn route(self, thousands: usize) {
        self.0.run(thousands).await;
    }
}

impl std::fmt::Debug for Routing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Routing")
    }
}

/// Records that `documents` documents were refetched, with `bytes` bytes of memory for their `_id`s.
///
/// # Errors
/// The temporary folder cannot be written.
pub async fn settle(documents: u32, bytes: usize) -> Result<impl std::fmt::Debug> {
    crate::engine::follow::applier::refetched_for_bench(documents, bytes).await
}
