//! The example `service`: it is killed in the middle of its copies, continues, and hands over.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::example::binary;

/// How long anything may take that is waited for; far more than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(90);

const IDS: [&str; 3] = ["shop", "zoo", "bank"];

/// The service while it runs.
struct Service {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Service {
    async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary("service"));
        command.args(arguments).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let address = first.strip_prefix("http://").unwrap().split('/').next().unwrap();
        Self {
            address: address.to_owned(),
            child,
            lines,
        }
    }

    /// Sends a request. Returns the status and the body of the reply.
    async fn request(&self, method: &str, path: &str) -> (u16, Value) {
        let exchange = async {
            let mut connection = TcpStream::connect(&self.address).await.unwrap();
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            connection.read_to_string(&mut reply).await.unwrap();
            reply
        };
        let reply = timeout(PATIENCE, exchange).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// Waits until the status of each migration fits.
    async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waited = wait_until(PATIENCE, what, async || {
            last = self.request("GET", "/migrations").await.1;
            IDS.iter().all(|id| fits(&last[*id]["status"]))
        });
        let waited = waited.await;
        assert!(waited.is_ok(), "{waited:?}: {last:#}");
        last
    }

    /// Reads its log until a line of each migration has these words.
    async fn logged(&mut self, words: &str) {
        let mut missing: Vec<String> = IDS.iter().map(|id| format!("{id}: {words}")).collect();
        while !missing.is_empty() {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect(words);
            let line = line.unwrap().unwrap();
            missing.retain(|start| !line.starts_with(start));
        }
    }

    async fn signal(&self, signal: &str) {
        let process = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", signal, &process]).status().await;
        assert!(sent.unwrap().success());
    }

    async fn end(mut self) -> Option<i32> {
        let end = async {
            while self.lines.next_line().await.unwrap().is_some() {}
            self.child.wait().await.unwrap().code()
        };
        timeout(PATIENCE, end).await.expect("it did not end")
    }
}

/// One large collection, which is one chunk, and small ones, which are copied at once.
async fn load(source: &mongodb::Client) {
    for id in IDS {
        for (name, documents, bytes) in [("large", 1500, 2000), ("a", 20, 20), ("b", 20, 20), ("c", 20, 20)] {
            let documents = (0..documents).map(|number| doc! { "_id": number, "filling": "x".repeat(bytes) });
            let collection = source.database(id).collection::<Document>(name);
            let insert = collection
                .insert_many(documents)
                .write_concern(WriteConcern::majority());
            insert.await.unwrap();
        }
    }
}

/// Writes the list of migrations, each with this limit of bytes a second.
fn describe(file: &Path, source: &str, target: &str, limit: Option<u64>) {
    let migrations: Vec<Value> = IDS
        .iter()
        .map(|id| {
            json!({
                "id": id, "source": source, "target": target,
                "selection": { "include": [format!("{id}.*")] },
                "throttle": { "copy_bytes_per_second": limit },
            })
        })
        .collect();
    std::fs::write(file, serde_json::to_vec(&migrations).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_resumes_and_cuts_over() {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let (source_client, target_client) = (source.client().await.unwrap(), target.client().await.unwrap());
    load(&source_client).await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("migrations.json");
    let arguments = [list.to_str().unwrap(), "0"];

    // The large collections would take half a minute.
    describe(&list, &source.uri(), &target.uri(), Some(100_000));
    let mut killed = Service::start(&arguments).await;
    killed.logged("starting at position").await;
    let copied = |status: &Value| status["copied"]["documents"].as_u64().unwrap_or_default();
    killed
        .until("the small collections in a checkpoint", |status| {
            copied(status) >= 60 && status["position"]["t"].is_u64()
        })
        .await;
    // What the status counts is in the next checkpoint.
    killed.logged("a checkpoint is saved").await;
    killed.logged("a checkpoint is saved").await;
    let (code, refused) = killed.request("POST", "/migrations/zoo/cutover").await;
    assert_eq!((code, &refused["kind"]), (409, &json!("wrong_phase")), "{refused:#}");
    let before = killed.until("the copy", |status| status["phase"] == "copy").await;
    assert!(before["zoo"]["status"]["copied"]["documents"].as_u64() < Some(1560));
    killed.signal("KILL").await;
    assert_eq!(killed.end().await, None);

    // The first status of each has what is not copied again: with this limit, nothing else can be copied yet.
    let mut resumed = Service::start(&arguments).await;
    resumed.logged("resuming from the checkpoint").await;
    let first = resumed.until("the status", |status| copied(status) >= 60).await;
    assert_eq!(first["shop"]["status"]["phase"], "copy", "{first:#}");
    resumed.signal("INT").await;
    assert_eq!(resumed.end().await, Some(0));

    describe(&list, &source.uri(), &target.uri(), None);
    let mut last = Service::start(&arguments).await;
    last.logged("resuming from the checkpoint").await;
    last.until("all ready", |status| status["phase"] == "ready").await;
    assert_eq!(last.request("GET", "/migrations/barn").await.0, 404);
    let paths = IDS.map(|id| format!("/migrations/{id}/cutover"));
    let summaries = join_all(paths.iter().map(|path| last.request("POST", path))).await;
    for (code, summary) in summaries {
        assert_eq!((code, &summary["outcome"]), (200, &json!("complete")), "{summary:#}");
    }
    let ended = last.request("GET", "/migrations/shop").await.1;
    assert_eq!(ended["status"]["phase"], "complete", "{ended:#}");
    assert_identical(&source_client, &target_client, &CompareOptions::default())
        .await
        .unwrap();
    last.signal("TERM").await;
    assert_eq!(last.end().await, Some(0));

    let again = Service::start(&arguments).await;
    wait_until(PATIENCE, "the errors of complete migrations", async || {
        let all = again.request("GET", "/").await.1;
        IDS.iter().all(|id| all[*id]["error"]["kind"] == "already_complete")
    })
    .await
    .unwrap();
    again.signal("TERM").await;
    assert_eq!(again.end().await, Some(0));
}
