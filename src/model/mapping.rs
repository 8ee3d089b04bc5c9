//! A collection and its name on each side.

use bson::Uuid;

use crate::model::{CollectionKind, Namespace};

/// The facts about a collection that appliers and walkers need. Replaced as a whole when the collection is renamed.
#[derive(Debug)]
pub(crate) struct CollectionMapping {
    pub id: Uuid,
    pub namespace: Namespace,
    pub target: Namespace,
    pub kind: CollectionKind,
}
