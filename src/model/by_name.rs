//! A listing, by the names of its collections.

use std::collections::HashMap;

use crate::model::{Collection, Namespace};

/// A listing by the names of its collections.
pub(crate) type ByName<'a> = HashMap<&'a Namespace, &'a Collection>;

pub(crate) fn by_name(listed: &[Collection]) -> ByName<'_> {
    listed
        .iter()
        .map(|collection| (&collection.namespace, collection))
        .collect()
}

/// The collection of this name in a listing.
pub(crate) fn find<'a>(listed: &'a [Collection], namespace: &Namespace) -> Option<&'a Collection> {
    listed.iter().find(|collection| collection.namespace == *namespace)
}
