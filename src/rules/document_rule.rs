//! The rules of one namespace, as one function.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};

use super::delta_without::delta_without;
use super::error::{FailedRule, RuleError};
use super::predicate::Predicate;
use super::set::{PatternRule, Rule, RuleRecord};
use super::touched::TouchedFields;
use super::transform::{DeltaEffect, Transform, Transformed};
use crate::model::Namespace;
use crate::model::raw::writer::{IndexNames, RawWriter};
use crate::order::id_of;

/// The filters and transforms of one namespace.
pub(crate) struct DocumentRule {
    filters: Vec<(PatternRule, Arc<dyn Predicate>)>,
    transforms: Vec<(PatternRule, Arc<dyn Transform>)>,
}

/// What the target has in place of a document of the source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shaped {
    /// The same document.
    Same,
    /// Another document with the same `_id`.
    Changed(RawDocumentBuf),
    /// Nothing.
    Absent,
}

/// What has to be done on the target for a delta.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ShapedDelta {
    /// Apply it as it is.
    Same,
    /// Apply this one instead, which lacks the changes of fields that the target never has.
    Changed(RawDocumentBuf),
    /// Nothing.
    Nothing,
    /// Read the document again.
    Image,
}

/// Maximum size of a document that clients may store.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

impl DocumentRule {
    pub(super) fn new(rules: impl Iterator<Item = PatternRule>) -> Option<Self> {
        let (mut filters, mut transforms) = (Vec::new(), Vec::new());
        for rule in rules {
            match rule.rule.clone() {
                Rule::Filter(filter) => filters.push((rule, filter)),
                Rule::Transform(transform) => transforms.push((rule, transform)),
            }
        }
        (!filters.is_empty() || !transforms.is_empty()).then_some(Self { filters, transforms })
    }

    /// What the target has in place of `document`.
    pub fn apply(&self, namespace: &Namespace, document: &RawDocument) -> Result<Shaped, FailedRule> {
        for (rule, filter) in &self.filters {
            if !caught(rule, || filter.fits(namespace, document))? {
                return Ok(Shaped::Absent);
            }
        }
        let mut changed: Option<RawDocumentBuf> = None;
        for (rule, transform) in &self.transforms {
            let before = changed.as_deref().unwrap_or(document);
            match caught(rule, || transform.apply(namespace, before))? {
                Transformed::Keep => {}
                Transformed::Skip => return Ok(Shaped::Absent),
                Transformed::Replace(after) => {
                    check(document, &after).map_err(|error| failed(rule, error))?;
                    changed = Some(after);
                }
            }
        }
        Ok(changed.map_or(Shaped::Same, Shaped::Changed))
    }

    /// What has to be done for a delta, the `o` of an update entry. A rule that panics gets the document.
    pub fn delta(&self, namespace: &Namespace, delta: &RawDocument) -> ShapedDelta {
        let Some(touched) = TouchedFields::of(delta) else {
            return ShapedDelta::Image;
        };
        let effect = || self.effect(namespace, touched);
        match catch_unwind(AssertUnwindSafe(effect)) {
            Ok((DeltaEffect::Forward, removed)) if removed.is_empty() => ShapedDelta::Same,
            Ok((DeltaEffect::Forward, removed)) => {
                delta_without(delta, &removed).map_or(ShapedDelta::Image, ShapedDelta::Changed)
            }
            Ok((DeltaEffect::Nothing, _)) => ShapedDelta::Nothing,
            Ok((DeltaEffect::Image, _)) | Err(_) => ShapedDelta::Image,
        }
    }

    /// A query that every document fits that the filters keep, for reads under the collation `simple`. What it returns still has to go
    /// through [`apply`](Self::apply): not every filter has a query.
    pub fn query(&self) -> Option<RawDocumentBuf> {
        let queries: Vec<&RawDocument> = self.filters.iter().filter_map(|(_, filter)| filter.query()).collect();
        match queries.as_slice() {
            [] => None,
            [query] => Some((*query).to_owned()),
            queries => {
                let mut writer = RawWriter::with_capacity(0);
                let mut names = IndexNames::default();
                writer.open_array("$and");
                for query in queries {
                    writer.document(names.next(), query);
                }
                Some(writer.finish())
            }
        }
    }

    /// The rules, filters first, each in the order in which they were given.
    pub fn records(&self) -> Vec<RuleRecord> {
        let filters = self.filters.iter().map(|(rule, _)| rule);
        let transforms = self.transforms.iter().map(|(rule, _)| rule);
        filters.chain(transforms).map(PatternRule::record).collect()
    }

    /// The transforms in order, for preflight.
    pub fn transforms(&self) -> impl Iterator<Item = &Arc<dyn Transform>> {
        self.transforms.iter().map(|(_, transform)| transform)
    }

    /// Returns the effect of the changes to fields that are not removed, and the fields that are.
    ///
    /// The effects combine because each is promised for all documents. If a transform forwards the delta, the next one gets a document that
    /// changes by the same delta. If a transform returns the same before and after, so do all that follow. A removed field neither is in the
    /// result nor has a part in it, and deltas move no other field when they change one, so that its changes can be left out.
    fn effect<'a>(&self, namespace: &Namespace, mut touched: TouchedFields<'a>) -> (DeltaEffect, Vec<&'a str>) {
        let mut removed = Vec::new();
        let decides = |(_, filter): &(_, Arc<dyn Predicate>)| touched.iter().any(|field| filter.reads(field));
        if self.filters.iter().any(decides) {
            return (DeltaEffect::Image, removed);
        }
        for (_, transform) in &self.transforms {
            removed.extend(touched.split_off(|field| transform.removes(namespace, field)));
            if touched.is_empty() && !removed.is_empty() {
                return (DeltaEffect::Nothing, removed);
            }
            match transform.delta(namespace, &touched) {
                DeltaEffect::Forward => {}
                effect => return (effect, removed),
            }
        }
        (DeltaEffect::Forward, removed)
    }
}

impl fmt::Debug for DocumentRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

/// Calls a rule, which may be code of the host. The message of a panic is not shown, because it may contain parts of the document.
fn caught<T>(rule: &PatternRule, call: impl FnOnce() -> Result<T, RuleError>) -> Result<T, FailedRule> {
    let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(RuleError::Panicked));
    result.map_err(|error| failed(rule, error))
}

fn failed(rule: &PatternRule, error: RuleError) -> FailedRule {
    FailedRule {
        kind: rule.kind(),
        rule: rule.identity.name.clone(),
        pattern: rule.pattern.as_ref().to_owned(),
        error,
    }
}

fn check(before: &RawDocument, after: &RawDocument) -> Result<(), RuleError> {
    let id = |document| id_of(document).map(|id| (id.element_type(), id.bytes()));
    let bytes = after.as_bytes().len();
    if id(before) != id(after) {
        Err(RuleError::ChangedId)
    } else if bytes > MAX_DOCUMENT_BYTES {
        Err(RuleError::TooLarge { bytes })
    } else {
        Ok(())
    }
}
