//! Events, each with its line for people.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{SECOND, differences, fits, late_writes, orders, variants};
use crate::model::{Namespace, Side, TransactionFacts, Wait};
use crate::report::{CutoverStep, Phase};
use crate::test_util::at;
use crate::{Error, ErrorKind, Event};

/// An event of every kind.
pub(crate) fn events() -> Vec<Event> {
    let (position, namespace, reason) = (at(5), orders(), "a reason".to_owned());
    vec![
        Event::PhaseChanged { phase: Phase::CatchUp },
        Event::Failed {
            error: Error::new(ErrorKind::Connection, "read the oplog", "the connection broke"),
        },
        Event::Started {
            resumed: true,
            position,
        },
        Event::Resync {
            lost: at(1),
            position,
            gap: SECOND,
            reason: reason.clone(),
        },
        Event::FallingBehind {
            source_rate: 12.5,
            applied_rate: f64::INFINITY,
            lag: SECOND,
        },
        Event::OplogWindowShort {
            position,
            oldest: at(1),
            window: SECOND,
            time_left: None,
        },
        Event::CutoverWindowShort {
            deadline: SystemTime::UNIX_EPOCH,
            left: SECOND,
        },
        Event::CollectionCopied {
            namespace: Namespace::new("shop", "system.buckets.weather"),
        },
        Event::IndexBuilt {
            namespace: namespace.clone(),
            name: "a_1".to_owned(),
        },
        Event::IndexFailed {
            namespace: namespace.clone(),
            name: "a_1".to_owned(),
            reason: reason.clone(),
        },
        Event::CatalogChanged {
            position,
            description: "dropped the database gone".to_owned(),
        },
        Event::CatalogChangeMet {
            position,
            namespace: "shop.*".to_owned(),
            change: "dropDatabase",
        },
        Event::LeftSelection {
            from: namespace.clone(),
            to: namespace.clone(),
            position,
        },
        Event::DocumentRefused {
            namespace: namespace.clone(),
            id: "7".to_owned(),
            reason: reason.clone(),
        },
        Event::RuleFailed {
            namespace: namespace.clone(),
            id: "7".to_owned(),
            reason: reason.clone(),
        },
        Event::Waiting {
            side: Side::Target,
            operation: "flush the target",
            elapsed: SECOND,
            limit: Some(SECOND),
        },
        Event::OpenTransactions {
            transactions: vec![TransactionFacts {
                client: "h:1".to_owned(),
                open: SECOND,
                operation: Some(-3),
                namespaces: vec![namespace.clone()],
            }],
        },
        Event::Retrying {
            cause: reason.clone(),
            delay: Duration::from_millis(200),
        },
        Event::CheckpointSaved { watermark: position },
        Event::WritesAfterStop {
            writes: late_writes(),
            accepted: false,
        },
        Event::SourceWritesBlocked,
        Event::SourceWritesUnblocked,
        Event::SourceWriteBlockStays { reason: reason.clone() },
        Event::CutoverStep {
            step: CutoverStep::StopWrites,
        },
        Event::Verified {
            namespace: namespace.clone(),
            identical: true,
        },
        Event::DocumentDiffers {
            namespace: namespace.clone(),
            difference: differences().remove(2),
        },
        Event::ForeignWrite { namespace, writes: 3 },
        Event::ForeignWritesNotWatched { reason: reason.clone() },
        Event::UsersCarried {
            put: 1,
            dropped: 2,
            carried: 3,
            kept: 4,
            left_out: 5,
        },
        Event::UsersNotCarried { reason: reason.clone() },
        Event::MembersChanged {
            side: Side::Source,
            added: vec!["h:1".to_owned()],
            removed: Vec::new(),
        },
        Event::FeatureCompatibilityChanged {
            side: Side::Source,
            from: [5, 0],
            to: [6, 0],
        },
        Event::HookFailed {
            hook: "after_cutover",
            reason,
        },
        Event::RecordingFailed {
            reason: "run.jsonl: no space left".to_owned(),
        },
        Event::Missed { events: 2 },
    ]
}

/// A new variant fails this test until it is in the list above and in the schema.
#[test]
fn each_event_is_in_the_schema_and_has_a_line_for_people() {
    let mut types = BTreeSet::new();
    for event in events() {
        let value = fits("event", &event);
        types.insert(value["type"].as_str().unwrap().to_owned());
        let line = event.to_string();
        assert!(
            !line.is_empty() && line.lines().count() == 1 && !line.contains("{ "),
            "{line}"
        );
    }
    assert_eq!(types, variants(include_str!("../../report/event.rs"), "Event"));
}

#[test]
fn events_show_and_serialize_what_they_say() {
    let events = events();
    let by_type = |wanted: &str| {
        let mut all = events.iter().map(|event| (event, serde_json::to_value(event).unwrap()));
        let (event, value) = all.find(|(_, value)| value["type"] == wanted).unwrap();
        (event.to_string(), value)
    };
    for (kind, line, value) in [
        (
            "collection_copied",
            "shop.weather is copied",
            json!({ "type": "collection_copied", "namespace": "shop.weather" }),
        ),
        (
            "falling_behind",
            "falling behind: the source writes 12 operations per second, inf are applied; the lag is 1 s",
            json!({ "type": "falling_behind", "source_rate": 12.5, "applied_rate": null, "lag_ms": 1000 }),
        ),
        (
            "retrying",
            "trying again in 0.2 s: a reason",
            json!({ "type": "retrying", "cause": "a reason", "delay_ms": 200 }),
        ),
        (
            "waiting",
            "waiting for the target for 1 s (at most 1 s): flush the target",
            json!({
                "type": "waiting", "side": "target", "operation": "flush the target", "elapsed_ms": 1000, "limit_ms": 1000,
            }),
        ),
        (
            "checkpoint_saved",
            "a checkpoint is saved at position 5:1@1",
            json!({ "type": "checkpoint_saved", "position": { "t": 5, "i": 1, "term": 1 } }),
        ),
        (
            "document_differs",
            "shop.orders: the document with _id {\"$numberInt\":\"7\"} differs in a.b",
            json!({
                "type": "document_differs", "namespace": "shop.orders", "id": "{\"$numberInt\":\"7\"}", "kind": "different",
                "paths": ["a.b"], "source_hash": "00", "target_hash": "11",
            }),
        ),
    ] {
        assert_eq!(by_type(kind), (line.to_owned(), value));
    }
    let (_, writes) = by_type("writes_after_stop");
    assert_eq!((&writes["count"], &writes["accepted"]), (&json!(2), &json!(false)));
}

#[test]
fn a_wait_is_serialized_as_its_event() {
    let wait = Wait {
        side: Side::Target,
        operation: "flush the target".into(),
        elapsed: SECOND,
        limit: Some(SECOND),
    };
    let event = events()
        .into_iter()
        .find(|event| matches!(event, Event::Waiting { .. }));
    assert_eq!(fits("waiting", &wait), serde_json::to_value(event.unwrap()).unwrap());
}

#[test]
fn a_step_of_a_cutover_has_the_name_that_it_is_written_as() {
    for step in CutoverStep::ALL {
        assert_eq!(fits("cutover_step", &step), step.as_str());
    }
}
