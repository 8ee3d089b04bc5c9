//! Entries that a real 2.6.12 and a real 3.0.15 wrote.
//!
//! Next to each file of entries is one with what they mean, one line an item. `MONGOFERRY_WRITE_DECODED=1` writes these files anew, to be
//! read by a person.

use std::fs;

use super::*;
use crate::model::Operation;
use crate::order::Key;

pub(super) const CAPTURED: [(&str, Series); 3] = [
    ("2.6.12-mmapv1", V2_6),
    ("3.0.15-mmapv1", V3_0),
    ("3.0.15-wiredTiger", V3_0),
];

fn path(name: &str) -> String {
    format!("{}/tests/samples/oplog/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn entries(name: &str) -> Vec<(String, Document)> {
    let text = fs::read_to_string(path(&format!("{name}.jsonl"))).unwrap();
    text.lines()
        .map(|line| {
            let mut entry: Document = serde_json::from_str(line).unwrap();
            let case = entry.remove("case").unwrap().as_str().unwrap().to_owned();
            (case, entry)
        })
        .collect()
}

#[test]
fn captured_entries_mean_what_was_written_down() {
    for (name, series) in CAPTURED {
        let mut bench = Bench::new(series);
        let mut lines = Vec::new();
        for (case, entry) in entries(name) {
            let items = bench.take_raw(&raw(&entry));
            if items.is_empty() {
                lines.push(format!("{case}: nothing"));
            }
            lines.extend(items.iter().map(|item| format!("{case}: {item}")));
        }
        let file = path(&format!("{name}.decoded.txt"));
        if std::env::var_os("MONGOFERRY_WRITE_DECODED").is_some() {
            fs::write(&file, lines.join("\n") + "\n").unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap();
        let expected: Vec<&str> = expected.lines().collect();
        for (line, expected) in lines.iter().zip(&expected) {
            assert_eq!(line, expected, "{name}");
        }
        assert_eq!(lines.len(), expected.len(), "{name}");
    }
}

/// The text of an item does not show the types of numbers.
#[test]
fn captured_documents_pass_through_byte_for_byte() {
    for (name, series) in CAPTURED {
        let mut identities = LegacyIdentities::new(SET, series);
        let mut decoder = LegacyDecoder::new(series);
        let mut seen = 0;
        for (case, sample) in entries(name) {
            let entry = decoder.take(&raw(&sample), &mut identities).unwrap();
            let changes: Vec<_> = entry
                .items
                .iter()
                .filter_map(|item| match item {
                    Item::Change(change) => Some(change),
                    Item::Command(_) => None,
                })
                .collect();
            let operations = match sample.get_document("o").unwrap().get_array("applyOps") {
                Ok(inner) => inner.iter().map(|inner| inner.as_document().unwrap().clone()).collect(),
                Err(_) => vec![sample.clone()],
            };
            let writes: Vec<_> = operations
                .iter()
                .filter(|operation| {
                    let (op, ns) = (operation.get_str("op").unwrap(), operation.get_str("ns").unwrap());
                    matches!(op, "i" | "u" | "d") && !ns.ends_with(".system.indexes") && !ns.starts_with("admin.")
                })
                .collect();
            assert_eq!(changes.len(), writes.len(), "{name} {case}");
            for (change, write) in changes.iter().zip(writes) {
                let o = raw(write.get_document("o").unwrap());
                let keyed = write.get_document("o2").map_or_else(|_| o.clone(), raw);
                assert_eq!(change.write.key, Key::of_document(&keyed).unwrap(), "{name} {case}");
                match (&change.write.operation, write.get_str("op").unwrap()) {
                    (Operation::Insert(document), "i") => assert_eq!(*document, o),
                    (Operation::Replace(document), "u") => assert_eq!(*document, o),
                    (Operation::Delta(document), "u") => assert_eq!(*document, o),
                    (Operation::Delete, "d") => {}
                    other => panic!("{name} {case}: {other:?}"),
                }
                seen += 1;
            }
        }
        assert!(seen > 55, "{name}: {seen}");
    }
}
