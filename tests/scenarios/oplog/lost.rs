//! Positions that the oplog no longer has.

use mongoferry::ErrorKind;

use super::*;

async fn a_position_that_rolled_off_is_lost(version: Version) {
    let set = ReplicaSet::builder(version)
        .oplog_size_mb(1)
        .arg("--syncdelay")
        .arg("1")
        .start()
        .await
        .unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let start = newest(&client).await;
    // One that has its place on the server, and is not polled while the oplog rolls over it and over the batch that it has asked for ahead.
    let mut live = OplogCursor::builder(&client).after(start).build();
    mark(&client, 1).await;
    until_mark(&mut live, 1).await;
    // A server also says so of a cursor that it lost on its way to what is still there, and of one that stands.
    let lose_next = async |command: &str| {
        let data = doc! { "failCommands": [command], "errorCode": 136 };
        let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
        client.database("admin").run_command(fail).await.unwrap();
    };
    lose_next("find").await;
    until_mark(&mut OplogCursor::builder(&client).after(start).build(), 1).await;
    lose_next("getMore").await;
    // The first one may come with the answer that the server owed already.
    for number in [2, 3] {
        mark(&client, number).await;
        until_mark(&mut live, number).await;
    }

    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let filler = collection(&client, "filler");
    let fill = async || {
        let documents: Vec<Document> = (0..40).map(|_| doc! { "large": "x".repeat(50 << 10) }).collect();
        filler.insert_many(documents).await.unwrap();
        filler.drop().await.unwrap();
    };
    for _ in 0..3 {
        fill().await;
    }
    let ahead = newest(&client).await;
    wait_until(PATIENCE, "the oplog to roll over", async || {
        fill().await;
        // The oldest entry may be gone before it is answered.
        let Ok(Some(oldest)) = oplog.find_one(doc! {}).await else {
            return false;
        };
        oldest.get_timestamp("ts").unwrap() > ahead.timestamp()
            && Position::new(oldest.get_timestamp("ts").unwrap(), 0).time > live.position().unwrap().time
    })
    .await
    .unwrap();

    let since = OplogCursor::builder(&client).from_timestamp(start.timestamp()).build();
    for mut cursor in [live, since, OplogCursor::builder(&client).after(start).build()] {
        let error = soon(async {
            loop {
                if let Err(error) = cursor.next().await.expect("the stream ended") {
                    return error;
                }
            }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("the oplog no longer contains"), "{error}");
        assert!(error.to_string().contains("its oldest entry is"), "{error}");
    }
}

#[tokio::test]
async fn a_position_that_rolled_off_is_lost_4_2() {
    a_position_that_rolled_off_is_lost(Version::V4_2).await;
}

#[tokio::test]
async fn a_position_that_rolled_off_is_lost_4_4() {
    a_position_that_rolled_off_is_lost(Version::V4_4).await;
}

#[tokio::test]
async fn a_position_that_rolled_off_is_lost_6_0() {
    a_position_that_rolled_off_is_lost(Version::V6_0).await;
}

#[tokio::test]
async fn a_position_of_another_history_is_lost() {
    let set = ReplicaSet::builder(Version::V6_0).start().await.unwrap();
    let client = set.client().await.unwrap();
    mark(&client, 0).await;
    let newest = newest(&client).await;
    mark(&client, 1).await;
    let other_term = Position {
        term: newest.term + 1,
        ..newest
    };
    let between = Position {
        increment: newest.increment + 1000,
        ..newest
    };
    let future = Position {
        time: newest.time + 1000,
        ..newest
    };
    for after in [other_term, between, future] {
        let mut cursor = OplogCursor::builder(&client).after(after).build();
        let error = soon(cursor.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
        assert!(error.to_string().contains("does not contain"), "{error}");
    }
}
