//! The cutover, and the window until it.

use std::time::{Duration, SystemTime};

use super::MigrationBuilder;
use crate::config::Clock;

impl MigrationBuilder {
    /// How long the run follows the source after it is first ready. Default: 120 hours.
    ///
    /// At the end of the window the run ends with [`WindowClosed`](crate::ErrorKind::WindowClosed) and keeps its checkpoint.
    /// [`MigrationHandle::extend`](crate::MigrationHandle::extend) extends the window, and [`Event::CutoverWindowShort`](crate::Event::CutoverWindowShort) warns before it
    /// ends. The window keeps running through restarts of the process. A start after its end begins a new window.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.cutover_window(Duration::from_secs(7 * 24 * 3600))
    /// # }
    /// ```
    #[must_use]
    pub fn cutover_window(mut self, window: Duration) -> Self {
        self.settings.cutover_window = window;
        self
    }

    /// Clock for the cutover window. Default: the system clock.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.clock(std::time::SystemTime::now)
    /// # }
    /// ```
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.clock = Clock::new(now);
        self
    }

    /// Whether a cutover may continue if the source is still written to after the host has stopped the writers. Default: no, such writes
    /// make the cutover fail.
    ///
    /// If accepted, these writes are applied to the target, and the summary lists them. Writes after the end of the cutover are lost in any
    /// case.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.accept_late_writes(true)
    /// # }
    /// ```
    #[must_use]
    pub fn accept_late_writes(mut self, accept: bool) -> Self {
        self.settings.accept_late_writes = accept;
        self
    }

    /// Whether the cutover blocks client writes on the source after the host's `stop_writes` is done. Default: no.
    ///
    /// The block uses `setUserWriteBlockMode`, which servers support from version 6.0. It prevents late writes by programs that were
    /// overlooked. With a source that does not support it, the migration neither starts nor resumes.
    ///
    /// The block is lifted when the cutover fails, is dropped, or ends with differences. A checkpoint records the block before it takes
    /// effect, so that the next start lifts it if the process dies in the meantime. A block that was already in effect before is never
    /// changed.
    ///
    /// After [`Outcome::Complete`](crate::Outcome::Complete) the block stays, so that nobody writes to the side that is no longer in use.
    /// To lift it then, run `db.adminCommand({ setUserWriteBlockMode: 1, global: false })` on the source.
    ///
    /// The source's user needs the privilege `setUserWriteBlockMode` on the cluster, which the role `backup` has. Users with the privilege
    /// `bypassWriteBlockingMode`, such as those with the roles `restore` or `root`, can still write. The cutover detects such writes if
    /// they arrive before it ends.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.block_source_writes(true)
    /// # }
    /// ```
    #[must_use]
    pub fn block_source_writes(mut self, block: bool) -> Self {
        self.settings.block_source_writes = block;
        self
    }
}
