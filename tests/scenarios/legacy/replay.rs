//! The history that a real 2.6.12 and a real 3.0.15 logged, applied to a 4.2 server by a migration.
//!
//! The source yields the captured entries. It begins without collections, so all that the target gets comes from these entries, except for
//! two collections that old servers fill without entries: there the migration has to read the source.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Bson, Document, Timestamp, Uuid, doc, rawdoc};
use futures::stream::{self, BoxStream, StreamExt};
use mongodb::Client;
use mongoferry::oplog::{CommandOperation, Entry, Item, delta};
use mongoferry::order::Key;
use mongoferry::source::{MemorySource, PointRequest, ReadRequest, Source, SourceLayer};
use mongoferry::test_util::decode_legacy;
use mongoferry::{
    Batch, Collection, CollectionKind, Layered, Migration, MigrationHandle, MongoSink, Namespace, Operation, Position,
    Result, Selection, Verification,
};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::sync::watch;

use super::super::deadline::{DEADLINE, ready};

const SET: &str = "captured";

/// What was captured from one server.
struct Capture {
    series: [u32; 2],
    entries: Vec<RawDocumentBuf>,
    facts: Document,
}

impl Capture {
    fn load(name: &str, series: [u32; 2]) -> Self {
        let path = |end: &str| format!("{}/tests/samples/oplog/{name}.{end}", env!("CARGO_MANIFEST_DIR"));
        let lines = fs::read_to_string(path("jsonl")).unwrap();
        let entries = lines.lines().map(|line| {
            let mut entry: Document = serde_json::from_str(line).unwrap();
            entry.remove("case").unwrap();
            RawDocumentBuf::try_from(&entry).unwrap()
        });
        Self {
            series,
            entries: entries.collect(),
            facts: serde_json::from_str(&fs::read_to_string(path("facts.json")).unwrap()).unwrap(),
        }
    }

    /// The digest of each collection of `app` that the server computed one for.
    fn digests(&self) -> BTreeMap<String, String> {
        let digests = self.facts.get_document("dbHash").unwrap();
        let digests = digests.get_document("collections").unwrap().iter();
        digests
            .map(|(name, digest)| (name.clone(), digest.as_str().unwrap().to_owned()))
            .collect()
    }

    /// The options of each collection that the server listed. The listing of 2.6.12 was captured in part.
    fn options(&self) -> BTreeMap<String, Document> {
        let listed = match self
            .facts
            .get_document("listCollections")
            .unwrap()
            .get_document("cursor")
        {
            Ok(cursor) => cursor.get_array("firstBatch").unwrap().clone(),
            Err(_) => self.facts.get_array("system.namespaces").unwrap().clone(),
        };
        let named = listed.iter().map(|listed| listed.as_document().unwrap());
        named
            .filter_map(|listed| {
                let name = listed.get_str("name").unwrap();
                let name = name.strip_prefix("app.").unwrap_or(name);
                let options = listed.get_document("options").cloned().unwrap_or_default();
                let is_user_data = !name.contains('$') && name != "system.indexes";
                is_user_data.then(|| (name.to_owned(), options))
            })
            .collect()
    }

    /// The indexes of each collection, by name.
    fn indexes(&self) -> BTreeMap<(String, String), Document> {
        let mut listed = self.facts.get_array("system.indexes").unwrap().clone();
        if listed.is_empty() {
            let cursor = self
                .facts
                .get_document("listIndexes")
                .unwrap()
                .get_document("cursor")
                .unwrap();
            listed = cursor.get_array("firstBatch").unwrap().clone();
        }
        by_name(listed.into_iter().map(|index| index.as_document().unwrap().clone()))
    }
}

fn by_name(indexes: impl Iterator<Item = Document>) -> BTreeMap<(String, String), Document> {
    indexes
        .map(|mut index| {
            let namespace = index.remove("ns").unwrap().as_str().unwrap().to_owned();
            let name = index.remove("name").unwrap().as_str().unwrap().to_owned();
            ((namespace, name), index)
        })
        .collect()
}

/// A source that replays a capture, up to an entry that can be moved.
#[derive(Clone)]
struct Replay {
    memory: MemorySource,
    capture: Arc<Capture>,
    /// Number of entries that the source has.
    length: Arc<watch::Sender<usize>>,
    known: Arc<Mutex<Option<BTreeMap<Namespace, Uuid>>>>,
}

fn position_of(entry: &RawDocumentBuf) -> Position {
    Position::new(entry.get_timestamp("ts").unwrap(), -1)
}

impl Replay {
    fn new(capture: &Arc<Capture>, length: usize) -> Self {
        let memory = MemorySource::new();
        // That old servers cannot be migrated from is not the subject here.
        memory.set_version([4, 2, 0]);
        Self {
            memory,
            capture: Arc::clone(capture),
            length: Arc::new(watch::Sender::new(length)),
            known: Arc::default(),
        }
    }

    /// The position before all entries.
    fn start(&self) -> Position {
        let first = position_of(&self.capture.entries[0]);
        let time = Timestamp {
            time: first.time - 1,
            increment: 1,
        };
        Position::new(time, -1)
    }

    fn newest(&self) -> Position {
        match *self.length.borrow() {
            0 => self.start(),
            length => position_of(&self.capture.entries[length - 1]),
        }
    }

    /// The entries after a position, decoded.
    fn entries(&self, after: Position) -> Vec<Entry> {
        let entries = self.capture.entries.iter();
        let entries: Vec<RawDocumentBuf> = entries.filter(|entry| position_of(entry) > after).cloned().collect();
        let known = self.known.lock().unwrap().clone();
        decode_legacy(self.capture.series, SET, known.as_ref(), &entries).unwrap()
    }

    /// Everything that has happened, as a source decodes it that has followed from the beginning.
    fn items(&self) -> Vec<Item> {
        let entries = &self.capture.entries[..*self.length.borrow()];
        let entries = decode_legacy(self.capture.series, SET, None, entries).unwrap();
        entries.into_iter().flat_map(|entry| entry.items).collect()
    }

    /// The documents of a collection, as far as entries tell.
    fn documents(&self, namespace: &Namespace) -> HashMap<Key, RawDocumentBuf> {
        let mut documents: HashMap<Uuid, HashMap<Key, RawDocumentBuf>> = HashMap::new();
        let mut names = HashMap::new();
        for item in self.items() {
            match item {
                Item::Change(change) => {
                    names.insert((*change.namespace).clone(), change.collection);
                    let of_it = documents.entry(change.collection).or_default();
                    let key = change.write.key;
                    match change.write.operation {
                        Operation::Insert(document) | Operation::Replace(document) => drop(of_it.insert(key, document)),
                        Operation::Delta(change) => {
                            let after = delta::apply(&of_it[&key], &change).unwrap();
                            of_it.insert(key, after);
                        }
                        Operation::Delete => drop(of_it.remove(&key)),
                    }
                }
                Item::Command(command) => {
                    if let CommandOperation::Rename { from, to, .. } = command.operation {
                        names.remove(&*from);
                        names.insert((*to).clone(), command.collection.unwrap());
                    }
                }
            }
        }
        names
            .get(namespace)
            .and_then(|id| documents.remove(id))
            .unwrap_or_default()
    }

    /// The collections that old servers fill without entries, each with its documents, once they are in the history.
    fn filled(&self) -> Vec<(Collection, Vec<RawDocumentBuf>)> {
        let mut filled = Vec::new();
        for item in self.items() {
            let Item::Command(command) = item else { continue };
            let CommandOperation::Rename { to, .. } = &command.operation else {
                continue;
            };
            let (kind, options) = match to.as_str() {
                "app.conv" => (CollectionKind::Capped, rawdoc! { "capped": true, "size": 8192 }),
                "other.mv" => (CollectionKind::Plain, rawdoc! {}),
                _ => continue,
            };
            let mut collection = Collection::new(command.collection.unwrap(), (**to).clone(), kind);
            collection.options = options;
            collection.indexes = vec![rawdoc! { "v": 1, "key": { "_id": 1 }, "name": "_id_" }];
            filled.push((collection, (0..3).map(|id| rawdoc! { "_id": id }).collect()));
        }
        filled
    }
}

#[async_trait]
impl SourceLayer for Replay {
    fn inner(&self) -> &dyn Source {
        &self.memory
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        Ok(self.filled().into_iter().map(|(collection, _)| collection).collect())
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        let mut collections = self.collections().await?;
        collections.retain(|collection| names.contains(&collection.namespace));
        Ok(collections)
    }

    async fn collections_selected(&self, _: &Selection) -> Result<Vec<Collection>> {
        self.collections().await
    }

    async fn position(&self) -> Result<Position> {
        Ok(self.newest())
    }

    async fn sentinel(&self) -> Result<Position> {
        Ok(self.newest())
    }

    async fn read_position(&self) -> Result<Position> {
        Ok(self.newest())
    }

    async fn start_position(&self) -> Result<Position> {
        Ok(self.newest())
    }

    async fn oldest_position(&self) -> Result<Position> {
        Ok(self.start())
    }

    async fn restore_identities(&self, known: &BTreeMap<Namespace, Uuid>) -> Result<()> {
        *self.known.lock().unwrap() = Some(known.clone());
        Ok(())
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        let (replay, length) = (self.clone(), self.length.subscribe());
        let entries = self.entries(after);
        let state = (replay, length, entries.into_iter().peekable());
        let tail = stream::unfold(state, |(replay, mut length, mut entries)| async move {
            loop {
                length.borrow_and_update();
                let newest = replay.newest();
                // One by one, so that a run can end at any of them.
                if let Some(entry) = entries.next_if(|entry| entry.position <= newest) {
                    return Some((Ok(vec![entry]), (replay, length, entries)));
                }
                length.changed().await.ok()?;
            }
        });
        Ok(tail.boxed())
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        let mut documents = RawArrayBuf::new();
        for (collection, of_it) in self.filled() {
            if collection.namespace == request.namespace {
                of_it.into_iter().for_each(|document| documents.push(document));
            }
        }
        assert!(!documents.is_empty(), "{} is not to be read", request.namespace);
        Ok(stream::iter([Ok(Batch::from_array(&documents).unwrap())]).boxed())
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        let documents = self.documents(request.namespace);
        Ok(request
            .keys
            .iter()
            .filter_map(|key| documents.get(key))
            .cloned()
            .collect())
    }
}

async fn start(replay: &Replay, target: &ReplicaSet) -> MigrationHandle {
    let sink = MongoSink::connect(&target.uri()).await.unwrap();
    let migration = Migration::builder(Layered(replay.clone()), sink);
    // The source has no documents to compare with. The captured digests take their place.
    let migration = migration.verification(Verification::None).build().unwrap();
    migration.start().await.unwrap()
}

/// Waits until everything that the source has is on the target.
async fn applied(run: &MigrationHandle, replay: &Replay) {
    let newest = replay.newest();
    wait_until(DEADLINE, "the entries to be applied", async || {
        let status = run.status();
        assert!(status.failure.is_none(), "{:?}", status.failure);
        status.position >= Some(newest)
    })
    .await
    .unwrap();
    ready(run).await;
}

async fn all_at_once(name: &str, series: [u32; 2], more: &[&str]) {
    let capture = Arc::new(Capture::load(name, series));
    let target = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    let replay = Replay::new(&capture, 0);
    let run = start(&replay, &target).await;
    ready(&run).await;
    replay.length.send_replace(capture.entries.len());
    applied(&run, &replay).await;
    check(&capture, &target.client().await.unwrap(), more).await;
    run.abandon().await;
}

/// Ends the run after every few entries, and continues with a source that knows no more than the checkpoint says.
async fn in_pieces(name: &str, series: [u32; 2], more: &[&str]) {
    let capture = Arc::new(Capture::load(name, series));
    let target = ReplicaSet::builder(Version::V4_2).start().await.unwrap();
    let total = capture.entries.len();
    let mut before = 0;
    for length in (0..total).step_by(9).chain([total]) {
        let replay = Replay::new(&capture, std::mem::replace(&mut before, length));
        let run = start(&replay, &target).await;
        replay.length.send_replace(length);
        applied(&run, &replay).await;
        run.abandon().await;
    }
    check(&capture, &target.client().await.unwrap(), more).await;
}

/// Compares the target with what the server listed, and with its digests. The documents of one collection have the same digest on all
/// servers if they are the same bytes in the same order.
async fn check(capture: &Capture, client: &Client, more: &[&str]) {
    let app = client.database("app");
    let found = app.run_command(doc! { "dbHash": 1 }).await.unwrap();
    let found = found.get_document("collections").unwrap();
    let mut digests = capture.digests();
    // The server could not compute it without an index.
    assert_eq!(digests.remove("noid").unwrap(), "no _id _index");
    for (name, digest) in &digests {
        assert_eq!(found.get_str(name).unwrap(), digest, "{name}");
    }
    let moved = client.database("other").collection::<Document>("mv");
    assert_eq!(moved.count_documents(doc! {}).await.unwrap(), 3);
    let databases = client.list_database_names().await.unwrap();
    assert!(!databases.contains(&"gone".to_owned()), "{databases:?}");

    let mut differences = Vec::new();
    let listed = app
        .run_command(doc! { "listCollections": 1, "cursor": { "batchSize": 1000 } })
        .await
        .unwrap();
    let mut names = BTreeSet::new();
    let mut options = capture.options();
    let mut indexes = BTreeMap::new();
    for listed in first_batch(&listed) {
        let name = listed.get_str("name").unwrap().to_owned();
        let now = listed.get_document("options").unwrap();
        if let Some(before) = options.remove(&name) {
            describe(&name, &before, now, &mut differences);
        }
        let command = doc! { "listIndexes": &name, "cursor": { "batchSize": 1000 } };
        indexes.extend(by_name(
            first_batch(&app.run_command(command).await.unwrap()).into_iter(),
        ));
        names.insert(name);
    }
    assert!(options.is_empty(), "missing: {options:?}");
    let known = digests.keys().map(String::as_str).chain(["noid", "system.js"]);
    assert_eq!(
        names,
        known.map(str::to_owned).collect(),
        "the collections of the target"
    );
    let before = capture.indexes();
    let all = before
        .keys()
        .filter(|(of, _)| before.contains_key(&(of.clone(), "_id_".to_owned())));
    for index in all.chain(indexes.keys()).collect::<BTreeSet<_>>() {
        let shown = format!("{} {}", index.0, index.1);
        match (before.get(index), indexes.get(index)) {
            (Some(before), Some(now)) => describe(&shown, before, now, &mut differences),
            (Some(_), None) => differences.push(format!("{shown} is missing")),
            // Of 3.0.15 with WiredTiger, only the indexes of one collection were captured.
            (None, _) if !before.keys().any(|(of, _)| *of == index.0) && index.0 != "app.noid" => {}
            (None, _) => differences.push(format!("{shown} is new")),
        }
    }
    differences.sort();
    let mut expected: Vec<&str> = DIFFERENCES.iter().chain(more).copied().collect();
    expected.sort_unstable();
    assert_eq!(differences, expected);
}

fn first_batch(reply: &Document) -> Vec<Document> {
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    batch.iter().map(|one| one.as_document().unwrap().clone()).collect()
}

/// Adds a line for each field that differs. Numbers are the same by value.
fn describe(what: &str, before: &Document, now: &Document, differences: &mut Vec<String>) {
    let fields: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let shown = |value: Option<&Bson>| match value.and_then(Bson::as_i64) {
        Some(number) => Some(number.to_string()),
        None => value.map(|value| format!("{value}")),
    };
    for field in fields {
        match (shown(before.get(field)), shown(now.get(field))) {
            (before, now) if before == now => {}
            (Some(before), Some(now)) => differences.push(format!("{what}: {field} was {before}, is {now}")),
            (Some(before), None) => differences.push(format!("{what}: {field} was {before}")),
            (None, now) => differences.push(format!("{what}: {field} is {}", now.unwrap_or_default())),
        }
    }
}

/// What differs on the target from the listings of all three servers.
const DIFFERENCES: &[&str] = &[
    // Newer servers create this index on every collection.
    "app.noid _id_ is new",
    "noid: autoIndexId was false",
    // Fields without a meaning, which newer servers refuse.
    "app.t odd: safe was true",
    "app.t odd: w was 1",
    // A value that newer servers refuse, and what it counted for.
    "app.t oddkey: key was { \"oddkey\": true }, is { \"oddkey\": 1 }",
    // Held back until the cutover.
    "app.t when_1: expireAfterSeconds was 60, is 1700000000",
    // Of MMAPv1.
    "flags: flags was 1",
    "t: flags was 0",
];

/// A format of indexes that only MMAPv1 creates. Newer servers create format 1.
const FORMAT_0: &str = "app.t v0_1: v was 0, is 1";

/// How to build the index, not what it is.
const DROP_DUPS: &str = "app.t x_1: dropDups was true";

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_2_6_12_is_applied_to_4_2() {
    all_at_once("2.6.12-mmapv1", [2, 6], &[FORMAT_0, DROP_DUPS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_2_6_12_is_applied_in_pieces() {
    in_pieces("2.6.12-mmapv1", [2, 6], &[FORMAT_0, DROP_DUPS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_3_0_15_is_applied_to_4_2() {
    all_at_once("3.0.15-mmapv1", [3, 0], &[FORMAT_0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_wired_tiger_is_applied_to_4_2() {
    all_at_once("3.0.15-wiredTiger", [3, 0], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_wired_tiger_is_applied_in_pieces() {
    in_pieces("3.0.15-wiredTiger", [3, 0], &[]).await;
}
