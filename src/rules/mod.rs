//! Filters and transforms: which documents arrive on the target, and in which form.
//!
//! A *filter* ([`Predicate`], [`Query`]) decides by the source's document whether it migrates. A *transform* ([`Transform`], [`FieldRules`])
//! is a function of the source's document to what the target has in its place. Both are deterministic and know nothing but the namespace and
//! the document, so the copy, every change and every comparison get the same result.
//!
//! Filters see the document of the source, before any transform. If several filters match a namespace, a document has to fit all of them. If
//! several transforms match, each gets the result of the one before, in the order in which they were given.

mod delta_without;
mod document_rule;
mod error;
mod fields;
mod predicate;
mod query;
mod set;
#[cfg(test)]
mod tests;
mod touched;
mod transform;

#[cfg(feature = "test-util")]
pub(crate) use self::delta_without::delta_without;
pub(crate) use self::document_rule::{DocumentRule, Shaped, ShapedDelta};
pub use self::error::{FailedRule, RuleError};
pub use self::fields::{FieldRules, FieldRulesBuilder, HashKey, Mask};
pub use self::predicate::Predicate;
pub use self::query::{Query, Unsupported};
pub(crate) use self::set::RuleSet;
pub use self::set::{RuleKind, RuleRecord};
pub use self::touched::TouchedFields;
pub use self::transform::{DeltaEffect, RuleIdentity, Transform, Transformed};
