//! The way back of a hand-over: a migration in the opposite direction, which begins where the old one ended and copies nothing.
//!
//! At the end of a cutover both sides are equal and nobody writes. That moment is kept: a position in the target's own history, and what the
//! target has then. From there the target can be followed like any source, and what the applications do to it be carried to the old
//! source, until they are handed back by a cutover of its own.

#[cfg(test)]
mod tests;

use crate::api::migration::{Migration, MigrationBuilder};
use crate::checkpoint::WayBack;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Outcome, Summary};
use crate::runtime::job::Job;
use crate::sink::Sink;
use crate::source::Source;

const OPERATION: &str = "take the hand-over back";

impl Summary {
    /// Describes a migration from `source`, on the target of the one that was handed over, to `sink`, on its source: the way back for the
    /// applications, which are on the target by then.
    ///
    /// It copies nothing. It begins at the moment of the hand-over in the target's own oplog, which has to reach back to it (else everything
    /// is compared, as for any [lost position](crate::LostPosition)), and carries what the applications have done since to the old source.
    /// Lag, [cutover](crate::MigrationHandle::cutover), comparison and window are its own, as those of any migration, and it can be stopped,
    /// started again, and taken back in its turn. Names are those of before; the selection cannot be changed.
    ///
    /// Nothing else may write to the old source meanwhile; that a migration's source is never written to ends with the start of this one.
    /// Its checkpoint and lease are in the database `__mdb_internal_mongoferry` there, in the place of those of a finished migration, unless
    /// the builder names [another store](MigrationBuilder::checkpoint). Documents no longer expire on the old source from its start on; TTL
    /// takes its final form at its cutover. A downgrade is refused by preflight as always, and so is an old source whose writes are
    /// [blocked](MigrationBuilder::block_source_writes) unless the sink's user may pass the block; lift it before applications go there.
    ///
    /// [`Migration::reverse`] does the same after a restart of the process.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase) unless the outcome is [`Complete`](Outcome::Complete), [`Refused`](ErrorKind::Refused) when the
    /// sink has no history that can be followed, or when a collection cannot get its old name back.
    pub fn reverse(&self, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
        match &self.way_back {
            Some(way_back) => way_back.reverse(source, sink),
            None if self.outcome == Outcome::Complete => Err(no_history()),
            None => Err(not_complete()),
        }
    }
}

impl WayBack {
    /// As [`Summary::reverse`].
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when a collection cannot get its old name back.
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

/// The way back that the checkpoint of a finished migration holds.
///
/// # Errors
/// As [`Migration::reverse`].
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
        "the target has no history that was noted at the hand-over and can be followed: its sink answers none, or the hand-over was made by \
         an earlier version",
    )
}

fn not_complete() -> Error {
    Error::new(
        ErrorKind::WrongPhase,
        OPERATION,
        "the migration has not been handed over; the applications are still on the source",
    )
}
