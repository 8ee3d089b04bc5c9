//! The oplog cursor on real replica sets.

mod cursor;
mod entries;
mod lost;
mod transactions;
mod trouble;

use std::future::Future;
use std::time::Duration;

use bson::raw::RawBsonRef;
use bson::{Document, Timestamp, doc};
use futures::StreamExt;
use mongodb::options::{Acknowledgment, CollectionOptions, ReadConcern, WriteConcern};
use mongodb::{Client, ClientSession, Collection};
use mongoferry::oplog::{CommandOperation, Entry, Item, OplogCursor};
use mongoferry::order::Key;
use mongoferry::{Change, Operation, Position};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

/// How long anything here may take. Far more than it needs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for something that has to happen.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it did not happen in time")
}

/// The newest position. Only for sets that nobody else writes to.
async fn newest(client: &Client) -> Position {
    let mut found = None;
    wait_until(PATIENCE, "a majority for the newest entry", async || {
        let Ok(hello) = client.database("admin").run_command(doc! { "isMaster": 1 }).await else {
            return false;
        };
        let last_write = hello.get_document("lastWrite").unwrap();
        let (Ok(newest), Ok(majority)) = (
            last_write.get_document("opTime"),
            last_write.get_document("majorityOpTime"),
        ) else {
            return false;
        };
        found = Some(Position::new(
            newest.get_timestamp("ts").unwrap(),
            newest.get_i64("t").unwrap(),
        ));
        newest == majority
    })
    .await
    .unwrap();
    found.unwrap()
}

/// A collection whose writes wait for a majority and whose reads see nothing else.
fn collection(client: &Client, name: &str) -> Collection<Document> {
    let mut concern = WriteConcern::default();
    concern.w = Some(Acknowledgment::Majority);
    let mut options = CollectionOptions::default();
    options.write_concern = Some(concern);
    options.read_concern = Some(ReadConcern::majority());
    client.database("shop").collection_with_options(name, options)
}

/// Writes the document that [`until_mark`] waits for.
async fn mark(client: &Client, number: i32) {
    collection(client, "marks")
        .insert_one(doc! { "_id": number })
        .await
        .unwrap();
}

fn is_mark(entry: &Entry, number: i32) -> bool {
    entry.items.iter().any(|item| {
        matches!(item, Item::Change(change) if change.namespace.as_str() == "shop.marks" && id(change) == Some(number))
    })
}

/// The entries up to the one of that mark, which is among them.
async fn until_mark(cursor: &mut OplogCursor, number: i32) -> Vec<Entry> {
    let mut entries = Vec::new();
    soon(async {
        loop {
            let entry = cursor.next().await.expect("the stream ended").unwrap();
            let found = is_mark(&entry, number);
            entries.push(entry);
            if found {
                return;
            }
        }
    })
    .await;
    entries
}

/// A small integer `_id`.
fn id(change: &Change) -> Option<i32> {
    (0..3000).find(|id| Key::from(RawBsonRef::Int32(*id)) == change.write.key)
}

/// An item in one line.
fn line(item: &Item) -> String {
    match item {
        Item::Change(change) => {
            let kind = match &change.write.operation {
                Operation::Insert(_) => "insert",
                Operation::Replace(_) => "replace",
                Operation::Delta(_) => "delta",
                Operation::Delete => "delete",
            };
            format!("{kind} {} {}", change.namespace, id(change).unwrap())
        }
        Item::Command(command) => match &command.operation {
            CommandOperation::Create { namespace, .. } => format!("create {namespace}"),
            CommandOperation::CreateIndexes { namespace, indexes } => {
                format!("index {namespace} {}", indexes[0].get_str("name").unwrap())
            }
            CommandOperation::DropIndex { namespace, name } => format!("drop index {namespace} {name}"),
            CommandOperation::Modify { namespace, .. } => format!("modify {namespace}"),
            CommandOperation::Drop { namespace } => format!("drop {namespace}"),
            CommandOperation::DropDatabase { database } => format!("drop database {database}"),
            CommandOperation::Rename { from, to, dropped } => format!("rename {from} {to} {}", dropped.is_some()),
            CommandOperation::SetView { namespace, .. } => format!("view {namespace}"),
            CommandOperation::DropView { namespace } => format!("drop view {namespace}"),
            other => format!("{other:?}"),
        },
    }
}

fn lines(entries: &[Entry]) -> Vec<String> {
    entries.iter().flat_map(|entry| &entry.items).map(line).collect()
}

/// All there is to say of entries, to compare what two cursors gave.
fn told(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| format!("{} {:?} {:?}", entry.position, entry.wall, entry.items))
        .collect()
}

/// A set that logs transactions of more than two operations in parts.
async fn set(version: Version) -> ReplicaSet {
    ReplicaSet::builder(version)
        .set_parameter("maxNumberOfTransactionOperationsInSingleOplogEntry", 2)
        .start()
        .await
        .unwrap()
}

/// Prepares a transaction that inserts these documents, and gives its prepare timestamp.
async fn prepare(client: &Client, session: &mut ClientSession, ids: std::ops::Range<i32>) -> Timestamp {
    session.start_transaction().await.unwrap();
    for id in ids {
        collection(client, "items")
            .insert_one(doc! { "_id": id })
            .session(&mut *session)
            .await
            .unwrap();
    }
    let prepared = client
        .database("admin")
        .run_command(doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } })
        .session(&mut *session)
        .await
        .unwrap();
    prepared.get_timestamp("prepareTimestamp").unwrap()
}

async fn commit(client: &Client, session: &mut ClientSession, at: Timestamp) {
    client
        .database("admin")
        .run_command(doc! { "commitTransaction": 1, "commitTimestamp": at, "writeConcern": { "w": "majority" } })
        .session(&mut *session)
        .await
        .unwrap();
}
