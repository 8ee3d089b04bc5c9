//! [`MigrationBuilder`]: how a host describes a migration.

mod load;
mod rules;
mod users;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::api::builder::rules::shaping;
use crate::api::migration::Migration;
use crate::checkpoint::{CheckpointStore, SinkStore, WayBack};
use crate::config::{Clock, CollectionSettings, DdlPolicy, ExistingData, LostPosition, Settings, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DEFAULT_ID, Layered, OnWait, Selection, Wait};
use crate::preflight::PathPolicy;
use crate::report::Events;
use crate::rules::RuleSet;
use crate::runtime::fence::{Fence, FencedSink, FencedStore};
use crate::runtime::hooks::{Hooks, HostHooks};
use crate::runtime::job::{Job, StartedLease, Unfenced};
use crate::runtime::limits::resources::Resources;
use crate::runtime::shaping::source::{Purpose, ShapedSource};
use crate::sink::{Records, Sink};
use crate::source::Source;
use crate::users::Users;

/// Builder for a [`Migration`]; see [`Migration::builder`].
pub struct MigrationBuilder {
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    store: Option<Arc<dyn CheckpointStore>>,
    hooks: HostHooks,
    resources: Option<Resources>,
    settings: Settings,
    id: String,
    selection: Result<Selection>,
}

impl MigrationBuilder {
    pub(super) fn new(source: Arc<dyn Source>, sink: Arc<dyn Sink>) -> Self {
        Self {
            source,
            sink,
            store: None,
            hooks: HostHooks::default(),
            resources: None,
            settings: Settings::default(),
            id: DEFAULT_ID.to_owned(),
            selection: Ok(Selection::all()),
        }
    }

    /// Makes this the migration that reverses a hand-over.
    pub(crate) fn takes_back(mut self, way_back: WayBack, selection: Selection, rules: RuleSet) -> Self {
        self.settings.rules = rules;
        self.selection = Ok(selection);
        self.id.clone_from(&way_back.first.id);
        if let Some(users) = &way_back.first.users {
            self.settings.users = Users::Carry(users.selection.clone());
        }
        self.settings.way_back = Some(way_back);
        self
    }

    /// The name of this migration among all that have the same target: 1 to 64 characters of ASCII letters, digits, `.`, `_` and `-`.
    /// Default: `default`; for the [reverse](crate::Summary::reverse) of a migration, the id of that migration.
    ///
    /// Migrations with different ids into one target run side by side, in one process or in many, as long as no two of them can write to the
    /// same namespace there. A start is refused if one of the others could: includes and excludes count with everything that they may ever
    /// match, not only with what exists now. A migration that was stopped counts until it is complete or [forgotten](Migration::forget).
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Migrates only namespaces that match a pattern such as `shop.*` or `*.orders`. May be called again to add patterns. Without any
    /// pattern, everything is migrated.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.include("shop.*").include("*.orders")
    /// # }
    /// ```
    #[must_use]
    pub fn include(mut self, pattern: &str) -> Self {
        self.select(|selection| selection.include(pattern));
        self
    }

    /// Excludes namespaces that match `pattern`, even if they are included. May be called again to add patterns.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.include("shop.*").exclude("shop.tmp_*")
    /// # }
    /// ```
    #[must_use]
    pub fn exclude(mut self, pattern: &str) -> Self {
        self.select(|selection| selection.exclude(pattern));
        self
    }

    /// Renames a collection on the target. May be called again for other collections.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.rename("shop.orders", "store.orders")
    /// # }
    /// ```
    #[must_use]
    pub fn rename(mut self, from: &str, to: &str) -> Self {
        self.select(|selection| selection.rename(from, to));
        self
    }

    /// Selects and renames as a selection says that was read from a file of settings. Patterns and renames that were added before are
    /// dropped; further ones can be added.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Self {
        self.select(|current| current.replace(selection));
        self
    }

    /// Settings of the collections whose names on the source match a pattern such as `shop.log_*`. May be called again for other patterns;
    /// where several match, the last one counts. Default: [`CollectionSettings::default`] for every collection.
    ///
    /// They are no part of the checkpoint: a migration may be resumed with others.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// use mongoferry::{CollectionSettings, IndexPolicy, Verification};
    ///
    /// builder
    ///     .collection_settings("shop.orders", CollectionSettings::default().priority(1))
    ///     .collection_settings("shop.log_*", CollectionSettings::default().verification(Verification::Digest).indexes(IndexPolicy::Later))
    /// # }
    /// ```
    #[must_use]
    pub fn collection_settings(mut self, pattern: &str, settings: CollectionSettings) -> Self {
        let added = self.settings.collections.add(pattern, settings);
        self.select(|_| added);
        self
    }

    /// What to do with existing collections on the target that are in the way. Default: [`ExistingData::Refuse`].
    ///
    /// ```no_run
    /// # use mongoferry::ExistingData;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.existing_data(ExistingData::Refuse)
    /// # }
    /// ```
    #[must_use]
    pub fn existing_data(mut self, existing_data: ExistingData) -> Self {
        self.settings.existing_data = existing_data;
        self
    }

    /// Where the checkpoint is kept. Default: on the target, in the database `__mdb_internal_mongoferry`.
    ///
    /// ```no_run
    /// # use mongoferry::checkpoint::FileStore;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.checkpoint_store(FileStore::new("/var/lib/app/migration.checkpoint"))
    /// # }
    /// ```
    #[must_use]
    pub fn checkpoint_store(mut self, store: impl CheckpointStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

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

    /// Calls `tell` when a server keeps [`preflight`](Migration::preflight) or [`start`](Migration::start) waiting: first after two
    /// seconds, then every 10 seconds. `tell` must not block. A run reports such waits by [`Event::Waiting`](crate::Event::Waiting)
    /// instead. Default: no callback.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.on_wait(|wait| eprintln!("{wait}"))
    /// # }
    /// ```
    #[must_use]
    pub fn on_wait(mut self, tell: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        self.settings.on_wait = OnWait::new(tell);
        self
    }

    /// The host's name for this run, which appears in the [`Certificate`](crate::Certificate). Default: none.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.run_id("CHG-4711")
    /// # }
    /// ```
    #[must_use]
    pub fn run_id(mut self, run_id: impl Into<String>) -> Self {
        self.settings.run_id = Some(run_id.into());
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

    /// What to do when a selected collection, view or index is created, dropped, renamed or modified on the source during the run. Default:
    /// [`DdlPolicy::Apply`].
    ///
    /// ```no_run
    /// # use mongoferry::DdlPolicy;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.ddl_policy(DdlPolicy::Fail)
    /// # }
    /// ```
    #[must_use]
    pub fn ddl_policy(mut self, policy: DdlPolicy) -> Self {
        self.settings.ddl = policy;
        self
    }

    /// What to do when the source's oplog no longer contains the position to resume from. Default: [`LostPosition::Resync`].
    ///
    /// ```no_run
    /// # use mongoferry::LostPosition;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.lost_position(LostPosition::Fail)
    /// # }
    /// ```
    #[must_use]
    pub fn lost_position(mut self, lost_position: LostPosition) -> Self {
        self.settings.lost_position = lost_position;
        self
    }

    /// How long the run follows the source after it is first ready. Default: 120 hours.
    ///
    /// At the end of the window the run ends with [`WindowClosed`](ErrorKind::WindowClosed) and keeps its checkpoint.
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

    /// Allowed combinations of source and target versions. Default: [`PathPolicy::Upward`].
    ///
    /// ```no_run
    /// # use mongoferry::PathPolicy;
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.path_policy(PathPolicy::Hosted)
    /// # }
    /// ```
    #[must_use]
    pub fn path_policy(mut self, policy: PathPolicy) -> Self {
        self.settings.path_policy = policy;
        self
    }

    /// Whether documents and passwords may be sent to other hosts without encryption. Default: no; preflight then refuses connections
    /// without TLS, except to a loopback address.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.accept_unencrypted(true)
    /// # }
    /// ```
    #[must_use]
    pub fn accept_unencrypted(mut self, accept: bool) -> Self {
        self.settings.accept_unencrypted = accept;
        self
    }

    /// Whether [`Migration::preflight`] reads every document, to find those that the target would refuse. This takes as long as reading the
    /// whole source. Default: no.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.scan_documents(true)
    /// # }
    /// ```
    #[must_use]
    pub fn scan_documents(mut self, scan: bool) -> Self {
        self.settings.scan_documents = scan;
        self
    }

    /// Hooks that the host runs around a run. Default: none.
    ///
    /// ```no_run
    /// use async_trait::async_trait;
    /// use mongoferry::{HookResult, Hooks};
    ///
    /// struct Alerts;
    ///
    /// #[async_trait]
    /// impl Hooks for Alerts {
    ///     async fn before_cutover(&self) -> HookResult {
    ///         println!("mute the alerts");
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.hooks(Alerts)
    /// # }
    /// ```
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = HostHooks::new(hooks);
        self
    }

    /// Records each run in a file of at most `bytes` bytes: its status each second, events, plans, summaries, and the calls of the host, as
    /// lines of JSON in the [format](crate::docs::format#recordings) of this crate. Default: no recording.
    ///
    /// The file shows what a run was doing, and is what a report of a bug should have. It contains names of collections and `_id`s, as events
    /// do, but no documents, credentials or connection strings. When it is full, older parts are thinned out. A run that resumes appends to
    /// it. A file that cannot be written is reported by [`Event::RecordingFailed`](crate::Event::RecordingFailed), and changes nothing else.
    ///
    /// Needs the feature `recorder`.
    ///
    /// ```no_run
    /// # fn set(builder: mongoferry::MigrationBuilder) -> mongoferry::MigrationBuilder {
    /// builder.recording("/var/log/mongoferry/shop.jsonl", 64 << 20)
    /// # }
    /// ```
    #[cfg(feature = "recorder")]
    #[must_use]
    pub fn recording(mut self, path: impl Into<std::path::PathBuf>, bytes: u64) -> Self {
        let path = path.into();
        self.settings.recording = Some(crate::config::Recording { path, bytes });
        self
    }

    /// Builds the migration.
    ///
    /// ```no_run
    /// # async fn example(builder: mongoferry::MigrationBuilder) -> mongoferry::Result<()> {
    /// let migration = builder.include("shop.*").build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) for a malformed pattern or rename, or a number out of range.
    pub fn build(self) -> Result<Migration> {
        let mut settings = self.settings;
        settings.id = self.id.parse()?;
        settings.selection = self.selection?;
        let shared_bytes = self
            .resources
            .as_ref()
            .map_or(usize::MAX, |resources| resources.pools().bytes);
        for (name, value, least, most) in [
            ("walkers", settings.walkers as u64, 1, 256),
            ("appliers", settings.appliers as u64, 1, 256),
            ("chunk_bytes", settings.chunk_bytes, 1 << 10, u64::MAX),
            ("memory_bytes", settings.memory_bytes as u64, 16 << 20, u64::MAX),
            ("bytes of the recording", settings.recording_bytes(), 1 << 20, u64::MAX),
            ("Resources::memory_bytes", shared_bytes as u64, 16 << 20, u64::MAX),
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
            .unwrap_or_else(|| Arc::new(SinkStore::of(Records::new(Arc::clone(&self.sink), settings.id.clone()))));
        let fence = Fence::default();
        let sink: Arc<dyn Sink> = Arc::new(FencedSink::new(Arc::clone(&self.sink), fence.clone()));
        let events = Events::new();
        let shaping = shaping(&settings, &sink, &events)?;
        let shaped = |purpose| -> Arc<dyn Source> {
            match shaping.is_any() {
                true => Arc::new(Layered(ShapedSource::new(
                    Arc::clone(&self.source),
                    Arc::clone(&shaping),
                    purpose,
                ))),
                false => Arc::clone(&self.source),
            }
        };
        Ok(Migration {
            engine: Arc::new(Job {
                source: shaped(Purpose::Compare),
                writing_source: shaped(Purpose::Write),
                plain_source: self.source,
                shaping,
                builds: Arc::default(),
                sink,
                store: Arc::new(FencedStore::new(store, fence.clone())),
                unfenced: Unfenced {
                    sink: self.sink,
                    turn: self.resources.as_ref().map(Resources::turn),
                },
                fence,
                started: StartedLease::default(),
                seen: Arc::default(),
                hooks: self.hooks,
                events,
                resources: self.resources,
                settings,
            }),
        })
    }

    fn select(&mut self, change: impl FnOnce(&mut Selection) -> Result<()>) {
        // `build` reports the first mistake.
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
