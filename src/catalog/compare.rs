//! Compares collection options and indexes of both sides.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bson::raw::RawDocument;
use serde::Serialize;

use super::index_spec::{name_of, normal as normal_index};
use super::normal::Fields;
use super::not_kept::{is_lost, lacks_id_index};
use super::options::{is_known, normal as normal_options};
use super::{Series, is_id_index};
use crate::model::{Collection, CollectionKind, Namespace, format};
use crate::order::compare_documents;

/// Describes each difference between the options of a collection on the two sides. Here and in the functions below, an option is not
/// compared if one of `servers` does not support it.
pub(crate) fn compare_options(source: &Collection, target: Option<&Collection>, servers: &[Series]) -> Vec<String> {
    let Some(target) = target else {
        return vec!["it does not exist on the target".to_owned()];
    };
    let mut found = Vec::new();
    if !is_same_kind(source.kind, target.kind) {
        found.push(format!(
            "it is {:?} on the source and {:?} on the target",
            source.kind, target.kind
        ));
    }
    found.extend(
        option_differences(source.kind, &source.options, &target.options, servers)
            .into_iter()
            .map(|(field, what)| format!("the option `{field}` {what}")),
    );
    found
}

/// Whether two kinds count as the same. `Plain` and `Unordered` differ only in options, which are compared on their own, and in whether the
/// collection has an index on `_id`.
pub(crate) fn is_same_kind(one: CollectionKind, other: CollectionKind) -> bool {
    let is_ordinary = |kind| matches!(kind, CollectionKind::Plain | CollectionKind::Unordered);
    one == other || (is_ordinary(one) && is_ordinary(other))
}

/// The options that differ between the two sides, each with a description of the difference.
pub(crate) fn option_differences(
    kind: CollectionKind,
    source: &RawDocument,
    target: &RawDocument,
    servers: &[Series],
) -> Vec<(String, &'static str)> {
    let (source, target) = (normal_options(kind, source), normal_options(kind, target));
    let is_compared = |option: &str| match option {
        // Always compare the other options: if servers before 6.0 lack one that is in use, preflight blocks the migration.
        "recordPreImages" => servers.iter().all(|servers| is_known(option, *servers)),
        _ => true,
    };
    differences(&source, &target, is_compared)
}

/// Compares each index on the source with the target, then lists the indexes that exist only on the target.
pub(crate) fn compare_indexes(
    source: &Collection,
    target: Option<&Collection>,
    servers: &[Series],
) -> Vec<IndexSummary> {
    let theirs = target.map(|target| target.indexes.as_slice()).unwrap_or_default();
    let summary = |index: &RawDocument, reason: Option<String>| IndexSummary {
        namespace: source.namespace.clone(),
        name: name_of(index).to_owned(),
        ok: reason.is_none(),
        reason,
    };
    let mut all = Vec::new();
    for ours in &source.indexes {
        match theirs.iter().find(|theirs| name_of(theirs) == name_of(ours)) {
            Some(theirs) => all.push(summary(ours, index_difference(ours, theirs, source.kind, servers))),
            // The target may be the former source of a migration that is being reversed, where this collection never had the index.
            None if is_id_index(ours) && target.is_some_and(lacks_id_index) => {}
            None => all.push(summary(ours, Some("it is missing on the target".to_owned()))),
        }
    }
    let ours: BTreeSet<&str> = source.indexes.iter().map(|ours| name_of(ours)).collect();
    for extra in theirs.iter().filter(|theirs| !ours.contains(name_of(theirs))) {
        if !(is_id_index(extra) && lacks_id_index(source)) {
            all.push(summary(extra, Some("it is on the target only".to_owned())));
        }
    }
    all
}

/// Describes the first difference between two indexes of the same name. `kind` is the kind of their collection.
pub(crate) fn index_difference(
    ours: &RawDocument,
    theirs: &RawDocument,
    kind: CollectionKind,
    servers: &[Series],
) -> Option<String> {
    let is_on_id = is_id_index(ours);
    let is_compared = |field: &str| {
        let is_lost = |index| servers.iter().any(|servers| is_lost(kind, index, field, *servers));
        // The version of the index on `_id` is fixed when the collection is created.
        !(is_lost(ours) || is_lost(theirs) || (is_on_id && field == "v"))
    };
    differences(&normal_index(ours), &normal_index(theirs), is_compared)
        .into_iter()
        .next()
        .map(|(field, what)| match what {
            "is on the source only" => format!("`{field}` is on the source only"),
            "is on the target only" => format!("`{field}` is on the target only"),
            _ => format!("`{field}` differs"),
        })
}

/// Whether two specifications describe the same index, name included.
pub(crate) fn is_same_index(one: &RawDocument, other: &RawDocument) -> bool {
    name_of(one) == name_of(other) && normal_index(one) == normal_index(other)
}

/// Whether two index keys are equal.
pub(crate) fn are_same_keys(one: &RawDocument, other: &RawDocument) -> bool {
    compare_documents(one, other) == Ordering::Equal
}

fn differences(source: &Fields, target: &Fields, is_compared: impl Fn(&str) -> bool) -> Vec<(String, &'static str)> {
    let names: BTreeSet<&String> = source.keys().chain(target.keys()).collect();
    names
        .into_iter()
        .filter(|name| is_compared(name))
        .filter_map(|name| {
            let what = match (source.get(name), target.get(name)) {
                (Some(ours), Some(theirs)) if ours == theirs => return None,
                (Some(_), None) => "is on the source only",
                (None, Some(_)) => "is on the target only",
                _ => "differs",
            };
            Some((name.clone(), what))
        })
        .collect()
}

/// Result for one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexSummary {
    /// The collection's name on the source.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// The index's name.
    pub name: String,
    /// Whether the index is the same on the target as on the source.
    pub ok: bool,
    /// Why `ok` is false.
    pub reason: Option<String>,
}
