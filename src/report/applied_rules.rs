//! What filters and transforms have done to a collection.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::numbers::grouped;
use crate::rules::RuleRecord;

/// What the filters and transforms of a migration have done to a collection. Its documents were compared with what the rules make of those of
/// the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AppliedRules {
    /// The rules: filters first, then transforms in the order in which they were applied.
    pub rules: Vec<RuleRecord>,
    /// Number of documents on the source, according to its metadata, which is an estimate after an unclean shutdown of its primary. Those
    /// that the target does not have were left out by the rules, or because a rule failed.
    pub source_documents: u64,
    /// Number of documents that are left out because a rule failed for them.
    pub failed: u64,
}

impl fmt::Display for AppliedRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents on the source", grouped(self.source_documents))?;
        if self.failed > 0 {
            write!(f, ", {} left out because a rule failed", grouped(self.failed))?;
        }
        for rule in &self.rules {
            write!(f, ", {} `{}` {}", rule.kind, rule.name, rule.version)?;
        }
        Ok(())
    }
}
