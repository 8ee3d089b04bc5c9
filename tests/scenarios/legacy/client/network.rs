//! Connections that break, servers that do not answer, and calls that are dropped.

use std::time::{Duration, Instant};

use bson::{doc, rawdoc};
use mongoferry::ErrorKind;
use mongoferry::test_util::legacy::{Find, LegacyClient, LegacyOptions};
use mongoferry_testbed::{Proxy, ReplicaSet, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{batches, client, clients, ids, next, options, ping, start, wait_for_ping};

/// The options for the only member of a set behind a proxy.
async fn behind(proxy: &Proxy, set: &ReplicaSet) -> LegacyOptions {
    let mut options = options(&proxy.uri(set)).await;
    options.answer_timeout = Duration::from_secs(2);
    options.connect_timeout = Duration::from_secs(2);
    options.server_selection_timeout = Duration::from_secs(5);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_survives_closed_connections() {
    let set = start(Version::V4_2).await;
    let proxy = Proxy::start(set.member_address(0)).await.unwrap();
    let client = LegacyClient::new(behind(&proxy, &set).await).unwrap();
    futures::future::join_all((0..5).map(|_| ping(&client))).await;
    // Unused connections that the server has closed are not even noticed.
    proxy.cut();
    proxy.restore();
    wait_for_ping(&client).await;
    set.restart(0).await.unwrap();
    wait_for_ping(&client).await;

    // An answer that is lost is an error, since the server may have carried out the command.
    proxy.lose_next_reply_matching(b"serverStatus\0");
    let error = client
        .command("admin", &rawdoc! { "serverStatus": 1 })
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Connection, true),
        "{error}"
    );
    assert_eq!(proxy.lost_replies(), 1);
    ping(&client).await.unwrap();

    proxy.cut();
    let error = ping(&client).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Connection, true),
        "{error}"
    );
    proxy.restore();
    ping(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_gives_up_on_a_silent_server() {
    let set = start(Version::V4_2).await;
    let proxy = Proxy::start(set.member_address(0)).await.unwrap();
    let client = LegacyClient::new(behind(&proxy, &set).await).unwrap();
    ping(&client).await.unwrap();
    proxy.swallow_replies(true);
    let began = Instant::now();
    let error = ping(&client).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Connection, true),
        "{error}"
    );
    assert!(error.to_string().contains("in time"), "{error}");
    // A server that takes no new connection, either.
    let error = ping(&client).await.unwrap_err();
    assert_eq!(error.findings()[0].code, "no_primary", "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    proxy.restore();
    wait_for_ping(&client).await;

    // Time that the command gives the server is added.
    let slow = rawdoc! { "find": "c", "filter": { "$where": "sleep(3000) || true" }, "maxTimeMS": 10_000 };
    let documents = set.client().await.unwrap().database("d").collection("c");
    documents.insert_one(doc! { "_id": 1 }).await.unwrap();
    client.command("d", &slow).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_works_after_dropped_calls() {
    let set = start(Version::V4_2).await;
    let database = set.client().await.unwrap().database("d");
    let documents = (0..2_000).map(|id| doc! { "_id": id, "text": "x".repeat(1_000) });
    database.collection("c").insert_many(documents).await.unwrap();
    for client in clients(&set.uri()).await {
        ping(&client).await.unwrap();
        for micros in [1, 20, 50, 100, 200, 300, 500, 700, 1_000, 2_000] {
            let limit = Duration::from_micros(micros);
            let whole = rawdoc! { "find": "c", "batchSize": 2_000 };
            let _ = tokio::time::timeout(limit, client.command("d", &whole)).await;
            let _ = tokio::time::timeout(limit, client.find(Find::new("d", "c", rawdoc! {}))).await;
            let reply = client.command("d", &rawdoc! { "count": "c" }).await.unwrap();
            assert_eq!(reply.get_i32("n").unwrap(), 2_000);
            // A dropped call of a cursor is continued by the next one.
            let mut cursor = client.find(Find::new("d", "c", rawdoc! {})).await.unwrap();
            let mut read = vec![next(&mut cursor).await.unwrap()];
            let _ = tokio::time::timeout(limit, async { read.extend(next(&mut cursor).await) }).await;
            read.extend(batches(&mut cursor).await);
            assert!(ids(&read).into_iter().eq(0..2_000), "{micros}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_bounds_its_connections() {
    let set = start(Version::V4_2).await;
    let mut options = options(&set.uri()).await;
    options.max_pool_size = 2;
    options.answer_timeout = Duration::from_secs(1);
    let client = LegacyClient::new(options).unwrap();
    let pings = futures::future::join_all((0..20).map(|_| ping(&client))).await;
    assert!(pings.iter().all(Result::is_ok));

    let slow = rawdoc! { "find": "c", "filter": { "$where": "sleep(3000) || true" }, "maxTimeMS": 10_000 };
    let documents = set.client().await.unwrap().database("d").collection("c");
    documents.insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut slow_ones = JoinSet::new();
    for _ in 0..2 {
        let (client, slow) = (client.clone(), slow.clone());
        slow_ones.spawn(async move { client.command("d", &slow).await.is_ok() });
    }
    let error = loop {
        if let Err(error) = ping(&client).await {
            break error;
        }
        assert!(!slow_ones.is_empty() && slow_ones.try_join_next().is_none());
    };
    assert!(error.to_string().contains("maxPoolSize"), "{error}");
    assert!(slow_ones.join_all().await.into_iter().all(|is_ok| is_ok));
}

/// Forwards connections, and closes each once it has passed on this number of bytes of the server.
async fn cutting_after(target: String, bytes: u64) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&target).await.unwrap();
            connections.spawn(async move {
                let (mut client_read, mut client_write) = client.into_split();
                let (server_read, mut server_write) = server.into_split();
                let mut limited = server_read.take(bytes);
                tokio::select! {
                    _ = tokio::io::copy(&mut client_read, &mut server_write) => {}
                    _ = tokio::io::copy(&mut limited, &mut client_write) => {}
                }
                let _ = client_write.shutdown().await;
            });
        }
    });
    (address, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_client_reports_a_reply_cut_short() {
    let set = start(Version::V4_2).await;
    let database = set.client().await.unwrap().database("d");
    let documents = (0..101).map(|id| doc! { "_id": id, "text": "x".repeat(1_000) });
    database.collection("c").insert_many(documents).await.unwrap();
    // The greeting has some 600 bytes, the batch 100,000.
    for bytes in [10, 300, 5_000, 50_000] {
        let (address, _tasks) = cutting_after(set.member_address(0), bytes).await;
        let mut options = options(&format!("mongodb://{address}/?directConnection=true")).await;
        options.server_selection_timeout = Duration::from_millis(500);
        let client = LegacyClient::new(options).unwrap();
        let error = client.find(Find::new("d", "c", rawdoc! {})).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.is_retryable()),
            (ErrorKind::Connection, true),
            "{bytes}: {error}"
        );
    }
    client(&set.uri())
        .await
        .find(Find::new("d", "c", rawdoc! {}))
        .await
        .unwrap();
}
