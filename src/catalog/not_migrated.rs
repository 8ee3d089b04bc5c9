//! What a migration does not migrate.

use std::collections::BTreeSet;

use bson::Uuid;

use crate::catalog::{is_id_index, name_of};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace, Selection};

/// Fails if collections of this kind cannot be migrated.
///
/// # Errors
/// [`UnsupportedEntry`](ErrorKind::UnsupportedEntry) for time-series collections without buckets (9.0 and newer).
pub(crate) fn ensure_migratable(operation: &'static str, namespace: &Namespace, kind: CollectionKind) -> Result<()> {
    if kind != CollectionKind::TimeSeries {
        return Ok(());
    }
    let message = format!("{TIME_SERIES}; {}", time_series_fix(namespace));
    Err(Error::new(ErrorKind::UnsupportedEntry, operation, message).with_context("namespace", namespace))
}

/// Whether this is a user-made view over the buckets of a time-series collection. Such views are not migrated: servers do not report enough
/// about them to create them again.
pub(crate) fn is_view_of_buckets(collection: &Collection) -> bool {
    collection.kind == CollectionKind::TimeSeries && collection.id == Uuid::from_bytes([0; 16])
}

/// Why time-series collections of 9.0 cannot be migrated.
pub(crate) const TIME_SERIES: &str =
    "servers from 9.0 on store this time-series collection without buckets, and this version cannot copy that";

/// How to fix it.
pub(crate) fn time_series_fix(namespace: &Namespace) -> String {
    format!(
        "leave it out with `.exclude(\"{namespace}\")` and copy it with an application, or migrate before the source's feature \
         compatibility version becomes 9.0"
    )
}

/// Indexes of a collection that are not built on the target.
pub(crate) struct IndexesLeftOut {
    pub namespace: Namespace,
    pub names: Vec<String>,
}

/// Removes the indexes that are not built from a listing, and returns them. `leaves_out` returns whether that is all of a collection.
pub(crate) fn leave_indexes_out(
    collections: &mut [Collection],
    leaves_out: impl Fn(&Namespace) -> bool,
) -> Vec<IndexesLeftOut> {
    let mut all = Vec::new();
    for collection in collections
        .iter_mut()
        .filter(|collection| leaves_out(&collection.namespace))
    {
        let left_out = collection.indexes.extract_if(.., |index| !is_id_index(index));
        let names: Vec<String> = left_out.map(|index| name_of(&index).to_owned()).collect();
        if !names.is_empty() {
            let namespace = collection.namespace.clone();
            all.push(IndexesLeftOut { namespace, names });
        }
    }
    all
}

/// Lists what is not migrated: the given users and roles, what no migration includes, the databases that the selection does not reach, the collections of other
/// databases that are left out, and the indexes that are.
pub(crate) fn not_migrated(
    databases: &BTreeSet<String>,
    selection: &Selection,
    collections: &[&Collection],
    indexes: &[IndexesLeftOut],
    users: Vec<String>,
) -> Vec<String> {
    let mut all = users;
    all.extend([
        "the databases admin, config and local".to_owned(),
        "profiler data (system.profile)".to_owned(),
    ]);
    let unreached = databases.iter().filter(|database| !selection.reaches(database));
    all.extend(unreached.map(|database| format!("the database {database} (not selected)")));
    let left_out = collections
        .iter()
        .filter(|collection| selection.reaches(collection.namespace.database()));
    all.extend(left_out.map(|collection| {
        let reason = match is_view_of_buckets(collection) {
            true => "a view over the buckets of a time-series collection",
            false => "not selected",
        };
        format!("{} ({reason})", collection.namespace)
    }));
    let selected = indexes
        .iter()
        .filter(|left_out| selection.contains(&left_out.namespace));
    all.extend(selected.map(|left_out| {
        let names = left_out.names.join(", ");
        format!(
            "the indexes {names} of {} (left out by its settings)",
            left_out.namespace
        )
    }));
    all
}
