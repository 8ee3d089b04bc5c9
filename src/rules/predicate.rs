//! The contract of filters.

use bson::raw::RawDocument;

use super::error::RuleError;
use super::transform::RuleIdentity;
use crate::model::Namespace;

/// Decides which documents migrate. [`Query`](super::Query) is one by a query of the server.
///
/// # Contract
/// 1. **Deterministic.** The result depends on the namespace and the bytes of the document only, as that of a
///    [`Transform`](super::Transform).
/// 2. **The version changes with the decision.** A checkpoint stores [`identity`](Self::identity).
/// 3. **[`reads`](Self::reads) and [`query`](Self::query) promise only what holds** for all documents.
/// 4. **No input panics or blocks.**
///
/// A document that begins or ceases to fit appears on the target or is removed from it.
pub trait Predicate: Send + Sync + 'static {
    /// Name and version, for the checkpoint and the certificate. Always the same.
    fn identity(&self) -> RuleIdentity;

    /// Returns `true` if the document migrates. `document` is the one of the source, before any transform.
    ///
    /// # Errors
    /// [`RuleError::Failed`] if it cannot be decided. [`on_rule_error`](crate::MigrationBuilder::on_rule_error) says what follows; by
    /// default it ends the run.
    fn fits(&self, namespace: &Namespace, document: &RawDocument) -> Result<bool, RuleError>;

    /// Returns `true` if a change of this top-level field, or of something inside it, can change the decision. By default `true`.
    fn reads(&self, field: &str) -> bool {
        let _ = field;
        true
    }

    /// A query that selects exactly the same documents on every supported server, under the collation `simple`. Reads of the source then
    /// return only these. By default there is none, and everything is read.
    fn query(&self) -> Option<&RawDocument> {
        None
    }
}
