//! Screens that no other test looks at closely.

use std::io::Write;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::host::Host;
use crate::page::{LONG, Page};

#[test]
#[ignore = "drives a browser"]
fn every_part_of_a_migration_follows_the_rules_of_accessibility() {
    let host = Host::start(&["--memory", "12"]);
    let page = Page::open(&format!("{}#/m/memory/validate", host.address));
    page.press("Validate");
    page.press("Start the migration");
    page.wait_long_for("Green light", LONG);
    for (part, words) in [
        ("", "Collections"),
        ("/validate", "What would be migrated"),
        ("/comparison", "Comparison of both sides"),
        ("/log", "Started from the beginning"),
        ("/cutover", "Cut over in five steps"),
        ("/support", "Attach these to a report"),
    ] {
        page.go(&format!("#/m/memory{part}"));
        page.wait_for(words);
        page.assert_accessible(words);
    }
    page.go("#/m/memory");
    page.press("Whole run");
    page.press("As text");
    page.wait_for("highest");
    page.assert_accessible("chart as text");
    page.go("#/m/unknown");
    page.wait_for("This migration is not here");
    page.assert_accessible("unknown migration");
}

#[test]
#[ignore = "drives a browser"]
fn a_recording_is_played_without_the_console() {
    let host = Host::start(&[]);
    let page = Page::open(&format!("{}#/replay", host.address));
    page.wait_for("Open the recording");
    page.assert_accessible("choice of a recording");
    host.kill();

    let mut file = NamedTempFile::with_suffix(".jsonl").unwrap();
    for (second, line) in recording() {
        let mut line = line;
        line["at"] = json!(format!("2026-01-31T12:00:{second:02}Z"));
        writeln!(file, "{line}").unwrap();
    }
    writeln!(file, "broken").unwrap();
    page.attach("Recording", file.path());
    page.wait_for("1 line of the file could not be read");
    page.press("One step forward");
    page.wait_for("50 %");
    page.wait_for("shop.orders is copied");
    page.wait_for("The host asked for: throttle");
    page.assert_accessible("recording");
    page.press("One step forward");
    page.wait_for("The applications may go to the target");
    page.press("One step back");
    page.wait_for("50 %");
    assert!(!page.offers("Stop …"), "a recording cannot be acted on");
    page.press("Close the recording");
    page.wait_for("Open the recording");
}

fn recording() -> Vec<(u32, serde_json::Value)> {
    let amount = |documents: u32| json!({ "documents": documents, "bytes": documents * 100 });
    let status = json!({
        "type": "status", "phase": "copy", "failure": null, "position": null, "source_position": null, "lag_ms": 300,
        "copy_complete": false, "can_cut_over": false, "copied": amount(50), "total": amount(100),
        "changes": { "applied": 1, "dropped": 0, "held_bytes": 0 }, "compared": amount(0), "all_compared": false,
        "differences": 0, "time_left_ms": null, "oplog_window_ms": null, "oplog_time_left_ms": null,
        "cutover_estimate_ms": null, "cutover_deadline": null, "throttle": {}, "walkers": 1, "lag_history": [],
        "applied_per_second": null, "retries": 0, "indexes": { "built": 0, "building": 0, "total": 0 },
    });
    let summary = json!({
        "type": "summary", "outcome": "complete", "position": { "t": 1, "i": 1, "term": 1 },
        "collections": [{
            "namespace": "shop.orders", "target": "shop.orders", "documents": 100, "verified": true, "digest": null,
            "differences": [],
        }],
        "indexes": [], "late_writes": { "count": 0, "named": [] }, "resyncs": 0, "foreign_writes": [],
        "left_selection": [], "not_migrated": [], "not_kept": [],
    });
    vec![
        (0, json!({ "type": "recording", "id": "shop", "version": "0.1.0" })),
        (0, json!({ "type": "plan", "omitted_bytes": 20_000_000 })),
        (0, json!({ "type": "phase_changed", "phase": "copy" })),
        (1, json!({ "type": "call", "call": "throttle", "error": null })),
        (1, status),
        (1, json!({ "type": "collection_copied", "namespace": "shop.orders" })),
        (2, summary),
    ]
}
