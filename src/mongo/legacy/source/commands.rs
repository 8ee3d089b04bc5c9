//! Runs the commands of listings and inspections on servers of each version, in the forms that it has.

use std::time::Duration;

use async_trait::async_trait;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Bson, Document, doc};

use super::read::find_of;
use super::server::{DRIVER, Server, TRANSACTIONS, UUIDS};
use crate::catalog::legacy::{index_as_listed, options};
use crate::error::{Error, Result};
use crate::model::Namespace;
use crate::mongo::client::{Bounded, Commands};
use crate::mongo::legacy::Find;
use crate::mongo::retry::{COMMAND_TIMEOUT, RetryPolicy, answered, retry};

/// First wire version with `listCollections` and `listIndexes` (3.0).
const LISTING_COMMANDS: i32 = 3;

#[async_trait]
impl Commands for Server {
    async fn run_within(
        &self,
        limit: Duration,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Document> {
        let command = self.adapted(operation, limit, command)?;
        let is_query = self.query_of(database, &command).is_some();
        let reply = retry(RetryPolicy::SERVER, || {
            answered(operation, limit + COMMAND_TIMEOUT, async {
                if !is_query {
                    return Box::pin(self.client.command(database, &command)).await;
                }
                let documents = self.read_within(usize::MAX, database, &command).await?;
                in_one_batch(operation, documents.unwrap_or_default())
            })
        });
        Document::try_from(reply.await?).map_err(|error| Error::malformed(operation, error))
    }

    async fn documents_within(
        &self,
        most: usize,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Option<Vec<RawDocumentBuf>>> {
        let command = self.adapted(operation, COMMAND_TIMEOUT, command)?;
        retry(RetryPolicy::SERVER, || {
            answered(operation, COMMAND_TIMEOUT, self.read_within(most, database, &command))
        })
        .await
    }

    fn lists_uuids(&self) -> bool {
        self.lists_uuids
    }

    fn meant_options(&self, listed: &RawDocument) -> RawDocumentBuf {
        match self.wire_version {
            DRIVER.. => listed.to_owned(),
            _ => options(self.series, listed),
        }
    }

    fn meant_index(&self, listed: RawDocumentBuf) -> RawDocumentBuf {
        match self.wire_version {
            DRIVER.. => listed,
            _ => index_as_listed(self.series, &listed),
        }
    }
}

impl Server {
    /// Removes the fields that a version does not know.
    fn adapted(&self, operation: &'static str, limit: Duration, mut command: Document) -> Result<RawDocumentBuf> {
        if limit > COMMAND_TIMEOUT && !command.contains_key("maxTimeMS") {
            command.insert("maxTimeMS", i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        }
        if self.wire_version < DRIVER {
            // Majority reads are not to be had everywhere, and no caller needs them here.
            command.remove("readConcern");
        }
        if self.wire_version < TRANSACTIONS {
            command.remove("authorizedDatabases");
            command.remove("authorizedCollections");
        }
        if self.wire_version < UUIDS && command.contains_key("aggregate") {
            command.remove("hint");
        }
        if command.contains_key("listIndexes") && !command.contains_key("cursor") {
            command.insert("cursor", doc! {});
        }
        RawDocumentBuf::try_from(&command).map_err(|error| Error::malformed(operation, error))
    }

    /// Returns the query that takes the place of a command. Returns `None` for other commands.
    fn query_of(&self, database: &str, command: &RawDocument) -> Option<Find> {
        match name_of(command) {
            "find" => Some(find_of(&named(database, command), command)),
            "listCollections" if self.wire_version < LISTING_COMMANDS => {
                Some(Find::new(database, "system.namespaces", RawDocumentBuf::new()))
            }
            "listIndexes" if self.wire_version < LISTING_COMMANDS => {
                let collection = command.get_str("listIndexes").unwrap_or_default();
                let filter = bson::rawdoc! { "ns": format!("{database}.{collection}") };
                Some(Find::new(database, "system.indexes", filter))
            }
            _ => None,
        }
    }

    /// Returns the documents of a query or of the cursor that a command opens, or `None` once they have more than `most` bytes.
    async fn read_within(
        &self,
        most: usize,
        database: &str,
        command: &RawDocument,
    ) -> Result<Option<Vec<RawDocumentBuf>>> {
        let query = self.query_of(database, command);
        let lists_namespaces = query.is_some() && name_of(command) == "listCollections";
        let mut cursor = match query {
            Some(find) => Box::pin(self.client.find(find)).await?,
            None => Box::pin(self.client.command_cursor(database, command)).await?,
        };
        let mut documents = Bounded::new(most);
        while let Some(batch) = Box::pin(cursor.next_batch()).await? {
            if !documents.add(batch.iter().map(RawDocument::to_owned)) {
                return Ok(None);
            }
        }
        Ok(Some(match lists_namespaces {
            true => collections_in(database, command, &documents.documents),
            false => documents.documents,
        }))
    }
}

/// Puts documents into the form of a cursor's reply.
fn in_one_batch(operation: &'static str, documents: Vec<RawDocumentBuf>) -> Result<RawDocumentBuf> {
    let malformed = |error| Error::malformed(operation, error);
    let documents: Result<Vec<Bson>, _> = documents
        .into_iter()
        .map(|document| Document::try_from(document).map(Bson::Document))
        .collect();
    let documents = documents.map_err(malformed)?;
    let reply = doc! { "cursor": { "id": 0_i64, "firstBatch": documents }, "ok": 1.0 };
    RawDocumentBuf::try_from(&reply).map_err(malformed)
}

/// The names that a filter of `listCollections` lets pass.
enum Names {
    All,
    Some(Vec<String>),
}

impl Names {
    fn of(command: &RawDocument) -> Self {
        let Ok(filter) = command.get_document("filter") else {
            return Self::All;
        };
        match filter.get("name") {
            Ok(Some(RawBsonRef::String(name))) => Self::Some(vec![name.to_owned()]),
            Ok(Some(RawBsonRef::Document(operator))) => Self::Some(
                operator
                    .get_array("$in")
                    .into_iter()
                    .flatten()
                    .filter_map(|name| Some(name.ok()?.as_str()?.to_owned()))
                    .collect(),
            ),
            _ => Self::All,
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.iter().any(|known| known == name),
        }
    }
}

/// Turns `system.namespaces` into what `listCollections` returns.
fn collections_in(database: &str, command: &RawDocument, entries: &[RawDocumentBuf]) -> Vec<RawDocumentBuf> {
    let wanted = Names::of(command);
    let listed = entries.iter().filter_map(|entry| collection_in(database, entry));
    listed
        .filter(|(name, _)| wanted.contains(name))
        .map(|(_, listed)| listed)
        .collect()
}

/// Turns an entry of `system.namespaces` into what `listCollections` returns of a collection, with its name. Returns `None` for indexes and
/// for what the storage engine keeps there.
fn collection_in(database: &str, entry: &RawDocument) -> Option<(String, RawDocumentBuf)> {
    let name = entry.get_str("name").ok()?.strip_prefix(database)?.strip_prefix('.')?;
    if name.contains('$') || name == "system.indexes" || name == "system.namespaces" {
        return None;
    }
    let options = match entry.get_document("options") {
        Ok(options) => options.to_owned(),
        Err(_) => RawDocumentBuf::new(),
    };
    Some((name.to_owned(), bson::rawdoc! { "name": name, "options": options }))
}

fn name_of(command: &RawDocument) -> &str {
    let first = command.iter_elements().next().and_then(Result::ok);
    first.map_or("", |element| element.key().as_str())
}

/// The collection that a `find` names.
fn named(database: &str, command: &RawDocument) -> Namespace {
    Namespace::new(database, command.get_str("find").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn collections_are_found_among_namespaces() {
        for (entry, expected) in [
            (rawdoc! { "name": "d.c" }, Some(rawdoc! { "name": "c", "options": {} })),
            (
                rawdoc! { "name": "d.c.e", "options": { "create": "c.e", "capped": true, "size": 4096 } },
                Some(rawdoc! { "name": "c.e", "options": { "create": "c.e", "capped": true, "size": 4096 } }),
            ),
            (rawdoc! { "name": "d.c.$_id_" }, None),
            (rawdoc! { "name": "d.system.indexes" }, None),
            (rawdoc! { "name": "dd.c" }, None),
        ] {
            let found = collection_in("d", &entry).map(|(_, listed)| listed);
            assert_eq!(found, expected, "{entry:?}");
        }
    }

    #[test]
    fn the_collections_of_a_captured_2_6_are_found() {
        let path = format!(
            "{}/tests/samples/oplog/2.6.12-mmapv1.facts.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let facts: Document = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let entries = facts.get_array("system.namespaces").unwrap().iter();
        let found = entries.filter_map(|entry| {
            let entry = RawDocumentBuf::try_from(entry.as_document().unwrap()).unwrap();
            let (name, listed) = collection_in("app", &entry)?;
            let meant = options([2, 6], listed.get_document("options").unwrap());
            Some((name, Document::try_from(meant).unwrap()))
        });
        let found: std::collections::BTreeMap<String, Document> = found.collect();
        let plain = [
            "byapply",
            "coll",
            "flags",
            "res",
            "se",
            "system.js",
            "t",
            "tgt",
            "val",
            "view",
        ];
        for name in plain {
            assert_eq!(found.get(name), Some(&doc! {}), "{name}");
        }
        assert_eq!(found["cap"], doc! { "capped": true, "size": 65536_i64, "max": 100_i64 });
        assert_eq!(found["conv"], doc! { "capped": true, "size": 8192_i64 });
        assert_eq!(found["noid"], doc! { "autoIndexId": false });
        assert!(found.keys().all(|name| !name.contains('$')));
    }

    #[test]
    fn filters_of_names_are_applied() {
        let all = Names::of(&rawdoc! { "listCollections": 1, "filter": {} });
        let one = Names::of(&rawdoc! { "listCollections": 1, "filter": { "name": "a" } });
        let some = Names::of(&rawdoc! { "listCollections": 1, "filter": { "name": { "$in": ["a", "b"] } } });
        assert!(all.contains("a") && all.contains("x"));
        assert!(one.contains("a") && !one.contains("b"));
        assert!(some.contains("b") && !some.contains("c"));
    }
}
