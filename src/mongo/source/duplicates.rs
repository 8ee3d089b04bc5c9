//! Finds documents that violate a unique index.

use bson::raw::RawDocument;
use bson::{Bson, Document, RawBson, doc};

use crate::error::{Error, Result};
use crate::model::Collection;
use crate::mongo::client::{self, is_gone};
use crate::mongo::retry::WHOLE_COLLECTION;
use crate::order::Key;

const OPERATION: &str = "look for duplicates";

/// Returns the `_id`s of two documents for each key that more than one document has. The server reads the whole collection and does not use
/// the index, because the entries of the index may be what is wrong.
///
/// # Errors
/// A server error.
pub(in crate::mongo) async fn find(
    client: &dyn client::Commands,
    collection: &Collection,
    index: &RawDocument,
    limit: usize,
) -> Result<Vec<[Key; 2]>> {
    let namespace = &collection.namespace;
    let index = Document::try_from(index).map_err(|error| Error::malformed(OPERATION, error))?;
    let Ok(key) = index.get_document("key") else {
        return Ok(Vec::new());
    };
    let mut command = doc! {
        "aggregate": namespace.collection(),
        "pipeline": pipeline(key, &index, limit),
        "cursor": { "batchSize": i64::try_from(limit).unwrap_or(i64::MAX) },
        "allowDiskUse": true,
        "hint": { "$natural": 1 },
        "readConcern": { "level": "majority" },
    };
    if let Ok(collation) = index.get_document("collation") {
        command.insert("collation", collation.clone());
    }
    let reply = match client::run_within(WHOLE_COLLECTION, client, OPERATION, namespace.database(), command).await {
        Ok(reply) => reply,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error.with_context("namespace", namespace)),
    };
    let found = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .map_err(|error| Error::malformed(OPERATION, error))?;
    let id = |group: &Document, name: &str| {
        let id = group.get(name).cloned().unwrap_or(Bson::Null);
        let id = RawBson::try_from(id).map_err(|error| Error::malformed(OPERATION, error))?;
        Ok(Key::from(id.as_raw_bson_ref()))
    };
    found
        .iter()
        .filter_map(Bson::as_document)
        .map(|group| Ok([id(group, "first")?, id(group, "last")?]))
        .collect()
}

/// Groups the documents by their keys in the index. Each element of an array is a key, and a missing field is null.
fn pipeline(key: &Document, index: &Document, limit: usize) -> Vec<Document> {
    let mut stages = Vec::new();
    if let Ok(filter) = index.get_document("partialFilterExpression") {
        stages.push(doc! { "$match": filter.clone() });
    }
    let is_sparse = !matches!(index.get("sparse"), None | Some(Bson::Boolean(false) | Bson::Int32(0)));
    if is_sparse {
        // A sparse index does not contain documents that have none of its fields.
        let any: Vec<Document> = key.keys().map(|field| doc! { field: { "$exists": true } }).collect();
        stages.push(doc! { "$match": { "$or": any } });
    }
    for field in key.keys() {
        for (end, _) in field.match_indices('.').chain([(field.len(), "")]) {
            let path = format!("${}", &field[..end]);
            stages.push(doc! { "$unwind": { "path": path, "preserveNullAndEmptyArrays": true } });
        }
    }
    let mut values = Document::new();
    for (position, field) in key.keys().enumerate() {
        let path = format!("${field}");
        values.insert(format!("k{position}"), doc! { "$ifNull": [path, Bson::Null] });
    }
    // An array may contain an element twice. That is still one document.
    stages.push(doc! { "$group": { "_id": { "key": values, "document": "$_id" } } });
    stages.push(doc! { "$group": {
        "_id": "$_id.key",
        "documents": { "$sum": 1 },
        "first": { "$first": "$_id.document" },
        "last": { "$last": "$_id.document" },
    } });
    stages.push(doc! { "$match": { "documents": { "$gt": 1 } } });
    stages.push(doc! { "$limit": i64::try_from(limit).unwrap_or(i64::MAX) });
    stages
}
