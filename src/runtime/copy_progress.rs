//! How much of the initial work is done: the copy of documents, its speed, and whether indexes are built.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Amount;
use crate::runtime::work::Work;

/// Amounts and speed of the copy.
#[derive(Debug, Default)]
pub(crate) struct CopyProgress {
    documents: AtomicU64,
    bytes: AtomicU64,
    total_documents: AtomicU64,
    total_bytes: AtomicU64,
    is_copied: AtomicBool,
    work: Mutex<Work>,
    /// When the copy of this process began, and the bytes that the target had then.
    begun: Mutex<Option<(Instant, u64)>>,
    /// Average speed in bytes per second, once the copy is complete.
    speed: Mutex<Option<f64>>,
}

impl CopyProgress {
    /// Sets the total amount to copy, and the amount that the target already had when this process began.
    pub fn begin(&self, total: Amount, already: Amount) {
        self.total_documents.store(total.documents, Relaxed);
        self.total_bytes.store(total.bytes, Relaxed);
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Work::First;
        self.documents.store(already.documents, Relaxed);
        self.bytes.store(already.bytes, Relaxed);
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), already.bytes));
    }

    /// Adds what was copied.
    pub fn add(&self, copied: Amount) {
        self.documents.fetch_add(copied.documents, Relaxed);
        self.bytes.fetch_add(copied.bytes, Relaxed);
    }

    /// The amount copied so far.
    pub fn amount(&self) -> Amount {
        Amount {
            documents: self.documents.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    /// The amount to copy in total.
    pub fn total(&self) -> Amount {
        Amount {
            documents: self.total_documents.load(Relaxed),
            bytes: self.total_bytes.load(Relaxed),
        }
    }

    /// Sets whether every collection is copied and every index is built.
    pub fn set_done(&self, copied: bool, indexed: bool) {
        if copied && !self.is_copied.load(Relaxed) {
            let speed = self.speed_so_far();
            let mut known = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
            *known = speed.or(*known);
        }
        self.is_copied.store(copied, Relaxed);
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set(copied && indexed);
    }

    pub fn is_copied(&self) -> bool {
        self.is_copied.load(Relaxed)
    }

    /// Whether everything is copied and indexed.
    pub fn is_indexed(&self) -> bool {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).is_done()
    }

    /// Whether everything is copied and indexed, except for work that the source has made within `latest`.
    pub fn is_indexed_but_for(&self, latest: Duration) -> bool {
        let work = *self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.is_done_but_for(latest)
    }

    /// Average speed in bytes per second, once this process has completed a copy.
    pub fn speed(&self) -> Option<f64> {
        *self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Estimates the time for the remaining bytes at the average speed of this process.
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.total().bytes.saturating_sub(self.amount().bytes) as f64;
        Duration::try_from_secs_f64(left / self.speed_so_far()?).ok()
    }

    /// Returns the average speed of this process's copy, in bytes per second.
    fn speed_so_far(&self) -> Option<f64> {
        let (since, before) = (*self.begun.lock().unwrap_or_else(PoisonError::into_inner))?;
        let copied = self.bytes.load(Relaxed).saturating_sub(before);
        let seconds = since.elapsed().as_secs_f64();
        (seconds >= 1.0 && copied > 0).then(|| copied as f64 / seconds)
    }
}
