//! What a migration leaves out.

use bson::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace};

/// Refuses a kind of collection that cannot be migrated, wherever it is met.
///
/// # Errors
/// [`UnsupportedEntry`](ErrorKind::UnsupportedEntry).
pub(crate) fn ensure_migratable(operation: &'static str, namespace: &Namespace, kind: CollectionKind) -> Result<()> {
    if kind != CollectionKind::TimeSeries {
        return Ok(());
    }
    let message = format!("{TIME_SERIES}; {}", time_series_fix(namespace));
    Err(Error::new(ErrorKind::UnsupportedEntry, operation, message).with_context("namespace", namespace))
}

/// Whether it is a view that somebody made over the buckets of a time-series collection. It is left out: nothing that a server tells of
/// it is enough to make it anew.
pub(crate) fn is_view_of_buckets(collection: &Collection) -> bool {
    collection.kind == CollectionKind::TimeSeries && collection.id == Uuid::from_bytes([0; 16])
}

/// Why a time-series collection of 9.0 cannot be migrated.
pub(crate) const TIME_SERIES: &str = "it is a time-series collection without buckets, as servers keep them from 9.0 on, of which this version can copy nothing";

/// What to do about it.
pub(crate) fn time_series_fix(namespace: &Namespace) -> String {
    format!(
        "leave it out with `.exclude(\"{namespace}\")` and copy it with an application, or migrate before the source's feature \
         compatibility version becomes 9.0"
    )
}

/// What a migration leaves out, of this source and always.
pub(crate) fn not_migrated(left_out: &[&Collection]) -> Vec<String> {
    let mut all = vec![
        "users and roles (admin.system.users, admin.system.roles)".to_owned(),
        "the databases admin, config and local".to_owned(),
        "profiler data (system.profile)".to_owned(),
    ];
    all.extend(left_out.iter().map(|collection| {
        let reason = match is_view_of_buckets(collection) {
            true => "a view over the buckets of a time-series collection",
            false => "not selected",
        };
        format!("{} ({reason})", collection.namespace)
    }));
    all
}
