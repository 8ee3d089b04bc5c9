//! Why a rule has no result for a document.

use super::set::RuleKind;

/// Why a filter or transform has no result for a document. It never contains parts of the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The rule itself refused the document. `message` must not contain parts of the document, because it is logged.
    #[error("{message}")]
    Failed {
        /// What is wrong, in one sentence without a full stop.
        message: String,
    },
    /// The rule panicked.
    #[error("it panicked; correct its code, so that it returns an error instead")]
    Panicked,
    /// The result has another `_id` than the document, or none.
    #[error("its result has another `_id` than the document; correct it, so that `_id` stays as it is")]
    ChangedId,
    /// The result exceeds the 16 MiB that a server stores.
    #[error(
        "its result has {bytes} bytes, more than the 16 MiB that a server stores; correct it, so that documents get smaller"
    )]
    TooLarge {
        /// Size of the result in bytes.
        bytes: usize,
    },
    /// The document is not valid BSON, or is nested deeper than a server allows.
    #[error("the document is malformed; validate its collection on the source")]
    Malformed,
}

impl RuleError {
    /// The error of a rule that cannot decide. `message` must not contain parts of the document, because it is logged.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
        }
    }
}

/// An error of a rule, with the rule that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {kind} `{rule}` of `{pattern}` failed: {error}")]
#[non_exhaustive]
pub struct FailedRule {
    /// Whether it is a filter or a transform.
    pub kind: RuleKind,
    /// Name of the rule.
    pub rule: String,
    /// Pattern that the rule was given for.
    pub pattern: String,
    /// What is wrong.
    #[source]
    pub error: RuleError,
}
