//! Follows a replica set's oplog and prints its changes, through elections and restarts.
//!
//! `cargo run --example oplog_tail -- 'mongodb://localhost/?replicaSet=rs0' 'shop.*'` prints what has happened in the database `shop` in
//! the last minute and runs until it is interrupted. Without arguments, the example starts its own server, writes some data to it, and ends
//! when it has seen those writes.

use std::error::Error;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use mongoferry::mongodb::Client;
use mongoferry::oplog::{Item, OplogCursor, OplogCursorBuilder};
use mongoferry::{Operation, Selection};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Prints entries, until a line equals `last` if there is one.
async fn follow(cursor: OplogCursorBuilder, last: Option<&str>) -> Result<()> {
    let mut cursor = cursor.build();
    while let Some(entry) = cursor.next().await {
        let entry = entry?;
        for item in &entry.items {
            // The line has no contents of documents. Whoever wants them takes them from the operation.
            println!("{} {item}", entry.position);
            if let Item::Change(change) = item
                && let Operation::Insert(document) | Operation::Replace(document) = &change.write.operation
            {
                println!("    {document:?}");
            }
            if last.is_some_and(|last| item.to_string() == last) {
                // Use `resume` rather than the entry's position: while a transaction is open, a resumed cursor has to begin before it.
                println!(
                    "to resume from here: OplogCursor::builder(&client).after({})",
                    entry.resume
                );
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns a cursor over the last minute and everything that follows, in the namespaces that match one of the patterns.
async fn last_minute(source: &str, patterns: &[String]) -> Result<OplogCursorBuilder> {
    let mut selection = Selection::all();
    for pattern in patterns {
        selection.include(pattern)?;
    }
    let client = Client::with_uri_str(source).await?;
    let a_minute_ago = SystemTime::now() - Duration::from_secs(60);
    Ok(OplogCursor::builder(&client)
        .from_time(a_minute_ago)
        .namespaces(selection))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => demonstration::run().await,
        [source, patterns @ ..] if source.starts_with("mongodb") => {
            follow(last_minute(source, patterns).await?, None).await
        }
        _ => {
            eprintln!(
                "usage: cargo run --example oplog_tail -- SOURCE [PATTERN...] (a connection string, and patterns such as 'shop.*')"
            );
            std::process::exit(2)
        }
    }
}

/// What the example does without arguments, on a server of its own.
mod demonstration {
    use mongoferry::bson::{Document, doc};
    use mongoferry::mongodb;
    use mongoferry_testbed::{ReplicaSet, Version};

    use super::*;

    pub async fn run() -> Result<()> {
        let set = ReplicaSet::builder(Version::V6_0).start().await?;
        let client = set.client().await?;
        // The cursor returns every write from this time on, no matter when it is opened.
        let begun = client.database("admin").run_command(doc! { "ping": 1 }).await?;
        write(&client).await?;
        let mut zoo = Selection::all();
        zoo.include("zoo.*")?;
        let cursor = OplogCursor::builder(&client).from_timestamp(begun.get_timestamp("operationTime")?);
        follow(cursor.namespaces(zoo), Some("drop zoo.animals")).await
    }

    /// Writes what an application might write, including a transaction.
    async fn write(client: &Client) -> mongodb::error::Result<()> {
        let animals = client.database("zoo").collection::<Document>("animals");
        animals
            .insert_one(doc! { "_id": "otter", "legs": 4, "likes": ["fish"] })
            .await?;
        animals
            .update_one(doc! { "_id": "otter" }, doc! { "$push": { "likes": "stones" } })
            .await?;
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        animals
            .insert_one(doc! { "_id": "heron", "legs": 2 })
            .session(&mut session)
            .await?;
        animals
            .delete_one(doc! { "_id": "otter" })
            .session(&mut session)
            .await?;
        session.commit_transaction().await?;
        animals.drop().await
    }
}
