//! Division of a run's memory limit among its tasks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Settings;
use crate::error::{Error, Result};
use crate::runtime::limits::allowance::{Allowance, SharedBytes};

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

/// Memory of several migrations together, divided by purpose.
///
/// # Why they do not wait for each other in a circle
/// A task takes memory in this order only, first from its run's own budget and then from the shared one of the same purpose:
///
/// 1. `batches`: a walker with a batch waits for servers. With a batch for a comparison it also waits until a barrier has passed through its
///    run's router and appliers.
/// 2. `read_ahead`: held by entries on their way to a router. The router waits for the appliers' memory and for servers. While it waits for
///    a walker, it has cancelled the walker's chunk, which ends every wait for `batches`.
/// 3. `appliers`: held by changes that an applier applies. It waits for servers alone.
///
/// So whoever holds memory of one purpose waits for a later one or for servers, never for an earlier one. Servers answer, or calls to them
/// fail after a bounded time, and the run that fails gives everything back. Each semaphore is first come, first served, so a large request
/// is not overtaken for ever. A request for more than a whole budget takes all of it.
///
/// Nobody waits for what the runs remember (`held`, `changed`, `settled`): see [`Allowance`].
#[derive(Debug)]
pub(crate) struct Pools {
    pub bytes: usize,
    batches: Pool,
    appliers: Pool,
    read_ahead: Pool,
    held: Arc<SharedBytes>,
    changed: Arc<SharedBytes>,
    settled: Arc<SharedBytes>,
}

impl Pools {
    pub fn new(bytes: usize) -> Self {
        let percent = bytes / 100;
        Self {
            bytes,
            batches: Pool::new(percent * 30),
            appliers: Pool::new(percent * 25),
            read_ahead: Pool::new(percent * 15),
            held: Arc::new(SharedBytes::new(percent * 21)),
            changed: Arc::new(SharedBytes::new(percent * 5)),
            settled: Arc::new(SharedBytes::new(percent * 4)),
        }
    }
}

/// The memory of one run.
#[derive(Debug)]
pub(crate) struct RunMemory<'a> {
    shares: Shares,
    pools: Option<&'a Pools>,
}

impl<'a> RunMemory<'a> {
    /// Divides the memory of a run. With `pools`, other runs share it.
    pub fn of(settings: &Settings, pools: Option<&'a Pools>) -> Self {
        let memory_bytes = pools.map_or(usize::MAX, |pools| pools.bytes).min(settings.memory_bytes);
        let shares = Shares::of(&Settings {
            memory_bytes,
            ..settings.clone()
        });
        Self { shares, pools }
    }

    /// Size in bytes of one batch of documents read by a walker.
    pub fn batch(&self) -> usize {
        self.shares.batch
    }

    /// Size in bytes of the changes that one applier applies in one batch.
    pub fn applier_batch(&self) -> usize {
        self.shares.applier_batch
    }

    /// For batches of all walkers.
    pub fn batches(&self) -> MemoryBudget {
        MemoryBudget::within(self.shares.batches, self.pools.map(|pools| &pools.batches))
    }

    /// For changes queued or in flight in all appliers.
    pub fn appliers(&self) -> MemoryBudget {
        MemoryBudget::within(self.shares.appliers, self.pools.map(|pools| &pools.appliers))
    }

    /// For oplog entries that were read ahead.
    pub fn read_ahead(&self) -> MemoryBudget {
        MemoryBudget::within(self.shares.read_ahead, self.pools.map(|pools| &pools.read_ahead))
    }

    /// For held changes of chunks.
    pub fn held(&self) -> Allowance {
        allowance(self.shares.held, self.pools.map(|pools| &pools.held))
    }

    /// For `_id`s of documents that have changed since they were compared.
    pub fn changed(&self) -> Allowance {
        allowance(self.shares.changed, self.pools.map(|pools| &pools.changed))
    }

    /// For what one of `appliers` appliers remembers of refetched documents, and the same again for refused ones.
    pub fn settled(&self, appliers: usize) -> Allowance {
        allowance(self.shares.settled / appliers, self.pools.map(|pools| &pools.settled))
    }
}

fn allowance(bytes: usize, shared: Option<&Arc<SharedBytes>>) -> Allowance {
    match shared {
        Some(shared) => shared.join(bytes),
        None => Allowance::alone(bytes),
    }
}

/// A limit in bytes, shared by several tasks of a run, and with a second limit also by several runs.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget {
    own: Pool,
    shared: Option<Pool>,
}

/// A number of bytes to take from.
#[derive(Clone, Debug)]
struct Pool {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// A number of bytes in use. Dropping the permit frees them.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    _own: OwnedSemaphorePermit,
    _shared: Option<OwnedSemaphorePermit>,
}

impl MemoryPermit {
    /// Number of bytes of the run's own budget that it stands for.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self._own.num_permits()
    }
}

impl MemoryBudget {
    #[cfg(any(test, feature = "test-util"))]
    pub fn new(bytes: usize) -> Self {
        Self::within(bytes, None)
    }

    /// A budget of `bytes` for one run, whose memory is also taken from `shared`.
    fn within(bytes: usize, shared: Option<&Pool>) -> Self {
        Self {
            own: Pool::new(bytes),
            shared: shared.cloned(),
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
        // Always in this order: who waits for the shared budget holds up only other tasks of the same run and purpose.
        let own = self.own.take(bytes).await?;
        let shared = match &self.shared {
            Some(shared) => Some(shared.take(bytes).await?),
            None => None,
        };
        Ok(MemoryPermit {
            _own: own,
            _shared: shared,
        })
    }
}

impl Pool {
    fn new(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
        }
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        permit.map_err(|error| Error::stopped("wait for memory").with_source(error))
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
    async fn runs_with_the_same_pools_stay_within_them_together() {
        let pools = Pools::new(100 << 20);
        let settings = Settings::default();
        let runs = [(); 3].map(|()| RunMemory::of(&settings, Some(&pools)).appliers());
        let whole = 25 * ((100 << 20) / 100);
        let first = runs[0].take(whole - 10).await.unwrap();
        let _second = runs[1].take(10).await.unwrap();
        assert!(
            runs[2].take(1).now_or_never().is_none(),
            "both together have taken everything"
        );
        let mut large = Box::pin(runs[2].take(usize::MAX));
        assert!((&mut large).now_or_never().is_none());
        drop((first, _second));
        let large = large.await.unwrap();
        assert!(
            runs[0].take(1).now_or_never().is_none(),
            "a large change has everything for itself"
        );
        drop(large);
        // A run whose own limit is lower does not take more than that from the others.
        let small = Settings {
            memory_bytes: 16 << 20,
            ..Settings::default()
        };
        let small = RunMemory::of(&small, Some(&pools)).appliers();
        let _all = small.take(6 << 20).await.unwrap();
        assert!(small.take(1 << 20).now_or_never().is_none());
        runs[0].take(whole - (6 << 20)).now_or_never().unwrap().unwrap();
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
