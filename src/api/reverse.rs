//! The way back of a hand-over: a migration in the opposite direction, which begins where the old one ended and copies nothing.
//!
//! At the end of a cutover both sides are equal and nobody writes. That moment is kept: a position in the target's own history, and what the
//! target has then. From there the target can be followed like any source, and what the applications do to it be carried to the old
//! source, until they are handed back by a cutover of its own.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bson::Uuid;
use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::api::migration::{Migration, MigrationBuilder};
use crate::catalog::are_same_keys;
use crate::checkpoint::{Checkpoint, CollectionState, RangeState, States};
use crate::engine::Engine;
use crate::engine::start::begin::mismatch;
use crate::engine::track::collection::Tracked;
use crate::engine::track::index_work::{name_of, seconds};
use crate::error::{Error, ErrorKind, Result};
use crate::model::by_name::ByName;
use crate::model::collection::{Collection, CollectionKind};
use crate::model::deployment::Deployment;
use crate::model::position::Position;
use crate::report::summary::{Outcome, Summary};
use crate::runtime::expiry;
use crate::runtime::expiry::Form;
use crate::runtime::flush::Durability;
use crate::runtime::ownership::Ownership;
use crate::sink::Sink;
use crate::source::Source;

const OPERATION: &str = "take the hand-over back";

/// How a finished hand-over can be taken back: the first checkpoint of the migration that does it.
///
/// It is in the [`Summary`] and in the checkpoint of the finished migration, so that it is there after a restart of the process.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WayBack {
    first: Box<Checkpoint>,
}

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
    /// The moment of the hand-over, in the history of the target.
    pub fn position(&self) -> Position {
        self.first.watermark
    }

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

    /// What is known at the end of a cutover. Everything of the migration was written before `position`, and nobody else writes until its
    /// end is told.
    pub(crate) fn begin(
        engine: &Engine,
        (source, sink): (&Deployment, &Deployment),
        position: Position,
        migrated: &States,
        standing: &ByName<'_>,
    ) -> Self {
        let mut first = Checkpoint::begin(
            sink.identity.clone(),
            source.identity.clone(),
            engine.settings.selection.reversed(),
            position,
            position,
        );
        first.collections = migrated
            .iter()
            .filter_map(|state| Some(opposite(state, standing.get(&state.target)?, position)))
            .collect();
        for state in &first.collections {
            first.copied_documents += state.documents;
            first.copied_bytes += state.bytes;
        }
        (first.created, first.copied) = (true, true);
        first.takes_back = Some(Uuid::new());
        Self { first: Box::new(first) }
    }
}

/// The collection on the target as that of a source whose documents are all where they go to.
fn opposite(state: &CollectionState, there: &Collection, position: Position) -> CollectionState {
    let (namespace, target) = (state.target.clone(), state.namespace.clone());
    if state.kind == CollectionKind::View {
        return Tracked::view(namespace, target, there.options.clone()).to_checkpoint();
    }
    CollectionState {
        id: there.id,
        namespace,
        target,
        made: None,
        kind: there.kind,
        options: there.options.clone(),
        indexes: there.indexes.clone(),
        indexed: true,
        documents: there.documents,
        bytes: there.bytes,
        ranges: vec![RangeState {
            upper: None,
            done: Some(position),
        }],
        compared: None,
    }
}

/// The size of a large catalogue is nothing to print.
impl fmt::Debug for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayBack")
            .field("position", &self.first.watermark)
            .field("collections", &self.first.collections.len())
            .finish_non_exhaustive()
    }
}

/// The way back that the checkpoint of a finished migration holds.
///
/// # Errors
/// As [`Migration::reverse`].
pub(crate) async fn of_checkpoint(engine: &Engine) -> Result<WayBack> {
    match engine.load().await? {
        Some(checkpoint) if checkpoint.complete => checkpoint.way_back.ok_or_else(no_history),
        _ => Err(not_complete()),
    }
}

impl Engine {
    /// Whether a checkpoint is that of a migration that is over, whose place is free for the one that takes a hand-over back.
    pub(crate) fn takes_the_place_of(&self, checkpoint: &Checkpoint) -> bool {
        let way_back = self.settings.way_back.as_ref();
        checkpoint.complete && way_back.is_some_and(|way_back| way_back.first.takes_back != checkpoint.takes_back)
    }

    /// Whether a checkpoint is of the migration that takes this very hand-over back.
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

    /// The checkpoint that a migration which takes a hand-over back begins with; `None` for any other.
    ///
    /// # Errors
    /// [`CheckpointMismatch`](ErrorKind::CheckpointMismatch) when source and sink are not those of the hand-over, or a server error.
    pub(crate) async fn first_of_way_back(&self) -> Result<Option<Checkpoint>> {
        let Some(way_back) = &self.settings.way_back else {
            return Ok(None);
        };
        self.check(&way_back.first).await?;
        Ok(Some((*way_back.first).clone()))
    }

    /// Saves the first checkpoint of a migration that takes a hand-over back, unless it has begun before.
    ///
    /// The old source has gone on expiring documents until now. What the target changed of these since is put right by following it, as
    /// long as both expire by the same rule; where the target's has changed meanwhile, the collection is compared.
    ///
    /// # Errors
    /// A server error, or the checkpoint is of another migration.
    pub(crate) async fn prepare_way_back(&self) -> Result<()> {
        if self.settings.way_back.is_none() || self.load().await?.is_some() {
            return Ok(());
        }
        let Some(mut first) = self.first_of_way_back().await? else {
            return Ok(());
        };
        let commands = expiry::commands(&first.collections, Form::HeldBack);
        expiry::execute(&*self.sink, &commands, || true).await?;
        // Only now, since until here the old source may have expired what the new rule keeps.
        let listed = self.source.collections().await?;
        for state in first
            .collections
            .iter_mut()
            .filter(|state| expires_otherwise(state, &listed))
        {
            state.ranges.clear();
            first.copied = false;
        }
        let durability = Durability::new(Arc::clone(&self.sink));
        Ownership::load(Arc::clone(&self.sink), durability, self.settings.existing_data)
            .await?
            .begin()
            .await?;
        self.store.save(&first.encode()?).await
    }
}

/// Whether documents of a collection that expired at the hand-over do so by another rule now, or no longer.
fn expires_otherwise(state: &CollectionState, listed: &[Collection]) -> bool {
    let before = rules(&state.options, &state.indexes);
    if before.is_empty() {
        return false;
    }
    // What is gone by now is met as dropped.
    let now = listed.iter().find(|collection| collection.id == state.id);
    now.is_some_and(|now| !are_same_rules(&before, &rules(&now.options, &now.indexes)))
}

/// By what and after how many seconds documents expire: by the names and keys of indexes, or by the collection's own option.
fn rules(options: &RawDocumentBuf, indexes: &[RawDocumentBuf]) -> BTreeMap<String, (i64, RawDocumentBuf)> {
    let by_index = indexes.iter().filter_map(|index| {
        let key = index.get_document("key").map(ToOwned::to_owned).unwrap_or_default();
        Some((name_of(index).to_owned(), (seconds(index)?, key)))
    });
    let by_option = seconds(options).map(|seconds| (String::new(), (seconds, RawDocumentBuf::new())));
    by_index.chain(by_option).collect()
}

fn are_same_rules(
    before: &BTreeMap<String, (i64, RawDocumentBuf)>,
    now: &BTreeMap<String, (i64, RawDocumentBuf)>,
) -> bool {
    before.len() == now.len()
        && before.iter().all(|(name, (seconds, key))| {
            now.get(name)
                .is_some_and(|(seconds_now, key_now)| seconds == seconds_now && are_same_keys(key, key_now))
        })
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
