//! The schema describes everything that is serialized.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use bson::RawBsonRef;
use mongoferry_testbed::schema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::catalog::NotKept;
use crate::catalog::compare::IndexSummary;
use crate::compare::difference::{Difference, DifferenceKind};
use crate::error::{Finding, FindingCode};
use crate::model::{
    AccountKind, AccountName, Amount, CollectionKind, Deployment, LeftSelection, Namespace, Position, Side,
    TransactionFacts, Wait,
};
use crate::order::Key;
use crate::preflight::{Estimate, Plan, PlannedCollection};
use crate::report::{
    AppliedRules, CarriedUser, CollectionPhase, CollectionStatus, CollectionSummary, CutoverStep, ForeignWrites,
    IndexCounts, LagSample, LateWrite, LateWrites, LeftOutUser, Outcome, Phase, Status, Summary, UsersStatus,
    UsersSummary,
};
use crate::rules::{RuleKind, RuleRecord};
use crate::test_util::at;
use crate::{
    CollectionSettings, ComparedCollection, DdlPolicy, Error, ErrorKind, Event, ExistingData, IndexPolicy,
    KnownMigration, LeaseOwner, LostPosition, PathPolicy, Rehearsed, Selection, Throttle, Verification, VerifyReport,
};

const SECOND: Duration = Duration::from_secs(1);

fn document() -> Value {
    serde_json::from_str(include_str!("format.schema.json")).unwrap()
}

/// Checks what is serialized, and returns it.
#[track_caller]
fn fits(definition: &str, content: &impl Serialize) -> Value {
    let value = serde_json::to_value(content).unwrap();
    if let Err(failure) = schema::check(&document(), Some(definition), &value) {
        panic!("{definition}: {failure}");
    }
    value
}

/// The variants of an enum, in snake case, by its source text.
fn variants(text: &str, name: &str) -> BTreeSet<String> {
    let (_, body) = text.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let is_variant = |line: &&str| line.starts_with("    ") && line.chars().nth(4).is_some_and(char::is_uppercase);
    let names = body.lines().filter(is_variant);
    names
        .map(|line| {
            let name = line.trim().split([' ', ',']).next().unwrap();
            let mut text = String::new();
            for (index, letter) in name.char_indices() {
                if index > 0 && letter.is_uppercase() {
                    text.push('_');
                }
                text.push(letter.to_ascii_lowercase());
            }
            text
        })
        .collect()
}

fn orders() -> Namespace {
    Namespace::new("shop", "orders")
}

fn late_writes() -> LateWrites {
    let write = |id: Option<&str>| LateWrite {
        position: at(3),
        namespace: orders(),
        id: id.map(str::to_owned),
    };
    LateWrites {
        count: 2,
        named: vec![write(Some("7")), write(None)],
    }
}

fn differences() -> Vec<Difference> {
    let paths = vec!["a.b".to_owned()];
    [
        DifferenceKind::Missing,
        DifferenceKind::Extra,
        DifferenceKind::Different { paths },
    ]
    .into_iter()
    .map(|kind| Difference {
        key: Key::from(RawBsonRef::Int32(7)),
        source_hash: (kind != DifferenceKind::Extra).then(|| "00".to_owned()),
        target_hash: (kind != DifferenceKind::Missing).then(|| "11".to_owned()),
        kind,
    })
    .collect()
}

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
    assert_eq!(types, variants(include_str!("../report/event.rs"), "Event"));
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
fn every_kind_of_error_and_finding_code_is_in_the_schema() {
    let schema = document();
    let listed =
        |name: &str| -> BTreeSet<String> { serde_json::from_value(schema["$defs"][name]["enum"].clone()).unwrap() };
    let codes = FindingCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(listed("finding_code"), codes);
    let kinds = variants(include_str!("../error/mod.rs"), "ErrorKind");
    assert_eq!(listed("error_kind"), kinds);
    assert_eq!(
        serde_json::to_value(ErrorKind::InvalidConfiguration).unwrap(),
        "invalid_configuration"
    );
    for code in FindingCode::ALL {
        fits("finding", &Finding::warning(*code, "what", "how"));
    }
    assert_eq!(listed("phase"), variants(include_str!("../report/phase.rs"), "Phase"));
    assert_eq!(
        listed("collection_kind"),
        variants(include_str!("../model/collection.rs"), "CollectionKind")
    );
}

#[test]
fn an_error_has_its_findings_and_the_texts_of_its_causes() {
    let finding = Finding::blocker(FindingCode::ExistingData, "it exists", "drop it").about("shop.orders");
    let error = Error::refused("start the migration", vec![finding])
        .with_context("namespace", "shop.orders")
        .with_source(std::io::Error::other("a cause"));
    let expected = json!({
        "kind": "refused",
        "operation": "start the migration",
        "message": "it exists (drop it)",
        "context": { "namespace": "shop.orders" },
        "retryable": false,
        "causes": ["a cause"],
        "findings": [{
            "severity": "blocker", "code": "existing_data", "message": "it exists", "fix": "drop it",
            "affected": ["shop.orders"], "affected_count": 1,
        }],
    });
    assert_eq!(fits("error", &error), expected);
}

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
        variants(include_str!("../report/collection.rs"), "CollectionPhase")
    );
}

#[test]
fn a_plan_is_in_the_schema() {
    let deployment = Deployment {
        identity: "one".to_owned(),
        name: "rs0".to_owned(),
        version: [6, 0, 5],
        feature_compatibility: [6, 0],
    };
    let amount = Amount { documents: 1, bytes: 2 };
    let plan = Plan {
        source: deployment.clone(),
        target: deployment,
        findings: vec![Finding::note(FindingCode::SmallOplog, "what", "how")],
        collections: vec![PlannedCollection {
            namespace: orders(),
            target: Namespace::new("shop", "system.buckets.weather"),
            kind: CollectionKind::TimeSeriesBuckets,
            amount,
            indexes: 1,
            rules: vec![rule()],
        }],
        total: amount,
        indexes: 1,
        estimate: Some(Estimate {
            sample: amount,
            bytes_per_second: 1,
            copy_time: SECOND,
            oplog_bytes: None,
        }),
        to_drop: vec![orders()],
        not_migrated: vec!["users".to_owned()],
        users: Some(users()),
    };
    let value = fits("plan", &plan);
    let collection = json!({
        "namespace": "shop.orders", "target": "shop.weather", "kind": "time_series_buckets", "documents": 1, "bytes": 2, "indexes": 1,
        "rules": [{ "pattern": "shop.*", "kind": "transform", "name": "masking", "version": "1" }],
    });
    assert_eq!(value["collections"], json!([collection]));
    fits("plan", &Plan { estimate: None, ..plan });
}

fn rule() -> RuleRecord {
    RuleRecord {
        pattern: "shop.*".to_owned(),
        kind: RuleKind::Transform,
        name: "masking".to_owned(),
        version: "1".to_owned(),
    }
}

fn users() -> UsersSummary {
    let name = AccountName::user("app", "shop");
    UsersSummary {
        carried: vec![CarriedUser {
            kind: AccountKind::Role,
            database: "admin".to_owned(),
            name: "auditor".to_owned(),
            hash: "00".to_owned(),
        }],
        kept: vec![name.clone()],
        left_out: vec![LeftOutUser {
            name,
            reason: "excluded",
        }],
    }
}

fn summary() -> Summary {
    let buckets = Namespace::new("shop", "system.buckets.weather");
    Summary {
        outcome: Outcome::Differences,
        position: Some(at(4)),
        collections: vec![CollectionSummary {
            namespace: orders(),
            target: buckets.clone(),
            documents: 1_000,
            verified: false,
            digest: None,
            differences: vec!["the option `capped` differs".to_owned()],
            rules: Some(AppliedRules {
                rules: vec![rule()],
                source_documents: 2_000,
                failed: 1,
            }),
        }],
        indexes: vec![IndexSummary {
            namespace: orders(),
            name: "a_1".to_owned(),
            ok: false,
            reason: Some("it is missing".to_owned()),
        }],
        late_writes: late_writes(),
        resyncs: 1,
        foreign_writes: vec![ForeignWrites {
            namespace: orders(),
            writes: 2,
        }],
        left_selection: vec![LeftSelection {
            from: buckets.clone(),
            to: orders(),
            position: at(2),
        }],
        not_migrated: vec!["users".to_owned()],
        not_kept: vec![NotKept {
            namespace: buckets,
            index: None,
            option: "flags".to_owned(),
            code: "option_not_kept".to_owned(),
            reason: "a reason".to_owned(),
        }],
        users: Some(users()),
        certificate: None,
        way_back: None,
    }
}

#[test]
fn a_summary_is_in_the_schema_and_is_a_table_for_people() {
    let value = fits("summary", &summary());
    assert_eq!(value["not_kept"][0]["namespace"], "shop.weather");
    assert_eq!(value["left_selection"][0]["from"], "shop.weather");
    let expected = "\
not handed over: the comparison found differences
collection                                  documents  verification
shop.weather                                    1,000  DIFFERENT
    2,000 documents on the source, 1 left out because a rule failed, transform `masking` 1
    the option `capped` differs
indexes: 0 identical, 1 different
    a_1 of shop.orders: it is missing
users and roles: 1 identical, 1 kept by the target
after the writers were stopped: 2 writes: shop.orders _id 7, shop.orders (its catalog)
resyncs after a lost position: 1
written to by another program: shop.orders, 2 writes
renamed out of the selection: shop.weather to shop.orders
not migrated: users
not kept: `flags` of `shop.system.buckets.weather`: a reason";
    assert_eq!(summary().to_string(), expected);
}

#[test]
fn a_report_of_a_comparison_is_in_the_schema() {
    let report = VerifyReport {
        collections: vec![ComparedCollection {
            namespace: orders(),
            target: orders(),
            position: None,
            documents: 1,
            bytes: 2,
            differences: differences(),
            difference_count: 3,
            not_compared: None,
        }],
    };
    let value = fits("verify_report", &report);
    assert_eq!(
        (&value["identical"], &value["difference_count"]),
        (&json!(false), &json!(3))
    );
}

#[test]
fn a_step_of_a_cutover_has_the_name_that_it_is_written_as() {
    for step in CutoverStep::ALL {
        assert_eq!(fits("cutover_step", &step), step.as_str());
    }
}

#[test]
fn what_a_target_knows_is_in_the_schema() {
    let owner = LeaseOwner {
        host: "h".to_owned(),
        process: 7,
        since: SystemTime::UNIX_EPOCH,
    };
    assert_eq!(fits("lease_owner", &owner)["since"], "1970-01-01T00:00:00Z");
    for (owner, saved) in [(None, None), (Some(owner), Some(SystemTime::UNIX_EPOCH + SECOND))] {
        let known = KnownMigration {
            id: "tenant-42".to_owned(),
            source: "identity".to_owned(),
            source_name: "rs0".to_owned(),
            phase: Phase::CatchUp,
            begun: SystemTime::UNIX_EPOCH,
            saved,
            owner,
            complete: false,
        };
        let written = fits("known_migration", &known);
        assert_eq!(
            (&written["type"], &written["phase"]),
            (&json!("known_migration"), &json!("catch_up"))
        );
    }
}

#[test]
fn settings_are_read_as_they_are_written() {
    fn both_ways<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: T) {
        let written = fits(name, &value);
        assert_eq!(serde_json::from_value::<T>(written).unwrap(), value);
    }
    for value in [ExistingData::Refuse, ExistingData::Clear, ExistingData::Keep] {
        both_ways("existing_data", value);
    }
    for value in [LostPosition::Resync, LostPosition::Fail] {
        both_ways("lost_position", value);
    }
    for value in [Verification::None, Verification::Digest, Verification::Continuous] {
        both_ways("verification", value);
    }
    for value in [DdlPolicy::Apply, DdlPolicy::Warn, DdlPolicy::Fail] {
        both_ways("ddl_policy", value);
    }
    for value in [PathPolicy::Upward, PathPolicy::Hosted] {
        both_ways("path_policy", value);
    }
    both_ways("throttle", Throttle::unlimited().with_copy_bytes_per_second(5));
    assert_eq!(
        serde_json::from_value::<Throttle>(json!({})).unwrap(),
        Throttle::unlimited()
    );
    serde_json::from_value::<Throttle>(json!({ "copy_bytes": 1 })).unwrap_err();
    for value in [IndexPolicy::Now, IndexPolicy::Later, IndexPolicy::Never] {
        both_ways("index_policy", value);
    }
    let settings = CollectionSettings::default().priority(2);
    both_ways("collection_settings", settings);
    both_ways(
        "collection_settings",
        settings.verification(Verification::Digest).indexes(IndexPolicy::Never),
    );
    assert_eq!(
        serde_json::from_value::<CollectionSettings>(json!({})).unwrap(),
        CollectionSettings::default()
    );
    serde_json::from_value::<CollectionSettings>(json!({ "index": "never" })).unwrap_err();

    let text = json!({ "include": ["shop.*"], "rename": [["shop.orders", "store.orders"]] });
    let selection: Selection = serde_json::from_value(text).unwrap();
    assert_eq!(selection.target(&orders()), Namespace::new("store", "orders"));
    both_ways("selection", selection);
    for (wrong, told) in [
        (json!({ "include": ["shop"] }), "use `shop.*` for a whole database"),
        (json!({ "rename": [["a.b", "c.d"], ["a.b", "c.e"]] }), "contradicts"),
        (json!({ "includes": [] }), "unknown field"),
    ] {
        let error = serde_json::from_value::<Selection>(wrong).unwrap_err().to_string();
        assert!(error.contains(told), "{told} in {error}");
    }
}
