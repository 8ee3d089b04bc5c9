//! Way back: a migration in the opposite direction that begins at the hand-over and copies nothing.
//!
//! At the end of a cutover both sides are equal, and nobody writes. The checkpoint records that moment: a position in the target's own
//! history, and what exists on the target. From that position on, the target can be followed like any source. The changes of the
//! applications are applied to the old source, until a second cutover hands the applications back.

#[cfg(test)]
mod tests;

use crate::api::builder::MigrationBuilder;
use crate::api::migration::Migration;
use crate::checkpoint::WayBack;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Outcome, Summary};
use crate::runtime::job::Job;
use crate::sink::Sink;
use crate::source::Source;

const OPERATION: &str = "take the hand-over back";

impl Summary {
    /// Describes the migration that reverses this hand-over, for applications that use the target now. `source` is on the target of the
    /// original migration, and `sink` is on its source.
    ///
    /// The reverse migration copies nothing. It begins at the moment of the hand-over in the target's oplog, and applies what the
    /// applications have done since to the old source. If the oplog no longer reaches back to that moment, everything is compared, as for
    /// any [lost position](crate::LostPosition). The reverse migration has its own lag, [cutover](crate::MigrationHandle::cutover),
    /// comparison and window, like any other migration. It can be stopped, started again, and reversed in turn. Collections get their old
    /// names back; the selection cannot be changed.
    ///
    /// Nothing else may write to the old source in the meantime. A migration never writes to its source, but that guarantee ends when the
    /// reverse migration starts. The checkpoint and lease of the reverse migration are in the database `__mdb_internal_mongoferry` on the
    /// old source, unless the builder names [another store](MigrationBuilder::checkpoint_store). They replace those of a finished migration
    /// there. Documents no longer expire on the old source once the reverse migration has started; TTL indexes get their final form at its
    /// cutover.
    ///
    /// Preflight refuses a downgrade, as always. It also refuses an old source whose writes are
    /// [blocked](MigrationBuilder::block_source_writes), unless the sink's user may bypass the block. Lift the block before applications
    /// use the old source again.
    ///
    /// [`Migration::reverse`] does the same after a restart of the process.
    ///
    /// # Errors
    /// - [`WrongPhase`](ErrorKind::WrongPhase): the outcome is not [`Complete`](Outcome::Complete).
    /// - [`Refused`](ErrorKind::Refused): the sink has no history that can be followed, or a collection cannot get its old name back.
    pub fn reverse(&self, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
        match &self.way_back {
            Some(way_back) => way_back.reverse(source, sink),
            None if self.outcome == Outcome::Complete => Err(no_history()),
            None => Err(not_complete()),
        }
    }
}

impl WayBack {
    /// Same as [`Summary::reverse`].
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if a collection cannot get its old name back.
    pub fn reverse(&self, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
        let selection = &self.first.selection;
        for state in &self.first.collections {
            let back = selection.target(&state.namespace);
            if back != state.target {
                return Err(Error::new(
                    ErrorKind::Refused,
                    OPERATION,
                    format!(
                        "`{}` was `{}` before, and the renames lead it back to `{back}`: migrate it by itself",
                        state.namespace, state.target
                    ),
                ));
            }
        }
        Ok(Migration::builder(source, sink).takes_back(self.clone(), selection.clone()))
    }
}

/// Returns the way back from the checkpoint of a finished migration.
///
/// # Errors
/// Same as [`Migration::reverse`].
pub(crate) async fn of_checkpoint(engine: &Job) -> Result<WayBack> {
    match engine.load().await? {
        Some(checkpoint) if checkpoint.complete => checkpoint.way_back.ok_or_else(no_history),
        _ => Err(not_complete()),
    }
}

fn no_history() -> Error {
    Error::new(
        ErrorKind::Refused,
        OPERATION,
        "the hand-over recorded no position in the target's history that can be followed: the sink has no such history, or the hand-over was \
         made by an earlier version",
    )
}

fn not_complete() -> Error {
    Error::new(
        ErrorKind::WrongPhase,
        OPERATION,
        "the migration has not been handed over; the applications are still on the source",
    )
}
