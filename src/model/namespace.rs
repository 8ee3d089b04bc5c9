//! Names of collections, with their database.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The prefix of collections that hold the data of a time-series collection.
const BUCKETS: &str = "system.buckets.";

/// The full name of a collection or view: `database.collection`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace {
    name: String,
    dot: usize,
}

impl Namespace {
    /// Creates a namespace from its two parts.
    pub fn new(database: &str, collection: &str) -> Self {
        Self {
            name: format!("{database}.{collection}"),
            dot: database.len(),
        }
    }

    /// The part before the first dot.
    pub fn database(&self) -> &str {
        &self.name[..self.dot]
    }

    /// The part after the first dot. It may contain further dots.
    pub fn collection(&self) -> &str {
        &self.name[self.dot + 1..]
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// If this names the buckets of a time-series collection, the name that users know the collection by.
    pub fn time_series(&self) -> Option<Namespace> {
        self.collection()
            .strip_prefix(BUCKETS)
            .map(|name| Namespace::new(self.database(), name))
    }

    /// The name of the buckets of the time-series collection with this name.
    pub fn buckets(&self) -> Namespace {
        Namespace::new(self.database(), &format!("{BUCKETS}{}", self.collection()))
    }

    /// Whether the namespace belongs to the server itself and contains no user data to migrate.
    ///
    /// `system.js` and `system.buckets.*` contain user data. `system.views` does not count: its contents are migrated as views.
    pub fn is_internal(&self) -> bool {
        is_internal_database(self.database())
            || (self.collection().starts_with("system.")
                && self.collection() != "system.js"
                && !self.collection().starts_with(BUCKETS))
    }
}

pub(super) fn is_internal_database(database: &str) -> bool {
    matches!(database, "admin" | "local" | "config") || database.starts_with(crate::METADATA_DATABASE)
}

impl FromStr for Namespace {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.find('.') {
            Some(dot) if dot > 0 && dot + 1 < name.len() => Ok(Self {
                name: name.to_owned(),
                dot,
            }),
            _ => Err(Error::new(
                ErrorKind::InvalidConfiguration,
                "read a namespace",
                format!("`{name}` is not of the form `database.collection`"),
            )),
        }
    }
}

impl TryFrom<String> for Namespace {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Namespace> for String {
    fn from(namespace: Namespace) -> String {
        namespace.name
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The name that clients know: for buckets, that of their time-series collection.
pub(crate) fn shown(namespace: &Namespace) -> Namespace {
    namespace.time_series().unwrap_or_else(|| namespace.clone())
}

/// All names that a server may list for whatever occupies `target`: the name itself for a collection or view, and the name of the buckets
/// for a time-series collection.
pub(crate) fn names_of(target: &Namespace) -> BTreeSet<Namespace> {
    let name = shown(target);
    BTreeSet::from([name.buckets(), name])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn a_namespace_is_split_at_its_first_dot() {
        let buckets = namespace("weather.system.buckets.a.b");
        assert_eq!(
            (buckets.database(), buckets.collection()),
            ("weather", "system.buckets.a.b")
        );
        assert_eq!(buckets.time_series(), Some(namespace("weather.a.b")));
        for wrong in ["", "shop", ".orders", "shop."] {
            assert!(wrong.parse::<Namespace>().is_err(), "{wrong}");
        }
    }
}
