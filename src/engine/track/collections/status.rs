//! The status of one collection for the host.

use crate::engine::track::collection::{CollectionProgress, IndexWork};
use crate::model::Amount;
use crate::report::{CollectionPhase, CollectionStatus};

/// Returns the status of a collection. The last error is known elsewhere.
pub(super) fn status_of(tracked: &CollectionProgress) -> CollectionStatus {
    let verification = &tracked.verification;
    CollectionStatus {
        id: tracked.target.id,
        namespace: tracked.target.namespace.clone(),
        target: tracked.target.target.clone(),
        phase: phase_of(tracked),
        copied: tracked.copied,
        total: Amount {
            documents: tracked.documents,
            bytes: tracked.bytes,
        },
        compared: verification.compared_amount(),
        all_compared: verification.has_compared_all(),
        differences: verification.differences(),
        applied: tracked.applied,
        indexes: tracked.index_counts(),
        last_error: None,
    }
}

fn phase_of(tracked: &CollectionProgress) -> CollectionPhase {
    if !tracked.ranges.all_done() {
        return match tracked.ranges.are_unread() {
            true => CollectionPhase::Waiting,
            false => CollectionPhase::Copying,
        };
    }
    let counts = tracked.index_counts();
    match &tracked.index_work {
        IndexWork::Done => CollectionPhase::Following,
        IndexWork::NotBegun | IndexWork::Building { .. } if counts.built + counts.building == 0 => {
            CollectionPhase::Copied
        }
        IndexWork::NotBegun | IndexWork::Building { .. } => CollectionPhase::Indexing,
    }
}
