//! Findings of the preflight rules.

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
}

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
    pub(crate) fn new(severity: Severity, code: FindingCode, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            fix: fix.into(),
        }
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
