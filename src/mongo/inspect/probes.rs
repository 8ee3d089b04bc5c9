//! Tries what a migration needs to do, without leaving anything behind.

use bson::{Document, doc};

use super::{Inspector, OPERATION, TRANSACTIONS, documents};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Access, Namespace, Side};
use crate::mongo::client;

/// Maximum number of databases to try. Privileges are rarely granted for each database separately. If they are, the server's own list of
/// privileges shows it.
const DATABASES: usize = 16;

/// The server's error code for a missing privilege.
const UNAUTHORIZED: i32 = 13;

impl Inspector<'_> {
    /// Tries to list and read the data.
    pub(super) async fn databases(&mut self, side: Side) -> Result<()> {
        if side == Side::Source && self.wire_version() >= TRANSACTIONS {
            self.ask(
                Access::ReadTransactions,
                "config",
                doc! { "find": "transactions", "limit": 1, "singleBatch": true },
            )
            .await?;
        }
        // Without the privilege to list all databases this is an error, not a list of some of them.
        let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false };
        let Some(reply) = self.ask(Access::ListDatabases, "admin", command).await? else {
            return Ok(());
        };
        self.facts.databases = documents(&reply, "databases")
            .into_iter()
            .filter_map(|database| database.get_str("name").ok().map(str::to_owned))
            .collect();
        let tried: Vec<String> = self
            .facts
            .databases
            .iter()
            .filter(|name| !matches!(name.as_str(), "admin" | "config" | "local"))
            .filter(|name| !name.starts_with(crate::METADATA_DATABASE))
            .take(DATABASES)
            .cloned()
            .collect();
        for database in tried {
            self.database(&database, side).await?;
        }
        Ok(())
    }

    async fn database(&mut self, database: &str, side: Side) -> Result<()> {
        let access = Access::ListCollections(database.to_owned());
        let command = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": false };
        let Some(reply) = self.ask(access, database, command).await? else {
            return Ok(());
        };
        let Ok(cursor) = reply.get_document("cursor") else {
            return Ok(());
        };
        let ordinary = |collection: &&Document| {
            collection.get_str("type").unwrap_or("collection") == "collection"
                && collection
                    .get_str("name")
                    .is_ok_and(|name| !name.starts_with("system."))
        };
        if let Some(name) = documents(cursor, "firstBatch")
            .into_iter()
            .find(ordinary)
            .and_then(|collection| collection.get_str("name").ok())
        {
            let of = || database.to_owned();
            self.ask(Access::ListIndexes(of()), database, doc! { "listIndexes": name })
                .await?;
            self.ask(Access::CollectionStatistics(of()), database, doc! { "collStats": name })
                .await?;
            let find = doc! { "find": name, "projection": { "_id": 1 }, "limit": 1, "singleBatch": true };
            self.ask(Access::ReadData(of()), database, find).await?;
        }
        // A privilege on all collections of a database covers none of these, and one on all buckets covers those of every collection.
        for prefix in ["system.js", "system.buckets."] {
            let listed = documents(cursor, "firstBatch");
            let mut names = listed.iter().filter_map(|collection| collection.get_str("name").ok());
            if let Some(name) = names.find(|name| name.starts_with(prefix)) {
                self.system_collection(&Namespace::new(database, name)).await?;
            }
        }
        if side == Side::Source {
            self.profiler(database).await?;
        }
        Ok(())
    }

    async fn system_collection(&mut self, namespace: &Namespace) -> Result<()> {
        let access = || Access::ReadSystemCollection(namespace.clone());
        let (database, name) = (namespace.database(), namespace.collection());
        let listed = self.ask(access(), database, doc! { "listIndexes": name }).await?;
        if listed.is_some() {
            let find = doc! { "find": name, "projection": { "_id": 1 }, "limit": 1, "singleBatch": true };
            self.ask(access(), database, find).await?;
        }
        Ok(())
    }

    /// Tries to write records. The server looks at the privileges first and then finds nothing to do. No document has the `_id` to update
    /// or delete. The document to insert has an invalid `_id`, which the server reports before it would create the collection. The commands
    /// state `w: 1`, because by default a write might wait for members that are down, even if it does nothing.
    pub(super) async fn records(&mut self) -> Result<()> {
        const COLLECTION: &str = "probe";
        let nothing = doc! { "_id": "probe" };
        let impossible = doc! { "_id": [1] };
        let commands = [
            doc! { "insert": COLLECTION, "documents": [impossible], "writeConcern": { "w": 1 } },
            doc! {
                "update": COLLECTION, "updates": [{ "q": nothing.clone(), "u": { "$set": { "a": 1 } } }], "writeConcern": { "w": 1 },
            },
            doc! { "delete": COLLECTION, "deletes": [{ "q": nothing, "limit": 1 }], "writeConcern": { "w": 1 } },
            doc! { "find": COLLECTION, "limit": 1, "singleBatch": true },
        ];
        for command in commands {
            let Some(answer) = self.run(crate::METADATA_DATABASE, command).await else {
                self.facts.unanswered.push(Access::WriteRecords);
                return Ok(());
            };
            let answer = answer.and_then(|reply| match unauthorized(&reply) {
                Some(message) => Err(Error::new(ErrorKind::Unauthorized, OPERATION, message)),
                None => Ok(()),
            });
            if self.note(Access::WriteRecords, answer)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Returns the reason for a refused write if it is a missing privilege.
fn unauthorized(reply: &Document) -> Option<String> {
    documents(reply, "writeErrors")
        .into_iter()
        .find(|error| error.get_i32("code").is_ok_and(|code| code == UNAUTHORIZED))
        .map(|error| client::plain(error.get_str("errmsg").unwrap_or_default()))
}
