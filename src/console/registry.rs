//! [`Console`]: the registry of migrations, and everything that runs for them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::Uuid;
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::handle::MigrationHandle;
use crate::api::migration::Migration;
use crate::checkpoint::WayBack;
use crate::console::audit::{AuditRecord, Auditor};
use crate::console::build::{Build, HostBuild};
use crate::console::endpoint::Connection;
use crate::console::http::guard::AllowedHosts;
use crate::console::lock;
use crate::console::managed::{Direction, HostCalls, Managed, Origin, Stage, State};
use crate::console::run;
use crate::console::targets::{FixedTarget, Targets};
use crate::error::{Error, ErrorKind, Result};
use crate::model::MigrationId;
use crate::mongo::connect::ConnectOptions;
use crate::sink::Sink;

/// Maximum number of streams of events that are open at the same time.
const STREAMS: usize = 64;

/// Maximum number of migrations that people can create.
const CREATED: usize = 1000;

/// The migrations that a [router](crate::console::router) shows, and lets people run.
///
/// A clone shares everything with the original. All tasks that the console starts belong to it: when the last clone and the last router are
/// dropped, the runs stop and keep their checkpoints. [`shutdown`](Self::shutdown) ends them gracefully.
///
/// ```no_run
/// use mongoferry::console::{Console, ManagedMigration};
/// use mongoferry::{Migration, MongoSink, MongoSource};
///
/// # fn add() -> mongoferry::Result<()> {
/// let console = Console::new();
/// let tenant = ManagedMigration::new("tenant-42", || async {
///     let source = MongoSource::connect("mongodb://old.example/?replicaSet=rs0").await?;
///     let sink = MongoSink::connect("mongodb://new.example/?replicaSet=rs1").await?;
///     Migration::builder(source, sink).id("tenant-42").include("shop.*").build()
/// });
/// console.add(tenant.stop_writes(|| async { std::fs::write("/run/shop/read-only", "") }))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Console {
    pub(super) inner: Arc<Inner>,
}

/// Builder for a [`Console`]; see [`Console::builder`].
#[derive(Default)]
pub struct ConsoleBuilder {
    choices: Choices,
    targets: Targets,
}

/// A migration that the host adds to a [`Console`].
///
/// It is described by a function that builds it, because each start after a failure needs a new [`Migration`].
#[must_use = "it has no effect until it is added to a console"]
pub struct ManagedMigration {
    id: String,
    build: HostBuild,
    calls: HostCalls,
}

/// What the clones of a console share.
pub(super) struct Inner {
    pub choices: Choices,
    pub targets: Targets,
    pub migrations: Mutex<BTreeMap<String, Arc<Managed>>>,
    /// They end with the console.
    tasks: OwnedTasks,
    pub streams: Arc<Semaphore>,
    /// Makes tokens that nobody can guess.
    pub secret: Uuid,
}

/// The tasks of a console. The owner aborts them when it is dropped.
struct OwnedTasks(Tasks);

/// Starts tasks, as long as the console exists. Unlike a [`Console`], a task may hold it.
#[derive(Clone)]
pub(super) struct Tasks(Arc<Mutex<Option<JoinSet<()>>>>);

/// What the host has chosen.
#[derive(Default)]
pub(super) struct Choices {
    pub can_create: bool,
    pub documents_on_request: bool,
    pub hosts: AllowedHosts,
    pub auditor: Auditor,
    /// The id of the one migration.
    pub single: Option<String>,
}

impl Console {
    /// An empty console. People cannot create migrations in it.
    pub fn new() -> Self {
        ConsoleBuilder::default().build()
    }

    /// Describes a console.
    pub fn builder() -> ConsoleBuilder {
        ConsoleBuilder::default()
    }

    /// A console for one migration, which also has the paths and answers of mongosync; see [`docs::console`](crate::docs::console#mongosync).
    ///
    /// # Errors
    /// Same as [`add`](Self::add).
    pub fn single(migration: ManagedMigration) -> Result<Self> {
        ConsoleBuilder::default().single(migration)
    }

    /// Adds a migration of the host. Nothing is started.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the id is malformed or the console has a migration with this id.
    pub fn add(&self, migration: ManagedMigration) -> Result<()> {
        let mut state = State::new(Some(Build::Host(migration.build)));
        state.calls = migration.calls;
        self.insert(migration.id, Origin::Host, Direction::Forward, state)?;
        Ok(())
    }

    /// Shows a run that the host has started and controls. People can pause it, compare both sides, and hand over, but not start it again.
    ///
    /// `stop_writes` is not attached: people are asked to stop the applications before a cutover. It must be called in a tokio runtime.
    ///
    /// # Errors
    /// Same as [`add`](Self::add).
    pub fn watch(&self, run: &MigrationHandle) -> Result<()> {
        let job = run.job();
        let direction = match job.settings.way_back {
            Some(_) => Direction::Reverse,
            None => Direction::Forward,
        };
        let id = job.settings.id.to_string();
        let managed = self.insert(id, Origin::Host, direction, State::new(None))?;
        run::watch(self, &managed, run.clone());
        Ok(())
    }

    /// Removes a migration from the console. Its run stops, if the host has no handle of its own, and keeps its checkpoint. Returns whether
    /// there was one.
    pub fn remove(&self, id: &str) -> bool {
        let removed = lock(&self.inner.migrations).remove(id);
        let Some(managed) = removed else { return false };
        let mut state = managed.state();
        if let Stage::Starting(cancel) = &state.stage {
            cancel.cancel();
        }
        // The tasks of the run hold the entry, and end with the handle.
        state.enter(Stage::Idle);
        true
    }

    /// Ends all runs, for a program that is about to exit, and takes at most `deadline` for it. Starts in progress are aborted.
    ///
    /// Everything can be started again later. See [`MigrationHandle::shutdown`].
    ///
    /// # Cancellation
    /// Dropping the future leaves the runs paused or about to end.
    pub async fn shutdown(&self, deadline: Duration) {
        let all: Vec<Arc<Managed>> = lock(&self.inner.migrations).values().cloned().collect();
        let mut runs = Vec::new();
        for managed in &all {
            match &managed.state().stage {
                Stage::Starting(cancel) => cancel.cancel(),
                Stage::Running(handle) => runs.push(handle.clone()),
                _ => {}
            }
        }
        join_all(runs.iter().map(|run| run.shutdown(deadline))).await;
    }

    /// Adds a migration in whatever way.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the id is malformed or taken, or if there are too many.
    pub(super) fn insert(
        &self,
        id: String,
        origin: Origin,
        direction: Direction,
        mut state: State,
    ) -> Result<Arc<Managed>> {
        const OPERATION: &str = "add the migration to the console";
        let refuse = |message: String| Err(Error::new(ErrorKind::InvalidConfiguration, OPERATION, message));
        id.parse::<MigrationId>()?;
        let mut migrations = lock(&self.inner.migrations);
        // What the host adds takes the place of what the target knows under the same id.
        let is_only_known = migrations
            .get(&id)
            .is_some_and(|managed| managed.origin == Origin::Target && managed.state().is_still());
        if migrations.contains_key(&id) && !(is_only_known && origin == Origin::Host) {
            return refuse(format!(
                "there is a migration `{id}`: use another id, or forget that one first"
            ));
        }
        if origin != Origin::Host && migrations.len() >= CREATED {
            return refuse(format!("there are {CREATED} migrations: forget some of them first"));
        }
        if let Some(known) = migrations.get(&id) {
            state.known = known.state().known.take();
        }
        let managed = Arc::new(Managed::new(id.clone(), origin, direction, state));
        migrations.insert(id, Arc::clone(&managed));
        Ok(managed)
    }

    /// The migration with this id.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Managed>> {
        lock(&self.inner.migrations).get(id).cloned()
    }

    /// All migrations by id.
    pub(super) fn all(&self) -> Vec<Arc<Managed>> {
        lock(&self.inner.migrations).values().cloned().collect()
    }

    /// Starts a task that ends with the console.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks().spawn(task);
    }

    /// Starts tasks, also from within a task.
    pub(super) fn tasks(&self) -> Tasks {
        self.inner.tasks.0.clone()
    }

    pub(super) fn audit(&self, record: AuditRecord) {
        self.inner.choices.auditor.tell(record);
    }
}

impl Tasks {
    /// Starts a task that ends with the console. Does nothing if the console is gone.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut *lock(&self.0) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }
}

impl Default for OwnedTasks {
    fn default() -> Self {
        Self(Tasks(Arc::new(Mutex::new(Some(JoinSet::new())))))
    }
}

impl Drop for OwnedTasks {
    fn drop(&mut self) {
        // The tasks are dropped outside the lock.
        let tasks = lock(&self.0.0).take();
        drop(tasks);
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl ConsoleBuilder {
    /// Lets people create migrations in the page. They say which replica sets to connect to, so the process connects to wherever they want.
    /// Default: no.
    #[must_use]
    pub fn allow_create(mut self, allow: bool) -> Self {
        self.choices.can_create = allow;
        self
    }

    /// The target of all migrations that people create, who then only say what the source is. The console lists the migrations that this
    /// target knows, also those from before a restart.
    #[must_use]
    pub fn target(mut self, target: impl Into<ConnectOptions>) -> Self {
        self.targets.fixed = Some(Arc::new(FixedTarget::new(Connection::of(target.into()))));
        self
    }

    /// Lists the migrations that another target knows, also those from before a restart. May be called again for other targets.
    #[must_use]
    pub fn list_target(mut self, sink: impl Sink) -> Self {
        self.targets.others.push(Arc::new(sink));
        self
    }

    /// Lets people read single documents of both sides, to look at what differs. Default: no.
    #[must_use]
    pub fn documents_on_request(mut self, allow: bool) -> Self {
        self.choices.documents_on_request = allow;
        self
    }

    /// Accepts requests that name this host, such as `console.example.com` or `console.example.com:8443`. Without a port, every port is
    /// accepted. May be called again for other hosts. Default: only `localhost` and loopback addresses, so that a page of another site that
    /// the browser resolves to this machine is refused.
    #[must_use]
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.choices.hosts.add(host.into());
        self
    }

    /// Calls `tell` for each request that may change something, and for the end of what such a request has begun. `tell` must not block.
    /// Who made the request is known to the host alone. Events of `tracing` say the same.
    #[must_use]
    pub fn on_audit(mut self, tell: impl Fn(&AuditRecord) + Send + Sync + 'static) -> Self {
        self.choices.auditor = Auditor::new(tell);
        self
    }

    /// Creates the console. Nothing is connected to before the first request.
    pub fn build(self) -> Console {
        Console {
            inner: Arc::new(Inner {
                choices: self.choices,
                targets: self.targets,
                migrations: Mutex::default(),
                tasks: OwnedTasks::default(),
                streams: Arc::new(Semaphore::new(STREAMS)),
                secret: Uuid::new(),
            }),
        }
    }

    /// Creates a console for one migration; see [`Console::single`].
    ///
    /// # Errors
    /// Same as [`Console::add`].
    pub fn single(mut self, migration: ManagedMigration) -> Result<Console> {
        self.choices.single = Some(migration.id.clone());
        let console = self.build();
        console.add(migration)?;
        Ok(console)
    }
}

impl ManagedMigration {
    /// A migration that `build` builds, each time that it is checked or started. It must have this [id](crate::MigrationBuilder::id).
    pub fn new<F, B>(id: impl Into<String>, build: F) -> Self
    where
        F: Fn() -> B + Send + Sync + 'static,
        B: Future<Output = Result<Migration>> + Send + 'static,
    {
        Self {
            id: id.into(),
            build: Arc::new(move || build().boxed()),
            calls: HostCalls::default(),
        }
    }

    /// Stops the programs that write to the source, at a cutover. Once the future has returned, nothing may write to the source any more.
    /// Without it, people are asked to stop them.
    pub fn stop_writes<F, S, E>(mut self, stop: F) -> Self
    where
        F: Fn() -> S + Send + Sync + 'static,
        S: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stop = move || {
            let stopping = stop();
            async move { stopping.await.map_err(Into::into) }.boxed()
        };
        self.calls.stop_writes = Some(Arc::new(stop));
        self
    }

    /// Builds the migration that takes the hand-over back, with [`WayBack::reverse`]. Without it, people have to enter both connections.
    ///
    /// ```no_run
    /// # use mongoferry::console::ManagedMigration;
    /// # use mongoferry::{MongoSink, MongoSource};
    /// # fn set(migration: ManagedMigration) -> ManagedMigration {
    /// migration.way_back(|way_back| async move {
    ///     let source = MongoSource::connect("mongodb://new.example/?replicaSet=rs1").await?;
    ///     let sink = MongoSink::connect("mongodb://old.example/?replicaSet=rs0").await?;
    ///     way_back.reverse(source, sink)?.build()
    /// })
    /// # }
    /// ```
    pub fn way_back<F, B>(mut self, build: F) -> Self
    where
        F: Fn(WayBack) -> B + Send + Sync + 'static,
        B: Future<Output = Result<Migration>> + Send + 'static,
    {
        self.calls.way_back = Some(Arc::new(move |way_back| build(way_back).boxed()));
        self
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = lock(&self.inner.migrations).keys().cloned().collect();
        f.debug_struct("Console")
            .field("migrations", &ids)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConsoleBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleBuilder").finish_non_exhaustive()
    }
}

impl fmt::Debug for ManagedMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedMigration")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
