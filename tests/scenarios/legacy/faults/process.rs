//! The process that migrates is killed at random moments, and the next one goes on from its checkpoint.

use std::process::Stdio;
use std::sync::Arc;

use bson::{Document, Uuid, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongoferry::{Migration, MongoSink, MongoSource};
use mongoferry_testbed::{Period, ReplicaSet, Version, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::scenarios::faults::plan;
use crate::scenarios::legacy::old_source::{Age, OldSource, Writer, Writers, old_options};
use crate::scenarios::random_servers::{NotKept, not_kept};

/// Variables of the environment in which the process finds both sides.
const SOURCE: &str = "MONGOFERRY_KILLED_SOURCE";
const WIRE_VERSION: &str = "MONGOFERRY_KILLED_WIRE_VERSION";
const TARGET: &str = "MONGOFERRY_KILLED_TARGET";

/// What the lines begin with that the process writes for the test.
const TOLD: &str = "migration: ";

/// Collections that stay while others come and go. The second one is written to, and has another name in the end.
const KEPT: [&str; 2] = ["still", "changed"];
const RENAMED: &str = "renamed";

/// Documents in each of them.
const DOCUMENTS: i32 = 1_000;

/// Documents in a chunk, about, and how many chunks may be written again after a kill: those in flight, and those that were done since the
/// last checkpoint.
const IN_CHUNK: u64 = 50;
const REDONE: u64 = 20;

async fn the_process_is_killed(age: Age, kills: u32) {
    let (kills, mut random) = plan(kills);
    let (source, target) = futures::join!(
        OldSource::start(age),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    );
    let (source, target) = (Arc::new(source), target.unwrap());
    let to = target.client().await.unwrap();
    for first in (0..DOCUMENTS).step_by(500) {
        for collection in KEPT {
            let documents: Vec<_> = (first..first + 500)
                .map(|id| doc! { "_id": id, "text": "x".repeat(300) })
                .collect();
            let insert = doc! { "insert": collection, "documents": documents };
            source.run("kept", insert).await;
        }
    }
    let mut before = Writer::start(&source, random.random(), false).await;
    for _ in 0..50 {
        before.step().await;
    }
    let changes = Changes::start(&source, KEPT[1], &mut random).await;
    let mut process = Process::start(&source, &target);
    for number in 0..kills {
        // Some die while they wait for the lease of the one before, or read its checkpoint.
        if random.random_bool(0.8) {
            process.until("started").await;
        }
        sleep(Duration::from_millis(random.random_range(0..2500))).await;
        process.kill(number).await;
        process = Process::start(&source, &target);
    }
    // A busy machine does not catch up with writers that go on.
    changes.end().await;
    process.until("ready").await;
    // From then on its name alone does not say which collection it is.
    let (from, renamed) = (format!("kept.{}", KEPT[1]), format!("kept.{RENAMED}"));
    let rename = doc! { "renameCollection": from, "to": renamed };
    source.run("admin", rename).await;
    wait_until(DEADLINE, "the collection to be renamed", async || {
        let names = to.database("kept").list_collection_names().await.unwrap();
        names.iter().any(|name| name == RENAMED)
    })
    .await
    .unwrap();
    let before = ids(&to).await;
    // Once everything is copied, a collection that was taken for another one would be copied again.
    let changes = Changes::start(&source, RENAMED, &mut random).await;
    sleep(Duration::from_millis(random.random_range(0..500))).await;
    process.kill(kills).await;
    process = Process::start(&source, &target);
    process.until("started").await;
    changes.end().await;
    process.until("ready").await;
    assert_eq!(ids(&to).await, before, "the collections are others");
    let oplog = to.database("local").collection::<Document>("oplog.rs");
    let writes = doc! { "ns": "kept.still", "op": { "$in": ["i", "u", "d"] } };
    let written = oplog.count_documents(writes).await.unwrap();
    let most = DOCUMENTS as u64 + u64::from(kills) * REDONE * IN_CHUNK;
    assert!(written <= most, "{written} writes where {most} would do");
    process.command("cutover").await;
    let ended = process.until("ended").await;
    assert_eq!(ended, "ended: Complete, 0 resyncs");
    assert_eq!(ids(&to).await, before, "the collections are others");
    source.assert_identical(0, &to, &process.not_kept()).await;
}

/// All that writes to the source.
struct Changes {
    writers: Writers,
    others: JoinSet<()>,
}

impl Changes {
    /// Begins to write, to this collection among others.
    async fn start(source: &Arc<OldSource>, collection: &'static str, random: &mut StdRng) -> Self {
        let mut others = JoinSet::new();
        others.spawn(change(Arc::clone(source), collection, random.random()));
        let writers = Writers::start(source, random, false).await;
        Self { writers, others }
    }

    async fn end(mut self) {
        self.others.shutdown().await;
        self.writers.end().await;
    }
}

/// Changes documents of a collection.
async fn change(source: Arc<OldSource>, collection: &str, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let id = random.random_range(0..DOCUMENTS * 2);
        let command = match random.random_range(0..4) {
            0 => doc! { "delete": collection, "deletes": [{ "q": { "_id": id }, "limit": 1 }] },
            _ => {
                let update = doc! { "$inc": { "n": 1 }, "$set": { "text": "y".repeat(id as usize % 700) } };
                doc! { "update": collection, "updates": [{ "q": { "_id": id }, "u": update, "upsert": true }] }
            }
        };
        source.run("kept", command).await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// What identifies the collections on the target.
async fn ids(target: &Client) -> Vec<(String, Option<Uuid>)> {
    let kept = target.database("kept");
    let listed: Vec<_> = kept.list_collections().await.unwrap().try_collect().await.unwrap();
    let id = |collection: &mongodb::results::CollectionSpecification| {
        let uuid = collection.info.uuid.as_ref();
        uuid.and_then(|uuid| uuid.to_uuid().ok())
    };
    let mut ids: Vec<_> = listed
        .iter()
        .map(|collection| (collection.name.clone(), id(collection)))
        .collect();
    ids.sort();
    assert_eq!(ids.len(), KEPT.len(), "{ids:?}");
    ids
}

/// A process that migrates.
struct Process {
    child: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStderr>>,
    seen: Vec<String>,
}

impl Process {
    /// Starts this binary anew with the one test below, which does nothing elsewhere.
    fn start(source: &OldSource, target: &ReplicaSet) -> Self {
        let (uri, wire_version) = source.address();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "scenarios::legacy::faults::process::legacy_process_that_is_killed";
        command
            .args([name, "--exact", "--ignored", "--nocapture"])
            .env(SOURCE, uri)
            .env(TARGET, target.uri())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(wire_version) = wire_version {
            command.env(WIRE_VERSION, wire_version.to_string());
        }
        let mut child = command.spawn().unwrap();
        Self {
            commands: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
            seen: Vec::new(),
        }
    }

    /// Reads until the process tells something that begins so.
    async fn until(&mut self, beginning: &str) -> String {
        let read = timeout(DEADLINE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.seen.push(line.clone());
                if let Some(told) = line.strip_prefix(TOLD)
                    && told.starts_with(beginning)
                {
                    return told.to_owned();
                }
            }
            panic!("it ended without {beginning:?}: {:#?}", self.seen);
        });
        read.await.unwrap_or_else(|_| panic!("{beginning:?} does not come"))
    }

    async fn command(&mut self, command: &str) {
        self.commands
            .write_all(format!("{command}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn kill(mut self, number: u32) {
        eprintln!("kill {number}, after {:?}", self.seen.last());
        self.child.kill().await.unwrap();
        let status = self.child.wait().await.unwrap();
        assert_eq!(status.code(), None, "{number}: it ended by itself: {:#?}", self.seen);
    }

    /// What it has told of what the target cannot keep.
    fn not_kept(&self) -> NotKept {
        let lines = self
            .seen
            .iter()
            .filter_map(|line| line.strip_prefix(TOLD)?.strip_prefix("not kept: "));
        let names = lines.map(|line| match line.split_once(' ') {
            Some((namespace, index)) => (namespace.to_owned(), Some(index.to_owned())),
            None => (line.to_owned(), None),
        });
        names.collect()
    }
}

/// Migrates until it is killed, or told to cut over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is the process that other tests start and kill"]
async fn legacy_process_that_is_killed() {
    let variable = |name| std::env::var(name).ok();
    let (Some(source), Some(target)) = (variable(SOURCE), variable(TARGET)) else {
        return;
    };
    let wire_version = variable(WIRE_VERSION).map(|version| version.parse().unwrap());
    let source = MongoSource::connect(old_options(&source, wire_version)).await.unwrap();
    let sink = MongoSink::connect(&target).await.unwrap();
    let builder = Migration::builder(source, sink).chunk_bytes(16 << 10).walkers(2);
    let handle = builder.build().unwrap().start().await.unwrap();
    eprintln!("{TOLD}started");
    handle.ready_to_cut_over().await.unwrap();
    eprintln!("{TOLD}ready");
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    assert_eq!(commands.next_line().await.unwrap().as_deref(), Some("cutover"));
    let summary = handle.cutover(async {}).await.unwrap();
    for (namespace, index) in not_kept(&summary) {
        let index = index.map_or_else(String::new, |index| format!(" {index}"));
        eprintln!("{TOLD}not kept: {namespace}{index}");
    }
    eprintln!("{TOLD}ended: {:?}, {} resyncs", summary.outcome, summary.resyncs);
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_process_is_killed_4_0() {
    the_process_is_killed(Age::Compatible(7), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_process_is_killed_2_6() {
    the_process_is_killed(Age::Of(Period::V2_6), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn legacy_process_is_killed_for_long() {
    for age in Age::all([7, 3]) {
        eprintln!("{age:?}");
        the_process_is_killed(age, 20).await;
    }
}
