//! Way back: a migration in the opposite direction that begins at the hand-over and copies nothing.
//!
//! At the end of a cutover both sides are equal, and nobody writes. The checkpoint records that moment: a position in the target's own
//! history, and what exists on the target. From that position on, the target can be followed like any source. The changes of the
//! applications are applied to the old source, until a second cutover hands the applications back.

#[cfg(test)]
mod tests;

use crate::api::builder::MigrationBuilder;
use crate::api::migration::Migration;
use crate::checkpoint::{CollectionState, WayBack};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, matches_pattern};
use crate::report::{Outcome, Summary};
use crate::rules::RuleSet;
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
    /// If the migration [carried users](MigrationBuilder::users), the reverse migration carries them by the same selection, unless the builder
    /// says otherwise: what changes on the new set since the hand-over changes on the old one. It never carries the users that the
    /// migration was connected as.
    ///
    /// Preflight refuses a downgrade, as always. It also refuses an old source whose writes are
    /// [blocked](MigrationBuilder::block_source_writes), unless the sink's user may bypass the block. Lift the block before applications
    /// use the old source again.
    ///
    /// [`Migration::reverse`] does the same after a restart of the process, and for a migration with transforms that have an
    /// [inverse](crate::Transform::inverse).
    ///
    /// # Errors
    /// - [`WrongPhase`](ErrorKind::WrongPhase): the outcome is not [`Complete`](Outcome::Complete).
    /// - [`Refused`](ErrorKind::Refused): the sink has no history that can be followed, a collection cannot get its old name back, or the
    ///   migration had filters or transforms.
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
        if !self.first.rules.is_empty() {
            return Err(refused(
                "the migration had filters or transforms: build it again with them, and call `Migration::reverse`, which uses their inverses",
            ));
        }
        self.reverse_under(RuleSet::default(), source, sink)
    }

    /// Same as [`reverse`](Self::reverse), under the inverse rules.
    fn reverse_under(&self, rules: RuleSet, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
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
        let mut way_back = self.clone();
        way_back.first.rules = rules.records();
        way_back.first.failed = Vec::new();
        Ok(Migration::builder(source, sink).takes_back(way_back, selection.clone(), rules))
    }

    /// Returns the rules that undo those of the migration.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if they cannot be undone.
    fn inverse(&self, rules: &RuleSet) -> Result<RuleSet> {
        if rules.records() != self.first.rules {
            return Err(refused(
                "the migration was handed over with other filters and transforms: build it with these",
            ));
        }
        let failed: usize = self.first.failed.iter().map(|failed| failed.ids.len()).sum();
        if failed > 0 {
            return Err(refused(format!(
                "{failed} documents were left out because a rule failed; a comparison on the way back would delete them on the old source"
            )));
        }
        let mut inverse = RuleSet::default();
        for (record, transform) in rules.records().iter().zip(rules.transforms_given()).rev() {
            let Some(transform) = transform else {
                return Err(refused(format!(
                    "the filter `{}` of `{}` left documents out, which a comparison on the way back would delete on the old source",
                    record.name, record.pattern
                )));
            };
            let Some(transform) = transform.inverse() else {
                return Err(refused(format!(
                    "the transform `{}` of `{}` has no inverse: implement `Transform::inverse`",
                    record.name, record.pattern
                )));
            };
            let is_same = |state: &CollectionState| {
                let matches = |name: &Namespace| matches_pattern(&record.pattern, name.as_str());
                matches(&state.namespace) == matches(&state.target)
            };
            if !self.first.collections.iter().all(is_same) {
                return Err(refused(format!(
                    "collections of the transform `{}` have other names now, which its pattern `{}` does not fit: migrate them by themselves",
                    record.name, record.pattern
                )));
            }
            inverse.transform(&record.pattern, transform)?;
        }
        Ok(inverse)
    }
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, OPERATION, message)
}

/// Describes the way back of a migration that was described again, with its filters and transforms.
///
/// # Errors
/// Same as [`Migration::reverse`].
pub(crate) async fn of_migration(engine: &Job, source: impl Source, sink: impl Sink) -> Result<MigrationBuilder> {
    let way_back = of_checkpoint(engine).await?;
    let inverse = way_back.inverse(&engine.settings.rules)?;
    way_back.reverse_under(inverse, source, sink)
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
