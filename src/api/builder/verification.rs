//! How both sides are compared.

use super::MigrationBuilder;
use crate::config::Verification;

impl MigrationBuilder {
    /// How both sides are compared at cutover. Default: [`Verification::Continuous`].
    ///
    /// ```no_run
    /// # use mongoferry::Verification;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.verification(Verification::Digest)
    /// # }
    /// ```
    #[must_use]
    pub fn verification(mut self, verification: Verification) -> Self {
        self.settings.collections.verification = verification;
        self
    }

    /// Maximum total size, in bytes of BSON, of the collections that the cutover also compares by digest with [`Verification::Continuous`].
    /// Default: 256 MiB, which takes about a second.
    ///
    /// This comparison is independent of the run and of its record of changes. It takes the smallest collections first, up to 200 of them,
    /// while their total size stays within the limit.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.cross_check_bytes(1 << 30)
    /// # }
    /// ```
    #[must_use]
    pub fn cross_check_bytes(mut self, bytes: u64) -> Self {
        self.settings.cross_check_bytes = bytes;
        self
    }

    /// Whether to watch for writes of other programs to what is migrated on the target. This takes a cursor on the target's oplog. Default:
    /// yes.
    ///
    /// The watch detects transactions and writes that drivers can retry, which is their default. It never reports writes of this migration.
    /// It does not detect updates and deletes of many documents at once, nor writes of programs with `retryWrites=false`. The comparison at
    /// cutover finds their effects, with one exception: documents that [`Verification::Continuous`] compared earlier, in a collection that
    /// has as many documents and bytes as before.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.watch_foreign_writes(false)
    /// # }
    /// ```
    #[must_use]
    pub fn watch_foreign_writes(mut self, watch: bool) -> Self {
        self.settings.watch_foreign_writes = watch;
        self
    }
}
