//! Normal form of index specifications, and the form sent to a target.

use std::collections::BTreeMap;

use bson::raw::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;

use super::normal::{Fields, Normal, collation, fields, is_true, number, whole, whole_or_as_it_stands};
use super::options::without_version;
use super::{Series, storage_engine};

/// First series that stores NaN as the longest expiry. Some of its releases read NaN as 0. Earlier series keep NaN, which never expires.
const NAN_IS_NORMALISED: Series = [5, 0];

/// Fields that have a meaning in one kind of index only.
const FIELDS_OF_KINDS: &[(Plugin, &[&str])] = &[
    (
        Plugin::Text,
        &["weights", "default_language", "language_override", "textIndexVersion"],
    ),
    (
        Plugin::Sphere,
        &["2dsphereIndexVersion", "finestIndexedLevel", "coarsestIndexedLevel"],
    ),
    (Plugin::Flat, &["bits", "min", "max"]),
    (Plugin::Haystack, &["bucketSize"]),
];

/// Fields of a hashed index that servers before 3.4 accepted and later ones refuse.
const OF_OLD_HASHES: &[&str] = &["hashVersion", "seed"];

/// All fields of indexes that have a meaning on some server. Servers before 3.4 stored any field that a user sent. Later ones refuse others.
const FIELDS: &[&str] = &[
    "v",
    "key",
    "name",
    "ns",
    "unique",
    "sparse",
    "hidden",
    "prepareUnique",
    "clustered",
    "expireAfterSeconds",
    "partialFilterExpression",
    "wildcardProjection",
    "collation",
    "storageEngine",
    "weights",
    "default_language",
    "language_override",
    "textIndexVersion",
    "2dsphereIndexVersion",
    "finestIndexedLevel",
    "coarsestIndexedLevel",
    "bits",
    "min",
    "max",
    "bucketSize",
];

/// Index kinds that have fields of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plugin {
    Text,
    Sphere,
    Flat,
    Haystack,
}

/// The name of an index.
pub(crate) fn name_of(specification: &RawDocument) -> &str {
    specification.get_str("name").unwrap_or_default()
}

/// Whether this is the index on `_id` that every collection has.
pub(crate) fn is_id_index(specification: &RawDocument) -> bool {
    name_of(specification) == "_id_" || is_clustered(specification)
}

/// The `expireAfterSeconds` of the index on the source, as stored.
pub(crate) fn expiry_of(specification: &RawDocument) -> Option<RawBsonRef<'_>> {
    specification.get("expireAfterSeconds").ok().flatten()
}

/// The expiry as a whole number of seconds, as servers interpret it. Servers up to 4.4 store any number; with NaN, documents never expire.
/// Later servers store an int, and convert NaN to the longest expiry.
pub(crate) fn seconds(specification: &RawDocument) -> Option<i64> {
    let value = expiry_of(specification)?;
    if number(value)?.is_nan() {
        return Some(i64::from(i32::MAX));
    }
    whole(value)
}

/// The version of the index format. Defaults to 2, which every supported server creates. Format 0, which servers from 3.4 on refuse, counts
/// as 1.
pub(super) fn version(specification: &RawDocument) -> i64 {
    let version = specification.get("v").ok().flatten();
    version.and_then(whole).unwrap_or(2).max(1)
}

/// The value of a field in an index key, in the form that servers from 3.4 on accept. Earlier ones accepted any value, and took for 1 what
/// is neither a number nor the name of an index kind. The mongorestore option `convertLegacyIndexes` converts in the same way.
fn key_value(value: RawBsonRef<'_>) -> RawBsonRef<'_> {
    let is_kept = match value {
        RawBsonRef::String(kind) => !kind.is_empty(),
        other => number(other).is_some_and(|number| number != 0.0 && !number.is_nan()),
    };
    if is_kept { value } else { RawBsonRef::Int32(1) }
}

/// A key whose values have the form that servers from 3.4 on accept.
pub(super) fn converted_key(key: &RawDocument) -> RawDocumentBuf {
    let mut converted = RawDocumentBuf::new();
    for (name, value) in key.iter().filter_map(Result::ok) {
        converted.append(name, key_value(value));
    }
    converted
}

/// The fields of the key whose values servers from 3.4 on refuse.
pub(super) fn converted_fields(specification: &RawDocument) -> Vec<&str> {
    let is_converted = |value: RawBsonRef<'_>| RawBson::from(key_value(value)) != RawBson::from(value);
    key(specification)
        .filter(|(_, value)| is_converted(*value))
        .map(|(name, _)| name)
        .collect()
}

/// Whether an index has format 0, and is built in format 1.
pub(super) fn has_format_0(specification: &RawDocument) -> bool {
    let version = specification.get("v").ok().flatten();
    version.and_then(whole).is_some_and(|version| version < 1)
}

/// Whether a field has no effect in the index. Some servers refuse or drop such fields.
pub(super) fn is_without_effect(specification: &RawDocument, field: &str) -> bool {
    if field == "expireAfterSeconds" {
        return has_several_fields(specification);
    }
    if OF_OLD_HASHES.contains(&field) {
        return true;
    }
    if version(specification) < 2 && !FIELDS.contains(&field) && !says_how_to_build(field) {
        return true;
    }
    if is_id_index(specification) && !is_clustered(specification) {
        return !matches!(field, "v" | "key" | "name" | "ns" | "collation" | "unique") && !says_how_to_build(field);
    }
    FIELDS_OF_KINDS
        .iter()
        .any(|(plugin, of_it)| of_it.contains(&field) && !is_of(specification, *plugin))
}

/// Whether a field only says where the index is, or how to build it.
pub(super) fn says_how_to_build(field: &str) -> bool {
    matches!(field, "ns" | "background" | "safe" | "dropDups")
}

/// Whether servers from 3.4 on accept a field when an index is created, or it is left out then.
pub(crate) fn is_accepted(field: &str) -> bool {
    // It is not among the others, which may have a meaning in an index of format 1, too.
    field == "columnstoreProjection"
        || FIELDS.contains(&field)
        || OF_OLD_HASHES.contains(&field)
        || says_how_to_build(field)
}

/// The normal form of a specification: fields without meaning are dropped, defaults are filled in.
pub(super) fn normal(specification: &RawDocument) -> Fields {
    let mut normal = Fields::from([("v".to_owned(), version(specification).into())]);
    for (field, default) in defaults(specification) {
        normal.insert(field.to_owned(), default);
    }
    for (field, value) in fields(specification) {
        if field == "name" || says_how_to_build(field) || is_without_effect(specification, field) {
            continue;
        }
        match normal_field(specification, field, value) {
            Some(value) => normal.insert(field.to_owned(), value),
            None => normal.remove(field),
        };
    }
    normal
}

/// The values that servers fill in or assume for absent fields.
fn defaults(specification: &RawDocument) -> Vec<(&'static str, Normal)> {
    if is_of(specification, Plugin::Text) {
        vec![
            ("default_language", "english".into()),
            ("language_override", "language".into()),
        ]
    } else if is_of(specification, Plugin::Sphere) {
        vec![("2dsphereIndexVersion", 1.into())]
    } else if is_of(specification, Plugin::Flat) {
        vec![("bits", 26.into()), ("min", (-180).into()), ("max", 180.into())]
    } else {
        Vec::new()
    }
}

fn normal_field(specification: &RawDocument, field: &str, value: RawBsonRef<'_>) -> Option<Normal> {
    match field {
        "unique" if is_id_index(specification) => None,
        // It belongs to the collection. 6.0.27 shows it here as well.
        "expireAfterSeconds" if is_clustered(specification) => None,
        "unique" | "sparse" | "hidden" | "prepareUnique" | "clustered" => is_true(value).then(|| true.into()),
        "expireAfterSeconds" => Some(match seconds(specification) {
            Some(seconds) => seconds.min(i64::from(i32::MAX)).into(),
            None => value.into(),
        }),
        "v" => Some(version(specification).into()),
        "key" => Some(value.as_document().map_or_else(
            || value.into(),
            |key| Normal::Value(RawBson::Document(converted_key(key))),
        )),
        "bits" | "textIndexVersion" | "2dsphereIndexVersion" | "finestIndexedLevel" | "coarsestIndexedLevel" => {
            Some(whole_or_as_it_stands(value))
        }
        "weights" => Some(value.as_document().map_or_else(
            || value.into(),
            |weights| {
                let whole = fields(weights).map(|(name, weight)| (name.to_owned(), whole_or_as_it_stands(weight)));
                Normal::Fields(whole.collect())
            },
        )),
        "wildcardProjection" => Some(match projected(value) {
            Some(paths) => Normal::Fields(paths.into_iter().map(|(path, taken)| (path, taken.into())).collect()),
            None => value.into(),
        }),
        "collation" => collation(value),
        "storageEngine" => storage_engine::normal(value),
        _ => Some(value.into()),
    }
}

/// The paths that a wildcard index includes or excludes. Most servers store the projection as given. 5.0.4 stores its own reading: with
/// booleans, with dotted names nested, and with `_id` excluded explicitly if the projection does not mention it.
fn projected(projection: RawBsonRef<'_>) -> Option<BTreeMap<String, bool>> {
    fn collect(prefix: &str, given: &RawDocument, paths: &mut BTreeMap<String, bool>) -> Option<()> {
        for (name, value) in fields(given) {
            let path = format!("{prefix}{name}");
            if let Some(nested) = value.as_document() {
                collect(&format!("{path}."), nested, paths)?;
                continue;
            }
            if value.as_bool().is_none() && number(value).is_none() {
                return None;
            }
            paths.insert(path, is_true(value));
        }
        Some(())
    }
    let mut paths = BTreeMap::from([("_id".to_owned(), false)]);
    collect("", projection.as_document()?, &mut paths)?;
    Some(paths)
}

/// The specification for `createIndexes` on servers of a series, without fields that have no effect or no meaning there.
pub(crate) fn index_for(specification: &RawDocument, servers: Series) -> RawDocumentBuf {
    let mut sent = RawDocumentBuf::new();
    for (name, value) in specification.iter().filter_map(Result::ok) {
        let field = name.as_str();
        let value = match field {
            // 4.2 stores the source's namespace in `ns`; the collection may have another name on the target.
            "ns" | "dropDups" | "safe" => None,
            _ if is_without_effect(specification, field) => None,
            "v" if has_format_0(specification) => Some(RawBson::Int32(1)),
            "key" => Some(
                value
                    .as_document()
                    .map_or_else(|| RawBson::from(value), |key| RawBson::Document(converted_key(key))),
            ),
            "hidden" if !is_true(value) && servers < [4, 4] => None,
            "prepareUnique" if !is_true(value) && servers < [6, 0] => None,
            "expireAfterSeconds" => Some(expiry_for(specification, value, servers)),
            "collation" => Some(without_version(value)),
            "storageEngine" => storage_engine::to_send(value),
            _ => Some(RawBson::from(value)),
        };
        if let Some(value) = value {
            sent.append(name, value);
        }
    }
    if is_of(specification, Plugin::Sphere) && matches!(specification.get("2dsphereIndexVersion"), Ok(None)) {
        sent.append(cstr!("2dsphereIndexVersion"), 1);
    }
    // An index without a collation uses the simple one, but `createIndexes` applies the collation of the collection if none is given. So
    // send the simple one explicitly. Index format 1, from before 3.4, has no collations.
    if matches!(specification.get("collation"), Ok(None)) && version(specification) >= 2 {
        sent.append(cstr!("collation"), rawdoc! { "locale": "simple" });
    }
    sent
}

fn expiry_for(specification: &RawDocument, value: RawBsonRef<'_>, servers: Series) -> RawBson {
    let is_nan = number(value).is_some_and(f64::is_nan);
    match whole_seconds(specification) {
        Some(seconds) if !(is_nan && servers < NAN_IS_NORMALISED) => seconds,
        _ => RawBson::from(value),
    }
}

/// The value of [`seconds`] in the type that servers use. Do not send NaN instead: every server reads it as 0 in `collMod`.
pub(crate) fn whole_seconds(specification: &RawDocument) -> Option<RawBson> {
    let seconds = seconds(specification)?;
    Some(i32::try_from(seconds).map_or(RawBson::Int64(seconds), RawBson::Int32))
}

fn key(specification: &RawDocument) -> impl Iterator<Item = (&str, RawBsonRef<'_>)> {
    specification.get_document("key").into_iter().flat_map(fields)
}

fn has_several_fields(specification: &RawDocument) -> bool {
    key(specification).nth(1).is_some()
}

fn is_clustered(specification: &RawDocument) -> bool {
    specification.get("clustered").ok().flatten().is_some_and(is_true)
}

fn is_of(specification: &RawDocument, plugin: Plugin) -> bool {
    let name = match plugin {
        Plugin::Text => "text",
        Plugin::Sphere => "2dsphere",
        Plugin::Flat => "2d",
        Plugin::Haystack => "geoHaystack",
    };
    key(specification).any(|(_, value)| value.as_str() == Some(name))
}
