//! Tests the parser on entries that real servers wrote.
//!
//! The samples are in `tests/samples/oplog/<version>.jsonl`, in canonical extended JSON, one entry per line, each with the `case` that
//! produced it. Those of 7.0 and newer are written by hand, after the servers' source code.

use std::collections::BTreeMap;
use std::fs;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, Document, doc};

use crate::model::{Operation, Position};
use crate::oplog::assembler::{Assembler, Taken};
use crate::oplog::entry::{CommandOperation, Entry, Item};
use crate::oplog::parse::Parser;
use crate::oplog::raw_entry::RawEntry;
use crate::order::Key;

pub(super) const VERSIONS: [&str; 4] = ["4.2.6", "4.4.2", "5.0.4", "6.0.27"];

/// The versions whose entries are written by hand.
pub(super) const FROM_SOURCE: [&str; 4] = ["7.0", "8.0", "8.1", "9.0"];

/// The samples of a version, each with its case.
pub(super) fn samples(version: &str) -> Vec<(String, Document)> {
    let path = format!("{}/tests/samples/oplog/{version}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let samples: Vec<_> = text
        .lines()
        .map(|line| {
            let mut entry: Document = serde_json::from_str(line).unwrap();
            let case = entry.remove("case").unwrap().as_str().unwrap().to_owned();
            // Long transactions were shortened when they were captured.
            if let Ok(operations) = entry.get_document_mut("o").unwrap().get_array_mut("applyOps") {
                operations.retain(|operation| !operation.as_document().unwrap().contains_key("$elidedItems"));
            }
            (case, entry)
        })
        .collect();
    assert!(samples.len() > 90 || FROM_SOURCE.contains(&version), "{version}");
    samples
}

pub(super) fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

pub(super) fn items(document: &Document) -> Vec<Item> {
    let raw = raw(document);
    let entry = RawEntry::read(&raw).unwrap();
    let mut items = Vec::new();
    Parser::default().items(&entry, Position::ZERO, &mut items).unwrap();
    items
}

pub(super) fn is_skipped(ns: &str) -> bool {
    ns.starts_with("config.")
        || ns.starts_with("local.")
        || ns.starts_with("admin.system.")
        || ns.ends_with(".system.profile")
}

/// Checks the items of one sample against its decoded form.
fn check(operation: &Document, items: &mut std::vec::IntoIter<Item>, case: &str) {
    let (op, ns) = (operation.get_str("op").unwrap(), operation.get_str("ns").unwrap());
    let o = operation.get_document("o").unwrap();
    let (first, value) = o.iter().next().unwrap();
    match op {
        "n" | "ci" | "cu" | "cd" | "km" => {}
        "c" if first == "applyOps" => {
            for operation in value.as_array().unwrap() {
                check(operation.as_document().unwrap(), items, case);
            }
        }
        "c" => {
            let database = ns.strip_suffix(".$cmd").unwrap();
            let collection = format!("{database}.{}", value.as_str().unwrap_or(""));
            let nothing = is_skipped(&collection)
                || matches!(
                    first.as_str(),
                    "startIndexBuild"
                        | "abortIndexBuild"
                        | "commitTransaction"
                        | "abortTransaction"
                        | "setMultikeyMetadata"
                        | "dropIdent"
                )
                || (first == "create" && value.as_str() == Some("system.views"))
                || (first == "collMod" && o.len() == 1);
            if nothing {
                return;
            }
            let Some(Item::Command(command)) = items.next() else {
                panic!("{case}: no command")
            };
            assert_eq!(
                command.collection.map(Bson::from),
                operation.get("ui").cloned(),
                "{case}"
            );
            assert_eq!(command.raw, raw(o), "{case}");
            let name = match &command.operation {
                CommandOperation::Create { namespace, .. } => format!("create {namespace}"),
                CommandOperation::CreateIndexes { namespace, .. } if o.contains_key("indexes") => {
                    format!("commitIndexBuild {namespace}")
                }
                CommandOperation::CreateIndexes { namespace, .. } => format!("createIndexes {namespace}"),
                CommandOperation::DropIndex { namespace, .. } => format!("dropIndexes {namespace}"),
                CommandOperation::Modify { namespace, .. } => format!("collMod {namespace}"),
                CommandOperation::Drop { namespace } => format!("drop {namespace}"),
                CommandOperation::DropDatabase { database } => format!("dropDatabase {database}."),
                CommandOperation::Rename { from, .. } => format!("renameCollection {database}.{from}"),
                CommandOperation::Unsupported { namespace, reason } => {
                    assert!(
                        matches!(case, "ddl/emptycapped" | "range/truncate" | "timeseries/upgrade"),
                        "{case}: {reason}"
                    );
                    assert!(reason.contains(first), "{case}: {reason}");
                    // `truncateRange` is the only command that repeats the database.
                    match first.as_str() {
                        "truncateRange" => format!("{first} {database}.{namespace}"),
                        _ => format!("{first} {namespace}"),
                    }
                }
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(name, format!("{first} {collection}"), "{case}");
        }
        _ if is_skipped(ns) => {}
        _ if ns.ends_with(".system.views") => {
            if o.get_str("viewOn").is_ok_and(|on| on.starts_with("system.buckets.")) {
                return;
            }
            let Some(Item::Command(command)) = items.next() else {
                panic!("{case}: no command")
            };
            let view = match (op, &command.operation) {
                ("i" | "u", CommandOperation::SetView { namespace, options }) => {
                    let mut expected = o.clone();
                    expected.remove("_id");
                    assert_eq!(options, &raw(&expected), "{case}");
                    namespace
                }
                ("d", CommandOperation::DropView { namespace }) => namespace,
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(view.as_str(), o.get_str("_id").unwrap(), "{case}");
        }
        _ => {
            let Some(Item::Change(change)) = items.next() else {
                panic!("{case}: no change")
            };
            assert_eq!(Bson::from(change.collection), *operation.get("ui").unwrap(), "{case}");
            assert_eq!(change.namespace.as_str(), ns, "{case}");
            let keyed = if op == "u" {
                operation.get_document("o2").unwrap()
            } else {
                o
            };
            assert_eq!(change.write.key, Key::of_document(&raw(keyed)).unwrap(), "{case}");
            match (op, &change.write.operation) {
                ("i", Operation::Insert(document)) => assert_eq!(document, &raw(o), "{case}"),
                ("u", Operation::Delta(delta)) if o.contains_key("$v") => assert_eq!(delta, &raw(o), "{case}"),
                ("u", Operation::Replace(document)) if !o.contains_key("$v") => assert_eq!(document, &raw(o), "{case}"),
                ("d", Operation::Delete) => {}
                other => panic!("{case}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_sample_gives_what_it_says() {
    for version in VERSIONS.into_iter().chain(FROM_SOURCE) {
        for (case, entry) in samples(version) {
            let case = format!("{version} {case}");
            let mut items = items(&entry).into_iter();
            check(&entry, &mut items, case.split_once(' ').unwrap().1);
            assert!(items.next().is_none(), "{case}: more than expected");
        }
    }
}

/// The commands of a case.
fn commands(version: &str, case: &str) -> Vec<CommandOperation> {
    samples(version)
        .iter()
        .filter(|(found, _)| found == case)
        .flat_map(|(_, entry)| items(entry))
        .filter_map(|item| match item {
            Item::Command(command) => Some(command.operation),
            Item::Change(_) => None,
        })
        .collect()
}

fn decoded(raw: &RawDocument) -> Document {
    Document::try_from(raw).unwrap()
}

#[test]
fn options_of_a_new_collection_are_those_that_a_list_would_show() {
    for version in VERSIONS {
        let [
            CommandOperation::Create {
                namespace,
                options,
                id_index,
            },
        ] = &commands(version, "ddl/create-capped")[..]
        else {
            panic!("{version}")
        };
        assert_eq!(namespace.as_str(), "app.c_capped");
        assert_eq!(decoded(options), doc! { "capped": true, "size": 8192, "max": 5 });
        assert_eq!(decoded(id_index.as_ref().unwrap()).get_str("name").unwrap(), "_id_");

        let [CommandOperation::Create { options, .. }, ..] = &commands(version, "agg/$out-new")[..] else {
            panic!("{version}")
        };
        assert_eq!(
            decoded(options),
            doc! {},
            "temporary collections are renamed to lasting ones"
        );
    }
    let [CommandOperation::Create { options, id_index, .. }] = &commands("6.0.27", "ddl/create-clustered")[..] else {
        panic!()
    };
    assert_eq!(options.get_i64("expireAfterSeconds").unwrap(), 3600);
    assert!(options.get_document("clusteredIndex").is_ok() && id_index.is_none());
}

#[test]
fn a_rename_names_the_uuid_of_the_collection_that_it_drops() {
    for version in VERSIONS {
        let [CommandOperation::Rename { from, to, dropped }] = &commands(version, "ddl/rename-dropTarget")[..] else {
            panic!("{version}")
        };
        assert_eq!((from.as_str(), to.as_str()), ("app.rn1", "app.rn2"));
        assert!(dropped.is_some());
    }
}

#[test]
fn indexes_come_with_their_specifications_when_they_are_built() {
    for version in VERSIONS {
        for case in ["index/empty-coll", "index/non-empty"] {
            let [CommandOperation::CreateIndexes { indexes, .. }] = &commands(version, case)[..] else {
                panic!("{version} {case}")
            };
            assert_eq!(indexes.len(), 1);
            assert_eq!(decoded(&indexes[0]), doc! { "v": 2, "key": { "a": 1 }, "name": "a_1" });
        }
        let mut found = 0;
        for command in commands(version, "index/non-empty-two-at-once") {
            if let CommandOperation::CreateIndexes { indexes, .. } = command {
                found += indexes.len();
            }
        }
        assert_eq!(found, 2, "{version}");
        assert_eq!(commands(version, "index/unique-fails-on-dups").len(), 0, "{version}");
    }
}

/// The entries of all transaction cases, as a tail would yield them.
fn assembled(version: &str, prefix: &str) -> Vec<Entry> {
    let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
    let mut samples = samples(version);
    samples.retain(|(case, _)| case.starts_with(prefix));
    assert!(!samples.is_empty(), "{version} {prefix}");
    samples
        .iter()
        .map(|(case, entry)| match assembler.take(&raw(entry)).unwrap() {
            Taken::Entry(entry) => entry,
            taken => panic!("{case}: {taken:?}"),
        })
        .collect()
}

/// For each entry, the number of items, and by how many entries the resume position is behind it.
fn shape(entries: &[Entry]) -> Vec<(usize, usize)> {
    entries
        .iter()
        .enumerate()
        .map(|(at, entry)| {
            let resume = entries.iter().position(|other| other.position == entry.resume);
            (entry.items.len(), resume.map_or(at + 1, |resume| at - resume))
        })
        .collect()
}

#[test]
fn transactions_become_one_entry_at_their_commit() {
    for version in VERSIONS {
        for (prefix, expected) in [
            ("txn/small-mixed", vec![(5, 0)]),
            ("txn/split-into", vec![(0, 1), (0, 2), (5, 0)]),
            ("txn/prepared-committed", vec![(0, 1), (2, 0)]),
            ("txn/prepared-aborted", vec![(0, 1), (0, 0)]),
            ("txn/large-4x6MB", vec![(0, 1), (4, 0)]),
        ] {
            let entries = assembled(version, prefix);
            assert_eq!(shape(&entries), expected, "{version} {prefix}");
            let last = entries.last().unwrap();
            for item in &last.items {
                let Item::Change(change) = item else {
                    panic!("{version} {prefix}: {item:?}")
                };
                assert_eq!(change.position, last.position);
            }
        }
    }
}

#[test]
fn batches_of_7_0_and_newer_become_one_entry_each() {
    for (version, prefix, expected) in [
        ("7.0", "ttl/grouped", vec![(3, 0)]),
        ("7.0", "batch/chain", vec![(0, 1), (0, 2), (4, 0)]),
        ("7.0", "batch/two-chains", vec![(0, 1), (0, 2), (0, 3), (2, 4), (3, 0)]),
        // Each takes effect at its own position, without waiting for a commit.
        ("8.0", "insertMany/plain", vec![(5, 0)]),
        ("8.0", "insertMany/retryable", vec![(3, 0), (2, 0), (1, 0)]),
        ("9.0", "container/beside-writes", vec![(2, 0)]),
        ("9.0", "multikey/in-transaction", vec![(1, 0)]),
    ] {
        let entries = assembled(version, prefix);
        assert_eq!(shape(&entries), expected, "{version} {prefix}");
        for entry in &entries {
            for item in &entry.items {
                let Item::Change(change) = item else {
                    panic!("{version} {prefix}: {item:?}")
                };
                assert_eq!(change.position, entry.position, "{version} {prefix}");
            }
        }
    }
}

#[test]
fn the_inserts_of_one_entry_come_in_their_order_and_whole() {
    let [entry] = &assembled("8.0", "insertMany/plain")[..] else {
        panic!()
    };
    let inserted: Vec<Document> = entry
        .items
        .iter()
        .map(|item| match item {
            Item::Change(change) => match &change.write.operation {
                Operation::Insert(document) => decoded(document),
                other => panic!("{other:?}"),
            },
            Item::Command(command) => panic!("{command:?}"),
        })
        .collect();
    let expected: Vec<Document> = (1..6).map(|id| doc! { "_id": id, "x": id }).collect();
    assert_eq!(inserted, expected);
}

#[test]
fn what_cannot_be_repeated_is_named_with_its_collection() {
    for (case, expected) in [("range/truncate", "app.c"), ("timeseries/upgrade", "app.w")] {
        let [CommandOperation::Unsupported { namespace, reason }] = &commands("9.0", case)[..] else {
            panic!("{case}")
        };
        assert_eq!(namespace, expected, "{case}");
        assert!(reason.contains("exclude"), "{case}: {reason}");
    }
}

#[test]
fn every_sample_in_a_row_goes_through_the_assembler() {
    let mut kinds = BTreeMap::new();
    for version in VERSIONS.into_iter().chain(FROM_SOURCE) {
        let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
        for (case, entry) in samples(version) {
            let Taken::Entry(entry) = assembler.take(&raw(&entry)).unwrap() else {
                panic!("{version} {case}")
            };
            *kinds.entry(entry.items.len()).or_insert(0) += 1;
        }
        assert_eq!(assembler.bytes(), 0, "{version}: a transaction stayed open");
        assert_eq!(assembler.resume(), assembler.last());
    }
    assert!(kinds[&1] > 200, "{kinds:?}");
}
