//! What a target knows of migrations: listing all, and reading and removing the records of one.

use std::time::SystemTime;

use futures::StreamExt;
use futures::stream;
use serde::Serialize;

use crate::api::migration::Migration;
#[cfg(feature = "console")]
use crate::checkpoint::SinkStore;
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::engine::{ownership, users};
use crate::error::Result;
use crate::model::{MigrationId, format};
use crate::report::{Certificate, Phase};
#[cfg(feature = "console")]
use crate::runtime::fence::{Fence, FencedStore};
use crate::runtime::job::Job;
use crate::runtime::lease::{self, Lease, LeaseOwner};
use crate::runtime::register::{self, Entry, Left, Register};
use crate::sink::{Records, Sink};

/// Maximum number of leases that are observed at the same time.
const OBSERVED: usize = 32;

/// A migration that a target knows; see [`migrations`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "known_migration")]
#[non_exhaustive]
pub struct KnownMigration {
    /// Its [id](crate::MigrationBuilder::id).
    pub id: String,
    /// The identity of its source.
    pub source: String,
    /// The name of its source, such as that of the replica set.
    pub source_name: String,
    /// The phase that it was last known to be in. A migration that was stopped keeps the phase that it was in before.
    pub phase: Phase,
    /// When it was first started.
    #[serde(serialize_with = "format::time")]
    pub begun: SystemTime,
    /// When it last saved a checkpoint; `None` if it has not saved any.
    #[serde(serialize_with = "format::optional_time")]
    pub saved: Option<SystemTime>,
    /// The process that runs it; `None` if none does.
    pub owner: Option<LeaseOwner>,
    /// Whether it is complete. The names that it wrote to are then free for other migrations.
    pub complete: bool,
}

/// Lists the migrations that a target knows, ordered by id: those that run, those that were stopped, and those that are complete. A migration
/// disappears from the list when it is [forgotten](Migration::forget).
///
/// The call observes each lease for up to two seconds, many at the same time, to find out whether a process renews it. It reads records
/// only, so a user who may read `__mdb_internal_mongoferry` can list the migrations.
///
/// # Errors
/// A server error.
pub async fn migrations(sink: &dyn Sink) -> Result<Vec<KnownMigration>> {
    let entries = Register::load(sink).await?.migrations;
    let known = stream::iter(entries).map(|entry| describe(sink, entry));
    let mut known: Vec<Result<KnownMigration>> = known.buffer_unordered(OBSERVED).collect().await;
    known.sort_by(|one, another| match (one, another) {
        (Ok(one), Ok(another)) => one.id.cmp(&another.id),
        // An error fails the call, wherever it is.
        _ => std::cmp::Ordering::Equal,
    });
    known.into_iter().collect()
}

async fn describe(sink: &dyn Sink, entry: Entry) -> Result<KnownMigration> {
    let id: MigrationId = entry.id.parse()?;
    let known = lease::look_at(sink, &id).await?;
    Ok(KnownMigration {
        phase: if entry.complete {
            Phase::Complete
        } else {
            known.progress.phase
        },
        saved: known.progress.saved.map(|saved| saved.to_system_time()),
        owner: known.owner,
        id: entry.id,
        source: entry.source,
        source_name: entry.source_name,
        begun: entry.begun.to_system_time(),
        complete: entry.complete,
    })
}

impl Migration {
    /// The [id](crate::MigrationBuilder::id) of this migration.
    pub fn id(&self) -> &str {
        self.engine().settings.id.as_str()
    }

    /// Returns the checkpoint of this migration; `None` if it has not begun.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](crate::ErrorKind::CheckpointMismatch) if the checkpoint belongs to another migration, or a server error.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.engine().load().await
    }

    /// Returns the certificate of this migration, which [`Summary::certificate`](crate::Summary::certificate) has as well; `None` if the
    /// migration is not complete. It stays in the checkpoint until the migration is [forgotten](Self::forget), so that it can be had after
    /// the process that handed over has ended.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](crate::ErrorKind::CheckpointMismatch) if the checkpoint belongs to another migration, or a server error.
    pub async fn certificate(&self) -> Result<Option<Certificate>> {
        let checkpoint = self.engine().load().await?;
        checkpoint.as_ref().map_or(Ok(None), Certificate::of)
    }

    /// Removes everything that this migration keeps: its checkpoint from the checkpoint store, and its records from the target. The names that
    /// it may write to are then free for other migrations. What was copied stays.
    ///
    /// A later start begins from the beginning, and what was copied counts as [existing data](crate::ExistingData). If the migration keeps
    /// nothing, that is no error. With the last migration that a target knows, the database `__mdb_internal_mongoferry` is dropped if the
    /// user may do so.
    ///
    /// # Errors
    /// - [`LeaseHeld`](crate::ErrorKind::LeaseHeld): a process runs the migration. A process that was killed holds the lease for 6 seconds;
    ///   the call waits for that.
    /// - A server error. Some of the records may have been removed; the call can be repeated.
    ///
    /// # Cancellation
    /// Dropping the future leaves a part of the records. The call can be repeated.
    pub async fn forget(&self) -> Result<()> {
        remove_records(self.engine(), async { Ok(()) }).await
    }
}

/// Removes everything that a migration keeps on this target, like [`Migration::forget`], for those who have no connection to its source. A
/// checkpoint that is kept elsewhere stays.
///
/// # Errors
/// Same as [`Migration::forget`].
#[cfg(feature = "console")]
pub(crate) async fn forget_on_target(sink: std::sync::Arc<dyn Sink>, id: &str) -> Result<()> {
    let records = Records::new(sink, id.parse()?);
    let fence = Fence::default();
    let store = FencedStore::new(std::sync::Arc::new(SinkStore::of(records.clone())), fence.clone());
    let lease = Lease::acquire(records.clone(), fence).await?;
    let remove = remove(&records, &store, async { Ok(()) });
    removed(lease, remove, &**records.sink()).await
}

/// Removes what a migration keeps, after some other work. The lease keeps other processes out, and is removed after everything else.
pub(super) async fn remove_records(job: &Job, before: impl Future<Output = Result<()>>) -> Result<()> {
    let lease = Lease::acquire(job.unfenced.records(&job.settings.id), job.fence.clone()).await?;
    let records = job.records();
    let remove = remove(&records, &*job.store, before);
    removed(lease, remove, &*job.unfenced.sink).await
}

/// Removes everything but the lease.
async fn remove(
    records: &Records,
    store: &dyn CheckpointStore,
    before: impl Future<Output = Result<()>>,
) -> Result<Left> {
    // Takes ownership of the checkpoint, as every run does once it has the lease.
    store.claim().await?;
    before.await?;
    store.clear().await?;
    users::forget(records).await?;
    ownership::forget(records).await?;
    register::remove(records).await
}

/// Removes the lease once everything else is removed, and the database if nothing is left.
async fn removed(lease: Lease, remove: impl Future<Output = Result<Left>>, sink: &dyn Sink) -> Result<()> {
    let left = match lease.while_kept(remove).await {
        Ok(left) => left,
        Err(error) => {
            lease.release(None).await;
            return Err(error);
        }
    };
    lease.remove().await?;
    match left {
        Left::Others => Ok(()),
        Left::Nothing(register, since) => register::drop_database(sink, register, since).await,
    }
}
