//! Where an oplog cursor starts, and what its filter leaves out, on real replica sets.

use std::time::{Duration, SystemTime};

use bson::{Document, Timestamp, doc};
use futures::StreamExt;
use mongodb::Client;
use mongoferry::Selection;
use mongoferry::oplog::{Item, OplogCursor, OplogCursorBuilder};
use mongoferry_testbed::{ReplicaSet, Version};
use tokio::time::timeout;

/// How long anything here may take. Far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Inserts a document, and returns the time of its entry.
async fn insert(client: &Client, namespace: (&str, &str), id: i32) -> Timestamp {
    let command = doc! { "insert": namespace.1, "documents": [{ "_id": id }], "writeConcern": { "w": "majority" } };
    let reply = client.database(namespace.0).run_command(command).await.unwrap();
    reply.get_timestamp("operationTime").unwrap()
}

/// The items up to the insert of the `_id` 99, as lines.
async fn until_last(builder: OplogCursorBuilder) -> Vec<String> {
    let mut cursor = builder.build();
    let mut lines = Vec::new();
    let read = async {
        loop {
            let entry = cursor.next().await.expect("the stream ended").unwrap();
            for item in &entry.items {
                // The server writes to its own databases whenever it likes.
                let is_own = matches!(item, Item::Change(change) if change.namespace.is_internal());
                if !is_own {
                    lines.push(item.to_string());
                }
            }
            if lines.last().is_some_and(|line| line == "insert shop.orders 99") {
                return;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("the last insert was not yielded");
    lines
}

async fn a_cursor_starts_where_it_is_told(version: Version) {
    let set = ReplicaSet::builder(version).start().await.unwrap();
    let client = set.client().await.unwrap();
    let began = SystemTime::now();
    insert(&client, ("shop", "orders"), 1).await;
    let second = insert(&client, ("shop", "orders"), 2).await;
    insert(&client, ("other", "orders"), 3).await;
    let session_start = insert(&client, ("shop", "tmp"), 4).await;
    // A transaction that begins before the time to start at, and commits after it.
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let orders = client.database("shop").collection::<Document>("orders");
    orders
        .insert_one(doc! { "_id": 5 })
        .session(&mut session)
        .await
        .unwrap();
    insert(&client, ("shop", "tmp"), 6).await;
    session.commit_transaction().await.unwrap();
    client
        .database("shop")
        .run_command(
            doc! { "update": "orders", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "status": "secret" } } }] },
        )
        .await
        .unwrap();
    let rename = doc! { "renameCollection": "shop.tmp", "to": "shop.kept" };
    client.database("admin").run_command(rename).await.unwrap();
    insert(&client, ("shop", "orders"), 99).await;

    let insert_of = |namespace: &str, id: i32| format!("insert {namespace} {id}");
    let tail = [
        insert_of("shop.tmp", 6),
        insert_of("shop.orders", 5),
        "update shop.orders 1 (set status)".to_owned(),
        "renameCollection shop.tmp to shop.kept".to_owned(),
        insert_of("shop.orders", 99),
    ];

    // With the entry at the time itself.
    let lines = until_last(OplogCursor::builder(&client).from_timestamp(second)).await;
    assert_eq!(lines[0], insert_of("shop.orders", 2), "{lines:?}");
    // Between two entries.
    let next = Timestamp {
        increment: session_start.increment + 1,
        ..session_start
    };
    let lines = until_last(OplogCursor::builder(&client).from_timestamp(next)).await;
    assert_eq!(lines, tail);

    // The clock of this machine is that of the server here. One second may have begun between the two.
    let lines = until_last(OplogCursor::builder(&client).from_time(began)).await;
    assert!(lines.contains(&insert_of("shop.orders", 1)), "{lines:?}");
    assert!(lines.ends_with(&tail), "{lines:?}");

    // Only what is selected, and the rename, one of whose names is.
    let mut selection = Selection::all();
    selection.include("shop.*").unwrap();
    selection.exclude("shop.tmp").unwrap();
    let builder = OplogCursor::builder(&client)
        .from_timestamp(second)
        .namespaces(selection.clone());
    let lines = until_last(builder).await;
    assert_eq!(lines[0], insert_of("shop.orders", 2), "{lines:?}");
    assert_eq!(lines[1..], tail[1..], "{lines:?}");

    // Positions advance although nothing is selected.
    let mut selection = Selection::all();
    selection.include("none.*").unwrap();
    let mut cursor = OplogCursor::builder(&client)
        .from_timestamp(second)
        .namespaces(selection)
        .build();
    let entry = timeout(PATIENCE, cursor.next()).await.unwrap().unwrap().unwrap();
    assert!(entry.items.is_empty() && entry.position.timestamp() > second, "{entry}");
    assert_eq!(cursor.resume_position(), Some(entry.resume));

    // The set was created after that, so nothing can be missing.
    let ancient = Timestamp { time: 1, increment: 0 };
    let lines = until_last(OplogCursor::builder(&client).from_timestamp(ancient)).await;
    assert!(lines.contains(&insert_of("shop.orders", 1)), "{lines:?}");

    // Now, and a time in the future: the cursor begins with what is written once it is polled.
    let future = SystemTime::now() + Duration::from_secs(3600);
    for builder in [
        OplogCursor::builder(&client).from_timestamp(second).from_now(),
        OplogCursor::builder(&client).from_time(future),
    ] {
        let mut cursor = builder.build();
        let (entry, ()) = tokio::join!(timeout(PATIENCE, cursor.next()), async {
            for id in 0..20 {
                insert(&client, ("shop", "later"), id).await;
            }
        });
        let entry = entry.unwrap().unwrap().unwrap();
        assert!(entry.position.timestamp() > second, "{entry}");
        assert!(!entry.to_string().contains("shop.orders"), "{entry}");
        client
            .database("shop")
            .collection::<Document>("later")
            .drop()
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_starts_where_it_is_told_4_2() {
    a_cursor_starts_where_it_is_told(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_starts_where_it_is_told_6_0() {
    a_cursor_starts_where_it_is_told(Version::V6_0).await;
}
