//! Findings of the preflight rules.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use super::code::FindingCode;
use crate::error::{Error, Result};

/// One finding of preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How serious the finding is.
    pub severity: Severity,
    /// The rule, such as [`FindingCode::Downgrade`]. The [`preflight`](crate::preflight#rules) module lists all of them.
    pub code: FindingCode,
    /// What the rule found, and where.
    pub message: String,
    /// How to fix it, with the command to run if there is one.
    pub fix: String,
    /// Names of what the finding concerns, such as collections (`shop.orders`), indexes (`shop.orders index a_1`) or databases: the first
    /// 20. Empty if it concerns a side as a whole.
    pub affected: Vec<String>,
    /// Number of everything that the finding concerns.
    pub affected_count: u64,
    /// Distinguishes causes that have the same code.
    #[serde(skip)]
    cause: &'static str,
}

/// The cause of a finding that is never combined with another.
const ALONE: &str = "alone";

/// Maximum number of names that a finding lists.
const NAMED: usize = 20;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// The migration cannot succeed.
    Blocker,
    /// The migration can succeed, but something may not work as expected.
    Warning,
    /// Information only.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blocker => "blocker",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// Shows the message and the fix on one line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} ({})", self.severity, self.code, self.message, self.fix)
    }
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        code: FindingCode,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            fix: fix.into(),
            affected: Vec::new(),
            affected_count: 0,
            cause: "",
        }
    }

    /// Sets what the finding concerns.
    pub(crate) fn about(self, name: impl Into<String>) -> Self {
        self.about_all(vec![name.into()])
    }

    /// Sets everything that the finding concerns. Repeated names count once.
    pub(crate) fn about_all(mut self, names: Vec<String>) -> Self {
        let mut known = HashSet::new();
        self.affected = names.into_iter().filter(|name| known.insert(name.clone())).collect();
        self.affected_count = self.affected.len() as u64;
        self.affected.truncate(NAMED);
        self
    }

    /// Sets the list of what the finding concerns, without making it one that can be combined with others.
    pub(crate) fn listing(self, names: Vec<String>) -> Self {
        self.about_all(names).because(ALONE)
    }

    /// Names the cause, if other findings of the same code have another one.
    pub(crate) fn because(mut self, cause: &'static str) -> Self {
        self.cause = cause;
        self
    }

    /// Whether two findings can be combined, because they differ only in what they concern.
    pub(crate) fn is_same_cause(&self, other: &Self) -> bool {
        !self.affected.is_empty()
            && !other.affected.is_empty()
            && self.cause != ALONE
            && (self.severity, self.code, self.cause) == (other.severity, other.code, other.cause)
    }

    pub(crate) fn blocker(code: FindingCode, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Blocker, code, message, fix)
    }

    pub(crate) fn warning(code: FindingCode, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message, fix)
    }

    pub(crate) fn note(code: FindingCode, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, message, fix)
    }
}

/// Fails with all findings if one of them is a blocker.
pub(crate) fn refuse(findings: &[Finding]) -> Result<()> {
    if findings.iter().all(|finding| finding.severity != Severity::Blocker) {
        return Ok(());
    }
    Err(Error::refused("start the migration", findings.to_vec()))
}
