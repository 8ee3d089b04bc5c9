//! Looks for documents that break a unique index.

use bson::raw::RawDocument;
use bson::{Bson, Document, doc};
use mongodb::Client;

use crate::document::Collection;
use crate::driver::{self, is_gone};
use crate::error::{Error, Result};
use crate::retry::WHOLE_COLLECTION;

const OPERATION: &str = "look for duplicates";

/// Keys that more than one document has. The server reads the whole collection, and does not use the index, whose entries may be what is
/// wrong.
///
/// # Errors
/// A server error.
pub(super) async fn find(
    client: &Client,
    collection: &Collection,
    index: &RawDocument,
    limit: usize,
) -> Result<Vec<String>> {
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
    let reply = match driver::run_within(WHOLE_COLLECTION, client, OPERATION, namespace.database(), command).await {
        Ok(reply) => reply,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error.with_context("namespace", namespace)),
    };
    let found = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .map_err(|error| Error::malformed(OPERATION, error))?;
    Ok(found
        .iter()
        .filter_map(Bson::as_document)
        .filter_map(|group| group.get_document("_id").ok())
        .map(|values| {
            let parts: Vec<String> = key
                .keys()
                .zip(values.values())
                .map(|(field, value)| format!("{field}: {value}"))
                .collect();
            format!("{{ {} }}", parts.join(", "))
        })
        .collect())
}

/// Groups the documents by their keys in the index: one for each element of an array, null for a missing field.
fn pipeline(key: &Document, index: &Document, limit: usize) -> Vec<Document> {
    let mut stages = Vec::new();
    if let Ok(filter) = index.get_document("partialFilterExpression") {
        stages.push(doc! { "$match": filter.clone() });
    }
    let is_sparse = !matches!(index.get("sparse"), None | Some(Bson::Boolean(false) | Bson::Int32(0)));
    if is_sparse {
        // Documents that have none of the fields are not in such an index.
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
    // An array may have an element twice; that is one document all the same.
    stages.push(doc! { "$group": { "_id": { "key": values, "document": "$_id" } } });
    stages.push(doc! { "$group": { "_id": "$_id.key", "documents": { "$sum": 1 } } });
    stages.push(doc! { "$match": { "documents": { "$gt": 1 } } });
    stages.push(doc! { "$limit": i64::try_from(limit).unwrap_or(i64::MAX) });
    stages
}
