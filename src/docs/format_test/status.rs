//! The state of a run and of its collections.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{SECOND, document, fits, orders, variants};
use crate::model::{Amount, Namespace, Position};
use crate::report::{CollectionPhase, CollectionStatus, IndexCounts, LagSample, Status, UsersStatus};
use crate::test_util::at;
use crate::{Error, ErrorKind, Phase, Rehearsed, Throttle};

fn full_status() -> Status {
    Status {
        phase: Phase::Ready,
        position: Some(at(1)),
        source_position: Some(Position::ZERO),
        lag: Some(Duration::from_millis(1_500)),
        time_left: Some(SECOND),
        oplog_window: Some(SECOND),
        oplog_time_left: Some(SECOND),
        cutover_estimate: Some(SECOND),
        cutover_deadline: Some(SystemTime::UNIX_EPOCH),
        throttle: Throttle::unlimited().with_tail_operations_per_second(3),
        lag_history: vec![LagSample {
            at: SystemTime::UNIX_EPOCH,
            lag: SECOND,
        }],
        applied_per_second: Some(0.5),
        indexes: IndexCounts {
            built: 1,
            building: 1,
            failed: 1,
            total: 3,
        },
        users: Some(UsersStatus {
            carried: 1,
            kept: 2,
            left_out: 3,
            problem: Some("a reason".to_owned()),
        }),
        failure: Some(Error::new(
            ErrorKind::Connection,
            "read the oplog",
            "the connection broke",
        )),
        ..Status::default()
    }
}

#[test]
fn a_status_is_in_the_schema() {
    fits("status", &Status::default());
    let status = fits("status", &full_status());
    assert_eq!((&status["type"], &status["lag_ms"]), (&json!("status"), &json!(1500)));
    assert_eq!(
        status["lag_history"],
        json!([{ "at": "1970-01-01T00:00:00Z", "lag_ms": 1000 }])
    );
    let rehearsed = Rehearsed {
        answer: 7,
        status: full_status(),
        ready_after: SECOND,
    };
    assert_eq!(fits("rehearsed", &rehearsed)["ready_after_ms"], 1000);
}

#[test]
fn the_status_of_a_collection_is_in_the_schema() {
    let amount = Amount { documents: 1, bytes: 2 };
    let status = CollectionStatus {
        id: bson::Uuid::from_bytes([7; 16]),
        namespace: orders(),
        target: Namespace::new("shop", "system.buckets.weather"),
        phase: CollectionPhase::Following,
        copied: amount,
        total: amount,
        compared: amount,
        all_compared: true,
        differences: 0,
        applied: 3,
        indexes: IndexCounts::default(),
        last_error: None,
    };
    let value = fits("collection", &status);
    assert_eq!(
        (&value["phase"], &value["target"]),
        (&json!("following"), &json!("shop.weather"))
    );
    let phases = document()["$defs"]["collection"]["properties"]["phase"]["enum"].clone();
    let phases: BTreeSet<String> = serde_json::from_value(phases).unwrap();
    assert_eq!(
        phases,
        variants(include_str!("../../report/collection.rs"), "CollectionPhase")
    );
}
