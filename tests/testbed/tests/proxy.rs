//! What the proxy does to the connections of a real server.

use std::time::{Duration, Instant};

use mongodb::{
    Client, Collection,
    bson::{Document, doc},
    options::ClientOptions,
};
use mongoferry_testbed::{Proxy, ReplicaSet, TestbedError, Version, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

type TestResult = Result<(), TestbedError>;

const DEADLINE: Duration = Duration::from_secs(20);

struct Bed {
    proxy: Proxy,
    /// Through the proxy, without the driver's own second attempts.
    proxied: Collection<Document>,
    direct: Collection<Document>,
    // Last: the server outlives the clients.
    _set: ReplicaSet,
}

async fn bed() -> Result<Bed, TestbedError> {
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let proxy = Proxy::start(set.member_address(0)).await?;
    let mut options = ClientOptions::parse(proxy.uri(&set)).await.unwrap();
    options.retry_reads = Some(false);
    options.retry_writes = Some(false);
    options.server_selection_timeout = Some(Duration::from_secs(2));
    let proxied = Client::with_options(options)
        .unwrap()
        .database("test")
        .collection("things");
    let direct = set.client().await?.database("test").collection("things");
    proxied.insert_one(doc! { "_id": "first" }).await.unwrap();
    Ok(Bed {
        proxy,
        proxied,
        direct,
        _set: set,
    })
}

async fn works(bed: &Bed) -> TestResult {
    wait_until(DEADLINE, "the proxy to work", async || {
        bed.proxied.count_documents(doc! {}).await.is_ok()
    })
    .await
}

#[tokio::test]
async fn a_reply_is_lost_after_the_write_was_done() -> TestResult {
    let bed = bed().await?;
    bed.proxy.lose_next_reply_matching(b"lose me".to_vec());
    bed.proxied.insert_one(doc! { "_id": "keep me" }).await.unwrap();
    assert_eq!(bed.proxy.lost_replies(), 0);
    bed.proxied.insert_one(doc! { "_id": "lose me" }).await.unwrap_err();
    assert_eq!(bed.proxy.lost_replies(), 1);
    assert!(
        bed.direct.find_one(doc! { "_id": "lose me" }).await.unwrap().is_some(),
        "the write was lost too"
    );
    works(&bed).await?;
    bed.proxied.delete_one(doc! { "_id": "lose me" }).await.unwrap();
    assert_eq!(bed.proxy.lost_replies(), 1, "only one was to be lost");
    Ok(())
}

#[tokio::test]
async fn a_reply_is_cut_in_the_middle() -> TestResult {
    let bed = bed().await?;
    bed.proxy.cut_next_reply_matching(b"hello\0".to_vec());
    let mut stream = TcpStream::connect(bed.proxy.addr()).await.unwrap();
    // An OP_MSG with the id 7, without flags, of one section with a body.
    let body = doc! { "hello": 1, "$db": "admin" }.to_vec().unwrap();
    let mut request = Vec::new();
    for number in [21 + body.len() as i32, 7, 0, 2013, 0] {
        request.extend(number.to_le_bytes());
    }
    request.push(0);
    request.extend(body);
    stream.write_all(&request).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    let whole = i32::from_le_bytes(reply[..4].try_into().unwrap()) as usize;
    assert_eq!((reply.len(), bed.proxy.lost_replies()), (whole / 2, 1));
    works(&bed).await
}

#[tokio::test]
async fn a_cut_connection_fails_until_restored() -> TestResult {
    let bed = bed().await?;
    bed.proxy.cut();
    wait_until(DEADLINE, "an error", async || {
        bed.proxied.insert_one(doc! {}).await.is_err()
    })
    .await?;
    let count = bed.direct.count_documents(doc! {}).await.unwrap();
    bed.proxied.insert_one(doc! {}).await.unwrap_err();
    assert_eq!(bed.direct.count_documents(doc! {}).await.unwrap(), count);
    bed.proxy.restore();
    works(&bed).await
}

#[tokio::test]
async fn a_stalled_connection_stays_open_and_goes_on() -> TestResult {
    let bed = bed().await?;
    bed.proxy.stall();
    let mut insert = Box::pin(bed.proxied.insert_one(doc! { "_id": "late" }).into_future());
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut insert)
            .await
            .is_err(),
        "it passed"
    );
    assert!(
        bed.direct.find_one(doc! { "_id": "late" }).await.unwrap().is_none(),
        "it reached the server"
    );
    bed.proxy.restore();
    insert.await.unwrap();
    Ok(())
}

#[tokio::test]
async fn swallowed_replies_belong_to_writes_that_were_done() -> TestResult {
    let bed = bed().await?;
    bed.proxy.swallow_replies(true);
    let mut insert = Box::pin(bed.proxied.insert_one(doc! { "_id": "silent" }).into_future());
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut insert)
            .await
            .is_err(),
        "it was answered"
    );
    assert!(
        bed.direct.find_one(doc! { "_id": "silent" }).await.unwrap().is_some(),
        "it was not done"
    );
    drop(insert);
    bed.proxy.swallow_replies(false);
    works(&bed).await
}

#[tokio::test]
async fn a_delay_counts_in_each_direction() -> TestResult {
    let bed = bed().await?;
    bed.proxy.delay(Duration::from_millis(150));
    let begin = Instant::now();
    bed.proxied.find_one(doc! {}).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    bed.proxy.delay(Duration::ZERO);
    let begin = Instant::now();
    bed.proxied.find_one(doc! {}).await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(300), "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_dropped_proxy_closes_its_connections() -> TestResult {
    let bed = bed().await?;
    drop(bed.proxy);
    wait_until(DEADLINE, "an error", async || {
        bed.proxied.insert_one(doc! {}).await.is_err()
    })
    .await
}
