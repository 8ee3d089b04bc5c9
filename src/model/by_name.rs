//! Looks up listed collections by name.

use std::collections::HashMap;

use crate::model::{Collection, Namespace};

/// Listed collections, keyed by name.
pub(crate) type ByName<'a> = HashMap<&'a Namespace, &'a Collection>;

pub(crate) fn by_name(listed: &[Collection]) -> ByName<'_> {
    listed
        .iter()
        .map(|collection| (&collection.namespace, collection))
        .collect()
}

/// Returns the collection named `namespace`, if it is listed.
pub(crate) fn find<'a>(listed: &'a [Collection], namespace: &Namespace) -> Option<&'a Collection> {
    listed.iter().find(|collection| collection.namespace == *namespace)
}
