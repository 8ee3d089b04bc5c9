//! The documents that a resumed run has to read again.

use std::collections::HashSet;

use bson::Uuid;

use super::refetched::RefetchedDocuments;
use super::refused::RefusedDocuments;
use crate::engine::messages::Unsettled;
use crate::order::Key;

/// Returns the unsettled documents. If their `_id`s take more than `most` bytes, only their collections are named.
pub(super) fn names(
    refetched: &RefetchedDocuments,
    refused: &RefusedDocuments,
    ruled: &HashSet<Uuid>,
    most: usize,
) -> Unsettled {
    if let Some(refetched) = refetched.names(ruled) {
        let documents: Vec<&(Uuid, Key)> = refetched.chain(refused.names()).collect();
        let bytes: usize = documents
            .iter()
            .map(|(_, key)| size_of::<Uuid>() + key.size_in_bytes())
            .sum();
        if bytes <= most {
            return Unsettled {
                documents: documents.into_iter().cloned().collect(),
                collections: HashSet::new(),
            };
        }
    }
    Unsettled {
        documents: Vec::new(),
        collections: refetched
            .collections()
            .filter(|id| !ruled.contains(id))
            .chain(refused.names().map(|(id, _)| *id))
            .collect(),
    }
}
