//! What a hand-over leaves for the migration that takes it back.

use bson::Uuid;

use crate::checkpoint::{Checkpoint, CollectionState, RangeState, States, WayBack};
use crate::engine::track::collection::CollectionProgress;
use crate::model::{ByName, Collection, CollectionKind, Deployment, Position};
use crate::runtime::job::Job;

impl WayBack {
    /// What is known at the end of a cutover. Everything of the migration was written before `position`, and nobody else writes until its
    /// end is told.
    pub(crate) fn begin(
        engine: &Job,
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
        ranges: vec![RangeState {
            upper: None,
            done: Some(position),
        }],
        compared: None,
    }
}
