//! Listings of collections and indexes, as commands and as system collections.

use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::{Period, cursor::Failure, message::fields};

/// A collection of `listCollections`; `None` for one that the version has not.
///
/// Seen on 3.0: name and options alone. Read: type, `idIndex` and `info` since 3.4, the uuid since 3.6.
pub(super) fn collection(period: Period, database: &str, real: &Document) -> Option<Document> {
    if period < Period::V3_6 && database == "admin" && real.get_str("name").ok() == Some("system.keys") {
        return None;
    }
    let mut listed = real.clone();
    if period < Period::V3_4 {
        let fields = real
            .iter()
            .filter(|(name, _)| matches!(name.as_str(), "name" | "options"));
        listed = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
    }
    if period < Period::V3_6
        && let Ok(info) = listed.get_document_mut("info")
    {
        info.remove("uuid");
    }
    Some(listed)
}

/// An index of `listIndexes`.
///
/// Seen on 2.6 and 3.0: version 1, with the versions of text and geographic indexes of the time. Read: 2 came with 3.4.
pub(super) fn index(period: Period, real: &Document) -> Document {
    let mut listed = real.clone();
    if period < Period::V3_4 {
        listed.insert("v", 1);
    }
    if period < Period::V3_2 {
        for name in ["textIndexVersion", "2dsphereIndexVersion"] {
            if listed.contains_key(name) {
                listed.insert(name, 2);
            }
        }
    }
    listed
}

/// What a system collection of 2.6 holds, from the real listings.
#[derive(Debug, Default)]
pub(super) struct SystemCollections {
    namespaces: Vec<Document>,
    indexes: Vec<Document>,
}

impl SystemCollections {
    /// Adds a collection with its indexes.
    ///
    /// Seen: `system.namespaces` has the collection with its options, and each index as `db.coll.$name`.
    pub(super) fn add(&mut self, database: &str, collection: &Document, indexes: Vec<Document>) {
        let namespace = format!("{database}.{}", collection.get_str("name").unwrap_or_default());
        let mut listed = doc! { "name": &namespace };
        if let Ok(options) = collection.get_document("options")
            && !options.is_empty()
        {
            listed.insert("options", options.clone());
        }
        self.namespaces.push(listed);
        for index in indexes {
            let name = index.get_str("name").unwrap_or_default();
            self.namespaces.push(doc! { "name": format!("{namespace}.${name}") });
            self.indexes.push(index);
        }
    }

    /// The documents of `system.namespaces` or `system.indexes` that a query finds.
    pub(super) fn find(
        mut self,
        database: &str,
        collection: &str,
        filter: &RawDocument,
    ) -> Result<Vec<Document>, Failure> {
        let documents = if collection == "system.indexes" {
            self.indexes
        } else {
            if !self.namespaces.is_empty() {
                // Seen: it is listed like any other; `system.namespaces` is not.
                self.namespaces
                    .push(doc! { "name": format!("{database}.system.indexes") });
            }
            self.namespaces
        };
        let mut conditions = Vec::new();
        for (name, value) in fields(filter) {
            match Bson::try_from(value) {
                Ok(value @ Bson::String(_)) => conditions.push((name.to_owned(), value)),
                _ => {
                    let text = "the period server knows conditions on system collections that name a text alone";
                    return Err(Failure(text.to_owned(), 2));
                }
            }
        }
        let fits = |document: &Document| conditions.iter().all(|(name, value)| document.get(name) == Some(value));
        Ok(documents.into_iter().filter(fits).collect())
    }
}
