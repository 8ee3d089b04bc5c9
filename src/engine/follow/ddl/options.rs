//! Applies catalog changes to the recorded options of a collection and its indexes.

use bson::raw::{RawDocument, RawDocumentBuf};

use super::malformed;
use crate::catalog::expiry::TTL_DISABLED_SECONDS;
use crate::catalog::{are_same_keys, expiry_of, is_id_index, name_of};
use crate::engine::track::collection::CollectionProgress;
use crate::error::{Error, Result};

impl CollectionProgress {
    /// Returns the names of the indexes with this key, or of all but the one on `_id`.
    pub(super) fn indexes_dropped_by(&self, key: Option<&RawDocument>) -> Vec<String> {
        let is_dropped = |index: &&RawDocumentBuf| match key {
            None => !is_id_index(index),
            Some(key) => index
                .get_document("key")
                .is_ok_and(|of_index| are_same_keys(of_index, key)),
        };
        let dropped = self.indexes.iter().filter(is_dropped);
        dropped.map(|index| name_of(index).to_owned()).collect()
    }

    /// Changes an index in the collection's list as `collMod` does. Returns its name and the change to make on the target now. A change of
    /// the expiry waits for the cutover.
    pub(super) fn modify_index(&mut self, change: &RawDocument) -> Result<Option<(String, RawDocumentBuf)>> {
        let named = change.get_str("name").ok();
        let pattern = change.get_document("keyPattern").ok();
        let Some(index) = self.indexes.iter_mut().find(|index| match named {
            Some(name) => name_of(index) == name,
            None => pattern.is_some_and(|pattern| {
                let key = index.get_document("key");
                key.is_ok_and(|key| are_same_keys(key, pattern))
            }),
        }) else {
            // If the collection was renamed into the selection, the list can be newer than the change and no longer have the index.
            return Ok(None);
        };
        let name = name_of(index).to_owned();
        let mut carried = RawDocumentBuf::new();
        let mut changes = false;
        for element in change {
            let (field, value) = element.map_err(malformed)?;
            match field.as_str() {
                "name" | "keyPattern" => carried.append(field, value),
                "expireAfterSeconds" => {
                    // An index without an expiry must become one that has one, with the expiry held back.
                    if expiry_of(index).is_none() {
                        carried.append(field, TTL_DISABLED_SECONDS);
                        changes = true;
                    }
                    set_field(index, field.as_str(), value)?;
                }
                _ => {
                    carried.append(field, value);
                    changes = true;
                    set_field(index, field.as_str(), value)?;
                }
            }
        }
        Ok(changes.then_some((name, carried)))
    }

    /// Notes the defaults of the validation options that the collection does not have yet. The server does the same when one of these
    /// options is changed. A collection that is copied again is created with all of them.
    pub(super) fn complete_validation(&mut self, arguments: &RawDocument) -> Result<()> {
        let is_set = |options: &RawDocument, name: &str| options.get(name).is_ok_and(|value| value.is_some());
        let fields = ["validator", "validationLevel", "validationAction"];
        if !fields.iter().any(|field| is_set(arguments, field)) {
            return Ok(());
        }
        for (field, default) in [("validationLevel", "strict"), ("validationAction", "error")] {
            if !is_set(&self.options, field) {
                self.set_option(field, bson::RawBsonRef::String(default))?;
            }
        }
        Ok(())
    }

    pub(super) fn set_option(&mut self, name: &str, value: bson::RawBsonRef<'_>) -> Result<()> {
        set_field(&mut self.options, name, value)
    }
}

/// Sets a field in place, or appends it.
fn set_field(document: &mut RawDocumentBuf, name: &str, value: bson::RawBsonRef<'_>) -> Result<()> {
    let mut changed = RawDocumentBuf::new();
    let mut set = false;
    for element in &*document {
        let (field, old) = element.map_err(malformed)?;
        set |= field == name;
        changed.append(field, if field == name { value } else { old });
    }
    if !set {
        let name = bson::raw::CString::try_from(name.to_owned())
            .map_err(|error| Error::malformed("read an oplog entry", error))?;
        changed.append(name, value);
    }
    *document = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::model::{Collection, CollectionKind};

    #[test]
    fn a_change_of_validation_notes_the_defaults() {
        // How servers from 4.2 to 6.0 list the options after these commands.
        for (before, arguments, after) in [
            (
                rawdoc! {},
                rawdoc! { "validator": { "a": 1 }, "validationAction": "warn" },
                rawdoc! { "validator": { "a": 1 }, "validationAction": "warn", "validationLevel": "strict" },
            ),
            (
                rawdoc! { "validationLevel": "moderate" },
                rawdoc! { "validator": {} },
                rawdoc! { "validationLevel": "moderate", "validator": {}, "validationAction": "error" },
            ),
            (
                rawdoc! {},
                rawdoc! { "changeStreamPreAndPostImages": { "enabled": true } },
                rawdoc! { "changeStreamPreAndPostImages": { "enabled": true } },
            ),
        ] {
            let collection = Collection {
                id: bson::Uuid::new(),
                namespace: "shop.orders".parse().unwrap(),
                kind: CollectionKind::Plain,
                options: before,
                indexes: Vec::new(),
                documents: 0,
                bytes: 0,
            };
            let mut tracked = CollectionProgress::unread(&collection, collection.namespace.clone(), Vec::new());
            for (field, value) in arguments.into_iter().map(std::result::Result::unwrap) {
                tracked.set_option(field.as_str(), value).unwrap();
            }
            tracked.complete_validation(&arguments).unwrap();
            assert_eq!(tracked.options, after);
        }
    }
}
