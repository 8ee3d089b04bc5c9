//! Filters by a query of the server's own language.

use bson::Document;
use bson::raw::{RawDocument, RawDocumentBuf};
use sha2::{Digest, Sha256};

use super::error::RuleError;
use super::predicate::Predicate;
use super::transform::RuleIdentity;
use crate::model::Namespace;

/// A filter by a query.
#[derive(Clone)]
pub struct Query {
    query: RawDocumentBuf,
}

/// A part of a query that is not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the query uses `{operator}` at `{path}`, which is not supported: {reason}")]
#[non_exhaustive]
pub struct Unsupported {
    /// The operator.
    pub operator: String,
    /// The path of the field that it is applied to. Empty for an operator of the whole document.
    pub path: String,
    /// Why, and what to use instead.
    pub reason: String,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// [`Unsupported`] names the operator and its path.
    pub fn new(query: Document) -> Result<Self, Unsupported> {
        match query.keys().next() {
            None => Ok(Self {
                query: RawDocumentBuf::new(),
            }),
            Some(first) => Err(Unsupported {
                operator: "$eq".to_owned(),
                path: first.clone(),
                reason: "no operator is supported yet".to_owned(),
            }),
        }
    }
}

impl Predicate for Query {
    /// The name is `query`. The version is the SHA-256 of the query, because a query may contain secrets.
    fn identity(&self) -> RuleIdentity {
        let digest = Sha256::digest(self.query.as_bytes());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        RuleIdentity::new("query", hex)
    }

    fn fits(&self, _: &Namespace, _: &RawDocument) -> Result<bool, RuleError> {
        Ok(true)
    }

    fn reads(&self, _: &str) -> bool {
        false
    }

    fn query(&self) -> Option<&RawDocument> {
        Some(&self.query)
    }
}
