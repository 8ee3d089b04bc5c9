//! The catalog of servers that keep it in collections: 2.6, where no command lists it.

use std::collections::BTreeMap;

use bson::raw::{RawDocument, RawDocumentBuf};

use super::{index_as_listed, options};
use crate::catalog::Series;
use crate::catalog::kind::kind_of;
use crate::error::{Error, Result};
use crate::model::{CollectionKind, Namespace};

/// A collection in `system.namespaces`, with its indexes in `system.indexes`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListedByName {
    pub namespace: Namespace,
    pub kind: CollectionKind,
    pub options: RawDocumentBuf,
    pub indexes: Vec<RawDocumentBuf>,
}

/// Returns the collections of a database, without those of the server, from all documents of its `system.namespaces` and `system.indexes`.
///
/// # Errors
/// [`Protocol`](crate::ErrorKind::Protocol) if a document has no name.
pub(crate) fn collections_from_namespaces(
    series: Series,
    database: &str,
    namespaces: &[RawDocumentBuf],
    indexes: &[RawDocumentBuf],
) -> Result<Vec<ListedByName>> {
    let mut found = BTreeMap::new();
    for listed in namespaces {
        let name = name(listed, "name")?;
        // Indexes and free space are listed, too, with a name that no collection can have.
        let Some(collection) = name.strip_prefix(database).and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        let namespace = Namespace::new(database, collection);
        if collection.contains('$') || namespace.is_internal() {
            continue;
        }
        let given = listed.get_document("options").ok();
        let options = given.map(|given| options(series, given)).unwrap_or_default();
        let collection = ListedByName {
            kind: kind_of(&namespace, &options),
            namespace: namespace.clone(),
            options,
            indexes: Vec::new(),
        };
        found.insert(namespace, collection);
    }
    for index in indexes {
        let namespace: Namespace = name(index, "ns")?.parse()?;
        if let Some(collection) = found.get_mut(&namespace) {
            collection.indexes.push(index_as_listed(series, index));
        }
    }
    Ok(found.into_values().collect())
}

fn name<'a>(listed: &'a RawDocument, field: &str) -> Result<&'a str> {
    listed
        .get_str(field)
        .map_err(|error| Error::malformed("list the collections", error))
}
