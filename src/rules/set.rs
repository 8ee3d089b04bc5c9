//! All rules of a migration, by the pattern that they were given for.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::document_rule::DocumentRule;
use super::predicate::Predicate;
use super::transform::{RuleIdentity, Transform};
use crate::error::Result;
use crate::model::{Namespace, checked_pattern, matches_pattern};

/// The filters and transforms of a migration.
#[derive(Clone, Default)]
pub(crate) struct RuleSet {
    rules: Vec<PatternRule>,
}

/// A rule and the pattern that it was given for.
#[derive(Clone)]
pub(super) struct PatternRule {
    pub pattern: Arc<str>,
    pub identity: RuleIdentity,
    pub rule: Rule,
}

#[derive(Clone)]
pub(super) enum Rule {
    Filter(Arc<dyn Predicate>),
    Transform(Arc<dyn Transform>),
}

/// Whether a rule is a filter or a transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuleKind {
    /// Decides which documents migrate.
    Filter,
    /// Decides in which form they arrive.
    Transform,
}

/// A rule as the checkpoint and the certificate name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleRecord {
    /// Pattern of the source's namespaces, such as `shop.*`.
    pub pattern: String,
    /// Whether it is a filter or a transform.
    pub kind: RuleKind,
    /// Name of the rule.
    pub name: String,
    /// Version of the rule.
    pub version: String,
}

impl RuleSet {
    /// Adds a filter. A document has to fit all filters whose patterns match its namespace.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if `pattern` is malformed.
    pub fn filter(&mut self, pattern: &str, filter: Arc<dyn Predicate>) -> Result<()> {
        let identity = filter.identity();
        self.push(pattern, identity, Rule::Filter(filter))
    }

    /// Adds a transform. It gets the results of those that were added before.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) if `pattern` is malformed.
    pub fn transform(&mut self, pattern: &str, transform: Arc<dyn Transform>) -> Result<()> {
        let identity = transform.identity();
        self.push(pattern, identity, Rule::Transform(transform))
    }

    fn push(&mut self, pattern: &str, identity: RuleIdentity, rule: Rule) -> Result<()> {
        self.rules.push(PatternRule {
            pattern: checked_pattern(pattern)?.into(),
            identity,
            rule,
        });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules of a namespace of the source. `None` if its documents arrive as they are.
    pub fn of(&self, namespace: &Namespace) -> Option<Arc<DocumentRule>> {
        let matching = |rule: &&PatternRule| matches_pattern(&rule.pattern, namespace.as_str());
        DocumentRule::new(self.rules.iter().filter(matching).cloned()).map(Arc::new)
    }

    /// The transforms in the order in which they were given, with `None` in the place of each filter.
    pub fn transforms_given(&self) -> impl DoubleEndedIterator<Item = Option<&Arc<dyn Transform>>> + ExactSizeIterator {
        self.rules.iter().map(|rule| match &rule.rule {
            Rule::Filter(_) => None,
            Rule::Transform(transform) => Some(transform),
        })
    }

    /// The rules in the order in which they were given, for the checkpoint and the certificate. Equal records mean equal results.
    pub fn records(&self) -> Vec<RuleRecord> {
        self.rules.iter().map(PatternRule::record).collect()
    }
}

impl PatternRule {
    pub(super) fn kind(&self) -> RuleKind {
        match self.rule {
            Rule::Filter(_) => RuleKind::Filter,
            Rule::Transform(_) => RuleKind::Transform,
        }
    }

    pub(super) fn record(&self) -> RuleRecord {
        RuleRecord {
            pattern: self.pattern.as_ref().to_owned(),
            kind: self.kind(),
            name: self.identity.name.clone(),
            version: self.identity.version.clone(),
        }
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Transform => "transform",
        })
    }
}
