//! Unique indexes of the in-memory sink.

use std::collections::BTreeMap;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::order::Key;

/// An index, with its keys if it is unique.
pub(super) struct Index {
    pub(super) specification: RawDocumentBuf,
    unique: Option<Unique>,
}

struct Unique {
    paths: Vec<String>,
    sparse: bool,
    holders: BTreeMap<Vec<Key>, Key>,
}

impl Index {
    /// Creates an empty index. An index with a partial filter enforces nothing, because filters cannot be evaluated here.
    pub(super) fn new(specification: RawDocumentBuf) -> Self {
        let is_set = |name: &str| specification.get_bool(name).unwrap_or(false);
        let partial = matches!(specification.get("partialFilterExpression"), Ok(Some(_)));
        let unique = (is_set("unique") && !partial).then(|| Unique {
            paths: specification
                .get_document("key")
                .map(|key| key.iter().map_while(|field| Some(field.ok()?.0.to_string())).collect())
                .unwrap_or_default(),
            sparse: is_set("sparse"),
            holders: BTreeMap::new(),
        });
        Self { specification, unique }
    }

    pub(super) fn name(&self) -> &str {
        self.specification.get_str("name").unwrap_or_default()
    }

    /// Whether another document has one of this document's keys.
    pub(super) fn conflicts(&self, id: &Key, document: &RawDocument) -> bool {
        self.unique.as_ref().is_some_and(|unique| {
            unique
                .keys(document)
                .iter()
                .any(|key| unique.holders.get(key).is_some_and(|holder| holder != id))
        })
    }

    pub(super) fn add(&mut self, id: &Key, document: &RawDocument) {
        if let Some(unique) = &mut self.unique {
            for key in unique.keys(document) {
                unique.holders.insert(key, id.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, document: &RawDocument) {
        if let Some(unique) = &mut self.unique {
            for key in unique.keys(document) {
                unique.holders.remove(&key);
            }
        }
    }
}

impl Unique {
    /// The keys of a document. A path that ends in an array gives one key for each element. A missing field counts as null.
    fn keys(&self, document: &RawDocument) -> Vec<Vec<Key>> {
        let values: Vec<_> = self.paths.iter().map(|path| values_at(document, path)).collect();
        if self.sparse && values.iter().all(Vec::is_empty) {
            return Vec::new();
        }
        let mut keys = vec![Vec::new()];
        for mut alternatives in values {
            if alternatives.is_empty() {
                alternatives.push(Key::from(RawBsonRef::Null));
            }
            keys = keys
                .into_iter()
                .flat_map(|key: Vec<Key>| {
                    alternatives
                        .iter()
                        .map(move |value| [key.as_slice(), std::slice::from_ref(value)].concat())
                        .collect::<Vec<_>>()
                })
                .collect();
        }
        keys
    }
}

fn values_at(document: &RawDocument, path: &str) -> Vec<Key> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    match (document.get(name), rest) {
        (Ok(Some(RawBsonRef::Array(array))), None) => {
            array.into_iter().map_while(|value| value.ok().map(Key::from)).collect()
        }
        (Ok(Some(value)), None) => vec![Key::from(value)],
        (Ok(Some(RawBsonRef::Document(inner))), Some(rest)) => values_at(inner, rest),
        (Ok(Some(RawBsonRef::Array(array))), Some(rest)) => array
            .into_iter()
            .map_while(|value| value.ok())
            .filter_map(|value| value.as_document())
            .flat_map(|inner| values_at(inner, rest))
            .collect(),
        _ => Vec::new(),
    }
}
