//! The components of a migration.

use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;

use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::config::Settings;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{MigrationId, Side};
use crate::report::Events;
use crate::runtime::fence::Fence;
use crate::runtime::hooks::HostHooks;
use crate::runtime::index_builds::IndexBuilds;
use crate::runtime::lease::Lease;
use crate::runtime::limits::resources::Resources;
use crate::runtime::seen::Seen;
use crate::runtime::shaping::Shaping;
use crate::runtime::waiting::Waiting;
use crate::sink::{Records, Sink, Turn};
use crate::source::Source;

/// Components of a migration. Everything else that a run needs to know is in its checkpoint.
pub(crate) struct Job {
    /// Documents have the form that the rules give them.
    pub source: Arc<dyn Source>,
    /// The same, for documents that are written to the target.
    pub writing_source: Arc<dyn Source>,
    /// The source as the host has it.
    pub plain_source: Arc<dyn Source>,
    pub shaping: Arc<Shaping>,
    /// Writes only while a run holds the lease.
    pub sink: Arc<dyn Sink>,
    /// Saves only while a run holds the lease.
    pub store: Arc<dyn CheckpointStore>,
    /// For calls before the lease is acquired and after it is released.
    pub unfenced: Unfenced,
    pub fence: Fence,
    /// The lease that the start has acquired for the first run.
    pub started: StartedLease,
    pub builds: Arc<Mutex<IndexBuilds>>,
    pub seen: Arc<Seen>,
    pub hooks: HostHooks,
    pub events: Events,
    /// Limits that other migrations of the process share.
    pub resources: Option<Resources>,
    pub settings: Settings,
}

impl Job {
    /// Returns the same migration with source, sink and store wrapped, so that each emits an event when it keeps a run waiting.
    pub fn waiting(&self) -> Self {
        let events = &self.events;
        let source =
            |source: &Arc<dyn Source>| Arc::new(Waiting::new(Arc::clone(source), Side::Source, events.clone()));
        let sink = |sink: &Arc<dyn Sink>| Arc::new(Waiting::new(Arc::clone(sink), Side::Target, events.clone()));
        Self {
            source: source(&self.source),
            writing_source: source(&self.writing_source),
            plain_source: source(&self.plain_source),
            shaping: Arc::clone(&self.shaping),
            sink: sink(&self.sink),
            store: Arc::new(Waiting::new(Arc::clone(&self.store), Side::Target, events.clone())),
            unfenced: Unfenced {
                sink: sink(&self.unfenced.sink),
                turn: self.unfenced.turn.clone(),
            },
            fence: self.fence.clone(),
            started: self.started.clone(),
            builds: Arc::clone(&self.builds),
            seen: Arc::clone(&self.seen),
            hooks: self.hooks.clone(),
            events: events.clone(),
            resources: self.resources.clone(),
            settings: self.settings.clone(),
        }
    }

    /// The records of this migration, for a run that holds the lease.
    pub(crate) fn records(&self) -> Records {
        Records::new(Arc::clone(&self.sink), self.settings.id.clone()).with_turn(self.unfenced.turn.clone())
    }

    /// Loads the checkpoint to resume from, if there is one.
    ///
    /// # Errors
    /// The checkpoint belongs to another migration, or cannot be read.
    pub(crate) async fn load(&self) -> Result<Option<Checkpoint>> {
        let Some(bytes) = self.store.load().await? else {
            return Ok(None);
        };
        let checkpoint = Checkpoint::decode(&bytes)?;
        if self.takes_the_place_of(&checkpoint) {
            return Ok(None);
        }
        self.check(&checkpoint).await?;
        Ok(Some(checkpoint))
    }

    /// Checks that `checkpoint` belongs to this migration.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch), whose message says what differs.
    pub(crate) async fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (source, sink) = futures::try_join!(self.source.describe(), self.sink.describe())?;
        for (what, theirs, ours) in [
            ("migration", &checkpoint.id, &self.settings.id.as_str().to_owned()),
            ("source", &checkpoint.source, &source.identity),
            ("target", &checkpoint.sink, &sink.identity),
        ] {
            if theirs != ours {
                return Err(mismatch(format!(
                    "it belongs to the {what} `{theirs}`, this {what} is `{ours}`"
                )));
            }
        }
        if checkpoint.selection != self.settings.selection {
            return Err(mismatch(
                "it was made with other includes, excludes or renames".to_owned(),
            ));
        }
        self.check_way_back(checkpoint)
    }

    /// Whether `checkpoint` belongs to a completed migration and may be replaced by the one that takes the hand-over back.
    pub(crate) fn takes_the_place_of(&self, checkpoint: &Checkpoint) -> bool {
        let way_back = self.settings.way_back.as_ref();
        checkpoint.complete && way_back.is_some_and(|way_back| way_back.first.takes_back != checkpoint.takes_back)
    }

    /// Checks that `checkpoint` belongs to the migration that takes this hand-over back.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch).
    pub(crate) fn check_way_back(&self, checkpoint: &Checkpoint) -> Result<()> {
        match &self.settings.way_back {
            Some(way_back) if way_back.first.takes_back != checkpoint.takes_back => Err(mismatch(
                "it does not take back the hand-over that this migration does".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Returns the first checkpoint of a migration that takes a hand-over back, or `None` for any other migration.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) if source and sink are not those of the hand-over, or a server error.
    pub(crate) async fn first_of_way_back(&self) -> Result<Option<Checkpoint>> {
        let Some(way_back) = &self.settings.way_back else {
            return Ok(None);
        };
        // The host may have given the reverse migration another id than that of the original one.
        let first = Checkpoint {
            id: self.settings.id.to_string(),
            ..(*way_back.first).clone()
        };
        self.check(&first).await?;
        Ok(Some(first))
    }
}

/// A lease on its way from the start of a migration to its first run.
#[derive(Clone, Default)]
pub(crate) struct StartedLease(Arc<std::sync::Mutex<Option<Lease>>>);

impl StartedLease {
    pub fn put(&self, lease: Lease) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    pub fn take(&self) -> Option<Lease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The sink as provided by the host, without the fence.
pub(crate) struct Unfenced {
    pub sink: Arc<dyn Sink>,
    pub turn: Option<Turn>,
}

impl Unfenced {
    /// The records of the migration with this id.
    pub fn records(&self, id: &MigrationId) -> Records {
        Records::new(Arc::clone(&self.sink), id.clone()).with_turn(self.turn.clone())
    }
}

/// The error for a start of a migration that is complete.
pub(crate) fn already_complete() -> Error {
    Error::new(
        ErrorKind::AlreadyComplete,
        "start the migration",
        "it is complete; start another one with another id, or call `Migration::forget` to run this one again",
    )
}

pub(crate) fn mismatch(message: String) -> Error {
    Error::new(ErrorKind::CheckpointMismatch, "go on from the checkpoint", message)
}
