//! Normal form of collection options, and the form sent to a target.

use bson::raw::{CString, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;

use super::index_spec::{converted_key, is_id_index, version};
use super::normal::{Fields, Normal, collation, fields, is_true, whole, whole_or_as_it_stands};
use super::{Series, storage_engine};
use crate::model::CollectionKind;

/// The series that have `recordPreImages`, which records images of documents in the oplog.
pub(super) const PRE_IMAGES: std::ops::Range<Series> = [4, 4]..[6, 1];

/// First series that sets `recordIdsReplicated` by itself.
pub(super) const RECORD_IDS_REPLICATED: Series = [9, 0];

/// Servers round the size of a capped collection up to a multiple of this.
const SIZE_STEP: i64 = 256;

/// The size that servers use for a capped collection of size 0.
const LEAST_SIZE: i64 = 4096;

/// Granularities of time series: name, maximum span of a bucket in seconds, and the seconds that the start of a bucket is rounded to.
const GRANULARITIES: &[(&str, i64, i64)] = &[
    ("seconds", 3_600, 60),
    ("minutes", 86_400, 3_600),
    ("hours", 2_592_000, 86_400),
];

/// Whether servers of a series support an option.
pub(super) fn is_known(option: &str, servers: Series) -> bool {
    match option {
        "recordPreImages" => PRE_IMAGES.contains(&servers),
        "changeStreamPreAndPostImages" => servers >= [6, 0],
        "recordIdsReplicated" => servers >= RECORD_IDS_REPLICATED,
        _ => true,
    }
}

/// The normal form of options: options without effect are dropped, defaults are filled in.
pub(super) fn normal(kind: CollectionKind, options: &RawDocument) -> Fields {
    let is_capped = is_set(options, "capped");
    let mut normal = Fields::new();
    for (name, value) in fields(options) {
        if let Some(value) = normal_option(kind, is_capped, name, value) {
            normal.insert(name.to_owned(), value);
        }
    }
    normal
}

fn normal_option(kind: CollectionKind, is_capped: bool, name: &str, value: RawBsonRef<'_>) -> Option<Normal> {
    let of_buckets = kind == CollectionKind::TimeSeriesBuckets;
    let unless = |is_default: bool, value: RawBsonRef<'_>| (!is_default).then(|| value.into());
    match name {
        _ if is_note(name) || is_obsolete(name) => None,
        "autoIndexId" => None,
        "capped" => is_true(value).then(|| true.into()),
        "size" | "max" if !is_capped => None,
        "size" => Some(whole(value).map_or_else(|| value.into(), |size| capped_size(size).into())),
        "max" => match whole(value) {
            Some(max) => (1..i64::from(i32::MAX)).contains(&max).then(|| max.into()),
            None => Some(value.into()),
        },
        "validator" | "clusteredIndex" if of_buckets => None,
        "validator" => unless(value.as_document().is_some_and(RawDocument::is_empty), value),
        "validationLevel" => unless(value.as_str() == Some("strict"), value),
        "validationAction" => unless(value.as_str() == Some("error"), value),
        "pipeline" => unless(value.as_array().is_some_and(|stages| stages.is_empty()), value),
        "collation" => collation(value),
        "timeseries" => Some(time_series(value)),
        "clusteredIndex" => clustered(value),
        "expireAfterSeconds" => Some(whole_or_as_it_stands(value)),
        "recordPreImages" => is_true(value).then(|| true.into()),
        "changeStreamPreAndPostImages" => unless(!is_enabled(value), value),
        "recordIdsReplicated" => None,
        "storageEngine" => storage_engine::normal(value),
        "indexOptionDefaults" => index_defaults(value),
        _ => Some(value.into()),
    }
}

/// Whether a field is not an option: the name of the command, an argument for one server, or a value that the server sets itself.
fn is_note(name: &str) -> bool {
    matches!(
        name,
        "create" | "uuid" | "temp" | "idIndex" | "ns" | "writeConcern" | "$db"
    )
}

/// Whether an option only had a meaning for the MMAPv1 storage engine.
fn is_obsolete(name: &str) -> bool {
    matches!(
        name,
        "flags" | "usePowerOf2Sizes" | "noPadding" | "$nExtents" | "initialNumExtents"
    )
}

fn is_set(options: &RawDocument, name: &str) -> bool {
    options.get(name).ok().flatten().is_some_and(is_true)
}

/// Reads `{enabled: <bool>}`. Any other form counts as enabled.
fn is_enabled(value: RawBsonRef<'_>) -> bool {
    value.as_document().is_none_or(|images| is_set(images, "enabled"))
}

fn capped_size(size: i64) -> i64 {
    let size = if size == 0 { LEAST_SIZE } else { size };
    size.saturating_add(SIZE_STEP - 1) / SIZE_STEP * SIZE_STEP
}

fn time_series(value: RawBsonRef<'_>) -> Normal {
    let Some(given) = value.as_document() else {
        return value.into();
    };
    let mut normal: Fields = fields(given)
        .map(|(name, value)| (name.to_owned(), whole_or_as_it_stands(value)))
        .collect();
    let number = |name: &str| given.get(name).ok().flatten().and_then(whole);
    let (span, rounding) = (number("bucketMaxSpanSeconds"), number("bucketRoundingSeconds"));
    let granularity = match given.get_str("granularity") {
        Ok(granularity) => GRANULARITIES.iter().find(|(name, ..)| *name == granularity),
        // A rounding without a granularity means custom bucket sizes, which match no granularity.
        Err(_) if rounding.is_some() => None,
        Err(_) => GRANULARITIES
            .iter()
            .find(|(_, of_it, _)| span.is_none_or(|span| span == *of_it)),
    };
    if let Some((name, its_span, its_rounding)) = granularity {
        normal.insert("granularity".to_owned(), (*name).into());
        normal
            .entry("bucketMaxSpanSeconds".to_owned())
            .or_insert_with(|| (*its_span).into());
        if rounding == Some(*its_rounding) {
            normal.remove("bucketRoundingSeconds");
        }
    }
    Normal::Fields(normal)
}

fn clustered(value: RawBsonRef<'_>) -> Option<Normal> {
    let Some(given) = value.as_document() else {
        return is_true(value).then(|| value.into());
    };
    let mut normal: Fields = [("v", Normal::from(2)), ("name", "_id_".into()), ("unique", true.into())]
        .into_iter()
        .map(|(name, default)| (name.to_owned(), default))
        .collect();
    for (name, value) in fields(given) {
        let value = if name == "unique" {
            is_true(value).into()
        } else {
            value.into()
        };
        normal.insert(name.to_owned(), value);
    }
    Some(Normal::Fields(normal))
}

fn index_defaults(value: RawBsonRef<'_>) -> Option<Normal> {
    let Some(given) = value.as_document() else {
        return Some(value.into());
    };
    let mut normal = Fields::new();
    for (name, value) in fields(given) {
        let value = match name {
            "storageEngine" => storage_engine::normal(value),
            _ => Some(value.into()),
        };
        if let Some(value) = value {
            normal.insert(name.to_owned(), value);
        }
    }
    (!normal.is_empty()).then_some(Normal::Fields(normal))
}

/// The options to create a collection with. Includes the specification of the index on `_id` if its version is 1, from before 3.4: servers
/// create that version only on request.
pub(crate) fn to_create(options: &RawDocument, indexes: &[RawDocumentBuf]) -> RawDocumentBuf {
    let mut created = RawDocumentBuf::new();
    for (name, value) in options
        .iter()
        .filter_map(Result::ok)
        .filter(|(name, _)| *name != "idIndex")
    {
        created.append(name, value);
    }
    if indexes.iter().any(|index| is_id_index(index) && version(index) == 1) {
        created.append(
            cstr!("idIndex"),
            rawdoc! { "v": 1, "key": { "_id": 1 }, "name": "_id_" },
        );
    }
    created
}

/// The options for `create` on servers of a series. Options that these servers do not know are still sent, unless they have no effect or
/// are *not kept*, so that the server's refusal names them.
pub(crate) fn options_for(kind: CollectionKind, options: &RawDocument, servers: Series) -> RawDocumentBuf {
    let is_capped = is_set(options, "capped");
    let mut sent = RawDocumentBuf::new();
    for (name, value) in options.iter().filter_map(Result::ok) {
        let option = name.as_str();
        if kind == CollectionKind::TimeSeriesBuckets
            && !matches!(
                option,
                "timeseries" | "expireAfterSeconds" | "collation" | "storageEngine"
            )
        {
            // The server creates the buckets, with their validator and their clustered index, from these options.
            continue;
        }
        let value = match option {
            "idIndex" => Some(RawBson::from(value)),
            _ if is_note(option) || is_obsolete(option) => None,
            "autoIndexId" | "capped" => is_true(value).then_some(RawBson::Boolean(true)),
            "size" | "max" if !is_capped => None,
            "size" if whole(value) == Some(0) => Some(RawBson::Int64(LEAST_SIZE)),
            "recordPreImages" if !is_known(option, servers) => None,
            "recordPreImages" => Some(RawBson::Boolean(is_true(value))),
            "changeStreamPreAndPostImages" if !is_enabled(value) && !is_known(option, servers) => None,
            "recordIdsReplicated" => None,
            "collation" => Some(without_version(value)),
            "storageEngine" => storage_engine::to_send(value),
            "indexOptionDefaults" => storage_engine::defaults_to_send(value),
            _ => Some(RawBson::from(value)),
        };
        if let Some(value) = value {
            sent.append(name, value);
        }
    }
    sent
}

/// The arguments of `collMod` for servers of a series.
pub(crate) fn modification_for(arguments: &RawDocument, servers: Series) -> RawDocumentBuf {
    let mut sent = RawDocumentBuf::new();
    for (name, value) in arguments.iter().filter_map(Result::ok) {
        let is_left_out = match name.as_str() {
            "collMod" | "writeConcern" | "$db" => true,
            // The sink sets it itself on targets that support it.
            "timeseriesBucketsMayHaveMixedSchemaData" => true,
            "recordPreImages" => !is_known(name.as_str(), servers),
            "changeStreamPreAndPostImages" => !is_enabled(value) && !is_known(name.as_str(), servers),
            option => is_obsolete(option),
        };
        match value {
            _ if is_left_out => {}
            RawBsonRef::Document(change) if name == "index" => sent.append(name, index_change(change)),
            _ => sent.append(name, value),
        }
    }
    sent
}

/// The `index` of a `collMod`, with its key as the target has it.
fn index_change(change: &RawDocument) -> RawDocumentBuf {
    let mut sent = RawDocumentBuf::new();
    for (name, value) in change.iter().filter_map(Result::ok) {
        match value {
            RawBsonRef::Document(key) if name == "keyPattern" => sent.append(name, converted_key(key)),
            _ => sent.append(name, value),
        }
    }
    sent
}

/// A collation without its version. A server fills in the version of its own library and refuses any other.
pub(super) fn without_version(value: RawBsonRef<'_>) -> RawBson {
    let Some(given) = value.as_document() else {
        return RawBson::from(value);
    };
    let mut sent = RawDocumentBuf::new();
    for (name, value) in fields(given).filter(|(name, _)| *name != "version") {
        if let Ok(name) = CString::try_from(name) {
            sent.append(name, value);
        }
    }
    RawBson::Document(sent)
}
