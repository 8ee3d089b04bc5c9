//! Settings of a migration.

use std::fmt;
#[cfg(feature = "recorder")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::checkpoint::WayBack;
use crate::error::Result;
use crate::model::{AccountName, MigrationId, Namespace, OnWait, Selection, checked_pattern, matches_pattern};
use crate::rules::RuleSet;
use crate::users::{Users, UsersAtHandOver};

/// All settings of a migration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub id: MigrationId,
    pub selection: Selection,
    /// The hand-over that this migration reverses.
    pub way_back: Option<WayBack>,
    pub existing_data: ExistingData,
    pub users: Users,
    pub lost_position: LostPosition,
    pub cross_check_bytes: u64,
    pub run_id: Option<String>,
    pub accept_late_writes: bool,
    pub block_source_writes: bool,
    pub ddl: DdlPolicy,
    pub walkers: usize,
    pub adaptive_walkers: bool,
    pub appliers: usize,
    pub chunk_bytes: u64,
    pub memory_bytes: usize,
    pub max_lag: Duration,
    pub cutover_window: Duration,
    pub clock: Clock,
    pub retry_timeout: Duration,
    pub throttle: Throttle,
    pub watch_foreign_writes: bool,
    pub path_policy: PathPolicy,
    pub accept_unencrypted: bool,
    pub scan_documents: bool,
    pub on_wait: OnWait,
    pub collections: CollectionRules,
    /// Which documents migrate, and in which form.
    pub rules: RuleSet,
    /// Filters that cannot be evaluated.
    pub unsupported_filters: Vec<UnsupportedFilter>,
    pub on_rule_error: OnRuleError,
    #[cfg(feature = "recorder")]
    pub recording: Option<Recording>,
}

/// Where a run is recorded.
#[cfg(feature = "recorder")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    pub path: PathBuf,
    /// Maximum size of the file.
    pub bytes: u64,
}

impl Settings {
    /// Maximum size of a recording; `u64::MAX` without one.
    pub fn recording_bytes(&self) -> u64 {
        #[cfg(feature = "recorder")]
        if let Some(recording) = &self.recording {
            return recording.bytes;
        }
        u64::MAX
    }

    /// Users and roles at the hand-over that is taken back, if there are any.
    pub fn users_at_hand_over(&self) -> Option<&UsersAtHandOver> {
        self.way_back.as_ref()?.first.users.as_ref()
    }

    /// Users and roles that are never carried, because they belonged to the migration that is taken back.
    pub fn never_carried(&self) -> &[AccountName] {
        self.users_at_hand_over().map_or(&[], |users| &users.own)
    }

    /// Number of walkers to run until the write load on the source is known.
    pub fn walkers_at_first(&self) -> usize {
        if self.adaptive_walkers { 1 } else { self.walkers }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            id: MigrationId::default(),
            selection: Selection::all(),
            way_back: None,
            existing_data: ExistingData::default(),
            users: Users::None,
            lost_position: LostPosition::default(),
            cross_check_bytes: 256 << 20,
            run_id: None,
            accept_late_writes: false,
            block_source_writes: false,
            ddl: DdlPolicy::default(),
            walkers: 4,
            adaptive_walkers: true,
            appliers: 4,
            chunk_bytes: 64 << 20,
            memory_bytes: 256 << 20,
            max_lag: Duration::from_secs(2),
            cutover_window: DEFAULT_CUTOVER_WINDOW,
            clock: Clock::default(),
            retry_timeout: Duration::from_secs(600),
            throttle: Throttle::default(),
            watch_foreign_writes: true,
            path_policy: PathPolicy::default(),
            accept_unencrypted: false,
            scan_documents: false,
            on_wait: OnWait::default(),
            collections: CollectionRules::default(),
            rules: RuleSet::default(),
            unsupported_filters: Vec::new(),
            on_rule_error: OnRuleError::default(),
            #[cfg(feature = "recorder")]
            recording: None,
        }
    }
}

/// What to do with existing data on the target that the migration did not create and whose name a migrated collection or view needs.
///
/// The policy applies during the whole run. It covers the names that the source has at the start, and names that appear later through
/// `create`, `renameCollection` or a view. It also covers data that other programs create on the target in the meantime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExistingData {
    /// Refuse to start, or end the run with [`Refused`](crate::ErrorKind::Refused) before any of the existing data is touched. The run can
    /// continue once that data is removed, or with another policy.
    #[default]
    Refuse,
    /// Drop what has the name of a migrated collection, and nothing else.
    Clear,
    /// Keep what is equal, and make equal what is not. Documents that the source does not have are deleted. A collection that is renamed
    /// onto existing data replaces it.
    Keep,
}

/// What to do when the source's oplog no longer contains the position to resume from.
///
/// This happens when the process was down for longer than the oplog covers, when the oplog was made smaller, or when the source was
/// restored from a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LostPosition {
    /// Follow the oplog from its current position, compare everything with the source, and write what differs.
    #[default]
    Resync,
    /// End the run with [`PositionLost`](crate::ErrorKind::PositionLost). The checkpoint stays, and a run with
    /// [`Resync`](LostPosition::Resync) can continue from it.
    Fail,
}

/// How both sides are compared at cutover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verification {
    /// Compare options and indexes, but not documents.
    None,
    /// Compare every document at cutover, and nothing earlier.
    ///
    /// Both sides compute digests. Where these differ or are not available, documents are compared one by one. The comparison takes about
    /// as long as reading everything once, and the applications are stopped meanwhile.
    Digest,
    /// Compare every document while the run follows the source, range by range. A cutover then takes seconds, whatever the amount of data.
    ///
    /// Both sides are read once more after everything is copied and indexed, within the limits of the
    /// [throttle](crate::MigrationBuilder::throttle). Documents that change later are compared again from time to time, which takes a tenth
    /// of one walker's time. The cutover compares what has changed since then.
    ///
    /// The checkpoint records what was compared, so a resumed run does not have to compare it again. It compares again where
    ///
    /// - it cannot know what other programs wrote to the target in between, because the target's oplog no longer contains the position up
    ///   to which it was watched,
    /// - another program was seen to write, as far as that [can be detected](crate::MigrationBuilder::watch_foreign_writes),
    /// - the source has had an election since the checkpoint,
    /// - either side may have been restored from a backup,
    /// - differences were found, or
    /// - so much had changed (about 8,000 documents in all) that the checkpoint would be too large.
    ///
    /// Some collections are compared by digest instead, because they cannot be compared in this way, or not yet: capped collections,
    /// collections with a collation, and collections on the target that another program was seen to write to. If such writes are not
    /// [watched for](crate::MigrationBuilder::watch_foreign_writes), all collections are compared by digest. Small collections are compared
    /// by digest as well ([`cross_check_bytes`](crate::MigrationBuilder::cross_check_bytes)).
    #[default]
    Continuous,
}

/// What to do when a selected collection, view or index is created, dropped, renamed or modified on the source during a run.
///
/// An application that inserts into a collection that does not exist creates it. A change that the run already has, because it listed the
/// source after the change, does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DdlPolicy {
    /// Apply the change to the target.
    #[default]
    Apply,
    /// Emit [`Event::CatalogChangeMet`](crate::Event::CatalogChangeMet), and apply the change to the target.
    Warn,
    /// End the run with [`CatalogChanged`](crate::ErrorKind::CatalogChanged) before any part of the change is applied. The checkpoint is
    /// from just before the change, and a start with another policy continues from there.
    Fail,
}

/// What to do with a document for which a [filter](crate::MigrationBuilder::filter_with) or [transform](crate::MigrationBuilder::transform)
/// fails. One that panics ends the run, whatever the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnRuleError {
    /// End the run with [`Rule`](crate::ErrorKind::Rule). The checkpoint stays, and a start with corrected rules continues.
    #[default]
    Fail,
    /// Leave the document out on the target, emit [`Event::RuleFailed`](crate::Event::RuleFailed), and count it in status, summary and
    /// certificate. A document that changes is tried again. At most 100,000 documents are left out, then the run ends.
    Skip,
    /// Like [`Skip`](Self::Skip), and keep the document as it is on the source in this collection on the target, with the reason. It is
    /// removed there once the rules have a result for it. The collection must not have the name of a migrated one, and must not exist at the
    /// first start that names it, which is refused otherwise: nothing that others keep there is changed. A later start with another policy
    /// or another collection drops it.
    DeadLetter(Namespace),
}

/// A filter that cannot be evaluated. Preflight refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsupportedFilter {
    pub pattern: String,
    /// What is not supported.
    pub reason: String,
}

/// Allowed migration paths; see [`MigrationBuilder::path_policy`](crate::MigrationBuilder::path_policy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PathPolicy {
    /// Every path to the same or a newer version. Paths between 4.2, 4.4, 5.0 and 6.0 are tested. Other paths cause a warning that says
    /// what is known about them.
    #[default]
    Upward,
    /// Only the paths that hosted migration services offer: from 2.6, 3.0, 3.2, 3.4, 3.6, 4.0 and 4.2 to 4.2, from 4.4 to 4.4, and from 5.0
    /// to 5.0. Sources older than 4.2 take the feature `legacy`.
    Hosted,
}

/// Rate limits of a run. `None` means no limit, which is the default.
///
/// ```
/// let throttle = mongoferry::Throttle::unlimited().with_copy_bytes_per_second(50_000_000);
/// ```
///
/// A change takes effect within a second, also on work in progress. It stays in effect through pauses and automatic restarts of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Throttle {
    /// Maximum number of bytes of documents read from the source per second, for copying and comparing.
    pub copy_bytes_per_second: Option<u64>,
    /// Maximum number of operations read from the source's oplog per second. While the source writes more than that, the run falls behind.
    pub tail_operations_per_second: Option<u64>,
}

impl Throttle {
    /// No limits.
    pub const fn unlimited() -> Self {
        Self {
            copy_bytes_per_second: None,
            tail_operations_per_second: None,
        }
    }

    /// Limits how many bytes of documents are read from the source per second.
    #[must_use]
    pub const fn with_copy_bytes_per_second(mut self, bytes: u64) -> Self {
        self.copy_bytes_per_second = Some(bytes);
        self
    }

    /// Limits how many operations are read from the source's oplog per second.
    #[must_use]
    pub const fn with_tail_operations_per_second(mut self, operations: u64) -> Self {
        self.tail_operations_per_second = Some(operations);
        self
    }
}

/// When the indexes of a collection are built on the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IndexPolicy {
    /// As soon as the collection is copied, while others are still being copied.
    #[default]
    Now,
    /// Once all collections are copied, so that the builds do not compete with the copy. Indexes of [`Now`](Self::Now) come first.
    Later,
    /// Never. The collection gets its index on `_id` alone. Preflight and the summary list what is left out, and it does not count as a
    /// difference. Indexes that the collection already has on the target are left as they are. A reverse migration needs the same setting.
    Never,
}

/// Settings of the collections whose names match a pattern; see
/// [`MigrationBuilder::collection_settings`](crate::MigrationBuilder::collection_settings).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CollectionSettings {
    /// Collections with a higher priority are copied first. Default: 0.
    pub priority: i32,
    /// How documents are compared; `None` means as the [migration](crate::MigrationBuilder::verification) does.
    pub verification: Option<Verification>,
    /// When indexes are built.
    pub indexes: IndexPolicy,
}

impl CollectionSettings {
    /// Sets the [priority](Self::priority).
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets how documents are [compared](Self::verification).
    #[must_use]
    pub fn verification(mut self, verification: Verification) -> Self {
        self.verification = Some(verification);
        self
    }

    /// Sets when [indexes](Self::indexes) are built.
    #[must_use]
    pub fn indexes(mut self, indexes: IndexPolicy) -> Self {
        self.indexes = indexes;
        self
    }
}

/// What applies to each collection: the settings by pattern, in the order in which the host gave them, and those of the migration.
#[derive(Clone, Debug, Default)]
pub(crate) struct CollectionRules {
    patterns: Vec<(String, CollectionSettings)>,
    /// How collections are compared for which no pattern says otherwise.
    pub verification: Verification,
}

/// Settings of one collection, complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectionRule {
    pub priority: i32,
    pub verification: Verification,
    pub indexes: IndexPolicy,
}

impl CollectionRules {
    /// Adds the settings of a pattern.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) for a malformed pattern.
    pub fn add(&mut self, pattern: &str, settings: CollectionSettings) -> Result<()> {
        self.patterns.push((checked_pattern(pattern)?, settings));
        Ok(())
    }

    /// The settings of the last pattern that matches. Buckets follow their time-series collection.
    pub fn of(&self, namespace: &Namespace) -> CollectionRule {
        let shown = namespace.time_series();
        let name = shown.as_ref().unwrap_or(namespace).as_str();
        let mut patterns = self.patterns.iter().rev();
        let found = patterns.find(|(pattern, _)| matches_pattern(pattern, name));
        let settings = found.map(|(_, settings)| *settings).unwrap_or_default();
        CollectionRule {
            priority: settings.priority,
            verification: settings.verification.unwrap_or(self.verification),
            indexes: settings.indexes,
        }
    }

    /// Whether some collection may be compared while the run follows the source.
    pub fn any_continuous(&self) -> bool {
        let mut set = self.patterns.iter().filter_map(|(_, settings)| settings.verification);
        self.verification == Verification::Continuous || set.any(|set| set == Verification::Continuous)
    }
}

#[cfg(any(test, feature = "test-util"))]
impl CollectionRules {
    /// The same for every collection.
    pub fn all(verification: Verification) -> Self {
        Self {
            patterns: Vec::new(),
            verification,
        }
    }
}

impl CollectionRule {
    /// Whether the collection is compared while the run follows the source.
    pub fn is_continuous(self) -> bool {
        self.verification == Verification::Continuous
    }

    /// Whether no index is built except the one on `_id`.
    pub fn leaves_indexes_out(self) -> bool {
        self.indexes == IndexPolicy::Never
    }
}

/// Source of the current time. Tests of hosts replace it.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Default length of the cutover window.
pub(crate) const DEFAULT_CUTOVER_WINDOW: Duration = Duration::from_secs(120 * 3600);
