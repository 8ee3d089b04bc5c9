//! Settings of the load that a run puts on both sides and on its own process, and of its patience.

use std::time::Duration;

use super::MigrationBuilder;
use crate::config::Throttle;
use crate::runtime::limits::resources::Resources;

impl MigrationBuilder {
    /// Maximum number of ranges copied, and of indexes built, concurrently. Default: 4.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.walkers(8)
    /// # }
    /// ```
    #[must_use]
    pub fn walkers(mut self, walkers: usize) -> Self {
        self.settings.walkers = walkers;
        self
    }

    /// Whether fewer ranges are copied and compared concurrently while more of them would slow down the source's own writers. Default: yes.
    ///
    /// The run reads the source's write latency twice a second. If the source has enough writes, the run begins with one walker for half a
    /// minute and then tries other numbers in turn. It keeps the highest number with which a write takes hardly longer (less than a
    /// quarter) than with half as many walkers. One walker always runs, so the copy always makes progress, but it may take longer.
    /// [`Status::walkers`](crate::Status::walkers) shows the current number.
    ///
    /// All walkers run if the source is hardly written to, or if its user may not run `serverStatus`.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.adaptive_walkers(false)
    /// # }
    /// ```
    #[must_use]
    pub fn adaptive_walkers(mut self, adaptive: bool) -> Self {
        self.settings.adaptive_walkers = adaptive;
        self
    }

    /// Number of connections that apply changes concurrently. Default: 4.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.appliers(8)
    /// # }
    /// ```
    #[must_use]
    pub fn appliers(mut self, appliers: usize) -> Self {
        self.settings.appliers = appliers;
        self
    }

    /// Approximate size of a chunk in bytes of documents. A chunk is what has to be read again after a crash. Default: 64 MiB.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.chunk_bytes(16 << 20)
    /// # }
    /// ```
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.settings.chunk_bytes = bytes;
        self
    }

    /// Limit in bytes for documents and changes that the run holds in memory. Default: 256 MiB.
    ///
    /// Transactions that the source has logged only in part take up to 32 MB in addition until they commit. Anything beyond that goes to a
    /// temporary file.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.memory_bytes(1 << 30)
    /// # }
    /// ```
    #[must_use]
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.settings.memory_bytes = bytes;
        self
    }

    /// Memory and rate limits that this migration shares with others of the process. Default: none.
    #[must_use]
    pub fn resources(mut self, resources: &Resources) -> Self {
        self.resources = Some(resources.clone());
        self
    }

    /// Maximum lag at which the run counts as ready for cutover. Default: 2 s.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.max_lag(Duration::from_secs(5))
    /// # }
    /// ```
    #[must_use]
    pub fn max_lag(mut self, lag: Duration) -> Self {
        self.settings.max_lag = lag;
        self
    }

    /// Rate limits of the run; [`MigrationHandle::throttle`](crate::MigrationHandle::throttle) changes them later. Default: no limits.
    ///
    /// ```no_run
    /// # use mongoferry::Throttle;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.throttle(Throttle::unlimited().with_copy_bytes_per_second(50_000_000))
    /// # }
    /// ```
    #[must_use]
    pub fn throttle(mut self, throttle: Throttle) -> Self {
        self.settings.throttle = throttle;
        self
    }

    /// How long the run retries after failures without any progress before it ends. The checkpoint stays. Default: 10 minutes.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.retry_timeout(Duration::from_secs(3600))
    /// # }
    /// ```
    #[must_use]
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.settings.retry_timeout = timeout;
        self
    }
}
