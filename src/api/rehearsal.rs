//! A migration that ends before its cutover: it copies, follows, and lets the host test its application on the target.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::handle::MigrationHandle;
use crate::api::migration::Migration;
use crate::engine::ownership::Ownership;
use crate::error::{Error, ErrorKind, Result};
use crate::report::Status;
use crate::runtime::flush::SharedFlush;
use crate::runtime::job::Job;
use crate::runtime::lease::Lease;
use crate::sink::CatalogCommand;

/// A rehearsal that has been described and not yet begun: see [`Migration::rehearse`].
#[derive(Debug)]
#[must_use = "it begins with `run`"]
pub struct Rehearsal {
    migration: Migration,
    max_lag: Duration,
    clear_target: bool,
}

/// What a rehearsal came to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rehearsed<T> {
    /// What the host's tests answered.
    pub answer: T,
    /// The state of the run when it was ready, just before it was stopped.
    pub status: Status,
    /// How long it took until it was ready.
    pub ready_after: Duration,
}

impl Migration {
    /// Describes a rehearsal of this migration: everything is copied and followed as it would be, until the lag has stayed at or below
    /// `max_lag`; then the host's tests have the target to themselves. Applications go on using the source all the time.
    pub fn rehearse(self, max_lag: Duration) -> Rehearsal {
        Rehearsal {
            migration: self,
            max_lag,
            clear_target: false,
        }
    }
}

impl Rehearsal {
    /// Whether the migrated collections are dropped on the target at the end, whatever the tests have made of them. Default: no, they stay.
    pub fn clear_target(mut self, clear: bool) -> Self {
        self.clear_target = clear;
        self
    }

    /// Copies, follows until it is ready, stops, and awaits `test`. At its end the migration's own records are removed from the target, and
    /// its checkpoint from wherever it is kept, so that nothing is known of it any more.
    ///
    /// While `test` runs nothing is written to the target, which is as the source was at the [position](Status::position) of the status, or
    /// a moment later. Documents do not expire there, and indexes are not yet in their final form.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) when a migration has begun already, whose checkpoint would be lost; those of
    /// [`start`](Migration::start) and of the run. What can be tidied up is tidied up then, too.
    ///
    /// # Cancellation
    /// Dropping the future leaves what a run leaves that is stopped: the checkpoint and what was copied. The migration can be started, which
    /// goes on from it.
    pub async fn run<T>(self, test: impl Future<Output = T>) -> Result<Rehearsed<T>> {
        let engine = Arc::clone(self.migration.engine());
        if engine.load().await?.is_some() {
            return Err(Error::new(
                ErrorKind::CheckpointMismatch,
                "rehearse the migration",
                "a migration has begun already, and a rehearsal would remove its checkpoint: start it, or remove the checkpoint first",
            ));
        }
        let began = Instant::now();
        let run = self.migration.start().await?;
        let ready = ready(&run, self.max_lag).await;
        run.abandon().await;
        let rehearsed = match ready {
            Ok(status) => Ok(Rehearsed {
                status,
                ready_after: began.elapsed(),
                answer: test.await,
            }),
            Err(error) => Err(error),
        };
        let tidied = tidy_up(&engine, self.clear_target).await;
        // What went wrong first is what counts.
        let rehearsed = rehearsed?;
        tidied.map(|()| rehearsed)
    }
}

async fn ready(run: &MigrationHandle, max_lag: Duration) -> Result<Status> {
    run.ready_to_cut_over(max_lag).await?;
    Ok(run.status())
}

/// Removes what a run leaves. The lease keeps other processes out until it goes, last of all.
async fn tidy_up(engine: &Job, clear_target: bool) -> Result<()> {
    let sink = &engine.unfenced.sink;
    let lease = Lease::acquire(Arc::clone(sink), engine.fence.clone()).await?;
    let stop = CancellationToken::new();
    let remove = async {
        // A checkpoint of before it was abandoned would be refused otherwise.
        engine.store.claim().await?;
        if clear_target && let Some(checkpoint) = engine.load().await? {
            let durability = SharedFlush::new(Arc::clone(&engine.sink));
            let ownership =
                Ownership::load(Arc::clone(&engine.sink), durability, engine.settings.existing_data).await?;
            // What was made after the last checkpoint.
            for namespace in ownership.earlier().await {
                ownership.remove(&namespace, None, checkpoint.watermark).await?;
            }
            for state in checkpoint.collections {
                ownership
                    .remove(&state.target, state.made, checkpoint.watermark)
                    .await?;
            }
        }
        engine.sink.flush().await?;
        engine.store.clear().await?;
        stop.cancel();
        Ok(())
    };
    futures::try_join!(lease.clone().keep(stop.clone()), remove)?;
    lease.remove().await?;
    let database = crate::METADATA_DATABASE.to_owned();
    sink.execute(&CatalogCommand::DropDatabase { database }).await
}
