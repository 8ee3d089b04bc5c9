//! Rehearsal: a migration that stops before its cutover.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::api::handle::MigrationHandle;
use crate::api::migration::Migration;
use crate::api::records::remove_records;
use crate::engine::ownership::Ownership;
use crate::engine::users;
use crate::error::{Error, ErrorKind, Result};
use crate::model::format;
use crate::report::Status;
use crate::runtime::flush::SharedFlush;
use crate::runtime::job::Job;

/// A rehearsal that is described but not started; see [`Migration::rehearse`].
#[derive(Debug)]
#[must_use = "it begins with `run`"]
pub struct Rehearsal {
    migration: Migration,
    clear_target: bool,
}

/// Result of a rehearsal.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "rehearsed")]
#[non_exhaustive]
pub struct Rehearsed<T> {
    /// The value that the host's tests returned.
    pub answer: T,
    /// The state of the run when it was ready, just before it was stopped.
    pub status: Status,
    /// Time from the start until the run was ready.
    #[serde(rename = "ready_after_ms", serialize_with = "format::milliseconds")]
    pub ready_after: Duration,
}

impl Migration {
    /// Describes a rehearsal of this migration.
    ///
    /// The rehearsal copies and follows everything as the migration would, until the run is
    /// [ready](MigrationHandle::ready_to_cut_over). Then the host's tests have the target to themselves. Applications keep using the source
    /// all the time.
    ///
    /// ```no_run
    /// # async fn example(migration: mongoferry::Migration) -> mongoferry::Result<()> {
    /// let rehearsed = migration.rehearse().run(async { /* test the application */ }).await?;
    /// println!("ready after {:?}", rehearsed.ready_after);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rehearse(self) -> Rehearsal {
        Rehearsal {
            migration: self,
            clear_target: false,
        }
    }
}

impl Rehearsal {
    /// Whether to drop the migrated collections on the target at the end, even if the tests have changed them. Default: no.
    pub fn clear_target(mut self, clear: bool) -> Self {
        self.clear_target = clear;
        self
    }

    /// Copies, follows until the run is ready, stops the run, and awaits `test`. Then it removes the migration's own records from the
    /// target, and its checkpoint from the checkpoint store, so that no record of the migration remains. Other migrations into the same
    /// target are not affected.
    ///
    /// While `test` runs, nothing is written to the target. Its data is the source's data at the [position](Status::position) in the
    /// status, or a moment later. Documents do not expire there, and indexes are not in their final form yet.
    ///
    /// # Errors
    /// - [`CheckpointMismatch`](ErrorKind::CheckpointMismatch): a migration has already begun, and its checkpoint would be lost.
    /// - The errors of [`start`](Migration::start) and of the run. In this case, too, everything that can be removed is removed.
    ///
    /// # Cancellation
    /// Dropping the future leaves the same as a stopped run: the checkpoint and what was copied. Starting the migration resumes from that
    /// checkpoint.
    pub async fn run<T>(self, test: impl Future<Output = T>) -> Result<Rehearsed<T>> {
        let engine = Arc::clone(self.migration.engine());
        if engine.load().await?.is_some() {
            return Err(Error::new(
                ErrorKind::CheckpointMismatch,
                "rehearse the migration",
                "a migration has already begun, and a rehearsal would remove its checkpoint: start it, or call `Migration::forget` first",
            ));
        }
        let began = Instant::now();
        let run = self.migration.start().await?;
        let ready = ready(&run).await;
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
        // The first error is the one that counts.
        let rehearsed = rehearsed?;
        tidied.map(|()| rehearsed)
    }
}

async fn ready(run: &MigrationHandle) -> Result<Status> {
    run.ready_to_cut_over().await?;
    Ok(run.status())
}

/// Removes what a run leaves on the target.
async fn tidy_up(engine: &Job, clear_target: bool) -> Result<()> {
    let clear = async {
        if clear_target && let Some(checkpoint) = engine.load().await? {
            let durability = SharedFlush::new(Arc::clone(&engine.sink));
            let ownership = Ownership::load(engine.records(), durability, engine.settings.existing_data).await?;
            // Collections created after the last checkpoint.
            for namespace in ownership.earlier().await {
                ownership.remove(&namespace, None, checkpoint.watermark).await?;
            }
            users::drop_made(engine).await?;
            for state in checkpoint.collections {
                ownership
                    .remove(&state.target, state.made, checkpoint.watermark)
                    .await?;
            }
        }
        engine.sink.flush().await
    };
    remove_records(engine, clear).await
}
