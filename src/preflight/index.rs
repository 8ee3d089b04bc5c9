//! Rules for indexes that the target would refuse or build differently.

use bson::raw::{RawBsonRef, RawDocument};

use super::Context;
use crate::catalog::{Part, is_accepted};
use crate::error::{Finding, FindingCode, Severity};
use crate::model::{Collection, CollectionKind};

/// First series without geoHaystack indexes.
const WITHOUT_HAYSTACK: [u32; 2] = [5, 0];

/// First feature compatibility version without a length limit for index keys.
const WITHOUT_KEY_LIMIT: [u32; 2] = [4, 2];

/// First series whose storage engine moves no documents, unless another one was chosen.
const OTHER_ENGINE: [u32; 2] = [3, 2];

/// Checks the indexes of the migrated collections.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for collection in context.selected {
        not_kept(context, collection, findings);
        let mut has_id_index = false;
        for index in &collection.indexes {
            if is_on_id(index) {
                has_id_index = true;
            } else {
                secondary(context, collection, index, findings);
            }
        }
        let wants_one = matches!(
            collection.kind,
            CollectionKind::Plain | CollectionKind::Capped | CollectionKind::Unordered
        );
        if wants_one && !has_id_index {
            findings.push(id_index_missing(context, collection));
        }
    }
    let [major, minor] = context.target.deployment.feature_compatibility;
    if [major, minor] < WITHOUT_KEY_LIMIT {
        let series = [
            context.target.deployment.version[0],
            context.target.deployment.version[1],
        ];
        findings.push(Finding::warning(
            FindingCode::IndexKeyLimit,
            format!(
                "at the feature compatibility version {major}.{minor} the target refuses documents whose keys in an index have more than \
                 1024 bytes"
            ),
            format!(
                "on the target: `db.adminCommand({{ setFeatureCompatibilityVersion: \"{}.{}\" }})`",
                series[0], series[1]
            ),
        ));
    }
}

/// Without the index, documents are read in natural order. MMAPv1, the storage engine of the oldest versions, moves documents that grow, but not
/// those of capped collections.
fn id_index_missing(context: &Context<'_>, collection: &Collection) -> Finding {
    let [major, minor, _] = context.source.deployment.version;
    let may_move = [major, minor] < OTHER_ENGINE && collection.kind != CollectionKind::Capped;
    let (severity, reason) = match may_move {
        true => (
            Severity::Blocker,
            "documents that move while they are read can be missed",
        ),
        false => (
            Severity::Warning,
            "the target creates one, and refuses documents with a duplicate `_id`",
        ),
    };
    let namespace = &collection.namespace;
    Finding::new(
        severity,
        FindingCode::IdIndexMissing,
        format!("`{namespace}` has no index on `_id`; {reason}"),
        format!("on the source: `{}.createIndex({{ _id: 1 }})`", shell(collection)),
    )
    .about(namespace.as_str())
}

/// Reports what the target will not have, and what has no effect on either side.
fn not_kept(context: &Context<'_>, collection: &Collection, findings: &mut Vec<Finding>) {
    for (part, lost) in context.not_kept(collection) {
        let seen = format!("the target will not have {lost}");
        let concerned = match &lost.index {
            Some(index) => format!("{} index {index}", lost.namespace),
            None => lost.namespace.to_string(),
        };
        let fix = "no action is needed; the summary lists it again, and it does not count as a difference";
        findings.push(match part {
            Part::IndexField => Finding::note(FindingCode::IndexOptionNotKept, seen, fix).about(concerned),
            Part::IdIndexField => Finding::warning(FindingCode::IdIndexOption, seen, fix).about(concerned),
            Part::IdIndexVersion => Finding::note(FindingCode::IdIndexVersion, seen, fix).about(concerned),
            // A missing index on `_id` has a finding with a fix of its own. Options are reported with the collection.
            Part::IdIndexMissing | Part::Option => continue,
        });
    }
}

fn secondary(context: &Context<'_>, collection: &Collection, index: &RawDocument, findings: &mut Vec<Finding>) {
    let (namespace, name) = (&collection.namespace, name(index));
    let drop = || {
        format!(
            "on the source: `{}.dropIndex(\"{name}\")`, and create it again without that",
            shell(collection)
        )
    };
    let version_of_target = [
        context.target.deployment.version[0],
        context.target.deployment.version[1],
    ];
    let is_haystack = index.get_document("key").is_ok_and(|key| {
        key.iter()
            .flatten()
            .any(|(_, kind)| kind.as_str() == Some("geoHaystack"))
    });
    if is_haystack && version_of_target >= WITHOUT_HAYSTACK {
        let finding = Finding::blocker(
            FindingCode::GeoHaystack,
            format!(
                "the index `{name}` of `{namespace}` is a geoHaystack index, which servers of 5.0 and newer do not support"
            ),
            format!(
                "on the source: `{}.dropIndex(\"{name}\")`; a 2d index with `$geoNear` replaces it",
                shell(collection)
            ),
        );
        findings.push(finding.about(named(collection, index)));
    }
    // In an index from before 3.4 an unknown field has no effect, and is left out.
    let is_old = index
        .get("v")
        .ok()
        .flatten()
        .and_then(number)
        .is_some_and(|version| version < 2.0);
    let unknown = fields(index)
        .filter(|field| !is_old && !is_accepted(field))
        .collect::<Vec<_>>();
    if !unknown.is_empty() {
        findings.push(
            Finding::blocker(
                FindingCode::IndexOption,
                format!(
                    "the index `{name}` of `{namespace}` has {}, which the target does not accept",
                    list(&unknown)
                ),
                drop(),
            )
            .about(named(collection, index)),
        );
    }
    let mut wrong: Vec<String> = Vec::new();
    for (field, value) in index.iter().flatten() {
        if !is_valid(field.as_str(), value) {
            wrong.push(format!("`{field}`"));
        }
    }
    if !wrong.is_empty() {
        findings.push(
            Finding::blocker(
                FindingCode::IndexValue,
                format!(
                    "the index `{name}` of `{namespace}` has a value of {} that the target does not accept",
                    wrong.join(", ")
                ),
                drop(),
            )
            .about(named(collection, index)),
        );
    }
}

/// The name of an index in what a finding concerns.
fn named(collection: &Collection, index: &RawDocument) -> String {
    format!("{} index {}", collection.namespace, name(index))
}

/// Whether a server accepts the value for this field of a specification.
fn is_valid(field: &str, value: RawBsonRef<'_>) -> bool {
    match field {
        "unique" | "sparse" | "background" | "hidden" | "prepareUnique" => {
            value.as_bool().is_some() || number(value).is_some()
        }
        // A value beyond the longest expiry counts as the longest expiry.
        "expireAfterSeconds" => number(value).is_some_and(|seconds| seconds >= 0.0),
        // Values of another kind than today's become 1 on the target.
        "key" => value.as_document().is_some_and(|key| !key.is_empty()),
        "partialFilterExpression" | "collation" | "wildcardProjection" | "weights" => value.as_document().is_some(),
        _ => true,
    }
}

/// Converts a number of any type. Returns `None` for NaN and for other types.
fn number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Int32(value) => Some(f64::from(value)),
        // A value beyond 2^53 is out of every range here, so the lost precision does not matter.
        RawBsonRef::Int64(value) => Some(value as f64),
        RawBsonRef::Double(value) => (!value.is_nan()).then_some(value),
        RawBsonRef::Decimal128(value) => value.to_string().parse().ok().filter(|value: &f64| !value.is_nan()),
        _ => None,
    }
}

fn is_on_id(index: &RawDocument) -> bool {
    let Ok(key) = index.get_document("key") else {
        return false;
    };
    let mut parts = key.iter().flatten();
    matches!(parts.next(), Some((field, order)) if field.as_str() == "_id" && number(order) == Some(1.0))
        && parts.next().is_none()
}

fn fields(index: &RawDocument) -> impl Iterator<Item = &str> {
    index.iter().flatten().map(|(field, _)| field.as_str())
}

fn name(index: &RawDocument) -> &str {
    index.get_str("name").unwrap_or("(without a name)")
}

fn list(fields: &[&str]) -> String {
    let quoted: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    let noun = if fields.len() == 1 { "the field" } else { "the fields" };
    format!("{noun} {}", quoted.join(", "))
}

/// Returns the expression for the collection in the shell.
fn shell(collection: &Collection) -> String {
    format!(
        "db.getSiblingDB(\"{}\").getCollection(\"{}\")",
        collection.namespace.database(),
        collection.namespace.collection()
    )
}

#[cfg(test)]
mod tests {
    use bson::raw::RawDocumentBuf;
    use bson::rawdoc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes, findings};

    fn id() -> RawDocumentBuf {
        rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }
    }

    #[track_caller]
    fn assert_found(index: RawDocumentBuf, expected: &[&str]) {
        let mut facts = Facts::new();
        facts.collection("shop.a", CollectionKind::Plain, rawdoc! {});
        facts.indexes(vec![id(), index.clone()]);
        assert_eq!(codes(&facts, check), expected, "{index:?}");
    }

    #[test]
    fn ordinary_indexes_pass() {
        for index in [
            rawdoc! { "v": 2, "key": { "a": 1, "b": -1.0 }, "name": "a", "ns": "shop.a" },
            rawdoc! { "v": 1, "key": { "a": "hashed" }, "name": "a", "background": 1, "sparse": true },
            rawdoc! { "v": 2, "key": { "at": 1 }, "name": "a", "expireAfterSeconds": 0 },
            rawdoc! { "v": 2, "key": { "at": 1 }, "name": "a", "expireAfterSeconds": 3600.0, "hidden": true },
            rawdoc! { "v": 2, "key": { "_id": "hashed" }, "name": "a" },
            rawdoc! { "v": 2, "key": { "_fts": "text", "_ftsx": 1 }, "name": "a", "weights": { "t": 1 }, "textIndexVersion": 3 },
            rawdoc! { "v": 2, "key": { "$**": 1 }, "name": "a", "wildcardProjection": { "a": 1 } },
            rawdoc! { "v": 1, "key": { "a": 1 }, "name": "a", "dropDups": true, "safe": true },
        ] {
            assert_found(index, &[]);
        }
    }

    #[test]
    fn what_a_target_refuses_is_found() {
        for field in ["bogus", "Unique", "expireafterseconds"] {
            for (version, found) in [(2, "index_option"), (1, "index_option_not_kept")] {
                let mut index = rawdoc! { "v": version, "key": { "a": 1 }, "name": "a" };
                index.append(bson::raw::CString::try_from(field).unwrap(), true);
                assert_found(index, &[found]);
            }
        }
        for index in [
            rawdoc! { "v": 1, "key": { "a": 1 }, "name": "a", "unique": "true" },
            rawdoc! { "v": 1, "key": { "a": 1 }, "name": "a", "sparse": {} },
            rawdoc! { "v": 1, "key": { "a": 1 }, "name": "a", "expireAfterSeconds": f64::NAN },
            rawdoc! { "v": 1, "key": { "a": 1 }, "name": "a", "expireAfterSeconds": -1 },
            rawdoc! { "v": 1, "key": { "a": 1 }, "name": "a", "expireAfterSeconds": "3600" },
            rawdoc! { "v": 1, "key": {}, "name": "a" },
        ] {
            assert_found(index, &["index_value"]);
        }
    }

    #[test]
    fn fields_that_servers_know_are_not_refused() {
        for field in [
            "unique",
            "sparse",
            "hidden",
            "prepareUnique",
            "clustered",
            "expireAfterSeconds",
            "partialFilterExpression",
            "wildcardProjection",
            "columnstoreProjection",
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
            "hashVersion",
            "seed",
            "ns",
            "background",
            "safe",
            "dropDups",
        ] {
            let mut index = rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a" };
            index.append(bson::raw::CString::try_from(field).unwrap(), 1);
            let mut facts = Facts::new();
            facts.collection("shop.a", CollectionKind::Plain, rawdoc! {});
            facts.indexes(vec![id(), index]);
            let found = codes(&facts, check);
            assert!(!found.contains(&"index_option"), "{field}: {found:?}");
        }
    }

    #[test]
    fn what_is_converted_is_noted() {
        for index in [
            rawdoc! { "v": 0, "key": { "a": 1 }, "name": "a" },
            rawdoc! { "v": 1, "key": { "a": 0 }, "name": "a" },
            rawdoc! { "v": 1, "key": { "a": "" }, "name": "a" },
            rawdoc! { "v": 1, "key": { "a": true }, "name": "a" },
        ] {
            assert_found(index, &["index_option_not_kept"]);
        }
    }

    #[test]
    fn haystacks_end_with_5_0() {
        for (version, expected) in [
            ([4, 4, 2], &[] as &[&str]),
            ([5, 0, 4], &["geo_haystack"]),
            ([6, 0, 5], &["geo_haystack"]),
        ] {
            let mut facts = Facts::new();
            facts.target.deployment.version = version;
            facts.collection("shop.a", CollectionKind::Plain, rawdoc! {});
            let haystack = rawdoc! { "v": 2, "key": { "at": "geoHaystack", "kind": 1 }, "name": "a", "bucketSize": 1 };
            facts.indexes(vec![id(), haystack]);
            assert_eq!(codes(&facts, check), expected);
        }
    }

    #[test]
    fn keys_are_limited_by_old_compatibility_alone() {
        let mut facts = Facts::new();
        assert_eq!(codes(&facts, check), [""; 0]);
        facts.target.deployment.version = [4, 2, 6];
        facts.target.deployment.feature_compatibility = [4, 0];
        assert_eq!(codes(&facts, check), ["index_key_limit"]);
    }

    #[test]
    fn the_index_on_id_is_there_and_plain() {
        let odd = rawdoc! { "v": 1, "key": { "_id": 1 }, "name": "_id_", "sparse": true };
        for (kind, indexes, expected) in [
            (CollectionKind::Plain, vec![id()], &[] as &[&str]),
            (CollectionKind::Plain, vec![odd], &["id_index_option"]),
            (CollectionKind::Plain, vec![], &["id_index_missing"]),
            (CollectionKind::Unordered, vec![], &["id_index_missing"]),
            (CollectionKind::Clustered, vec![], &[]),
            (CollectionKind::View, vec![], &[]),
        ] {
            let mut facts = Facts::new();
            facts.collection("shop.a", kind, rawdoc! {});
            facts.indexes(indexes);
            assert_eq!(codes(&facts, check), expected, "{kind:?}");
        }
    }

    #[test]
    fn documents_that_move_need_an_index_on_id() {
        for (version, kind, expected) in [
            ([2, 6, 12], CollectionKind::Unordered, Severity::Blocker),
            ([3, 0, 15], CollectionKind::Plain, Severity::Blocker),
            ([3, 0, 15], CollectionKind::Capped, Severity::Warning),
            ([3, 2, 22], CollectionKind::Unordered, Severity::Warning),
        ] {
            let mut facts = Facts::new();
            facts.source.deployment.version = version;
            facts.collection("shop.a", kind, rawdoc! {});
            facts.indexes(vec![]);
            let found = findings(&facts, check);
            let found = found.iter().find(|finding| finding.code == "id_index_missing").unwrap();
            assert_eq!(found.severity, expected, "{version:?} {kind:?}");
        }
    }
}
