//! Commands, and cursors of both forms.

use bson::{Document, doc, rawdoc};
use mongoferry::ErrorKind;
use mongoferry::test_util::legacy::{Find, LegacyClient};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

use super::{PATIENCE, assert_code, batches, clients, ids, next, open_cursors, ping, start};

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_reads_from_4_2() {
    reads_from(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_reads_from_4_4() {
    reads_from(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_reads_from_5_0() {
    reads_from(Version::V5_0).await;
}

async fn reads_from(version: Version) {
    let set = start(version).await;
    fill(&set).await;
    for (by_command, client) in [true, false].into_iter().zip(clients(&set.uri()).await) {
        runs_commands(&client, &set).await;
        reads_everything(&client, by_command).await;
        keeps_to_what_is_asked_for(&client).await;
        reads_on_after_commands(&client).await;
        reads_large_documents(&client).await;
        reports_what_is_refused(&client, &set).await;
        closes_cursors(&client, &set).await;
    }
}

/// 6,000 documents of 1 KB, and three of 16 MB.
async fn fill(set: &ReplicaSet) {
    let database = set.client().await.unwrap().database("d");
    let small = (0..6_000).map(|id| doc! { "_id": id, "text": "x".repeat(1_000) });
    database.collection("small").insert_many(small).await.unwrap();
    let large = database.collection("large");
    for id in 0..3 {
        let text = "x".repeat(16 * 1024 * 1024 - 100);
        large.insert_one(doc! { "_id": id, "text": text }).await.unwrap();
    }
}

async fn runs_commands(client: &LegacyClient, set: &ReplicaSet) {
    ping(client).await.unwrap();
    let primary = client.primary().await.unwrap();
    assert_eq!(primary.address, set.member_address(0));
    assert!(primary.is_master.is_primary && primary.is_master.election_id.is_some());
    let written = primary.is_master.last_write.unwrap();
    assert!(written.op_time.unwrap() >= written.majority_op_time.unwrap());
    client
        .command_on(&set.member_address(0), "admin", &rawdoc! { "ping": 1 })
        .await
        .unwrap();

    let error = client
        .command("admin", &rawdoc! { "noSuch": "s3cret" })
        .await
        .unwrap_err();
    assert_code(&error, 59);
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Server, "run `noSuch`"));
    assert!(!error.is_retryable() && !format!("{error:?} {error:#}").contains("s3cret"));
    let missing = rawdoc! { "collMod": "missing" };
    assert_code(&client.command("d", &missing).await.unwrap_err(), 26);
}

async fn reads_everything(client: &LegacyClient, by_command: bool) {
    let mut cursor = client.find(Find::new("d", "small", rawdoc! {})).await.unwrap();
    assert_eq!(cursor.reply().is_some(), by_command);
    if let Some(reply) = cursor.reply() {
        assert!(reply.get_timestamp("operationTime").is_ok() && reply.get("cursor").unwrap().is_none());
    }
    let batches = batches(&mut cursor).await;
    // The server ends the first batch at 101 documents.
    assert_eq!(batches[0].len(), 101);
    let mut read = ids(&batches);
    read.sort_unstable();
    assert!(read.into_iter().eq(0..6_000));
    // It stays at its end.
    assert_eq!((cursor.id(), next(&mut cursor).await), (0, None));

    let nothing = Find::new("d", "small", rawdoc! { "_id": -1 });
    assert_eq!(next(&mut client.find(nothing).await.unwrap()).await, None);
    let no_collection = Find::new("d", "missing", rawdoc! {});
    assert_eq!(next(&mut client.find(no_collection).await.unwrap()).await, None);
}

async fn keeps_to_what_is_asked_for(client: &LegacyClient) {
    let range = Find {
        hint: Some(rawdoc! { "_id": 1 }),
        min: Some(rawdoc! { "_id": 10 }),
        max: Some(rawdoc! { "_id": 500 }),
        sort: Some(rawdoc! { "_id": 1 }),
        projection: Some(rawdoc! { "_id": 1 }),
        batch_size: Some(100),
        ..Find::new("d", "small", rawdoc! { "_id": { "$ne": 20 } })
    };
    let mut cursor = client.find(range.clone()).await.unwrap();
    let read = batches(&mut cursor).await;
    let sizes: Vec<usize> = read.iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 100, 100, 100, 89]);
    assert!(ids(&read).into_iter().eq((10..500).filter(|id| *id != 20)));
    assert_eq!(read[0][0], rawdoc! { "_id": 10 });

    let skipping = Find {
        skip: Some(100),
        limit: Some(1),
        ..range.clone()
    };
    let mut cursor = client.find(skipping).await.unwrap();
    assert_eq!(ids(&batches(&mut cursor).await), [111]);

    for limit in [1, 2, 99, 100, 101, 250, 1_000] {
        let limited = Find {
            limit: Some(limit),
            ..range.clone()
        };
        let mut cursor = client.find(limited).await.unwrap();
        let read = ids(&batches(&mut cursor).await);
        assert_eq!(read.len(), limit.min(489) as usize, "{limit}");
        assert_eq!(cursor.id(), 0);
    }
}

async fn reads_on_after_commands(client: &LegacyClient) {
    let command =
        rawdoc! { "aggregate": "small", "pipeline": [{ "$sort": { "_id": -1 } }], "cursor": { "batchSize": 10 } };
    let mut cursor = client.command_cursor("d", &command).await.unwrap();
    let read = batches(&mut cursor).await;
    assert!(read.len() > 1 && read[0].len() == 10);
    assert!(ids(&read).into_iter().eq((0..6_000).rev()));

    let command = rawdoc! { "listCollections": 1, "cursor": { "batchSize": 1 } };
    let mut cursor = client.command_cursor("d", &command).await.unwrap();
    let listed = batches(&mut cursor).await;
    let mut names: Vec<&str> = listed
        .iter()
        .flatten()
        .map(|one| one.get_str("name").unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["large", "small"]);
    let error = client.command_cursor("d", &rawdoc! { "ping": 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

async fn reads_large_documents(client: &LegacyClient) {
    let mut cursor = client.find(Find::new("d", "large", rawdoc! {})).await.unwrap();
    let batches = batches(&mut cursor).await;
    assert_eq!(ids(&batches), [0, 1, 2]);
    let sizes = batches.iter().flatten().map(|document| document.as_bytes().len());
    assert!(sizes.into_iter().all(|size| size > 16_000_000));
}

async fn reports_what_is_refused(client: &LegacyClient, set: &ReplicaSet) {
    // A query that fails, as a reply to `find` and as a document with `$err`.
    let wrong = Find::new("d", "small", rawdoc! { "_id": { "$noSuch": "s3cret" } });
    let error = client.find(wrong).await.err().unwrap();
    assert_code(&error, 2);
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(!error.report().contains("s3cret"));

    // A cursor that somebody closed.
    let find = Find {
        batch_size: Some(10),
        ..Find::new("d", "small", rawdoc! {})
    };
    let mut cursor = client.find(find.clone()).await.unwrap();
    cursor.next_batch().await.unwrap().unwrap();
    let admin = set.client().await.unwrap().database("d");
    let kill = doc! { "killCursors": "small", "cursors": [cursor.id()] };
    let killed: Document = admin.run_command(kill).await.unwrap();
    assert_eq!(killed.get_array("cursorsKilled").unwrap().len(), 1);
    let error = cursor.next_batch().await.unwrap_err();
    assert_code(&error, 43);
    assert!(error.is_retryable(), "{error}");
    assert_eq!(next(&mut cursor).await, None);
}

/// A dropped cursor is closed on the server, without another call of this client.
async fn closes_cursors(client: &LegacyClient, set: &ReplicaSet) {
    let driver = set.client().await.unwrap();
    let find = Find {
        batch_size: Some(10),
        no_cursor_timeout: true,
        ..Find::new("d", "small", rawdoc! {})
    };
    let (before, kept_before) = (
        open_cursors(&driver, "total").await,
        open_cursors(&driver, "noTimeout").await,
    );
    let cursors = [
        client.find(find.clone()).await.unwrap(),
        client.find(find.clone()).await.unwrap(),
    ];
    assert_eq!(open_cursors(&driver, "total").await, before + 2);
    assert_eq!(open_cursors(&driver, "noTimeout").await, kept_before + 2);
    drop(cursors);
    wait_until(PATIENCE, "cursors to be closed", async || {
        open_cursors(&driver, "total").await == before
    })
    .await
    .unwrap();
}
