//! What a rule has found.

use std::fmt;

use super::code::Code;
use crate::error::{Error, Result};

/// Something that preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// A stable name of the rule, such as `downgrade`; the [`preflight`](crate::preflight) module lists them all.
    pub code: &'static str,
    /// What was seen, and where.
    pub message: String,
    /// How to put it right: where a command does it, the command.
    pub fix: String,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The migration cannot succeed.
    Blocker,
    /// It can, but something may not be as expected.
    Warning,
    /// Good to know.
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

/// An error with every finding, if there is a blocker among them.
pub(crate) fn refuse(findings: &[Finding]) -> Result<()> {
    if findings.iter().all(|finding| finding.severity != Severity::Blocker) {
        return Ok(());
    }
    Err(Error::refused("start the migration", findings.to_vec()))
}
