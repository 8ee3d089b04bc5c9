//! Findings of the preflight rules.

use std::fmt;

use super::code::Code;
use crate::error::{Error, Result};

/// One finding of preflight.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How serious the finding is.
    pub severity: Severity,
    /// Stable name of the rule, such as `downgrade`. The [`preflight`](crate::preflight) module lists all names.
    pub code: &'static str,
    /// What the rule found, and where.
    pub message: String,
    /// How to fix it, with the command to run if there is one.
    pub fix: String,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

impl Finding {
    pub(crate) fn new(severity: Severity, code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity,
            code: code.as_str(),
            message: message.into(),
            fix: fix.into(),
        }
    }

    pub(crate) fn blocker(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Blocker, code, message, fix)
    }

    pub(crate) fn warning(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message, fix)
    }

    pub(crate) fn note(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
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
