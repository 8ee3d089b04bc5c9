//! How the rules of a namespace work together.

use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{doc, rawdoc};

use super::*;
use crate::model::Namespace;

/// A transform by a closure, which forwards deltas that do not touch its field.
struct Closure<F>(&'static str, F);

impl<F: Fn(&RawDocument) -> Result<Transformed, RuleError> + Send + Sync + 'static> Transform for Closure<F> {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new(self.0, "1")
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        (self.1)(document)
    }

    fn delta(&self, _: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        match touched.iter().find(|field| *field != "other") {
            Some("panic") => panic!("secret"),
            Some("nothing") => DeltaEffect::Nothing,
            Some(field) if field == self.0 => DeltaEffect::Image,
            _ => DeltaEffect::Forward,
        }
    }
}

fn orders() -> Namespace {
    "shop.orders".parse().unwrap()
}

fn with(transform: impl Transform) -> Arc<DocumentRule> {
    let mut rules = RuleSet::default();
    rules.transform("shop.*", Arc::new(transform)).unwrap();
    rules.of(&orders()).unwrap()
}

fn adds(field: &'static str) -> impl Transform {
    Closure(field, move |document: &RawDocument| {
        let mut after = document.to_owned();
        let count = document.iter_elements().count() as i32;
        after.append(bson::raw::CString::try_from(field).unwrap(), count);
        Ok(Transformed::Replace(after))
    })
}

#[test]
fn rules_apply_where_their_pattern_matches() {
    let mut rules = RuleSet::default();
    assert!(rules.is_empty());
    rules
        .filter("shop.orders", Arc::new(Query::new(doc! { "a": 1 }).unwrap()))
        .unwrap();
    rules.transform("shop.*", Arc::new(adds("first"))).unwrap();
    rules
        .filter("*.orders", Arc::new(Query::new(doc! { "b": { "$gt": 1 } }).unwrap()))
        .unwrap();
    rules.transform("shop.orders", Arc::new(adds("second"))).unwrap();
    assert!(rules.transform("shop", Arc::new(adds("third"))).is_err());

    let rule = rules.of(&orders()).unwrap();
    let shaped = |document: &RawDocument| rule.apply(&orders(), document).unwrap();
    assert_eq!(
        shaped(&rawdoc! { "_id": 1, "a": 1, "b": 2 }),
        Shaped::Changed(rawdoc! { "_id": 1, "a": 1, "b": 2, "first": 3, "second": 4 })
    );
    assert_eq!(shaped(&rawdoc! { "_id": 1, "a": 1, "b": 1 }), Shaped::Absent);
    assert_eq!(shaped(&rawdoc! { "_id": 1, "a": 2, "b": 2 }), Shaped::Absent);
    assert_eq!(
        rule.query(),
        Some(rawdoc! { "$and": [{ "a": { "$eq": 1 } }, { "b": { "$gt": 1 } }] })
    );
    let names = |records: Vec<RuleRecord>| {
        records
            .into_iter()
            .map(|record| (record.pattern, record.kind, record.name))
    };
    let names = |records| names(records).collect::<Vec<_>>();
    let record = |pattern: &str, kind, name: &str| (pattern.to_owned(), kind, name.to_owned());
    assert_eq!(
        names(rule.records()),
        [
            record("shop.orders", RuleKind::Filter, "query"),
            record("*.orders", RuleKind::Filter, "query"),
            record("shop.*", RuleKind::Transform, "first"),
            record("shop.orders", RuleKind::Transform, "second"),
        ]
    );
    assert_eq!(rules.records().len(), 4);

    let customers = rules.of(&"shop.customers".parse().unwrap()).unwrap();
    assert!(customers.query().is_none());
    assert_eq!(customers.transforms().count(), 1);
    assert!(rules.of(&"bank.accounts".parse().unwrap()).is_none());
}

#[test]
fn a_document_that_no_rule_changes_is_the_same() {
    let rules = with(FieldRules::builder("drop", "1").drop("secret").build().unwrap());
    assert_eq!(rules.apply(&orders(), &rawdoc! { "_id": 1, "a": 1 }), Ok(Shaped::Same));
    let skips = with(Closure("skip", |_: &RawDocument| Ok(Transformed::Skip)));
    assert_eq!(skips.apply(&orders(), &rawdoc! { "_id": 1 }), Ok(Shaped::Absent));
}

#[test]
fn wrong_results_are_errors_with_the_name_of_the_rule() {
    type Result = std::result::Result<Transformed, RuleError>;
    fn error(result: impl Fn(&RawDocument) -> Result + Send + Sync + 'static) -> FailedRule {
        let rule = with(Closure("mask", result));
        rule.apply(&orders(), &rawdoc! { "_id": 1, "a": "secret" }).unwrap_err()
    }
    let replaced = |document: RawDocumentBuf| Ok(Transformed::Replace(document));
    assert_eq!(
        error(move |_| replaced(rawdoc! { "_id": 2 })).error,
        RuleError::ChangedId
    );
    assert_eq!(
        error(move |_| replaced(rawdoc! { "_id": 1_i64 })).error,
        RuleError::ChangedId
    );
    assert_eq!(error(move |_| replaced(rawdoc! { "a": 1 })).error, RuleError::ChangedId);
    let large = error(move |_| replaced(rawdoc! { "_id": 1, "a": "x".repeat(16 << 20) }));
    assert_eq!(
        large.error,
        RuleError::TooLarge {
            bytes: (16 << 20) + 26 - 4
        }
    );
    let panicked = error(|document| panic!("{document:?}"));
    assert_eq!(panicked.error, RuleError::Panicked);
    assert_eq!(
        error(|_| Err(RuleError::failed("the currency is not known"))).to_string(),
        "the transform `mask` of `shop.*` failed: the currency is not known"
    );
    for error in [large, panicked] {
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[test]
fn the_effects_of_transforms_combine() {
    let mut rules = RuleSet::default();
    rules
        .filter("shop.*", Arc::new(Query::new(doc! { "status.code": 1 }).unwrap()))
        .unwrap();
    rules.transform("shop.*", Arc::new(adds("first"))).unwrap();
    rules.transform("shop.*", Arc::new(adds("second"))).unwrap();
    let rule = rules.of(&orders()).unwrap();
    for (field, expected) in [
        ("other", ShapedDelta::Same),
        ("status", ShapedDelta::Image),
        ("status.time", ShapedDelta::Image),
        ("first", ShapedDelta::Image),
        ("second", ShapedDelta::Image),
        ("nothing", ShapedDelta::Nothing),
        ("panic", ShapedDelta::Image),
    ] {
        let delta = RawDocumentBuf::try_from(&doc! { "$v": 1, "$set": { "other": 1, field: 1 } }).unwrap();
        assert_eq!(rule.delta(&orders(), &delta), expected, "{field}");
    }
    assert_eq!(rule.delta(&orders(), &rawdoc! { "$v": 7 }), ShapedDelta::Image);
}

/// Filters see the document of the source, which has the field.
#[test]
fn a_filter_decides_by_a_field_that_is_removed() {
    let mut rules = RuleSet::default();
    let filter = Query::new(doc! { "kind": 1 }).unwrap();
    rules.filter("shop.*", Arc::new(filter)).unwrap();
    let drops = FieldRules::builder("drops", "1").drop("kind").build().unwrap();
    rules.transform("shop.*", Arc::new(drops)).unwrap();
    let rule = rules.of(&orders()).unwrap();
    for delta in [
        rawdoc! { "$v": 2, "diff": { "u": { "kind": 1 } } },
        rawdoc! { "$v": 2, "diff": { "u": { "kind": 1, "other": 1 } } },
    ] {
        assert_eq!(rule.delta(&orders(), &delta), ShapedDelta::Image);
    }
}

#[test]
fn removed_fields_are_left_out_of_deltas() {
    let mut rules = RuleSet::default();
    let drops = FieldRules::builder("drops", "1").drop("a").mask("m", Mask::ByType);
    rules.transform("shop.*", Arc::new(drops.build().unwrap())).unwrap();
    let keeps = FieldRules::builder("keeps", "1").keep_only(["b", "c"]);
    rules.transform("shop.*", Arc::new(keeps.build().unwrap())).unwrap();
    let rule = rules.of(&orders()).unwrap();
    let set = |fields: bson::Document| {
        rule.delta(
            &orders(),
            &rawdoc! { "$v": 2, "diff": {
                "u": RawDocumentBuf::try_from(&fields).unwrap(), "sc": { "u": { "x": 1 } },
            } },
        )
    };
    let rest = |fields: RawDocumentBuf| {
        ShapedDelta::Changed(rawdoc! { "$v": 2, "diff": { "u": fields, "sc": { "u": { "x": 1 } } } })
    };
    assert_eq!(set(doc! { "b": 1 }), ShapedDelta::Same);
    assert_eq!(set(doc! { "a": 1, "b": 1 }), rest(rawdoc! { "b": 1 }));
    assert_eq!(set(doc! { "other": 1, "b": 1, "a": 2 }), rest(rawdoc! { "b": 1 }));
    // The first transform reads it, although the second removes it.
    assert_eq!(set(doc! { "m": 1, "b": 1 }), ShapedDelta::Image);
    let only = rawdoc! { "$v": 2, "diff": { "d": { "a": false }, "i": { "other": 1 } } };
    assert_eq!(rule.delta(&orders(), &only), ShapedDelta::Nothing);
}
