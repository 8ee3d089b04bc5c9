//! [`Migration`]: how a host checks, starts and reverses a migration.

use std::sync::Arc;

use futures::stream::Stream;

use crate::api::builder::MigrationBuilder;
use crate::api::handle::MigrationHandle;
use crate::api::reverse;
#[cfg(feature = "console")]
use crate::config::Settings;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::preflight::{self, Plan};
use crate::report::Event;
use crate::runtime::job::Job;
use crate::sink::Sink;
use crate::source::Source;

/// A migration that is described but not started.
///
/// # How to
/// | to | call |
/// |---|---|
/// | see what a run would do, and what prevents it | [`preflight`](Self::preflight) |
/// | try it without a cutover | [`rehearse`](Self::rehearse) |
/// | see every event from the first on | [`events`](Self::events), before the start |
/// | start, or continue after a crash | [`start`](Self::start), with the same selection and the same checkpoint store |
/// | move the applications | [`MigrationHandle::cutover`], or [`MigratingClient`](crate::MigratingClient) |
/// | move back afterwards | [`reverse`](Self::reverse) |
/// | limit the load on the source | [`MigrationBuilder::throttle`], [`MigrationBuilder::walkers`] |
/// | see or change what passes through | a [`SourceLayer`](crate::SourceLayer) or [`SinkLayer`](crate::SinkLayer) around a side |
/// | test a host without servers | the memory implementations of the feature `test-util` |
///
/// [`operations`](crate::docs::operations) is the runbook.
pub struct Migration {
    pub(super) engine: Arc<Job>,
}

impl Migration {
    /// Describes a migration of everything from `source` to `sink`, without renaming collections.
    ///
    /// ```no_run
    /// # async fn example() -> mongoferry::Result<()> {
    /// use mongoferry::{Migration, MongoSink, MongoSource};
    ///
    /// let source = MongoSource::connect("mongodb://old.example/?replicaSet=rs0").await?;
    /// let sink = MongoSink::connect("mongodb://new.example/?replicaSet=rs1").await?;
    /// let migration = Migration::builder(source, sink).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(source: impl Source, sink: impl Sink) -> MigrationBuilder {
        MigrationBuilder::new(Arc::new(source), Arc::new(sink))
    }

    /// Describes the migration that reverses this one once it is complete. `source` is on this migration's target, and `sink` is on its
    /// source.
    ///
    /// The call reads this migration's checkpoint. [`Summary::reverse`](crate::Summary::reverse) does the same without reading it.
    ///
    /// ```no_run
    /// # async fn example(migration: mongoferry::Migration) -> mongoferry::Result<()> {
    /// use mongoferry::{MongoSink, MongoSource};
    ///
    /// let source = MongoSource::connect("mongodb://new.example/?replicaSet=rs1").await?;
    /// let sink = MongoSink::connect("mongodb://old.example/?replicaSet=rs0").await?;
    /// let run = migration.reverse(source, sink).await?.build()?.start().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`WrongPhase`](ErrorKind::WrongPhase): the migration has not been handed over.
    /// - [`Refused`](ErrorKind::Refused): there is no way back, for example because the migration had filters, or transforms without an
    ///   [inverse](crate::Transform::inverse).
    /// - [`CheckpointMismatch`](ErrorKind::CheckpointMismatch): the checkpoint belongs to another migration.
    /// - A server error.
    pub async fn reverse(&self, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
        reverse::of_migration(&self.engine, source, sink).await
    }

    pub(crate) fn engine(&self) -> &Arc<Job> {
        &self.engine
    }

    /// Changes settings that the host has built it with.
    ///
    /// # Errors
    /// Those of `change`.
    #[cfg(feature = "console")]
    pub(crate) fn change_settings(&mut self, change: impl FnOnce(&mut Settings) -> Result<()>) -> Result<()> {
        // Nothing else has the job before the start.
        Arc::get_mut(&mut self.engine).map_or(Ok(()), |job| change(&mut job.settings))
    }

    /// Checks both sides. Returns what a run would do, and every reason why it would fail. Changes nothing. [`preflight`](crate::preflight)
    /// lists the rules.
    ///
    /// ```no_run
    /// # async fn example(migration: mongoferry::Migration) -> mongoferry::Result<()> {
    /// let plan = migration.preflight().await?;
    /// println!("{plan}");
    /// if plan.blockers().count() == 0 {
    ///     let run = migration.start().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A side cannot be reached, or cannot be described.
    ///
    /// # Cancellation
    /// Dropping the future has no effect on either side.
    pub async fn preflight(&self) -> Result<Plan> {
        preflight::check(&self.engine, preflight::Purpose::Plan).await
    }

    /// Returns the events of the run that [`start`](Self::start) begins, from its beginning on. The stream ends with the run, or with a start
    /// that fails.
    ///
    /// A slow reader misses events, and is notified by [`Event::Missed`](crate::Event::Missed). It never slows down the run.
    ///
    /// ```no_run
    /// # use futures::StreamExt;
    /// # async fn example(migration: mongoferry::Migration) -> mongoferry::Result<()> {
    /// let mut events = migration.events();
    /// let run = migration.start().await?;
    /// while let Some(event) = events.next().await {
    ///     println!("{event}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        self.engine.events.subscribe(false)
    }

    /// Starts the migration, or resumes it from its checkpoint if there is one.
    ///
    /// The call needs a running tokio runtime. The run's tasks belong to the handle: dropping the handle stops them.
    ///
    /// ```no_run
    /// # async fn example(migration: mongoferry::Migration) -> mongoferry::Result<()> {
    /// let run = migration.start().await?;
    /// println!("{:?}", run.status());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`Refused`](ErrorKind::Refused): preflight found a blocker. All blockers are looked for before the first start, those of
    ///   [`block_source_writes`](MigrationBuilder::block_source_writes) before every start.
    /// - [`Hook`](ErrorKind::Hook): [`before_start`](crate::Hooks::before_start) failed.
    /// - [`AlreadyComplete`](ErrorKind::AlreadyComplete): the migration is complete.
    /// - [`CheckpointMismatch`](ErrorKind::CheckpointMismatch): the checkpoint belongs to another migration.
    /// - [`LeaseHeld`](ErrorKind::LeaseHeld): another process runs the migration. The call finds that out within 6 seconds, the time in
    ///   which the lease of a process that was killed expires.
    /// - A server error.
    ///
    /// # Cancellation
    /// Dropping the future starts nothing. If it had taken the lease, the next start waits until that has expired.
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
