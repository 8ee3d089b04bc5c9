//! Tests the tables in `entries.md` against the parser.
//!
//! Every entry that real servers wrote, and every one written by hand, must have its row, and every row must say what the code does.

use std::collections::{BTreeMap, BTreeSet};

use bson::Document;
use bson::raw::RawDocumentBuf;

use super::samples::{FROM_SOURCE, VERSIONS, is_skipped, items, raw, samples};
use crate::catalog::kind::kind_of;
use crate::model::{CollectionKind, Operation, Position};
use crate::oplog::assembler::{Assembler, Taken};
use crate::oplog::entry::{CommandOperation, Item};

const TABLE: &str = include_str!("entries.md");

/// Entry and treatment, with the versions that write the entry.
type Rows = BTreeMap<(String, String), BTreeSet<&'static str>>;

/// The kind of an operation, from its decoded form.
fn kind(operation: &Document) -> String {
    let (op, ns) = (operation.get_str("op").unwrap(), operation.get_str("ns").unwrap());
    let o = operation.get_document("o").unwrap();
    let first = o.keys().next().map_or("", String::as_str);
    if matches!(op, "n" | "ci" | "cu" | "cd" | "km") {
        return format!("`{op}`");
    }
    if op == "c" {
        let database = ns.strip_suffix(".$cmd").unwrap();
        let on = match o.get_str(first) {
            Ok("system.views") => " of `system.views`",
            Ok(name) if name.starts_with("system.buckets.") => " of `system.buckets.*`",
            Ok(_) if o.contains_key("timeseries") => " with `timeseries`",
            Ok(name) if is_skipped(&format!("{database}.{name}")) => " in `config` or `admin`",
            _ => "",
        };
        let part = match first {
            "applyOps" if operation.contains_key("multiOpType") => " with `multiOpType: 1`",
            "applyOps" if o.contains_key("partialTxn") && !operation.contains_key("lsid") => {
                " with `partialTxn` and no session"
            }
            "applyOps" if o.contains_key("partialTxn") => " with `partialTxn`",
            "applyOps" if o.contains_key("prepare") => " with `prepare`",
            "collMod" if o.len() == 1 => " without arguments",
            _ => on,
        };
        return format!("`c` `{first}`{part}");
    }
    let what = match first {
        _ if op != "u" => String::new(),
        "$v" => format!(", `$v: {}`", o.get("$v").unwrap()),
        _ => ", replacement".to_owned(),
    };
    let on = match ns.split_once('.').unwrap().1 {
        _ if is_skipped(ns) => " in `config` or `admin.system.*`",
        "system.views" if o.get_str("viewOn").is_ok_and(|on| on.starts_with("system.buckets.")) => {
            " of `system.views`, for a time-series collection"
        }
        "system.views" => " of `system.views`",
        name if name.starts_with("system.buckets.") => " of `system.buckets.*`",
        _ => "",
    };
    format!("`{op}`{what}{on}")
}

const STOPS: &str = "**stops the run** with an error that names the entry";

/// The treatment of an item, in the words of the tables.
pub(super) fn treatment(item: &Item) -> &'static str {
    match item {
        Item::Change(change) => match change.write.operation {
            Operation::Insert(_) => "inserts the document; one with its `_id` is replaced",
            Operation::Replace(_) => "replaces the document",
            Operation::Delta(_) => "leaves the document byte for byte as the source has it",
            Operation::Delete => "deletes the document, if there is one",
        },
        Item::Command(command) => match command.operation {
            CommandOperation::Create {
                ref namespace,
                ref options,
                ..
            } if kind_of(namespace, options) == CollectionKind::TimeSeries => STOPS,
            CommandOperation::Create { .. } => "makes the collection with these options",
            CommandOperation::CreateIndexes { .. } => "builds the indexes",
            CommandOperation::DropIndex { .. } => "drops the index",
            CommandOperation::DropIndexes { .. } => "drops the indexes",
            CommandOperation::Modify { .. } => "makes the same change; of an expiry at cutover",
            CommandOperation::Drop { .. } => "drops the collection",
            CommandOperation::DropDatabase { .. } => "drops what is left of the database",
            CommandOperation::Rename { .. } => {
                "renames; into the selection it copies the collection, out of it it drops it"
            }
            CommandOperation::SetView { .. } => "makes the view, in place of one that stands",
            CommandOperation::ChangeView { .. } => "makes the view anew with the change in it",
            CommandOperation::DropView { .. } => "drops the view",
            CommandOperation::Unsupported { .. } => STOPS,
        },
    }
}

/// Adds the row of an operation, or those of the operations inside it.
fn add(rows: &mut Rows, version: &'static str, operation: &Document) {
    if let Ok(inner) = operation.get_document("o").unwrap().get_array("applyOps") {
        for operation in inner {
            add(rows, version, operation.as_document().unwrap());
        }
        return;
    }
    let of_operation: BTreeSet<&str> = items(operation).iter().map(treatment).collect();
    assert!(of_operation.len() <= 1, "{operation}");
    let does = of_operation
        .first()
        .copied()
        .unwrap_or("nothing; the position moves on");
    rows.entry((kind(operation), does.to_owned()))
        .or_default()
        .insert(version);
}

/// Adds the rows of transactions. Their entries must be processed in sequence.
fn add_transactions(rows: &mut Rows, version: &'static str) {
    let mut assembler = Assembler::new(Position::ZERO, 1 << 20);
    for (case, sample) in samples(version) {
        let entry: RawDocumentBuf = raw(&sample);
        let Taken::Entry(entry) = assembler.take(&entry).unwrap() else {
            panic!("{version} {case}")
        };
        let name = sample
            .get_document("o")
            .unwrap()
            .keys()
            .next()
            .cloned()
            .unwrap_or_default();
        let waits = entry.resume != entry.position && entry.items.is_empty();
        let does = match name.as_str() {
            "applyOps" | "commitTransaction" | "abortTransaction" if waits => "waits for the end of its transaction",
            "applyOps" => "does what its operations say, at this position",
            "commitTransaction" => "does what its transaction says, at this position",
            "abortTransaction" => "forgets its transaction",
            _ => continue,
        };
        rows.entry((kind(&sample), does.to_owned()))
            .or_default()
            .insert(version);
    }
}

/// The expected rows for these versions.
fn rows(of_versions: [&'static str; 4]) -> Vec<String> {
    let mut rows = Rows::new();
    for version in of_versions {
        for (_, sample) in samples(version) {
            let first = sample.get_document("o").unwrap().keys().next().cloned();
            if !matches!(first.as_deref(), Some("commitTransaction" | "abortTransaction")) {
                add(&mut rows, version, &sample);
            }
        }
        add_transactions(&mut rows, version);
    }
    rows.iter()
        .map(|((kind, does), versions)| {
            let versions: Vec<&str> = versions.iter().map(|version| &version[..3]).collect();
            format!("| {kind} | {} | {does} |", versions.join(", "))
        })
        .collect()
}

#[test]
fn the_tables_say_what_the_code_does() {
    let (current, _) = TABLE.split_once("## Servers from 2.6 to 4.0").unwrap();
    let (captured, from_source) = current.split_once("## From the source of newer servers").unwrap();
    for (table, versions) in [(captured, VERSIONS), (from_source, FROM_SOURCE)] {
        let written: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        let expected = rows(versions);
        assert!(written == expected, "the rows must be\n{}", expected.join("\n"));
    }
}
