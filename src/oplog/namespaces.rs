//! The names of collections in oplog entries.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Namespace;
use crate::oplog::raw_entry::OPERATION;

/// Recently seen namespaces, so that all entries of one collection share one allocation.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    last: Option<Arc<Namespace>>,
    known: HashMap<String, Arc<Namespace>>,
}

impl Namespaces {
    /// Maximum number of names. Beyond it, all are dropped. It is more than most deployments have, and takes less than a megabyte.
    const MOST: usize = 2048;

    /// Returns the namespace called `name`.
    pub fn get(&mut self, name: &str) -> Result<Arc<Namespace>> {
        if let Some(last) = self.last.as_ref().filter(|last| last.as_str() == name) {
            return Ok(last.clone());
        }
        let namespace = match self.known.get(name) {
            Some(known) => known.clone(),
            None => {
                let namespace: Namespace = name.parse().map_err(|_| {
                    Error::new(
                        ErrorKind::Protocol,
                        OPERATION,
                        format!("`{name}` is not the name of a collection"),
                    )
                })?;
                if self.known.len() >= Self::MOST {
                    self.known.clear();
                }
                let namespace = Arc::new(namespace);
                self.known.insert(name.to_owned(), namespace.clone());
                namespace
            }
        };
        self.last = Some(namespace.clone());
        Ok(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_one_collection_share_its_name() {
        let mut namespaces = Namespaces::default();
        let first = namespaces.get("a.b").unwrap();
        for number in 0..Namespaces::MOST - 1 {
            namespaces.get(&format!("a.c{number}")).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &namespaces.get("a.b").unwrap()));
        namespaces.get("a.one-more").unwrap();
        assert!(namespaces.known.len() <= Namespaces::MOST);
        assert_eq!(namespaces.get("none").unwrap_err().kind(), ErrorKind::Protocol);
    }
}
