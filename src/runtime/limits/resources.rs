//! Memory and rates that several migrations of a process share.

use std::sync::Arc;

use crate::config::Throttle;
use crate::runtime::limits::memory::Pools;
use crate::runtime::limits::throttle::{RateLimiter, RateLimiters};
use crate::sink::Turn;

/// Default for [`Resources::memory_bytes`].
const DEFAULT_MEMORY: usize = 256 << 20;

/// Limits that the migrations of a process share. Clones share them.
///
/// ```
/// use mongoferry::{Resources, Throttle};
///
/// let throttle = Throttle::unlimited().with_copy_bytes_per_second(50 << 20);
/// let resources = Resources::new().memory_bytes(512 << 20).throttle(throttle);
/// // Each builder gets them with `.resources(&resources)`.
/// resources.set_throttle(Throttle::default());
/// ```
///
/// The limits of each migration ([`memory_bytes`](crate::MigrationBuilder::memory_bytes), [`throttle`](crate::MigrationBuilder::throttle))
/// apply in addition.
///
/// What is not counted: the last answer of each cursor, as the driver holds it until it is taken apart, and what a run remembers of each
/// collection while none of its documents are on the way.
#[derive(Clone)]
pub struct Resources {
    pools: Arc<Pools>,
    copy: Arc<RateLimiter>,
    tail: Arc<RateLimiter>,
    turn: Turn,
}

impl Resources {
    /// Creates limits of 256 MiB of memory and no throttle.
    pub fn new() -> Self {
        Self {
            pools: Arc::new(Pools::new(DEFAULT_MEMORY)),
            copy: Arc::default(),
            tail: Arc::default(),
            turn: Turn::default(),
        }
    }

    /// Limit in bytes for documents and changes that all these migrations together hold in memory. Default: 256 MiB; at least 16 MiB.
    ///
    /// Clones that were made before keep their limit. A single change or document that is larger than the part of the limit for its purpose
    /// passes alone.
    #[must_use]
    pub fn memory_bytes(self, bytes: usize) -> Self {
        Self {
            pools: Arc::new(Pools::new(bytes)),
            ..self
        }
    }

    /// Rate limits of all these migrations together. Default: no limits.
    #[must_use]
    pub fn throttle(self, throttle: Throttle) -> Self {
        self.set_throttle(throttle);
        self
    }

    /// Changes the rate limits, also of running migrations. The change takes effect within a second.
    pub fn set_throttle(&self, throttle: Throttle) {
        self.copy.set(throttle.copy_bytes_per_second);
        self.tail.set(throttle.tail_operations_per_second);
    }

    pub(crate) fn turn(&self) -> Turn {
        Arc::clone(&self.turn)
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Rate limiters of one run, which also keep to these limits.
    pub(crate) fn limiters(&self) -> RateLimiters {
        RateLimiters {
            copy: RateLimiter::within(Arc::clone(&self.copy)),
            tail: RateLimiter::within(Arc::clone(&self.tail)),
        }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resources")
            .field("memory_bytes", &self.pools.bytes)
            .field("copy_bytes_per_second", &self.copy.get())
            .field("tail_operations_per_second", &self.tail.get())
            .finish()
    }
}
