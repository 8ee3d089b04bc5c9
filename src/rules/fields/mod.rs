//! Transforms of single fields, ready to use.

mod builder;
mod editor;
mod mask;
#[cfg(test)]
mod tests;
mod token;
mod tree;

use std::collections::BTreeSet;

use bson::raw::{RawDocument, RawDocumentBuf};

pub use self::builder::FieldRulesBuilder;
pub use self::mask::Mask;
pub use self::token::HashKey;

use self::tree::{Rule, Tree};
use super::error::RuleError;
use super::touched::TouchedFields;
use super::transform::{DeltaEffect, RuleIdentity, Transform, Transformed};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;

/// A transform by rules for single fields: drop, rename, mask, hash, set, and keep only some.
///
/// ```
/// use mongoferry::rules::{FieldRules, HashKey, Mask};
///
/// let key = HashKey::new(b"32 random bytes from your secrets")?;
/// let rules = FieldRules::builder("masking", "1")
///     .drop("notes")
///     .mask("phones.number", Mask::text("***"))
///     .hash("email", &key)
///     .rename("address.zip", "address.postcode")
///     .set("tenant", 17)
///     .build()?;
/// # Ok::<(), mongoferry::Error>(())
/// ```
///
/// | rule | effect |
/// |---|---|
/// | [`drop`](FieldRulesBuilder::drop) | removes the field |
/// | [`rename`](FieldRulesBuilder::rename) | gives it another name within the same document, at the same place |
/// | [`mask`](FieldRulesBuilder::mask) | replaces the value by a constant |
/// | [`hash`](FieldRulesBuilder::hash) | replaces the value by a token that is the same for equal values |
/// | [`set`](FieldRulesBuilder::set) | gives the field a constant value, whether or not it exists |
/// | [`keep_only`](FieldRulesBuilder::keep_only) | removes all other fields |
///
/// A path is the names of fields with dots between them. It leads into embedded documents, into the documents of an array, and into arrays
/// of arrays of them, as in a projection. A number in a path is the name of a field, and not an index. All paths are those of the source's
/// document. A field whose own name contains a dot cannot be named. Fields without a rule stay as they are, in their order.
///
/// The version in the checkpoint is the given one with a digest of the rules, so that a run notices a changed rule whose version was left
/// as it was.
///
/// # Deltas
/// Changes of top-level fields that are removed as a whole are left out of deltas. What remains of a delta is forwarded if it touches only
/// top-level fields that stay as they are. For all others the document is read.
#[derive(Clone, Debug)]
pub struct FieldRules {
    identity: RuleIdentity,
    tree: Tree,
}

impl FieldRules {
    /// Begins a transform. `name` and `version` stand in the checkpoint and the certificate.
    pub fn builder(name: impl Into<String>, version: impl Into<String>) -> FieldRulesBuilder {
        FieldRulesBuilder::new(RuleIdentity::new(name, version))
    }

    /// Whether a top-level field is removed as a whole, whatever else the document has.
    fn removes_field(&self, field: &str) -> bool {
        match self.tree.get(field.as_bytes()) {
            Some(Rule::Drop) => true,
            None => self.tree.drops_others && field != "_id",
            Some(_) => false,
        }
    }
}

impl Transform for FieldRules {
    fn identity(&self) -> RuleIdentity {
        self.identity.clone()
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        match self.tree.apply(document.as_bytes())? {
            None => Ok(Transformed::Keep),
            Some(bytes) => RawDocumentBuf::from_bytes(bytes)
                .map(Transformed::Replace)
                .map_err(|_| RuleError::Malformed),
        }
    }

    fn delta(&self, _: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        let (mut has_removed, mut has_kept) = (false, false);
        for field in touched.iter() {
            match self.tree.get(field.as_bytes()) {
                _ if self.removes_field(field) => has_removed = true,
                None | Some(Rule::Keep) => has_kept = true,
                Some(_) => return DeltaEffect::Image,
            }
        }
        match (has_removed, has_kept) {
            (true, true) => DeltaEffect::Image,
            (true, false) => DeltaEffect::Nothing,
            (false, _) => DeltaEffect::Forward,
        }
    }

    fn removes(&self, _: &Namespace, field: &str) -> bool {
        self.removes_field(field)
    }

    fn changes(&self) -> Option<BTreeSet<String>> {
        let names = self.tree.names().map(|name| String::from_utf8_lossy(name).into_owned());
        (!self.tree.drops_others).then(|| names.collect())
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfiguration, "build field rules", message)
}
