//! What differs between both sides.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bson::raw::RawDocument;

use super::index_spec::{name_of, normal as normal_index};
use super::normal::Fields;
use super::not_kept::{is_lost, lacks_id_index};
use super::options::{is_known, normal as normal_options};
use super::{Series, is_id_index};
use crate::model::{Collection, CollectionKind, Namespace};
use crate::order::compare_documents;

/// What differs between the options of a collection on both sides, in words. Options that not all of `servers` know are left out, as in
/// all of these.
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

/// Whether collections of two kinds are kept alike. Which of the first two a collection is goes by its options, which are compared by
/// themselves, and by whether it has an index on `_id`.
pub(crate) fn is_same_kind(one: CollectionKind, other: CollectionKind) -> bool {
    let is_ordinary = |kind| matches!(kind, CollectionKind::Plain | CollectionKind::Unordered);
    one == other || (is_ordinary(one) && is_ordinary(other))
}

/// The options that differ between both sides, each with what is the matter with it.
pub(crate) fn option_differences(
    kind: CollectionKind,
    source: &RawDocument,
    target: &RawDocument,
    servers: &[Series],
) -> Vec<(String, &'static str)> {
    let (source, target) = (normal_options(kind, source), normal_options(kind, target));
    let is_compared = |option: &str| match option {
        // What a server of before 6.0 cannot have blocks a migration to it.
        "recordPreImages" => servers.iter().all(|servers| is_known(option, *servers)),
        _ => true,
    };
    differences(&source, &target, is_compared)
}

/// Each index of a collection on the source, and whether the target has it; then those that only the target has.
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
            // As of a collection of an old source to which a hand-over is taken back.
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

/// What differs between two indexes of one name, in words; `kind` is that of the collection.
pub(crate) fn index_difference(
    ours: &RawDocument,
    theirs: &RawDocument,
    kind: CollectionKind,
    servers: &[Series],
) -> Option<String> {
    let is_on_id = is_id_index(ours);
    let is_compared = |field: &str| {
        let is_lost = |index| servers.iter().any(|servers| is_lost(kind, index, field, *servers));
        // The version of the index on `_id` stays what it was when the collection was made.
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

/// Whether two specifications are of one index, name included.
pub(crate) fn is_same_index(one: &RawDocument, other: &RawDocument) -> bool {
    name_of(one) == name_of(other) && normal_index(one) == normal_index(other)
}

/// Whether the keys of two indexes are the same.
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

/// What became of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSummary {
    /// The collection's name on the source.
    pub namespace: Namespace,
    /// The index's name.
    pub name: String,
    /// Whether the target has it as the source has it.
    pub ok: bool,
    /// Why not.
    pub reason: Option<String>,
}
