//! Rules for random workloads, and what the target has to have under them, computed independently of the crate.

use std::collections::BTreeSet;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{RawBsonRef, cstr};
use mongoferry::rules::{DeltaEffect, Predicate, RuleError, RuleIdentity, TouchedFields, Transform, Transformed};
use mongoferry::{MigrationBuilder, Namespace, OnRuleError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The rules of one run.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether the filter and the transform say what a change of each field can do.
    precise: bool,
    /// The filter keeps documents whose `u` is below this.
    below: i32,
    pub on_error: OnRuleError,
    /// The transform fails for documents whose `n` is divisible by this.
    fails: i32,
}

impl Rules {
    pub fn new(seed: u64, ids: i32) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5EED);
        let letters = Namespace::new("letters", "dead");
        Self {
            precise: random.random_bool(0.7),
            below: random.random_range(0..ids * 3 / 2),
            on_error: [OnRuleError::Fail, OnRuleError::Skip, OnRuleError::DeadLetter(letters)]
                [random.random_range(0..3)]
            .clone(),
            fails: 5,
        }
    }

    pub fn give(&self, builder: MigrationBuilder) -> MigrationBuilder {
        builder
            .filter_with("shop.a", self.clone())
            .filter_with("shop.c", self.clone())
            .transform("shop.a", self.clone())
            .transform("shop.b", self.clone())
            .on_rule_error(self.on_error.clone())
    }

    /// The document on the target.
    pub fn expected(&self, name: &str, document: &RawDocumentBuf) -> Option<RawDocumentBuf> {
        if ["shop.a", "shop.c"].contains(&name) && document.get_i32("u").unwrap() >= self.below {
            return None;
        }
        if ["shop.a", "shop.b"].contains(&name) {
            if self.fails(document) {
                return None;
            }
            return changed(document);
        }
        Some(document.clone())
    }

    /// Whether the transform fails for a document of a collection that it is for.
    pub fn is_dead(&self, name: &str, document: &RawDocumentBuf) -> bool {
        let fits = name == "shop.b" || (name == "shop.a" && document.get_i32("u").unwrap() < self.below);
        fits && self.fails(document)
    }

    fn fails(&self, document: &RawDocument) -> bool {
        self.on_error != OnRuleError::Fail && document.get_i32("n").unwrap() % self.fails == 0
    }
}

/// Leaves `list` out, renames `pad`, and leaves documents out by what is in `in`.
fn changed(document: &RawDocument) -> Option<RawDocumentBuf> {
    let mut changed = RawDocumentBuf::new();
    for field in document {
        let (name, value) = field.unwrap();
        match (name.as_str(), value) {
            ("list", _) => {}
            ("pad", value) => changed.append(cstr!("text"), value),
            ("in", RawBsonRef::Document(inner)) if inner.get_i32("y").is_ok_and(|y| y % 4 == 0) => return None,
            (_, value) => changed.append(name, value),
        }
    }
    Some(changed)
}

impl Predicate for Rules {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("below", self.below.to_string())
    }

    fn fits(&self, _: &Namespace, document: &RawDocument) -> Result<bool, RuleError> {
        Ok(document.get_i32("u").unwrap() < self.below)
    }

    fn reads(&self, field: &str) -> bool {
        !self.precise || field == "u"
    }
}

impl Transform for Rules {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("changed", "1")
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        if self.fails(document) {
            return Err(RuleError::failed("the number is not allowed"));
        }
        Ok(match changed(document) {
            Some(changed) if changed.as_bytes() == document.as_bytes() => Transformed::Keep,
            Some(changed) => Transformed::Replace(changed),
            None => Transformed::Skip,
        })
    }

    fn delta(&self, _: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        let touched: BTreeSet<&str> = touched.iter().collect();
        if !self.precise {
            DeltaEffect::Image
        } else if touched.iter().all(|field| *field == "list") {
            DeltaEffect::Nothing
        } else if ["list", "pad", "in", "n"].iter().any(|field| touched.contains(field)) {
            DeltaEffect::Image
        } else {
            DeltaEffect::Forward
        }
    }
}
