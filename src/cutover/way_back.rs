//! Builds the first checkpoint for a migration that takes the hand-over back.

use bson::Uuid;

use crate::checkpoint::{Checkpoint, CollectionState, RangeState, States, WayBack};
use crate::engine::track::collection::CollectionProgress;
use crate::model::{ByName, Collection, CollectionKind, Deployment, Position};
use crate::runtime::job::Job;
use crate::users::UsersAtHandOver;

impl WayBack {
    /// Builds the way back at the end of a cutover. The migration wrote everything before `position`, and nobody else writes until the end
    /// is reported.
    pub(crate) fn begin(
        engine: &Job,
        (source, sink): (&Deployment, &Deployment),
        position: Position,
        migrated: &States,
        standing: &ByName<'_>,
        users: Option<UsersAtHandOver>,
    ) -> Self {
        let mut first = Checkpoint::begin(
            sink.identity.clone(),
            source.identity.clone(),
            engine.settings.selection.reversed(),
            position,
            position,
        );
        first.id = engine.settings.id.to_string();
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
        // Those of this migration, until it is said how they are undone.
        first.rules = engine.settings.rules.records();
        first.failed = engine.shaping.failed_documents();
        first.users = users;
        Self { first: Box::new(first) }
    }
}

/// Returns the target's collection as a source collection of the opposite migration, with all documents already copied.
pub(crate) fn opposite(state: &CollectionState, there: &Collection, position: Position) -> CollectionState {
    let (namespace, target) = (state.target.clone(), state.namespace.clone());
    if state.kind == CollectionKind::View {
        return CollectionProgress::view(namespace, target, there.options.clone()).to_checkpoint();
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
        copied_documents: 0,
        copied_bytes: 0,
        ranges: vec![RangeState {
            upper: None,
            done: Some(position),
        }],
        compared: None,
    }
}
