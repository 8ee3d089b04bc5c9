//! Derives the kind of a collection from its name and options.

use bson::raw::RawDocument;

use crate::model::{CollectionKind, Namespace};

/// The kind of a collection with these options.
pub(crate) fn kind_of(namespace: &Namespace, options: &RawDocument) -> CollectionKind {
    let is_set = |name: &str| {
        options
            .get(name)
            .ok()
            .flatten()
            .is_some_and(|value| value.as_bool() != Some(false))
    };
    if is_set("viewOn") {
        CollectionKind::View
    } else if is_set("capped") {
        CollectionKind::Capped
    } else if namespace.time_series().is_some() {
        CollectionKind::TimeSeriesBuckets
    } else if is_set("timeseries") {
        CollectionKind::TimeSeries
    } else if is_set("clusteredIndex") {
        CollectionKind::Clustered
    } else if is_set("collation") || options.get_bool("autoIndexId").is_ok_and(|made| !made) {
        CollectionKind::Unordered
    } else {
        CollectionKind::Plain
    }
}
