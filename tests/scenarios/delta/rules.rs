//! What field rules promise of deltas holds for those that servers log.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use bson::{RawDocument, RawDocumentBuf, doc};
use mongoferry::oplog::delta;
use mongoferry::rules::{DeltaEffect, FieldRules, HashKey, Mask, TouchedFields};
use mongoferry::{Namespace, Transform, Transformed};

use super::bench::Round;
use super::bytes::{assert_same, readable};

/// Some transforms of the names that the random documents have.
pub struct FieldRuleSets {
    namespace: Namespace,
    sets: Vec<(&'static str, FieldRules)>,
    effects: RefCell<HashMap<(&'static str, DeltaEffect), usize>>,
}

impl FieldRuleSets {
    pub fn new() -> Self {
        let key = HashKey::new([7; 32]).unwrap();
        let rules = |name| FieldRules::builder(name, "1");
        let sets = [
            ("drop", rules("drop").drop("a").drop("d.a").drop("9")),
            ("rename", rules("rename").rename("a", "b").rename("l.c", "l.0")),
            (
                "mask",
                rules("mask").mask("i", Mask::ByType).mask("s.u", Mask::text("*")),
            ),
            ("hash", rules("hash").hash("u", &key).hash("c.b", &key)),
            (
                "set",
                rules("set")
                    .set("n", 1)
                    .set("sa.x", "new")
                    .set("tenant", doc! { "id": 7 }),
            ),
            ("keep", rules("keep").keep_only(["a", "b", "l", "10", "s.a", "pad"])),
            (
                "all",
                rules("all")
                    .keep_only(["a", "b", "c", "d", "l", "s"])
                    .rename("b", "u")
                    .hash("c", &key)
                    .set("2", 5)
                    .drop("d.i"),
            ),
        ];
        Self {
            namespace: "shop.orders".parse().unwrap(),
            sets: sets.map(|(name, builder)| (name, builder.build().unwrap())).into(),
            effects: RefCell::default(),
        }
    }

    pub fn check(&self, round: &Round, seed: u64) {
        let mut documents: BTreeMap<i64, RawDocumentBuf> = round.before.clone();
        for (id, entry) in &round.entries {
            let after = match delta::format_of(entry).unwrap() {
                None => entry.clone(),
                Some(_) => delta::apply(&documents[id], entry).unwrap(),
            };
            let before = documents.insert(*id, after.clone()).unwrap();
            if delta::format_of(entry).unwrap().is_some() {
                self.check_delta(&before, entry, &after, || round.story(seed, *id));
                // A resumed run applies a delta to documents that are newer than it.
                let newer = &round.after[id];
                if let Ok(again) = delta::apply(newer, entry) {
                    self.check_delta(newer, entry, &again, || round.story(seed, *id));
                }
            }
        }
    }

    /// All effects were seen, so that none is right only because it never came.
    pub fn check_effects(&self) {
        let effects = self.effects.borrow();
        for (name, _) in &self.sets {
            assert!(effects[&(*name, DeltaEffect::Image)] > 0, "{name}");
            let others = [DeltaEffect::Forward, DeltaEffect::Nothing];
            assert!(
                others.iter().any(|effect| effects.contains_key(&(*name, *effect))),
                "{name}"
            );
        }
        assert!(effects[&("keep", DeltaEffect::Nothing)] > 0);
        assert!(effects[&("keep", DeltaEffect::Forward)] > 0);
    }

    fn check_delta(&self, before: &RawDocument, delta: &RawDocument, after: &RawDocument, story: impl Fn() -> String) {
        let Some(touched) = TouchedFields::of(delta) else {
            return;
        };
        for (name, rules) in &self.sets {
            let effect = rules.delta(&self.namespace, &touched);
            *self.effects.borrow_mut().entry((*name, effect)).or_default() += 1;
            let (was, is) = (self.apply(rules, before), self.apply(rules, after));
            let told = || format!("{name}: {effect:?} of {}\n{}", readable(delta), story());
            match effect {
                DeltaEffect::Image => {}
                DeltaEffect::Nothing => assert_same(&was, &is, told),
                DeltaEffect::Forward => {
                    let forwarded = delta::apply(&was, delta).unwrap_or_else(|error| panic!("{error}\n{}", told()));
                    assert_same(&forwarded, &is, told);
                }
            }
        }
    }

    fn apply(&self, rules: &FieldRules, document: &RawDocument) -> RawDocumentBuf {
        match rules.apply(&self.namespace, document).unwrap() {
            Transformed::Keep => document.to_owned(),
            Transformed::Replace(document) => document,
            Transformed::Skip => panic!("field rules skip no document"),
        }
    }
}
