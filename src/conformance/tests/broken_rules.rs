//! Each way to break the contract of rules fails its check.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{doc, rawdoc};

use super::super::{ConformanceFailure, check_predicate, check_transform};
use crate::model::Namespace;
use crate::rules::{
    DeltaEffect, FieldRules, HashKey, Mask, Predicate, Query, RuleError, RuleIdentity, TouchedFields, Transform,
    Transformed,
};

type Apply = Box<dyn Fn(&RawDocument) -> Transformed + Send + Sync>;

/// A transform that drops the field `secret` and promises a few things.
struct Promising {
    apply: Apply,
    effect: DeltaEffect,
    removes: bool,
    changes: Option<BTreeSet<String>>,
    version: Option<AtomicI32>,
    inverse: Option<Arc<dyn Transform>>,
}

impl Promising {
    fn new(apply: impl Fn(&RawDocument) -> Transformed + Send + Sync + 'static) -> Self {
        Self {
            apply: Box::new(apply),
            effect: DeltaEffect::Image,
            removes: false,
            changes: None,
            version: None,
            inverse: None,
        }
    }
}

impl Transform for Promising {
    fn identity(&self) -> RuleIdentity {
        let version = self
            .version
            .as_ref()
            .map(|version| version.fetch_add(1, Ordering::Relaxed));
        RuleIdentity::new("promising", version.unwrap_or(1).to_string())
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        Ok((self.apply)(document))
    }

    fn delta(&self, _: &Namespace, _: &TouchedFields<'_>) -> DeltaEffect {
        self.effect
    }

    fn removes(&self, _: &Namespace, field: &str) -> bool {
        self.removes && field == "secret"
    }

    fn changes(&self) -> Option<BTreeSet<String>> {
        self.changes.clone()
    }

    fn inverse(&self) -> Option<Arc<dyn Transform>> {
        self.inverse.clone()
    }
}

fn namespace() -> Namespace {
    "shop.orders".parse().unwrap()
}

fn samples() -> [RawDocumentBuf; 3] {
    [
        rawdoc! { "_id": 1, "secret": "hidden-text", "b": { "x": 1 }, "list": [{ "x": 1 }], "d": 1 },
        rawdoc! { "_id": 2, "b": 1, "secret": { "x": "hidden-text" } },
        rawdoc! { "_id": 3 },
    ]
}

fn rules() -> FieldRules {
    FieldRules::builder("rules", "1").drop("secret").build().unwrap()
}

fn applied(document: &RawDocument) -> Transformed {
    rules().apply(&namespace(), document).unwrap()
}

#[track_caller]
fn fails(transform: &Promising, check: &str) {
    let failure = check_transform(transform, &namespace(), &samples()).unwrap_err();
    assert_eq!(failure.check, check, "{failure}");
    assert!(!failure.to_string().contains("hidden-text"), "{failure}");
}

#[test]
fn field_rules_conform() {
    let key = HashKey::new([1; 16]).unwrap();
    let rules = || FieldRules::builder("rules", "1");
    for rules in [
        rules().drop("secret").rename("b", "c"),
        rules().drop("b.x").hash("secret", &key).set("tenant", 1),
        rules().mask("list.x", Mask::ByType).rename("d", "secret"),
        rules().keep_only(["b", "d", "list.x"]).set("d", 5),
        rules(),
    ] {
        check_transform(&rules.build().unwrap(), &namespace(), &samples()).unwrap();
    }
}

#[test]
fn a_transform_that_breaks_its_contract_fails() {
    let calls = AtomicI32::new(0);
    let count = move |document: &RawDocument| {
        let mut after = document.to_owned();
        after.append(bson::raw::cstr!("calls"), calls.fetch_add(1, Ordering::Relaxed));
        Transformed::Replace(after)
    };
    fails(&Promising::new(count), "the same document has the same result");
    let id = |_: &RawDocument| Transformed::Replace(rawdoc! { "_id": 5 });
    fails(&Promising::new(id), "a result is a document with the same _id");
    let malformed = |document: &RawDocument| {
        let mut bytes = document.as_bytes().to_vec();
        bytes.splice(bytes.len() - 1.., *b"\x70a\0\0");
        bytes[0] += 3;
        Transformed::Replace(RawDocumentBuf::from_bytes(bytes).unwrap())
    };
    fails(&Promising::new(malformed), "a result is a document with the same _id");
    let wrong_changes = Promising {
        changes: Some(BTreeSet::from(["b".to_owned()])),
        ..Promising::new(applied)
    };
    fails(&wrong_changes, "only the named fields change");
    for effect in [DeltaEffect::Forward, DeltaEffect::Nothing] {
        let promising = Promising {
            effect,
            ..Promising::new(applied)
        };
        fails(&promising, "a delta has the effect that is promised");
    }
    let removes = |apply: Apply| Promising {
        removes: true,
        ..Promising::new(apply)
    };
    check_transform(&removes(Box::new(applied)), &namespace(), &samples()).unwrap();
    let keeps = removes(Box::new(|_| Transformed::Keep));
    fails(&keeps, "a delta has the effect that is promised");
    let skips = |document: &RawDocument| match document.get_str("secret") {
        Ok(_) => Transformed::Skip,
        Err(_) => Transformed::Keep,
    };
    let forwards = Promising {
        effect: DeltaEffect::Forward,
        ..Promising::new(skips)
    };
    fails(&forwards, "a delta has the effect that is promised");
    let renamed = Promising {
        version: Some(AtomicI32::new(0)),
        ..Promising::new(applied)
    };
    fails(&renamed, "the identity of a rule stays the same");
    let inverted = Promising {
        inverse: Some(Arc::new(Promising::new(applied))),
        ..Promising::new(applied)
    };
    fails(&inverted, "the inverse gives the document back");
}

/// A filter that promises what another one does not hold.
struct Wrong {
    inner: Query,
    reads: &'static str,
    query: Option<RawDocumentBuf>,
}

impl Predicate for Wrong {
    fn identity(&self) -> RuleIdentity {
        self.inner.identity()
    }

    fn fits(&self, namespace: &Namespace, document: &RawDocument) -> Result<bool, RuleError> {
        self.inner.fits(namespace, document)
    }

    fn reads(&self, field: &str) -> bool {
        field == self.reads
    }

    fn query(&self) -> Option<&RawDocument> {
        self.query.as_deref()
    }
}

#[test]
fn a_filter_is_checked_by_what_it_reads_and_its_query() {
    let query = || Query::new(doc! { "b.x": { "$exists": true } }).unwrap();
    let check = |reads, pushed_down| -> Result<(), ConformanceFailure> {
        let filter = Wrong {
            inner: query(),
            reads,
            query: pushed_down,
        };
        check_predicate(&filter, &namespace(), &samples())
    };
    check_predicate(&query(), &namespace(), &samples()).unwrap();
    check("b", Some(rawdoc! { "b.x": { "$gt": 0 } })).unwrap();
    let failure = check("secret", None).unwrap_err();
    assert_eq!(failure.check, "a field that is not read decides nothing");
    let failure = check("b", Some(rawdoc! { "b": { "$exists": true } })).unwrap_err();
    assert_eq!(failure.check, "the query selects the same documents");
}
