//! A collection on both sides.

use bson::Uuid;

use crate::model::{CollectionKind, Namespace};

/// A collection as an applier and a walker need to know it. It is replaced as a whole when the collection is renamed.
#[derive(Debug)]
pub(crate) struct CollectionMapping {
    pub id: Uuid,
    pub namespace: Namespace,
    pub target: Namespace,
    pub kind: CollectionKind,
}
