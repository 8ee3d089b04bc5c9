//! What a cursor yields, keeps open and may not read.

use mongodb::options::ClientOptions;
use mongoferry::ErrorKind;

use super::*;

#[tokio::test]
async fn an_idle_source_moves_on() {
    let set = ReplicaSet::builder(Version::V6_0)
        .set_parameter("periodicNoopIntervalSecs", 1)
        .start()
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let mut cursor = OplogCursor::builder(&client).after(newest(&client).await).build();
    for _ in 0..3 {
        let entry = soon(cursor.next()).await.unwrap().unwrap();
        assert_eq!(entry.items.len(), 0);
        assert_eq!(entry.resume, entry.position);
    }
}

#[tokio::test]
async fn batches_are_small_and_complete() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let start = newest(&client).await;
    for first in (0..3000).step_by(100) {
        let documents: Vec<Document> = (first..first + 100)
            .map(|id| doc! { "_id": id, "text": "x".repeat(10_000) })
            .collect();
        collection(&client, "items").insert_many(documents).await.unwrap();
    }
    let mut batches = OplogCursor::builder(&client).after(start).build().into_batches();
    let mut seen = 0;
    let mut vectors = 0;
    soon(async {
        while seen < 3000 {
            let entries = batches.next().await.unwrap().unwrap();
            assert!(!entries.is_empty());
            let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
            assert!(bytes < (1 << 20) + 20_000, "{bytes}");
            vectors += 1;
            for entry in &entries {
                for item in &entry.items {
                    if let Item::Change(change) = item {
                        assert_eq!(change.write.key, Key::from(RawBsonRef::Int32(seen)));
                        seen += 1;
                    }
                }
            }
        }
    })
    .await;
    assert!(vectors >= 30, "{vectors}");
}

/// The cursors that are open on the server.
async fn open_cursors(client: &Client) -> i64 {
    let status = client
        .database("admin")
        .run_command(doc! { "serverStatus": 1 })
        .await
        .unwrap();
    let cursors = status.get_document("metrics").unwrap().get_document("cursor").unwrap();
    cursors.get_document("open").unwrap().get_i64("total").unwrap()
}

#[tokio::test]
async fn dropping_a_cursor_kills_it_on_the_server() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let mut cursor = OplogCursor::builder(&client).after(newest(&client).await).build();
    mark(&client, 1).await;
    until_mark(&mut cursor, 1).await;
    assert!(open_cursors(&client).await > 0);
    drop(cursor);
    wait_until(PATIENCE, "the cursor's end", async || open_cursors(&client).await == 0)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_may_not_be_read_is_named() {
    let set = ReplicaSet::builder(Version::V6_0)
        .key_file_auth()
        .start()
        .await
        .unwrap();
    let root = set.client().await.unwrap();
    root.database("admin")
        .run_command(doc! { "createUser": "clerk", "pwd": "secret-word", "roles": ["readWriteAnyDatabase"] })
        .await
        .unwrap();
    let start = newest(&root).await;
    let mut options = ClientOptions::parse(set.uri()).await.unwrap();
    let credential = options.credential.as_mut().unwrap();
    credential.username = Some("clerk".to_owned());
    credential.password = Some("secret-word".to_owned());
    let client = Client::with_options(options).unwrap();
    for (builder, place) in [
        (OplogCursor::builder(&client), "config.transactions"),
        (OplogCursor::builder(&client).after(start), "local.oplog.rs"),
    ] {
        let error = soon(builder.build().next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(place) && !text.contains("secret-word"), "{text}");
    }
}
