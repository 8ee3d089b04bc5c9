//! What the host decided about a migration.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::checkpoint::WayBack;
use crate::model::{OnWait, Selection};

/// What the host decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub selection: Selection,
    /// The hand-over that the migration takes back.
    pub way_back: Option<WayBack>,
    pub existing_data: ExistingData,
    pub lost_position: LostPosition,
    pub verification: Verification,
    pub cross_check_bytes: u64,
    pub run_id: Option<String>,
    pub accept_late_writes: bool,
    pub block_source_writes: bool,
    pub ddl: DdlPolicy,
    pub walkers: usize,
    pub yield_to_source_writes: bool,
    pub appliers: usize,
    pub chunk_bytes: u64,
    pub memory_bytes: usize,
    pub max_lag: Duration,
    pub cutover_window: Duration,
    pub clock: Clock,
    pub patience: Duration,
    pub throttle: Throttle,
    pub watch_foreign_writes: bool,
    pub path_policy: PathPolicy,
    pub accept_unencrypted: bool,
    pub scan_documents: bool,
    pub on_wait: OnWait,
}

impl Settings {
    /// How many walkers are at work until it is known whether applications write to the source.
    pub fn walkers_at_first(&self) -> usize {
        if self.yield_to_source_writes { 1 } else { self.walkers }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            selection: Selection::all(),
            way_back: None,
            existing_data: ExistingData::default(),
            lost_position: LostPosition::default(),
            verification: Verification::default(),
            cross_check_bytes: 256 << 20,
            run_id: None,
            accept_late_writes: false,
            block_source_writes: false,
            ddl: DdlPolicy::default(),
            walkers: 4,
            yield_to_source_writes: true,
            appliers: 4,
            chunk_bytes: 64 << 20,
            memory_bytes: 256 << 20,
            max_lag: Duration::from_secs(2),
            cutover_window: DEFAULT_CUTOVER_WINDOW,
            clock: Clock::default(),
            patience: Duration::from_secs(600),
            throttle: Throttle::default(),
            watch_foreign_writes: true,
            path_policy: PathPolicy::default(),
            accept_unencrypted: false,
            scan_documents: false,
            on_wait: OnWait::default(),
        }
    }
}

/// What to do with what stands on the target where migrated collections and views will be, and was not made by the migration.
///
/// It holds at any time: for the names that the source has at the start, and for those that it comes by during the run, be it by `create`,
/// `renameCollection` or a view. What others put there meanwhile counts, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingData {
    /// Refuse to start, or end the run with [`Refused`](crate::ErrorKind::Refused) before any of it is touched. The run goes on once it is out of the
    /// way, or with another choice.
    #[default]
    Refuse,
    /// Drop it: what has a migrated collection's name, and nothing else.
    Clear,
    /// Keep what is equal, and make equal what is not: documents that the source does not have are deleted. What a collection is renamed
    /// onto is replaced by it.
    Keep,
}

/// What to do when the source's history no longer holds the position to go on from: the process was down for longer than the oplog reaches
/// back, the oplog was made smaller, or the source was restored from a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostPosition {
    /// Follow the history from now on, compare everything with the source, and write what differs.
    #[default]
    Resync,
    /// End the run with [`PositionLost`](crate::ErrorKind::PositionLost). The checkpoint stays, and a run with
    /// [`Resync`](LostPosition::Resync) can go on from it.
    Fail,
}

/// How both sides are compared at cutover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Documents are not compared; options and indexes are.
    None,
    /// Every document is compared: by digests, for which both sides are read, and where these differ or cannot be had, one by one. This takes about as
    /// long as reading everything once, in which the applications stand still. Nothing is read before.
    Digest,
    /// Every document is compared while the run follows the source, range by range, so that a cutover takes seconds whatever the size. For
    /// this both sides are read once more after everything is copied and indexed, within the bounds of the
    /// [throttle](crate::MigrationBuilder::throttle). What changes afterwards is compared again now and then, for a tenth of the time of one walker,
    /// and what has changed since then at cutover.
    ///
    /// What was compared is in the checkpoint, so that a run that goes on from there need not compare it anew. It does so where it cannot
    /// know what others wrote to the target in between, since the target's oplog no longer holds the position up to which it was watched;
    /// where another program was seen to write, as far as that [can be](crate::MigrationBuilder::watch_foreign_writes); where the source has had an election since the checkpoint, or either side may have been restored
    /// from a backup; where differences were found; and where so much had changed (about 8,000 documents in all) that a checkpoint would be
    /// too large.
    ///
    /// Collections that cannot be compared in this way, or not yet, are compared by digest: capped ones, those with a collation, and those
    /// that another program was seen to write to on the target; all of them where such writes are not
    /// [watched for](crate::MigrationBuilder::watch_foreign_writes). Small ones are compared by digest, too
    /// ([`cross_check_bytes`](crate::MigrationBuilder::cross_check_bytes)).
    #[default]
    Continuous,
}

/// What to do when a collection, view or index of the selection is made, dropped, renamed or modified on the source during a run.
///
/// An application that inserts into a collection that does not exist makes one. What the run has already, since it was listed after the
/// change, is no change to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DdlPolicy {
    /// Carry it over.
    #[default]
    Apply,
    /// Say so by [`Event::CatalogChangeMet`](crate::Event::CatalogChangeMet), and carry it over.
    Warn,
    /// End the run with [`CatalogChanged`](crate::ErrorKind::CatalogChanged), before anything of the change is carried over. The checkpoint is of
    /// just before it, and a start with another policy goes on from there.
    Fail,
}

/// Which migration paths are allowed, see [`MigrationBuilder::path_policy`](crate::MigrationBuilder::path_policy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathPolicy {
    /// Every path to the same or a newer version. Those from one of 4.2, 4.4, 5.0 and 6.0 to one of these are tested; others are warned
    /// about, and the warning tells what is known of them.
    #[default]
    Upward,
    /// Only the paths that hosted migration services offer: 2.6, 3.0, 3.2, 3.4, 3.6, 4.0 and 4.2 to 4.2, 4.4 to 4.4, 5.0 to 5.0. Sources
    /// before 4.2 are refused for a reason of their own: their history cannot be followed.
    Hosted,
}

/// How fast a run may go. `None` is as fast as it can, which is the default.
///
/// It takes effect within a second, also on what is under way, and stays through pauses and restarts of the run by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Bytes of documents that are read from the source each second to be copied or compared.
    pub copy_bytes_per_second: Option<u64>,
    /// Operations that are taken out of the source's history each second. While the source writes more of them the run falls behind.
    pub tail_operations_per_second: Option<u64>,
}

/// The time of day, which tests of hosts replace.
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

/// How long the window is unless the host says otherwise.
pub(crate) const DEFAULT_CUTOVER_WINDOW: Duration = Duration::from_secs(120 * 3600);
