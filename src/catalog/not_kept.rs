//! The parts of specifications that a target cannot keep.

use std::fmt;

use bson::raw::RawDocument;
use serde::{Deserialize, Serialize};

use super::Series;
use super::index_spec::{
    converted_fields, has_format_0, is_id_index, is_without_effect, name_of, says_how_to_build, version,
};
use super::normal::{fields, is_true};
use super::options::{RECORD_IDS_REPLICATED, is_known};
use super::storage_engine::other_engines;
use crate::model::{Collection, CollectionKind, Namespace};

/// First series in which indexes of capped collections cannot expire documents. Before it, the setting has no effect.
const WITHOUT_EXPIRY_OF_CAPPED: Series = [6, 0];

/// A part of a collection's specification on the source that the target cannot keep. It is not reported as a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NotKept {
    /// The collection's name on the source.
    pub namespace: Namespace,
    /// The index it belongs to; `None` for an option of the collection.
    pub index: Option<String>,
    /// The option, or the field of the index's specification.
    pub option: String,
    /// The code of the [preflight](crate::preflight) finding that reports it.
    pub code: String,
    /// Why the target cannot keep it.
    pub reason: String,
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` of ", self.option)?;
        if let Some(index) = &self.index {
            write!(f, "the index `{index}` of ")?;
        }
        write!(f, "`{}`: {}", self.namespace, self.reason)
    }
}

/// The kind of a part. Preflight chooses its finding by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// An option of the collection.
    Option,
    /// A field of an index.
    IndexField,
    /// A field of the index on `_id`.
    IdIndexField,
    /// The version of the index on `_id`.
    IdIndexVersion,
    /// The absence of an index on `_id`.
    IdIndexMissing,
}

impl Part {
    /// The code of the finding for this kind of part.
    pub fn code(self) -> &'static str {
        match self {
            Self::Option => "option_not_kept",
            Self::IndexField => "index_option_not_kept",
            Self::IdIndexField => "id_index_option",
            Self::IdIndexVersion => "id_index_version",
            Self::IdIndexMissing => "id_index_missing",
        }
    }
}

/// Returns what servers of a series cannot keep of a collection. `standing` is the collection on the target, if it already exists.
pub(crate) fn not_kept(
    collection: &Collection,
    standing: Option<&Collection>,
    servers: Series,
) -> Vec<(Part, NotKept)> {
    let mut all = Vec::new();
    let mut add = |part: Part, index: Option<&str>, option: &str, reason: String| {
        all.push((
            part,
            NotKept {
                namespace: collection.namespace.clone(),
                index: index.map(str::to_owned),
                option: option.to_owned(),
                code: part.code().to_owned(),
                reason,
            },
        ));
    };
    for (option, reason) in options(&collection.options, servers) {
        add(Part::Option, None, &option, reason);
    }
    if lacks_id_index(collection) {
        let reason = "the collection has no index on `_id`, but the target creates one".to_owned();
        add(Part::IdIndexMissing, Some("_id_"), "autoIndexId", reason);
    }
    for index in &collection.indexes {
        let name = name_of(index);
        let is_on_id = is_id_index(index);
        let part = if is_on_id { Part::IdIndexField } else { Part::IndexField };
        if has_format_0(index) {
            let reason = "servers from 3.4 on do not create indexes of format 0; it is built in format 1".to_owned();
            add(part, Some(name), "v", reason);
        }
        for field in converted_fields(index) {
            let reason =
                "servers from 3.4 on refuse its value in the key; it is 1 on the target, as this value counted for"
                    .to_owned();
            add(part, Some(name), &format!("key.{field}"), reason);
        }
        for (field, value) in fields(index) {
            if is_lost(collection.kind, index, field, servers) {
                let reason = "it has no effect in this index and is left out".to_owned();
                add(part, Some(name), field, reason);
            }
            if field == "storageEngine" {
                for engine in other_engines(value) {
                    add(part, Some(name), &format!("storageEngine.{engine}"), no_engine());
                }
            }
        }
        let theirs = standing.and_then(|standing| standing.indexes.iter().find(|theirs| name_of(theirs) == name));
        if is_on_id
            && let Some(theirs) = theirs
            && version(theirs) != version(index)
        {
            let reason = format!(
                "it is {} on the source and {} on the target; only creating the collection again would change that",
                version(index),
                version(theirs)
            );
            add(Part::IdIndexVersion, Some(name), "v", reason);
        }
    }
    all
}

/// Whether servers of a series cannot keep a field of an index.
pub(super) fn is_lost(kind: CollectionKind, index: &RawDocument, field: &str, servers: Series) -> bool {
    let of_capped = || field == "expireAfterSeconds" && kind == CollectionKind::Capped;
    !says_how_to_build(field)
        && (is_without_effect(index, field) || (of_capped() && servers >= WITHOUT_EXPIRY_OF_CAPPED))
}

/// Whether a collection lacks the index on `_id`, although collections of its kind normally have one.
pub(super) fn lacks_id_index(collection: &Collection) -> bool {
    matches!(
        collection.kind,
        CollectionKind::Plain | CollectionKind::Capped | CollectionKind::Unordered
    ) && !collection.indexes.iter().any(|index| is_id_index(index))
}

fn options(options: &RawDocument, servers: Series) -> Vec<(String, String)> {
    let mut lost = Vec::new();
    for (option, value) in fields(options) {
        let engines = match option {
            "storageEngine" => other_engines(value),
            "indexOptionDefaults" => value
                .as_document()
                .and_then(|defaults| defaults.get("storageEngine").ok().flatten())
                .map(other_engines)
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        for engine in engines {
            let path = if option == "storageEngine" {
                option.to_owned()
            } else {
                format!("{option}.storageEngine")
            };
            lost.push((format!("{path}.{engine}"), no_engine()));
        }
        if option == "recordPreImages" && is_true(value) && !is_known(option, servers) {
            let reason = "servers of the target's version do not support it; `changeStreamPreAndPostImages` replaces it from 6.0 on";
            lost.push((option.to_owned(), reason.to_owned()));
        }
        if option == "recordIdsReplicated" && is_true(value) && servers < RECORD_IDS_REPLICATED {
            let reason = "servers before 9.0 do not support it; it only concerns how the source replicates".to_owned();
            lost.push((option.to_owned(), reason));
        }
    }
    lost
}

fn no_engine() -> String {
    "the target does not have this storage engine".to_owned()
}
