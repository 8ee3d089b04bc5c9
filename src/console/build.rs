//! How a migration is built, again for each start.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::api::migration::Migration;
use crate::checkpoint::{Checkpoint, CheckpointStore, SinkStore, WayBack};
use crate::console::endpoint::Connection;
use crate::console::settings::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Selection, Wait};
use crate::mongo::connect::ConnectOptions;
use crate::runtime::hooks::HookResult;
use crate::runtime::register::Register;
use crate::sink::{MongoSink, Sink};
use crate::source::MongoSource;

/// Receives reports of waiting.
pub(super) type Tell = Arc<dyn Fn(Wait) + Send + Sync>;

/// Builds a migration of the host.
pub(super) type HostBuild = Arc<dyn Fn() -> BoxFuture<'static, Result<Migration>> + Send + Sync>;

/// Builds the way back of a migration of the host.
pub(super) type HostWayBack = Arc<dyn Fn(WayBack) -> BoxFuture<'static, Result<Migration>> + Send + Sync>;

/// Stops the programs that write to the source.
pub(super) type StopWrites = Arc<dyn Fn() -> BoxFuture<'static, HookResult> + Send + Sync>;

/// How a migration is built.
#[derive(Clone)]
pub(super) enum Build {
    Host(HostBuild),
    /// The way back of a migration of the host.
    HostBack(HostWayBack, Arc<WayBack>),
    Page(Box<Described>),
}

/// What a script of mongosync chooses for a migration of the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides {
    pub selection: Option<Selection>,
    pub block_source_writes: Option<bool>,
    /// Whether the hand-over may be taken back.
    pub reversible: Option<bool>,
}

impl Overrides {
    fn apply(&self, settings: &mut crate::config::Settings) -> Result<()> {
        if let Some(selection) = &self.selection {
            if settings.selection != Selection::all() && settings.selection != *selection {
                let message =
                    "the host has chosen what is migrated: leave out `includeNamespaces` and `excludeNamespaces`";
                return Err(Error::new(
                    ErrorKind::InvalidConfiguration,
                    "start the migration",
                    message,
                ));
            }
            settings.selection = selection.clone();
        }
        if let Some(block) = self.block_source_writes {
            settings.block_source_writes = block;
        }
        Ok(())
    }
}

/// What people have described in the page.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub source: Connection,
    pub target: Connection,
    pub settings: Settings,
    /// The hand-over to take back.
    pub way_back: Option<Arc<WayBack>>,
}

impl Build {
    /// Builds the migration, and connects to both sides if they are not connected yet.
    ///
    /// # Errors
    /// A side cannot be connected to, a setting is invalid, or the host's function failed or has built a migration with another id.
    pub async fn build(&self, id: &str, tell: &Tell, overrides: &Overrides) -> Result<Migration> {
        let mut migration = match self {
            Self::Host(build) => guarded(|| build()).await?,
            Self::HostBack(build, way_back) => guarded(|| build(WayBack::clone(way_back))).await?,
            Self::Page(described) => return described.build(id, tell).await,
        };
        if matches!(self, Self::Host(_)) && migration.id() != id {
            let message = format!(
                "the console knows the migration as `{id}`, and the host has built one with the id `{}`: call `.id(\"{id}\")` on its builder",
                migration.id()
            );
            return Err(Error::new(
                ErrorKind::InvalidConfiguration,
                "build the migration",
                message,
            ));
        }
        let tell = Arc::clone(tell);
        migration.change_settings(|settings| {
            settings.on_wait = std::mem::take(&mut settings.on_wait).and(move |wait| tell(wait));
            overrides.apply(settings)
        })?;
        Ok(migration)
    }

    /// What people have described, if it was they.
    pub fn described(&self) -> Option<&Described> {
        match self {
            Self::Page(described) => Some(described),
            _ => None,
        }
    }
}

impl Described {
    async fn build(&self, id: &str, tell: &Tell) -> Result<Migration> {
        let (source, sink) = self.connect(tell).await?;
        if let Some(way_back) = &self.way_back {
            let builder = way_back.reverse(source, sink)?;
            return self.finish(builder.id(id), tell);
        }
        let selection = match &self.settings.selection {
            Some(selection) => selection.clone(),
            None => Selection::all(),
        };
        let builder = Migration::builder(source, sink).selection(selection).id(id);
        self.finish(builder, tell)
    }

    fn finish(&self, builder: crate::api::builder::MigrationBuilder, tell: &Tell) -> Result<Migration> {
        let tell = Arc::clone(tell);
        self.settings.apply(builder).on_wait(move |wait| tell(wait)).build()
    }

    /// Connects to both sides.
    ///
    /// # Errors
    /// One with the findings of both sides, if both cannot be connected to.
    async fn connect(&self, tell: &Tell) -> Result<(MongoSource, MongoSink)> {
        let (source, target) = (self.source.options.clone(), self.target.options.clone());
        let source = MongoSource::connect(telling(source, tell));
        let sink = MongoSink::connect(telling(target, tell));
        match futures::join!(source, sink) {
            (Ok(source), Ok(sink)) => Ok((source, sink)),
            (Err(error), Ok(_)) => Err(error.with_context("side", "source")),
            (Ok(_), Err(error)) => Err(error.with_context("side", "target")),
            (Err(source), Err(target)) => {
                let findings = [source.findings(), target.findings()].concat();
                let both = Error::refused("connect to both sides", findings).with_kind(source.kind());
                Err(both.with_context("sides", "source, target").with_source(source))
            }
        }
    }
}

/// Adds the report of waits to the options of a connection.
pub(super) fn telling(options: ConnectOptions, tell: &Tell) -> ConnectOptions {
    let tell = Arc::clone(tell);
    options.on_wait(move |wait| tell(wait))
}

/// Returns the selection of a migration that a target knows; `None` if the target does not know it.
///
/// # Errors
/// A server error, or the records were written by a newer version.
pub(super) async fn known_selection(sink: &Arc<dyn Sink>, id: &str) -> Result<Option<Selection>> {
    // A migration that is complete has no selection in the register.
    if let Some(checkpoint) = known_checkpoint(sink, id).await? {
        return Ok(Some(checkpoint.selection));
    }
    let known = Register::load(&**sink).await?.migrations;
    let entry = known.into_iter().find(|entry| entry.id == id);
    Ok(entry.and_then(|entry| entry.selection))
}

/// Returns the checkpoint that a migration keeps on its target.
///
/// # Errors
/// A server error, or the records were written by a newer version.
pub(super) async fn known_checkpoint(sink: &Arc<dyn Sink>, id: &str) -> Result<Option<Checkpoint>> {
    let stored = SinkStore::with_id(Arc::clone(sink), id)?.load().await?;
    stored.as_ref().map(Checkpoint::decode).transpose()
}

/// Awaits a function of the host, which may panic.
async fn guarded(build: impl FnOnce() -> BoxFuture<'static, Result<Migration>>) -> Result<Migration> {
    let built = std::panic::AssertUnwindSafe(async { build().await })
        .catch_unwind()
        .await;
    built.unwrap_or_else(|_| {
        let message = "the host's function that builds the migration panicked";
        Err(Error::new(ErrorKind::Panic, "build the migration", message))
    })
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host(_) => "Host",
            Self::HostBack(..) => "HostBack",
            Self::Page(_) => "Page",
        })
    }
}
