//! Rules for names and options of collections and views.

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::{RawBsonRef, RawDocument};

use super::{Context, PlannedCollection};
use crate::catalog::Part;
use crate::error::{Finding, FindingCode};
use crate::model::{Collection, CollectionKind, Namespace};

/// Maximum number of bytes of a name `database.collection`, by the target's feature compatibility version.
const NAME_LIMITS: &[([u32; 2], usize)] = &[([4, 4], 255), ([0, 0], 120)];

/// Maximum number of bytes of a database's name.
const DATABASE_LIMIT: usize = 63;

/// Options, each with the first series that accepts it.
const OPTIONS_SINCE: &[(&str, [u32; 2])] = &[
    ("timeseries", [5, 0]),
    ("clusteredIndex", [5, 3]),
    ("changeStreamPreAndPostImages", [6, 0]),
    ("encryptedFields", [6, 0]),
];

/// Checks the catalog of the migrated collections.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    collisions(context.planned, findings);
    names(context, findings);
    database_case(context, findings);
    for collection in context.selected {
        options(context, collection, findings);
        not_kept(context, collection, findings);
        encryption(collection, findings);
        if collection.kind == CollectionKind::View {
            view(context, collection, findings);
        }
    }
}

/// Finds collections that would become the same one on the target.
fn collisions(planned: &[PlannedCollection], findings: &mut Vec<Finding>) {
    let mut sources: BTreeMap<Namespace, &Namespace> = BTreeMap::new();
    for PlannedCollection { namespace, target, .. } in planned {
        // A time-series collection takes its own name and that of its buckets.
        let shown = target.time_series().unwrap_or_else(|| target.clone());
        if let Some(other) = sources.insert(shown.clone(), namespace) {
            findings.push(Finding::blocker(
                FindingCode::SameTarget,
                format!("`{other}` and `{namespace}` would both become `{shown}` on the target"),
                "rename one of them, or exclude it",
            ));
        }
    }
}

fn names(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let compatibility = context.target.deployment.feature_compatibility;
    let limit = NAME_LIMITS
        .iter()
        .find(|(since, _)| compatibility >= *since)
        .map_or(usize::MAX, |(_, limit)| *limit);
    for planned in context.planned {
        let (target, length) = (&planned.target, planned.target.as_str().len());
        let database = target.database().len();
        let [major, minor] = compatibility;
        let seen = if length > limit {
            format!("`{target}` has {length} bytes; a target of {major}.{minor} allows names of up to {limit} bytes")
        } else if database > DATABASE_LIMIT {
            format!("the database of `{target}` has {database} bytes; the name of a database may have {DATABASE_LIMIT}")
        } else {
            continue;
        };
        findings.push(
            Finding::blocker(
                FindingCode::NameTooLong,
                seen,
                format!(
                    "give it a shorter one with `.rename(\"{}\", \"NAME\")`",
                    planned.namespace
                ),
            )
            .about(target.as_str()),
        );
    }
}

/// A server refuses a database whose name differs from an existing one only in the case of letters.
fn database_case(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let planned: BTreeSet<&str> = context
        .planned
        .iter()
        .map(|planned| planned.target.database())
        .collect();
    for database in &planned {
        let clash = context
            .target
            .inspection
            .databases
            .iter()
            .find(|name| name.as_str() != *database && name.eq_ignore_ascii_case(database));
        if let Some(clash) = clash {
            findings.push(Finding::blocker(
                FindingCode::DatabaseCase,
                format!("the target has a database `{clash}`, and refuses the name `{database}`, which differs only in case"),
                format!("on the target: `db.getSiblingDB(\"{clash}\").dropDatabase()` if it is not needed, or rename the collections"),
            ));
        }
    }
}

fn options(context: &Context<'_>, collection: &Collection, findings: &mut Vec<Finding>) {
    let compatibility = context.target.deployment.feature_compatibility;
    let [major, minor] = compatibility;
    for (option, _) in OPTIONS_SINCE.iter().filter(|(_, since)| compatibility < *since) {
        // Buckets are always clustered.
        let is_implied = *option == "clusteredIndex" && collection.kind == CollectionKind::TimeSeriesBuckets;
        if is_implied || !is_on(&collection.options, option) {
            continue;
        }
        let namespace = &collection.namespace;
        let fix = match *option {
            "changeStreamPreAndPostImages" => format!(
                "on the source: `db.getSiblingDB(\"{}\").runCommand({{ collMod: \"{}\", {option}: {{ enabled: false }} }})`",
                namespace.database(),
                namespace.collection()
            ),
            _ => format!("use a newer target, or leave it out with `.exclude(\"{namespace}\")`"),
        };
        findings.push(
            Finding::blocker(
                FindingCode::CollectionOption,
                format!("`{namespace}` has the option `{option}`, which a target of {major}.{minor} does not support"),
                fix,
            )
            .about(namespace.as_str())
            .because(option),
        );
    }
}

fn not_kept(context: &Context<'_>, collection: &Collection, findings: &mut Vec<Finding>) {
    for (part, lost) in context.not_kept(collection) {
        if part == Part::Option {
            let finding = Finding::warning(
                FindingCode::OptionNotKept,
                format!("the target will not have {lost}"),
                "no action is needed if the option is not needed; the summary lists it again, and it does not count as a difference",
            );
            findings.push(finding.about(collection.namespace.as_str()));
        }
    }
}

/// Whether an option is set and enabled.
fn is_on(options: &RawDocument, name: &str) -> bool {
    match options.get(name).ok().flatten() {
        None => false,
        Some(RawBsonRef::Boolean(value)) => value,
        Some(RawBsonRef::Document(value)) => value.get_bool("enabled").unwrap_or(true),
        Some(_) => true,
    }
}

fn encryption(collection: &Collection, findings: &mut Vec<Finding>) {
    let namespace = &collection.namespace;
    if is_on(&collection.options, "encryptedFields") {
        findings.push(
            Finding::blocker(
                FindingCode::QueryableEncryption,
                format!(
                    "`{namespace}` uses queryable encryption; only clients with its keys can write its encrypted fields"
                ),
                format!(
                    "leave it out with `.exclude(\"{namespace}\")` and copy it with an application that has the keys"
                ),
            )
            .about(namespace.as_str()),
        );
        return;
    }
    let is_encrypted = collection
        .options
        .get_document("validator")
        .and_then(|validator| validator.get_document("$jsonSchema"))
        .is_ok_and(names_encryption);
    if is_encrypted {
        let finding = Finding::warning(
            FindingCode::ClientEncryption,
            format!(
                "fields of `{namespace}` are encrypted by its clients; they are copied unchanged and cannot be read without their keys"
            ),
            "migrate the key vault's collection as well (often `encryption.__keyVault`), under its own name",
        );
        findings.push(finding.about(namespace.as_str()));
    }
}

/// Whether a schema declares any field as encrypted.
fn names_encryption(schema: &RawDocument) -> bool {
    schema.iter().flatten().any(|(name, value)| {
        matches!(name.as_str(), "encrypt" | "encryptMetadata") || value.as_document().is_some_and(names_encryption)
    })
}

fn view(context: &Context<'_>, view: &Collection, findings: &mut Vec<Finding>) {
    let Ok(on) = view.options.get_str("viewOn") else { return };
    let shown = Namespace::new(view.namespace.database(), on);
    let names = |collection: &Collection| collection.namespace == shown || collection.namespace == shown.buckets();
    let (seen, fix) = if !context.listed.iter().any(names) {
        (
            "which does not exist",
            format!(
                "on the source: `db.getSiblingDB(\"{}\").getCollection(\"{}\").drop()` if the view is not needed",
                view.namespace.database(),
                view.namespace.collection()
            ),
        )
    } else if !context.selected.iter().copied().any(names) {
        (
            "which is not migrated",
            format!(
                "select it with `.include(\"{shown}\")`, or leave the view out with `.exclude(\"{}\")`",
                view.namespace
            ),
        )
    } else {
        return;
    };
    findings.push(
        Finding::warning(
            FindingCode::ViewWithoutCollection,
            format!("the view `{}` shows `{shown}`, {seen}", view.namespace),
            fix,
        )
        .about(view.namespace.as_str())
        .because(seen),
    );
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes};

    #[test]
    fn two_collections_cannot_become_one() {
        for (target, expected) in [
            ("shop.b", &["same_target"] as &[&str]),
            ("shop.system.buckets.b", &["same_target"]),
            ("shop.c", &[]),
        ] {
            let mut facts = Facts::new();
            facts.plan("shop.a", target);
            facts.plan("shop.b", "shop.b");
            assert_eq!(codes(&facts, check), expected, "{target}");
        }
    }

    #[test]
    fn names_have_a_limit_by_version() {
        for (version, length, fits) in [
            ([6, 0], 255, true),
            ([6, 0], 256, false),
            ([4, 4], 255, true),
            ([4, 2], 120, true),
            ([4, 2], 121, false),
        ] {
            let mut facts = Facts::new();
            facts.target.deployment.feature_compatibility = version;
            facts.plan("shop.a", &format!("shop.{}", "x".repeat(length - 5)));
            assert_eq!(codes(&facts, check).is_empty(), fits, "{version:?} {length}");
        }
        let mut facts = Facts::new();
        facts.plan("shop.a", &format!("{}.a", "x".repeat(64)));
        assert_eq!(codes(&facts, check), ["name_too_long"]);
    }

    #[test]
    fn databases_differ_by_more_than_case() {
        let mut facts = Facts::new();
        facts.target.inspection.databases = vec!["Shop".to_owned()];
        facts.plan("shop.a", "shop.a");
        assert_eq!(codes(&facts, check), ["database_case"]);
        facts.target.inspection.databases = vec!["shop".to_owned()];
        assert_eq!(codes(&facts, check), [""; 0]);
    }

    #[test]
    fn options_are_those_of_the_target() {
        let time_series = rawdoc! { "timeseries": { "timeField": "t" } };
        let clustered = rawdoc! { "clusteredIndex": { "v": 2 } };
        let images = |enabled: bool| rawdoc! { "changeStreamPreAndPostImages": { "enabled": enabled } };

        for (options, version, fits) in [
            (time_series.clone(), [4, 4], false),
            (time_series, [5, 0], true),
            (clustered.clone(), [5, 0], false),
            (clustered, [6, 0], true),
            (images(true), [5, 0], false),
            (images(false), [5, 0], true),
            (images(true), [6, 0], true),
        ] {
            let mut facts = Facts::new();
            facts.target.deployment.feature_compatibility = version;
            facts.collection("shop.a", CollectionKind::Plain, options.clone());
            let found = codes(&facts, check);
            assert_eq!(found.is_empty(), fits, "{options:?} {version:?}");
            assert!(found.iter().all(|code| *code == "collection_option"));
        }
    }

    #[test]
    fn options_that_cannot_be_kept_are_found() {
        let images = rawdoc! { "recordPreImages": true };
        let engines = rawdoc! { "storageEngine": { "inMemory": {}, "wiredTiger": {} } };
        let replicated = rawdoc! { "recordIdsReplicated": true };
        for (options, version, is_kept) in [
            (images.clone(), [5, 0, 4], true),
            (images.clone(), [6, 0, 27], true),
            (images, [7, 0, 2], false),
            (rawdoc! { "recordPreImages": false }, [7, 0, 2], true),
            (engines, [6, 0, 5], false),
            (replicated.clone(), [8, 0, 4], false),
            (replicated, [9, 0, 0], true),
            (rawdoc! { "autoIndexId": true, "flags": 1 }, [6, 0, 5], true),
        ] {
            let mut facts = Facts::new();
            facts.target.deployment.version = version;
            facts.collection("shop.a", CollectionKind::Plain, options.clone());
            let expected: &[&str] = if is_kept { &[] } else { &["option_not_kept"] };
            assert_eq!(codes(&facts, check), expected, "{options:?} on {version:?}");
        }
    }

    #[test]
    fn encrypted_collections_are_told() {
        let mut facts = Facts::new();
        let queryable = rawdoc! { "encryptedFields": { "fields": [] } };
        facts.collection("shop.a", CollectionKind::Plain, queryable);
        let schema = rawdoc! {
            "validator": { "$jsonSchema": { "properties": { "ssn": { "encrypt": { "bsonType": "string" } } } } }
        };
        facts.collection("shop.b", CollectionKind::Plain, schema);
        let plain = rawdoc! { "validator": { "$jsonSchema": { "properties": { "ssn": { "bsonType": "string" } } } } };
        facts.collection("shop.c", CollectionKind::Plain, plain);
        assert_eq!(codes(&facts, check), ["queryable_encryption", "client_encryption"]);
    }

    #[test]
    fn a_view_wants_what_it_shows() {
        let on = |name: &str| rawdoc! { "viewOn": name, "pipeline": [] };
        for (namespace, expected) in [
            ("shop.orders", &[] as &[&str]),
            ("shop.system.buckets.orders", &[]),
            ("shop.other", &["view_without_collection"]),
        ] {
            let mut facts = Facts::new();
            facts.collection("shop.view", CollectionKind::View, on("orders"));
            facts.collection(namespace, CollectionKind::Plain, rawdoc! {});
            assert_eq!(codes(&facts, check), expected, "{namespace}");
        }
        let mut facts = Facts::new();
        facts.collection("shop.view", CollectionKind::View, on("orders"));
        facts.left_out("shop.orders");
        assert_eq!(codes(&facts, check), ["view_without_collection"]);
    }
}
