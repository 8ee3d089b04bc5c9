//! Plans, summaries and reports.

use std::time::SystemTime;

use serde_json::json;

use super::{SECOND, differences, fits, late_writes, orders};
use crate::catalog::NotKept;
use crate::catalog::compare::IndexSummary;
use crate::error::{Finding, FindingCode};
use crate::model::{AccountKind, AccountName, Amount, CollectionKind, Deployment, LeftSelection, Namespace};
use crate::preflight::{Estimate, Plan, PlannedCollection};
use crate::report::{
    AppliedRules, CarriedUser, CollectionSummary, ForeignWrites, LeftOutUser, Outcome, Phase, Summary, UsersSummary,
};
use crate::rules::{RuleKind, RuleRecord};
use crate::test_util::at;
use crate::{ComparedCollection, KnownMigration, LeaseOwner, VerifyReport};

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

fn rule() -> RuleRecord {
    RuleRecord {
        pattern: "shop.*".to_owned(),
        kind: RuleKind::Transform,
        name: "masking".to_owned(),
        version: "1".to_owned(),
    }
}
