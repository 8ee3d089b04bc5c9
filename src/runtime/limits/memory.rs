//! Division of a run's memory limit among its tasks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Settings;
use crate::error::{Error, Result};

/// Batches of one walker in memory: one being written, one already read, and one being read.
const BATCHES_OF_A_WALKER: usize = 3;

/// Limits in bytes for the batch of one applier. It is no less because one applier may receive most of the changes. It is no more because a
/// single batch would occupy the target for too long.
const APPLIER_BATCHES: RangeInclusive<usize> = 16 << 20..=64 << 20;

/// Shares of a run's memory limit, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// One batch of documents read by a walker.
    pub batch: usize,
    /// Batches of all walkers.
    pub batches: usize,
    /// Changes queued or in flight in all appliers.
    pub appliers: usize,
    /// Changes that one applier applies in one batch.
    pub applier_batch: usize,
    /// Held changes of chunks.
    pub held: usize,
    /// Oplog entries that were read ahead.
    pub read_ahead: usize,
    /// `_id`s of documents that have changed since they were compared.
    pub changed: usize,
    /// What all appliers remember of refetched documents. The same amount again is for documents that the target refused.
    pub settled: usize,
}

impl Shares {
    pub fn of(settings: &Settings) -> Self {
        let percent = settings.memory_bytes / 100;
        let most = settings.walkers * BATCHES_OF_A_WALKER;
        let batch = (percent * 30 / most).clamp(64 << 10, 2 << 20);
        let batches = (batch * most).min(percent * 30);
        // Appliers also get what the walkers do not need: the more changes wait, the more of them coalesce into one write.
        let appliers = percent * 25 + (percent * 30 - batches);
        Self {
            batch,
            batches,
            appliers,
            applier_batch: (appliers / settings.appliers).clamp(*APPLIER_BATCHES.start(), *APPLIER_BATCHES.end()),
            held: percent * 21,
            read_ahead: percent * 15,
            changed: percent * 5,
            settled: percent * 2,
        }
    }
}

/// A limit in bytes, shared by several tasks.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// A number of bytes in use. Dropping the permit frees them.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    _permit: OwnedSemaphorePermit,
}

impl MemoryBudget {
    pub fn new(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
        }
    }

    /// Waits until `bytes` are free and takes them. A request for more than the whole budget takes all of it, so it runs alone.
    ///
    /// # Errors
    /// Fails only if the semaphore is closed, which never happens.
    ///
    /// # Cancellation
    /// Dropping the future takes nothing.
    pub async fn take(&self, bytes: usize) -> Result<MemoryPermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        match Arc::clone(&self.free).acquire_many_owned(bytes).await {
            Ok(permit) => Ok(MemoryPermit { _permit: permit }),
            Err(error) => Err(Error::stopped("wait for memory").with_source(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_shares_are_no_more_than_the_whole() {
        for memory in [16 << 20, 100 << 20, 256 << 20, 4 << 30] {
            for walkers in [1, 4, 256] {
                let settings = Settings {
                    memory_bytes: memory,
                    walkers,
                    ..Settings::default()
                };
                let shares = Shares::of(&settings);
                let all = shares.batches
                    + shares.appliers
                    + shares.held
                    + shares.read_ahead
                    + shares.changed
                    + 2 * shares.settled;
                assert!((memory / 2..=memory).contains(&all), "{memory} {walkers}: {shares:?}");
                assert!(shares.appliers >= memory / 5);
            }
        }
    }

    #[tokio::test]
    async fn what_is_larger_than_the_share_passes_alone() {
        let budget = MemoryBudget::new(100);
        let small = budget.take(1).await.unwrap();
        let mut large = Box::pin(budget.take(1000));
        assert!((&mut large).now_or_never().is_none(), "there is no room beside it");
        drop(small);
        let large = large.await.unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop(large);
        budget.take(100).await.unwrap();
    }
}
