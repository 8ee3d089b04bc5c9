//! The contract of transforms.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};
use serde::{Deserialize, Serialize};

use super::error::RuleError;
use super::touched::TouchedFields;
use crate::model::Namespace;

/// A deterministic function from a document of the source to what the target has in its place.
///
/// # Contract
/// 1. **Deterministic.** The result depends on the namespace and the bytes of the document only: not on the time, random numbers, other
///    documents, earlier calls, or the machine. It is computed again for the copy, for each change, for the comparison of both sides, and
///    after a restart. If two results differ, verification reports a difference that does not exist, or repairs what is right.
/// 2. **`_id` stays** byte for byte. Another `_id` is an error of the rule, like those that it returns.
/// 3. **The result is a valid document** of at most 16 MiB.
/// 4. **The version changes with the function.** A checkpoint stores [`identity`](Self::identity). A run with another identity does not
///    continue with what an earlier function has written, unless [`keeps_copy_of`](Self::keeps_copy_of) allows it.
/// 5. **[`delta`](Self::delta) and [`removes`](Self::removes) promise only what holds** for all documents, not only for likely ones.
/// 6. **No input panics or blocks.** It is called on the threads of the run. A panic is caught, and ends the run.
///
/// The feature `test-util` has `conformance::check_transform`, which tests this on samples.
pub trait Transform: Send + Sync + 'static {
    /// Name and version, for the checkpoint and the certificate. Always the same.
    fn identity(&self) -> RuleIdentity;

    /// What the target has in place of `document`. `namespace` is the one of the source.
    ///
    /// # Errors
    /// [`RuleError::Failed`] if there is no right result. [`on_rule_error`](crate::MigrationBuilder::on_rule_error) says what follows; by
    /// default it ends the run.
    fn apply(&self, namespace: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError>;

    /// What has to be done for a change that the oplog contains as a delta. By default the document is read again and transformed, which is
    /// always right. The other effects avoid that read.
    fn delta(&self, namespace: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        let _ = (namespace, touched);
        DeltaEffect::Image
    }

    /// Returns `true` if no result has this top-level field, and no result depends on it: for every document, the function returns the same
    /// with the field, whatever its value is, and without it. Changes of the field are then left out of deltas, and
    /// [`delta`](Self::delta) decides about the others. By default `false`. Never `true` for `_id`.
    fn removes(&self, namespace: &Namespace, field: &str) -> bool {
        let _ = (namespace, field);
        false
    }

    /// Returns `true` if documents that were copied with the function `earlier` are what this function returns. The run then continues with
    /// the copy, and compares everything again. By default `false`.
    fn keeps_copy_of(&self, earlier: &RuleIdentity) -> bool {
        let _ = earlier;
        false
    }

    /// The inverse function, for the way back. By default there is none.
    fn inverse(&self) -> Option<Arc<dyn Transform>> {
        None
    }

    /// The top-level fields that may differ from those of the source, or be missing. `None`, the default, means any but `_id`. Preflight
    /// looks for indexes and validators that use these fields.
    fn changes(&self) -> Option<BTreeSet<String>> {
        None
    }
}

/// The result of [`Transform::apply`].
#[derive(Clone, Debug, PartialEq)]
pub enum Transformed {
    /// The target has the same document.
    Keep,
    /// The target has this document. Its `_id` is that of the source's document.
    Replace(RawDocumentBuf),
    /// The target has no such document.
    Skip,
}

/// What has to be done on the target for a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeltaEffect {
    /// Apply the delta. For every document of the source, the transformed document with the delta applied is, byte for byte, what the
    /// function returns for the source's document with the delta applied. A skipped document stays skipped, and one that is not skipped stays
    /// so.
    Forward,
    /// Nothing: for every document, the function returns the same before and after the delta.
    Nothing,
    /// Read the document again, and transform it. Always right.
    Image,
}

/// Name and version of a rule.
///
/// Two rules with the same identity return the same result for every document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleIdentity {
    /// What the rule is called in reports, the certificate and errors.
    pub name: String,
    /// Changes with the function.
    pub version: String,
}

impl RuleIdentity {
    /// Creates an identity.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
        }
    }
}

impl fmt::Display for RuleIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}
