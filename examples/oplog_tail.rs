//! Follows a replica set's oplog and prints its changes, through elections and restarts.
//!
//! `cargo run --example oplog_tail -- mongodb://localhost/?replicaSet=rs0` runs until it is interrupted. Without a
//! connection string, the example starts its own server, writes some data to it, and ends when it has seen those
//! writes.

use std::error::Error;

use futures::StreamExt;
use mongodb::Client;
use mongodb::bson::{Document, RawDocument, doc};
use mongoferry::oplog::{CommandOperation, Item, OplogCursor};
use mongoferry::{Operation, Position};
use mongoferry_testbed::{ReplicaSet, Version};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(uri) => {
            follow(&Client::with_uri_str(uri).await?, None, "").await?;
        }
        None => {
            let set = ReplicaSet::builder(Version::V6_0).start().await?;
            let client = set.client().await?;
            // The cursor returns every write after this position, no matter when the cursor is opened.
            let before = newest(&client).await?;
            write(&client).await?;
            follow(&client, Some(before), "zoo.animals was dropped").await?;
        }
    }
    Ok(())
}

/// Prints entries until a line equals `last`.
async fn follow(client: &Client, after: Option<Position>, last: &str) -> mongoferry::Result<()> {
    let mut cursor = OplogCursor::builder(client);
    if let Some(after) = after {
        cursor = cursor.after(after);
    }
    let mut cursor = cursor.build();
    while let Some(entry) = cursor.next().await {
        let entry = entry?;
        for item in &entry.items {
            let line = describe(item);
            println!("{} {line}", entry.position);
            if line == last {
                // Use `resume` rather than the entry's position: while a transaction is open, a resumed cursor has to
                // begin before it.
                println!(
                    "to resume from here: OplogCursor::builder(&client).after({}).build()",
                    entry.resume
                );
                return Ok(());
            }
        }
    }
    Ok(())
}

fn describe(item: &Item) -> String {
    match item {
        Item::Change(change) => {
            let (namespace, key) = (&change.namespace, &change.write.key);
            match &change.write.operation {
                Operation::Insert(document) => format!("{namespace} {key:?} inserted: {}", text(document)),
                Operation::Replace(document) => format!("{namespace} {key:?} replaced: {}", text(document)),
                Operation::Delta(delta) => format!("{namespace} {key:?} updated: {}", text(delta)),
                Operation::Delete => format!("{namespace} {key:?} deleted"),
            }
        }
        Item::Command(command) => match &command.operation {
            CommandOperation::Create { namespace, .. } => format!("{namespace} was created"),
            CommandOperation::Drop { namespace } => format!("{namespace} was dropped"),
            other => format!("{other:?}"),
        },
    }
}

fn text(document: &RawDocument) -> String {
    Document::try_from(document).map_or_else(|error| error.to_string(), |document| document.to_string())
}

async fn newest(client: &Client) -> Result<Position, Box<dyn Error>> {
    let answer = client.database("admin").run_command(doc! { "hello": 1 }).await?;
    let written = answer.get_document("lastWrite")?.get_document("majorityOpTime")?;
    Ok(Position::new(written.get_timestamp("ts")?, written.get_i64("t")?))
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
