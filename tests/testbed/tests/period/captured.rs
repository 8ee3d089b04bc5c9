//! The captured entries and answers.

use mongodb::bson::Document;
use mongoferry_testbed::Period;

/// The captured entries with the names of their cases, in order.
pub(crate) fn entries(period: Period) -> Vec<(String, Document)> {
    let lines = match period {
        Period::V2_6 => include_str!("../../../samples/oplog/2.6.12-mmapv1.jsonl"),
        _ => include_str!("../../../samples/oplog/3.0.15-wiredTiger.jsonl"),
    };
    let parsed = lines.lines().map(|line| {
        let mut entry: Document = serde_json::from_str(line).unwrap();
        let Some(mongodb::bson::Bson::String(case)) = entry.remove("case") else {
            panic!("no case: {line}");
        };
        (case, entry)
    });
    parsed.collect()
}

/// The captured answers by their commands.
pub(crate) fn facts(period: Period) -> Document {
    let text = match period {
        Period::V2_6 => include_str!("../../../samples/oplog/2.6.12-mmapv1.facts.json"),
        _ => include_str!("../../../samples/oplog/3.0.15-wiredTiger.facts.json"),
    };
    serde_json::from_str(text).unwrap()
}
