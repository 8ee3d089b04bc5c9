//! How a host describes a migration and starts it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::api::handle::MigrationHandle;
use crate::api::reverse;
use crate::checkpoint::{CheckpointStore, SinkStore, WayBack};
use crate::config::{DdlPolicy, ExistingData, LostPosition, Settings, Throttle, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{OnWait, Selection, Wait};
use crate::preflight::{self, PathPolicy, Plan};
use crate::runtime::fence::{Fence, FencedSink, FencedStore};
use crate::runtime::hooks::{Hooks, HostHooks};
use crate::runtime::job::{Job, Unfenced};
use crate::sink::Sink;
use crate::source::Source;

/// A migration that has been described and not yet started.
pub struct Migration {
    engine: Arc<Job>,
}

/// Describes a migration: see [`Migration::builder`].
pub struct MigrationBuilder {
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    store: Option<Arc<dyn CheckpointStore>>,
    hooks: HostHooks,
    settings: Settings,
    selection: Result<Selection>,
}

impl Migration {
    /// Describes a migration from `source` to `sink` of everything, under its own names.
    pub fn builder(source: impl Source, sink: impl Sink) -> MigrationBuilder {
        MigrationBuilder {
            source: Arc::new(source),
            sink: Arc::new(sink),
            store: None,
            hooks: HostHooks::default(),
            settings: Settings::default(),
            selection: Ok(Selection::all()),
        }
    }

    /// Describes a migration from `source`, on this one's target, to `sink`, on its source, that takes the hand-over of this one back, once
    /// it is complete; its checkpoint is read for that. See [`Summary::reverse`](crate::Summary::reverse), which does the same without.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) before the hand-over, [`Refused`](ErrorKind::Refused) when there is no way back,
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) when the checkpoint belongs to another migration, or a server error.
    pub async fn reverse(&self, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
        reverse::of_checkpoint(&self.engine).await?.reverse(source, sink)
    }

    pub(crate) fn engine(&self) -> &Arc<Job> {
        &self.engine
    }

    /// Checks both sides and answers what a run would do, and every reason why it would fail. Nothing is changed. The rules are listed in
    /// [`preflight`](crate::preflight).
    ///
    /// # Errors
    /// A side cannot be reached, or does not let itself be described.
    pub async fn preflight(&self) -> Result<Plan> {
        preflight::check(&self.engine, preflight::Purpose::Plan).await
    }

    /// Starts the migration, or goes on from its checkpoint where there is one.
    ///
    /// A runtime of the tokio crate must be running. The run's tasks belong to the handle: dropping it stops them.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when preflight finds a blocker, which is looked for before a first start, and of
    /// [`block_source_writes`](MigrationBuilder::block_source_writes) before each, [`Hook`](ErrorKind::Hook) when
    /// [`before_start`](Hooks::before_start) fails, [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) when the
    /// checkpoint belongs to another migration, [`Lease`](ErrorKind::Lease) when another process is at work, or a server error.
    pub async fn start(self) -> Result<MigrationHandle> {
        MigrationHandle::start(self.engine).await
    }
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration")
            .field("settings", &self.engine.settings)
            .finish_non_exhaustive()
    }
}

impl MigrationBuilder {
    /// Takes a hand-over back.
    pub(crate) fn takes_back(mut self, way_back: WayBack, selection: Selection) -> Self {
        self.selection = Ok(selection);
        self.settings.way_back = Some(way_back);
        self
    }

    /// Migrates the namespaces that fit `pattern`, such as `shop.*` or `*.orders`; may be called again for more. Without it everything is
    /// migrated.
    #[must_use]
    pub fn include(mut self, pattern: &str) -> Self {
        self.select(|selection| selection.include(pattern));
        self
    }

    /// Leaves the namespaces out that fit `pattern`, whatever is included; may be called again for more.
    #[must_use]
    pub fn exclude(mut self, pattern: &str) -> Self {
        self.select(|selection| selection.exclude(pattern));
        self
    }

    /// Gives a collection another name on the target; may be called again for other collections.
    #[must_use]
    pub fn rename(mut self, from: &str, to: &str) -> Self {
        self.select(|selection| selection.rename(from, to));
        self
    }

    /// What to do with collections that stand in the way on the target. Default: [`ExistingData::Refuse`].
    #[must_use]
    pub fn existing_data(mut self, existing_data: ExistingData) -> Self {
        self.settings.existing_data = existing_data;
        self
    }

    /// Where the checkpoint is kept. Default: on the target, in the database `__mdb_internal_mongoferry`.
    #[must_use]
    pub fn checkpoint(mut self, store: impl CheckpointStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How both sides are compared at cutover. Default: [`Verification::Continuous`].
    #[must_use]
    pub fn verification(mut self, verification: Verification) -> Self {
        self.settings.verification = verification;
        self
    }

    /// With [`Verification::Continuous`], collections are compared by digest at cutover as well, which is independent of the run and its
    /// knowledge of what has changed: the smallest first, at most 200 of them, as long as they have together no more than so many bytes of BSON.
    /// Default: 256 MiB, which takes about a second.
    #[must_use]
    pub fn cross_check_bytes(mut self, bytes: u64) -> Self {
        self.settings.cross_check_bytes = bytes;
        self
    }

    /// Calls `tell` when a server keeps [`preflight`](Migration::preflight) or [`start`](Migration::start) waiting: after two seconds for the
    /// first time, then each 10 seconds. It must not block. A run tells it by [`Event::Waiting`](crate::Event::Waiting). Default: nobody is
    /// told.
    #[must_use]
    pub fn on_wait(mut self, tell: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        self.settings.on_wait = OnWait::new(tell);
        self
    }

    /// What the host calls this run: it stands in the [`Certificate`](crate::Certificate). Default: nothing.
    #[must_use]
    pub fn run_id(mut self, run_id: impl Into<String>) -> Self {
        self.settings.run_id = Some(run_id.into());
        self
    }

    /// Whether a cutover may go on when the source is still written to after the host has stopped the writers. These writes are carried over
    /// and named in the summary; without this they make the cutover fail. What is written after the end of the cutover is lost in any case.
    /// Default: no.
    #[must_use]
    pub fn accept_late_writes(mut self, accept: bool) -> Self {
        self.settings.accept_late_writes = accept;
        self
    }

    /// Whether the cutover blocks writes of clients on the source, after the host's `stop_writes` is done: with `setUserWriteBlockMode`, which
    /// servers know from 6.0 on. Then nothing can be written late by a program that nobody thought of. Default: no. With a source that
    /// cannot do that nothing starts, nor goes on from a checkpoint.
    ///
    /// The block is lifted when the cutover fails, is dropped, or ends with differences; by the next start when the process has died
    /// meanwhile, which a checkpoint notes before the block is in force. After [`Outcome::Complete`](crate::Outcome::Complete) it stays, so
    /// that nobody writes to the side that is no longer used. `db.adminCommand({ setUserWriteBlockMode: 1, global: false })` on the source
    /// lifts it then. A block that was in force before is left as it is in any case.
    ///
    /// The source's user needs the privilege `setUserWriteBlockMode` on the cluster, as the role `backup` has it. Users with the privilege
    /// `bypassWriteBlockingMode`, such as those with the roles `restore` or `root`, still write; the cutover finds what they do in time.
    #[must_use]
    pub fn block_source_writes(mut self, block: bool) -> Self {
        self.settings.block_source_writes = block;
        self
    }

    /// What to do when a collection, view or index of the selection is made, dropped, renamed or modified on the source during the run.
    /// Default: [`DdlPolicy::Apply`].
    #[must_use]
    pub fn on_ddl(mut self, policy: DdlPolicy) -> Self {
        self.settings.ddl = policy;
        self
    }

    /// What to do when the source's history no longer holds the position to go on from. Default: [`LostPosition::Resync`].
    #[must_use]
    pub fn on_lost_position(mut self, lost_position: LostPosition) -> Self {
        self.settings.lost_position = lost_position;
        self
    }

    /// How many ranges are copied, and indexes built, at the same time. Default: 4.
    #[must_use]
    pub fn walkers(mut self, walkers: usize) -> Self {
        self.settings.walkers = walkers;
        self
    }

    /// Whether fewer ranges are copied and compared at the same time while more of them would slow the source's own writers down.
    ///
    /// The run asks twice a second how long writes take. While there are enough of them it begins with one walker for half a minute, then
    /// tries others in turn, and keeps to the highest number with which a write takes hardly longer (less than a quarter) than with half as
    /// many. One walker is always at work, so that the copy goes on; it may take longer. [`Status::walkers`](crate::Status::walkers) shows
    /// the number. A source that is hardly written to, or whose user may not ask (`serverStatus`), is copied by all. Default: yes.
    #[must_use]
    pub fn yield_to_source_writes(mut self, yielding: bool) -> Self {
        self.settings.yield_to_source_writes = yielding;
        self
    }

    /// How many connections apply changes at the same time. Default: 4.
    #[must_use]
    pub fn lanes(mut self, appliers: usize) -> Self {
        self.settings.appliers = appliers;
        self
    }

    /// About how many bytes of documents a chunk has: what has to be read again after a crash. Default: 64 MiB.
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.settings.chunk_bytes = bytes;
        self
    }

    /// How many bytes of documents and changes the run holds in memory. Up to 32 MB of transactions that the source has logged in part come on
    /// top until they commit; what is more goes to a temporary file. Default: 256 MiB.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.settings.memory_bytes = bytes;
        self
    }

    /// The lag up to which the run counts as ready for cutover. Default: 2 s.
    #[must_use]
    pub fn max_lag(mut self, lag: Duration) -> Self {
        self.settings.max_lag = lag;
        self
    }

    /// How long the run follows the source after it was first ready; then it ends with [`WindowClosed`](ErrorKind::WindowClosed), and its
    /// checkpoint stays. [`MigrationHandle::extend`] makes it longer, and [`Event::CutoverWindowShort`](crate::Event::CutoverWindowShort)
    /// warns before. It goes on through restarts of the process; a start after its end begins a new one. Default: 120 hours.
    #[must_use]
    pub fn cutover_window(mut self, window: Duration) -> Self {
        self.settings.cutover_window = window;
        self
    }

    /// The clock that the cutover window goes by. Default: the system's.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.clock = crate::config::Clock::new(now);
        self
    }

    /// How fast the run may go; [`MigrationHandle::throttle`] changes it later. Default: as fast as it can.
    #[must_use]
    pub fn throttle(mut self, throttle: Throttle) -> Self {
        self.settings.throttle = throttle;
        self
    }

    /// How long the run tries to go on after failures without any progress before it gives up; the checkpoint stays. Default: 10 minutes.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.settings.patience = patience;
        self
    }

    /// Whether others who write to what is migrated on the target are watched for, which takes a cursor on the target's oplog. Default: yes.
    ///
    /// Seen are writes that drivers can retry, as they do by default, and transactions; never a write of this migration. Not seen are updates
    /// and deletes of many documents at once, and programs with `retryWrites=false`. The comparison at cutover finds what they did, except for
    /// documents that [`Verification::Continuous`] had compared before and whose collection has as many documents and bytes as before.
    #[must_use]
    pub fn watch_foreign_writes(mut self, watch: bool) -> Self {
        self.settings.watch_foreign_writes = watch;
        self
    }

    /// From which version to which a migration may lead. Default: [`PathPolicy::Upward`].
    #[must_use]
    pub fn path_policy(mut self, policy: PathPolicy) -> Self {
        self.settings.path_policy = policy;
        self
    }

    /// Whether documents and passwords may go to other hosts without encryption. Default: no, so that preflight refuses connections without
    /// TLS, except to a loopback address.
    #[must_use]
    pub fn accept_unencrypted(mut self, accept: bool) -> Self {
        self.settings.accept_unencrypted = accept;
        self
    }

    /// Whether [`Migration::preflight`] reads every document, to find those that a target would refuse. It takes as long as reading the
    /// whole source. Default: no.
    #[must_use]
    pub fn scan_documents(mut self, scan: bool) -> Self {
        self.settings.scan_documents = scan;
        self
    }

    /// What the host does around a run. Default: nothing.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = HostHooks::new(hooks);
        self
    }

    /// The migration.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a malformed pattern or rename, or a number out of range.
    pub fn build(self) -> Result<Migration> {
        let mut settings = self.settings;
        settings.selection = self.selection?;
        for (name, value, least, most) in [
            ("walkers", settings.walkers as u64, 1, 256),
            ("appliers", settings.appliers as u64, 1, 256),
            ("chunk_bytes", settings.chunk_bytes, 1 << 10, u64::MAX),
            ("memory_bytes", settings.memory_bytes as u64, 16 << 20, u64::MAX),
        ] {
            if !(least..=most).contains(&value) {
                let message = format!("`{name}` is {value}; it must be at least {least} and at most {most}");
                return Err(Error::new(
                    ErrorKind::InvalidConfiguration,
                    "build the migration",
                    message,
                ));
            }
        }
        let store = self
            .store
            .unwrap_or_else(|| Arc::new(SinkStore::new(Arc::clone(&self.sink))));
        let fence = Fence::default();
        let sink: Arc<dyn Sink> = Arc::new(FencedSink::new(Arc::clone(&self.sink), fence.clone()));
        Ok(Migration {
            engine: Arc::new(Job {
                source: self.source,
                builds: Arc::default(),
                sink,
                store: Arc::new(FencedStore::new(store, fence.clone())),
                unfenced: Unfenced { sink: self.sink },
                fence,
                seen: Arc::default(),
                hooks: self.hooks,
                settings,
            }),
        })
    }

    fn select(&mut self, change: impl FnOnce(&mut Selection) -> Result<()>) {
        // The first mistake is the one that `build` reports.
        if let Ok(selection) = &mut self.selection
            && let Err(error) = change(selection)
        {
            self.selection = Err(error);
        }
    }
}

impl std::fmt::Debug for MigrationBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MigrationBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
