//! Lists the transactions that clients have open on a replica set.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Namespace, TransactionFacts};
use crate::mongo::client::{self, number};

const OPERATION: &str = "look for open transactions";

/// Returns the transactions that are open now, without the snapshot reads of this crate. Returns none if the user may not list them.
///
/// # Errors
/// A server error.
pub(crate) async fn open(client: &dyn client::Commands) -> Result<Vec<TransactionFacts>> {
    let command = doc! {
        "aggregate": 1,
        "pipeline": [
            { "$currentOp": { "allUsers": true, "idleSessions": true } },
            // Drivers never start a transaction at a given time. This crate does, to read at a position.
            { "$match": {
                "transaction": { "$exists": true },
                "transaction.parameters.readConcern.atClusterTime": { "$exists": false },
            } },
            { "$project": { "lsid": 1, "client": 1, "opid": 1, "transaction": 1 } },
        ],
        "cursor": { "batchSize": i32::MAX },
    };
    let reply = match client::run(client, OPERATION, "admin", command).await {
        Err(error) if error.kind() == ErrorKind::Unauthorized => return Ok(Vec::new()),
        reply => reply?,
    };
    let found = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    let found = found.map_err(|error| Error::malformed(OPERATION, error))?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let locked = match client::run(client, OPERATION, "admin", doc! { "lockInfo": 1 }).await {
        Err(error) if error.kind() == ErrorKind::Unauthorized => BTreeMap::new(),
        reply => locked(&reply?),
    };
    let facts = |operation: &Document| {
        let transaction = operation.get_document("transaction").ok()?;
        let session = operation.get_document("lsid").ok()?.get("id")?;
        let session = match session {
            Bson::Binary(id) => id.to_uuid().ok()?.to_string(),
            _ => return None,
        };
        Some(TransactionFacts {
            client: operation.get_str("client").unwrap_or("an internal client").to_owned(),
            open: Duration::from_micros(number(transaction, "timeOpenMicros")),
            operation: operation.get_i32("opid").ok().map(i64::from),
            namespaces: locked.get(&session).cloned().unwrap_or_default(),
        })
    };
    Ok(found.iter().filter_map(Bson::as_document).filter_map(facts).collect())
}

/// Returns the collections that each session has locked. `lockInfo` reports them as text for people: a resource such as `{123: Collection,
/// 456, shop.orders}`, held by `lsid: { id: UUID("...") }`.
fn locked(reply: &Document) -> BTreeMap<String, Vec<Namespace>> {
    let mut locked: BTreeMap<String, Vec<Namespace>> = BTreeMap::new();
    let locks = reply.get_array("lockInfo").map(Vec::as_slice).unwrap_or_default();
    for lock in locks.iter().filter_map(Bson::as_document) {
        let collection = lock.get_str("resourceId").ok().and_then(|resource| {
            let (_, name) = resource.split_once(": Collection, ")?.1.split_once(", ")?;
            name.strip_suffix('}')?.parse::<Namespace>().ok()
        });
        let Some(collection) = collection else { continue };
        let granted = lock.get_array("granted").map(Vec::as_slice).unwrap_or_default();
        for holder in granted.iter().filter_map(Bson::as_document) {
            let session = holder.get_str("debugInfo").ok().and_then(|text| {
                let (_, id) = text.split_once("UUID(\"")?;
                Some(id.split_once('"')?.0.to_owned())
            });
            if let Some(session) = session {
                locked.entry(session).or_default().push(collection.clone());
            }
        }
    }
    locked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_name_collections_of_sessions() {
        const SESSION: &str = "35fb7542-4a9d-4b45-b9a5-5bf6d941c0e6";
        let granted = |of: &str| doc! { "mode": "IX", "debugInfo": format!("lsid: {{ id: UUID(\"{of}\"), uid: BinData(0, E3B0) }}") };
        let reply = doc! { "lockInfo": [
            { "resourceId": "{6917529027641081857: Global, 1}", "granted": [granted(SESSION)] },
            { "resourceId": "{9475952293078199391: Database, 252580256223423583, shop}", "granted": [granted(SESSION)] },
            { "resourceId": "{12664925668921137043: Collection, 1135710622852667283, shop.a, b}", "granted": [
                granted(SESSION), { "mode": "IS", "debugInfo": "" },
            ] },
        ] };
        let expected = BTreeMap::from([(SESSION.to_owned(), vec![Namespace::new("shop", "a, b")])]);
        assert_eq!(locked(&reply), expected);
        assert_eq!(locked(&doc! {}), BTreeMap::new());
    }
}
