//! Filters by a query of the server's own language.

mod condition;
mod parse;
mod path;
mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bson::Document;
use bson::raw::{RawDocument, RawDocumentBuf};
use sha2::{Digest, Sha256};

use self::condition::Expression;
use super::error::RuleError;
use super::predicate::Predicate;
use super::transform::RuleIdentity;
use crate::model::Namespace;
use crate::model::raw::writer::RawWriter;

/// A filter by a query, with the meaning that it has for servers.
///
/// Reads of the source send the query to the server. Changes are decided in memory, by the whole document. Both decide the same.
///
/// ```
/// use mongoferry::bson::doc;
/// use mongoferry::rules::Query;
///
/// let recent = Query::new(doc! { "status": { "$in": ["paid", "sent"] }, "lines": { "$elemMatch": { "price": { "$gt": 10 } } } })?;
/// let refused = Query::new(doc! { "name": { "$regex": "^A" } }).unwrap_err();
/// assert_eq!((refused.operator.as_str(), refused.path.as_str()), ("$regex", "name"));
/// # Ok::<(), mongoferry::rules::Unsupported>(())
/// ```
///
/// | supported | restriction |
/// |---|---|
/// | `{path: value}`, `$eq`, `$ne`, `$in`, `$nin`, `$all` | no regular expressions |
/// | `$lt`, `$lte`, `$gt`, `$gte` | no regular expressions; with an array, a symbol, a DBPointer, MinKey or MaxKey only decided in memory, so that everything is read |
/// | `$exists` | true, false, 1 or 0 |
/// | `$type` | names and numbers of types, and `number` |
/// | `$size` | a whole number |
/// | `$mod` | whole numbers; only decided in memory, so that everything is read |
/// | `$elemMatch`, `$not`, `$and`, `$or`, `$nor` | at most 40 levels |
/// | `$comment` | is ignored |
///
/// All others are refused: regular expressions, because the server's engine is another one; `$where`, `$expr`, `$jsonSchema`, `$text`, the
/// geographic ones and those of bits. So are DBPointers with a NUL in their namespace, of which servers differ. Write a [`Predicate`] for
/// them.
///
/// Strings compare by their bytes, whatever the collation of the collection. As for servers before 8.0, null also finds undefined, a
/// deprecated type, including by `$in`. `$mod` cuts off fractions, and finds no number that does not fit into 64 bits.
#[derive(Clone)]
pub struct Query {
    expression: Arc<Expression>,
    fields: BTreeSet<String>,
    /// For the server. `None` if versions differ on its meaning.
    pushed_down: Option<RawDocumentBuf>,
    digest: String,
}

/// A part of a query that is not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{operator}` {}is not supported: {reason}", At(path))]
#[non_exhaustive]
pub struct Unsupported {
    /// The operator.
    pub operator: String,
    /// The path of the field that it is applied to. Empty for an operator of whole documents.
    pub path: String,
    /// Why, and what to use instead.
    pub reason: &'static str,
}

struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            path => write!(f, "at `{path}` "),
        }
    }
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// [`Unsupported`] names the operator and its path.
    pub fn new(query: Document) -> Result<Self, Unsupported> {
        let expression = parse::document(&query, 0)?;
        let bytes = RawDocumentBuf::try_from(&query).map_err(|_| Unsupported {
            operator: "$and".to_owned(),
            path: String::new(),
            reason: "it is no valid BSON; use names without NUL",
        })?;
        let digest = Sha256::digest(bytes.as_bytes());
        let mut fields = Vec::new();
        expression.add_fields(&mut fields);
        let fields = fields.into_iter().map(str::to_owned).collect();
        let mut writer = RawWriter::with_capacity(bytes.as_bytes().len());
        let pushed_down = render::render(&expression, &mut writer).map(|()| writer.finish());
        Ok(Self {
            fields,
            pushed_down,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            expression: Arc::new(expression),
        })
    }

    /// Returns `true` if the query selects the document, whatever its collection.
    pub(crate) fn selects(&self, document: &RawDocument) -> Result<bool, RuleError> {
        self.expression.fits(document.as_bytes())
    }
}

impl Predicate for Query {
    /// The name is `query`. The version is the SHA-256 of the query as BSON, in place of the query, which may contain secrets.
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("query", self.digest.clone())
    }

    fn fits(&self, _: &Namespace, document: &RawDocument) -> Result<bool, RuleError> {
        self.selects(document)
    }

    fn reads(&self, field: &str) -> bool {
        self.fields.contains(field)
    }

    fn query(&self) -> Option<&RawDocument> {
        self.pushed_down.as_deref()
    }
}

/// Shows the digest, because a query may contain secrets.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Query({})", self.digest)
    }
}
