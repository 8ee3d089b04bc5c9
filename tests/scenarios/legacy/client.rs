//! The client of old servers, by the messages of old servers, on newer ones, which still understand them.

mod cursors;
mod elections;
mod logins;
mod network;
mod tails;
mod tls;

use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, doc, rawdoc};
use mongodb::Client;
use mongodb::options::ClientOptions;
use mongoferry::Error;
use mongoferry::test_util::legacy::{LegacyClient, LegacyCursor, LegacyOptions};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The wire version of 3.0, with which the client sends no command `find`.
const V3_0: i32 = 3;

async fn options(uri: &str) -> LegacyOptions {
    LegacyOptions::from(ClientOptions::parse(uri).await.unwrap())
}

async fn client(uri: &str) -> LegacyClient {
    LegacyClient::new(options(uri).await).unwrap()
}

/// Clients for each form of cursors: by commands, and by the older messages.
async fn clients(uri: &str) -> [LegacyClient; 2] {
    let mut older = options(uri).await;
    older.wire_version_limit = Some(V3_0);
    [client(uri).await, LegacyClient::new(older).unwrap()]
}

async fn start(version: Version) -> ReplicaSet {
    ReplicaSet::builder(version).start().await.unwrap()
}

/// The next batch of a cursor.
async fn next(cursor: &mut LegacyCursor) -> Option<Vec<RawDocumentBuf>> {
    let batch = cursor.next_batch().await.unwrap()?;
    let documents: Vec<RawDocumentBuf> = batch.iter().map(RawDocument::to_owned).collect();
    assert_eq!(documents.len(), batch.len());
    Some(documents)
}

/// All further batches of a cursor.
async fn batches(cursor: &mut LegacyCursor) -> Vec<Vec<RawDocumentBuf>> {
    let mut batches = Vec::new();
    while let Some(batch) = next(cursor).await {
        batches.push(batch);
    }
    batches
}

fn id_of(document: &RawDocument) -> i32 {
    document.get_i32("_id").unwrap()
}

fn ids(batches: &[Vec<RawDocumentBuf>]) -> Vec<i32> {
    batches.iter().flatten().map(|document| id_of(document)).collect()
}

/// What a server reports of its open cursors.
async fn open_cursors(client: &Client, which: &str) -> i64 {
    let command = doc! { "serverStatus": 1 };
    let status: Document = client.database("admin").run_command(command).await.unwrap();
    let open = status
        .get_document("metrics")
        .unwrap()
        .get_document("cursor")
        .unwrap()
        .get_document("open");
    open.unwrap().get_i64(which).unwrap()
}

/// The server's code, as messages have it.
#[track_caller]
fn assert_code(error: &Error, code: i32) {
    let text = error.report();
    assert!(text.contains(&format!("(code {code}")), "{code} in: {text}");
}

async fn ping(client: &LegacyClient) -> Result<RawDocumentBuf, Error> {
    client.command("admin", &rawdoc! { "ping": 1 }).await
}

/// Waits until a command is carried out again.
async fn wait_for_ping(client: &LegacyClient) {
    wait_until(PATIENCE, "a command to be carried out", async || {
        ping(client).await.is_ok()
    })
    .await
    .unwrap();
}
