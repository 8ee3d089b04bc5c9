//! [`MigrationBuilder`]: how a host describes a migration.

mod cutover;
mod load;
mod rules;
mod selection;
mod users;
mod verification;

use std::sync::Arc;

use crate::api::builder::rules::shaping;
use crate::api::migration::Migration;
use crate::checkpoint::{CheckpointStore, SinkStore, WayBack};
use crate::config::{DdlPolicy, ExistingData, LostPosition, Settings};
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
}

impl std::fmt::Debug for MigrationBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MigrationBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
