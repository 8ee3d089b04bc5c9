//! What preflight finds about rules.

use std::sync::atomic::{AtomicU32, Ordering};

use bson::raw::{RawDocument, RawDocumentBuf};
use mongoferry::rules::{Mask, RuleError, RuleIdentity, Transform, Transformed};
use mongoferry::{CollectionSettings, ErrorKind, FindingCode, IndexPolicy, Namespace, OnRuleError, Plan, Severity};

use super::*;

/// Returns another result each time.
struct Unsteady(AtomicU32);

impl Transform for Unsteady {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("unsteady", "1")
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        let mut changed: RawDocumentBuf = document.to_owned();
        changed.append(bson::cstr!("n"), i64::from(self.0.fetch_add(1, Ordering::Relaxed)));
        Ok(Transformed::Replace(changed))
    }
}

/// Fails for every document.
struct Failing;

impl Transform for Failing {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("failing", "1")
    }

    fn apply(&self, _: &Namespace, _: &RawDocument) -> Result<Transformed, RuleError> {
        Err(RuleError::failed("it always fails"))
    }
}

fn has(plan: &Plan, code: FindingCode, severity: Severity, name: &str) -> bool {
    let mut findings = plan.findings.iter();
    findings.any(|finding| {
        finding.code == code && finding.severity == severity && finding.affected.iter().any(|affected| affected == name)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_finds_what_rules_collide_with() {
    let sides = Sides::start(Version::V6_0).await;
    let database = sides.source.database("shop");
    for command in [
        doc! { "create": "log", "capped": true, "size": 1 << 20 },
        doc! { "create": "weather", "timeseries": { "timeField": "at" } },
        doc! { "create": "seen", "viewOn": "people", "pipeline": [] },
        doc! { "create": "joined", "viewOn": "other", "pipeline": [{ "$lookup": { "from": "people", "pipeline": [], "as": "p" } }] },
        doc! { "create": "people", "validator": { "mail": { "$type": "string" } } },
        doc! { "createIndexes": "people", "indexes": [
            { "key": { "name": 1 }, "name": "name", "unique": true },
            { "key": { "mail": 1 }, "name": "mail" },
            { "key": { "age": 1 }, "name": "age" },
        ] },
    ] {
        database.run_command(command).await.unwrap();
    }
    let people = (0..20).map(|id| doc! { "_id": id, "name": format!("n{id}"), "mail": "m", "age": id });
    sides.source("shop.people").insert_many(people).await.unwrap();
    sides.source("shop.other").insert_one(doc! { "_id": 1 }).await.unwrap();
    let masks = || {
        FieldRules::builder("masks", "1")
            .mask("name", Mask::text("x"))
            .mask("mail", Mask::text("x"))
    };
    let plan = async |builder: MigrationBuilder| builder.build().unwrap().preflight().await.unwrap();

    let builder = sides
        .builder()
        .await
        .filter("shop.people", doc! { "name": { "$regex": "^n" } });
    let builder = builder.transform("shop.*", masks().drop("mail2").build().unwrap());
    let masked = plan(builder).await;
    let (blocker, warning) = (Severity::Blocker, Severity::Warning);
    for (code, severity, name) in [
        (FindingCode::FilterUnsupported, blocker, "shop.people"),
        (FindingCode::RuledCollection, blocker, "shop.log"),
        (FindingCode::RuledCollection, blocker, "shop.weather"),
        (FindingCode::RuledUniqueIndex, blocker, "shop.people"),
        (FindingCode::RuledIndex, warning, "shop.people"),
        (FindingCode::RuledView, warning, "shop.seen"),
    ] {
        assert!(has(&masked, code, severity, name), "{code} of {name}: {masked}");
    }
    // Of the indexes, only those on masked fields are named.
    assert!(!masked.to_string().contains("`age`"), "{masked}");
    assert!(masked.to_string().contains("transform `masks`"), "{masked}");

    let dropped = FieldRules::builder("dropped", "1").drop("mail").build().unwrap();
    let dropped = plan(sides.builder().await.transform("shop.people", dropped)).await;
    assert!(
        has(&dropped, FindingCode::RuledValidator, warning, "shop.people"),
        "{dropped}"
    );

    let unsteady = plan(
        sides
            .builder()
            .await
            .transform("shop.people", Unsteady(AtomicU32::new(0))),
    )
    .await;
    assert!(
        has(&unsteady, FindingCode::RuleUnsteady, blocker, "shop.people"),
        "{unsteady}"
    );

    for (policy, severity) in [(OnRuleError::Fail, blocker), (OnRuleError::Skip, warning)] {
        let builder = sides
            .builder()
            .await
            .transform("shop.people", Failing)
            .on_rule_error(policy);
        let failing = plan(builder).await;
        assert!(
            has(&failing, FindingCode::RuleFails, severity, "shop.people"),
            "{failing}"
        );
    }
}

/// Also on a resume, because without its filter a collection would be copied whole.
#[tokio::test(flavor = "multi_thread")]
async fn unsupported_filters_are_refused_at_every_start() {
    let sides = Sides::start(Version::V6_0).await;
    sides.source("shop.orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let unsupported = async || {
        let builder = sides.builder().await.filter("shop.orders", doc! { "$where": "secret" });
        builder.build().unwrap().start().await.err().unwrap()
    };
    for _ in 0..2 {
        let error = unsupported().await;
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(
            error.to_string().contains("$where") && !error.to_string().contains("secret"),
            "{error}"
        );
        let run = sides.builder().await.build().unwrap().start().await.unwrap();
        timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    }
}

/// The run holds expiry back as far as a server can, and dates before 1973 expire nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn preflight_refuses_dates_that_expire_at_once() {
    let sides = Sides::start(Version::V6_0).await;
    let index = doc! { "key": { "at": 1 }, "name": "at", "expireAfterSeconds": 1_000_000_000 };
    let command = doc! { "createIndexes": "visits", "indexes": [index] };
    sides.source.database("shop").run_command(command).await.unwrap();
    let visits = (0..20).map(|id| doc! { "_id": id, "at": bson::DateTime::now() });
    sides.source("shop.visits").insert_many(visits).await.unwrap();
    let masked = || {
        FieldRules::builder("masked", "1")
            .mask("at", Mask::ByType)
            .build()
            .unwrap()
    };
    let builder = sides.builder().await.transform("shop.*", masked());
    let plan = builder.build().unwrap().preflight().await.unwrap();
    assert!(
        has(&plan, FindingCode::RuledIndex, Severity::Blocker, "shop.visits"),
        "{plan}"
    );
    let without = CollectionSettings::default().indexes(IndexPolicy::Never);
    let builder = sides.builder().await.transform("shop.*", masked());
    let run = builder
        .collection_settings("shop.*", without)
        .build()
        .unwrap()
        .start()
        .await;
    let summary = cut_over(run.unwrap()).await;
    assert_eq!(summary.collections[0].documents, 20);
}
