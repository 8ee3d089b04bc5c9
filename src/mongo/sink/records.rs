//! Stores the migration's own records on the target.

use bson::raw::RawDocumentBuf;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc, rawdoc};

use super::connection::TargetConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::mongo::client;

const COLLECTION: &str = "records";

/// A record. It is stored as bytes beside its fence, because not every server may accept its field names.
struct Record {
    bytes: Vec<u8>,
}

/// Reads a record in the state that a majority has.
///
/// # Errors
/// A server error.
pub(super) async fn load(target: &TargetConnection, name: &str) -> Result<Option<RawDocumentBuf>> {
    const OPERATION: &str = "load a record";
    match read(target, OPERATION, name).await? {
        Some(record) => RawDocumentBuf::from_bytes(record.bytes)
            .map(Some)
            .map_err(|error| damaged(OPERATION, name).with_source(error)),
        None => Ok(None),
    }
}

/// Stores a record if the fence of the stored one is `expected`; see [`Sink::save_record`](crate::Sink::save_record).
///
/// # Errors
/// A server error.
pub(super) async fn save(
    target: &TargetConnection,
    name: &str,
    record: &RawDocumentBuf,
    expected: i64,
) -> Result<bool> {
    const OPERATION: &str = "save a record";
    let fence = record.get_i64("fence").unwrap_or(0);
    let bytes = Binary {
        subtype: BinarySubtype::Generic,
        bytes: record.as_bytes().to_vec(),
    };
    let update = rawdoc! {
        "update": COLLECTION,
        "updates": [{
            "q": { "_id": name, "fence": expected },
            "u": { "_id": name, "fence": fence, "record": bytes },
            // A missing record has fence 0. If there is a record with another fence, the insert fails.
            "upsert": expected == 0,
        }],
    };
    let reply = target
        .write_durably(OPERATION, crate::METADATA_DATABASE, &update)
        .await?;
    match reply.errors.first() {
        None if reply.count == 1 => Ok(true),
        Some(error) if error.code != 11000 => Err(Error::new(ErrorKind::Server, OPERATION, error.message.clone())
            .with_context("record", name)
            .with_context("code", error.code)),
        // Either another process has stored its own record, or this record was stored and the answer was lost.
        _ => Ok(read(target, OPERATION, name)
            .await?
            .is_some_and(|stored| stored.bytes == record.as_bytes())),
    }
}

/// Deletes a record.
///
/// # Errors
/// A server error.
pub(super) async fn delete(target: &TargetConnection, name: &str) -> Result<()> {
    let delete = rawdoc! { "delete": COLLECTION, "deletes": [{ "q": { "_id": name }, "limit": 1 }] };
    target
        .write_durably("delete a record", crate::METADATA_DATABASE, &delete)
        .await?;
    Ok(())
}

async fn read(target: &TargetConnection, operation: &'static str, name: &str) -> Result<Option<Record>> {
    let find = doc! {
        "find": COLLECTION,
        "filter": { "_id": name },
        "limit": 1,
        "singleBatch": true,
        "readConcern": { "level": "linearizable" },
        "maxTimeMS": 30_000,
    };
    let reply = client::run(target.client(), operation, crate::METADATA_DATABASE, find).await?;
    let found = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .map_err(|error| Error::malformed(operation, error))?;
    found.first().map(|found| record_of(operation, name, found)).transpose()
}

fn record_of(operation: &'static str, name: &str, found: &Bson) -> Result<Record> {
    let read = |found: &Document| {
        Some(Record {
            bytes: found.get_binary_generic("record").ok()?.clone(),
        })
    };
    found
        .as_document()
        .and_then(read)
        .ok_or_else(|| damaged(operation, name))
}

fn damaged(operation: &'static str, name: &str) -> Error {
    Error::new(
        ErrorKind::CheckpointMismatch,
        operation,
        "the record on the target is damaged or of another version",
    )
    .with_context("record", name)
}
