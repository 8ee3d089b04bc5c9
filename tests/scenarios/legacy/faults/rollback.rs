//! A source loses writes in an election.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use mongodb::Client;
use mongodb::options::{Acknowledgment, WriteConcern};
use mongoferry::oplog::Entry;
use mongoferry::source::ReadRequest;
use mongoferry::{
    Batch, ConnectOptions, Event, Layered, Migration, MigrationHandle, MongoSink, MongoSource, Outcome, Position,
    Source, SourceLayer,
};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{OldSet, Period, ReplicaSet, Version, wait_until};
use tokio::sync::watch;

use super::*;
use crate::scenarios::deadline::{cut_over, ready};
use crate::scenarios::legacy::old_source::{Age, compatible_with_4_0, old_options};

const DOCUMENTS: i32 = 2_000;

/// A set of three members, and one that takes its data.
struct Pair {
    age: Age,
    source: Set,
    target: ReplicaSet,
}

enum Set {
    Real(ReplicaSet),
    Old(OldSet),
}

impl Pair {
    async fn start(age: Age) -> Self {
        let source = async {
            match age {
                Age::Compatible(_) => Set::Real(compatible_with_4_0(3).await),
                Age::Of(period) => Set::Old(OldSet::start(period, 3).await.unwrap()),
            }
        };
        let target = ReplicaSet::builder(Version::V6_0).name("rs1").start();
        let (source, target) = futures::join!(source, target);
        let pair = Self {
            age,
            source,
            target: target.unwrap(),
        };
        let documents = (0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0, "text": "x".repeat(200) });
        let orders = pair.client().await.database("shop").collection::<Document>("orders");
        orders.insert_many(documents).write_concern(everywhere()).await.unwrap();
        pair
    }

    fn set(&self) -> &ReplicaSet {
        match &self.source {
            Set::Real(set) => set,
            Set::Old(old) => old.set(),
        }
    }

    async fn client(&self) -> Client {
        self.set().client().await.unwrap()
    }

    fn options(&self) -> ConnectOptions {
        match (&self.source, self.age) {
            (Set::Real(set), Age::Compatible(wire_version)) => old_options(&set.uri(), Some(wire_version)),
            (Set::Real(set), Age::Of(_)) => old_options(&set.uri(), None),
            (Set::Old(old), _) => old_options(&old.uri(), None),
        }
    }

    async fn run(&self) -> MigrationHandle {
        let (reader, sink) = futures::try_join!(
            MongoSource::connect(self.options()),
            MongoSink::connect(self.target.uri())
        )
        .unwrap();
        let builder = Migration::builder(reader, sink).chunk_bytes(16 << 10);
        builder.build().unwrap().start().await.unwrap()
    }

    /// Hands over, and returns how often everything was compared anew.
    async fn finish(&self, run: MigrationHandle) -> u32 {
        ready(&run).await;
        let summary = cut_over(&run).await;
        assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
        let (from, to) = (self.client().await, self.target.client().await.unwrap());
        let compared = CompareOptions {
            without_index_formats: matches!(self.age, Age::Of(period) if period < Period::V3_4),
            ..CompareOptions::default()
        };
        assert_identical(&from, &to, &compared).await.unwrap();
        summary.resyncs
    }

    /// What the target has of a document.
    async fn migrated(&self, id: i32) -> Option<Document> {
        let to = self.target.client().await.unwrap();
        let orders = to.database("shop").collection::<Document>("orders");
        orders.find_one(doc! { "_id": id }).await.unwrap()
    }

    fn others(&self, primary: usize) -> [usize; 2] {
        [(primary + 1) % 3, (primary + 2) % 3]
    }
}

/// Waits until all members have what is written.
fn everywhere() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Nodes(3)).build()
}

/// Changes documents of every kind of change, in another way for each `n`.
async fn change(member: &Client, n: i32) {
    let orders = member.database("shop").collection::<Document>("orders");
    for id in [10, 500, 1_500] {
        let set = doc! { "$set": { "n": n } };
        orders.update_one(doc! { "_id": id }, set).await.unwrap();
    }
    orders.delete_one(doc! { "_id": 100 + n }).await.unwrap();
    orders.insert_one(doc! { "_id": DOCUMENTS + n, "n": n }).await.unwrap();
    let shop = member.database("shop");
    shop.run_command(doc! { "create": format!("made_{n}") }).await.unwrap();
}

/// The primary writes what no other member gets, and another one is elected. What it wrote is not followed.
async fn writes_without_a_majority_are_not_followed(age: Age) {
    let pair = Pair::start(age).await;
    let set = pair.set();
    let primary = set.primary_index().await.unwrap();
    let (old, others) = (set.member_client(primary).await.unwrap(), pair.others(primary));
    let run = pair.run().await;
    ready(&run).await;
    for member in others {
        set.suspend(member).await.unwrap();
    }
    change(&old, 1).await;
    // It stays the primary for the seconds in which it does not miss the others.
    let is_followed = async || pair.migrated(DOCUMENTS + 1).await.is_some();
    let followed = wait_until(Duration::from_secs(1), "a wrong document", is_followed).await;
    assert!(followed.is_err(), "what no majority has is on the target");
    set.kill(primary).await.unwrap();
    for member in others {
        set.resume(member).await.unwrap();
    }
    let is_elected = async || set.primary_index().await.is_ok_and(|index| index != primary);
    wait_until(DEADLINE, "another primary", is_elected).await.unwrap();
    change(&pair.client().await, 2).await;
    set.restart(primary).await.unwrap();
    let orders = old.database("shop").collection::<Document>("orders");
    wait_until(DEADLINE, "the old primary to lose what it wrote", async || {
        let found = orders.find_one(doc! { "_id": DOCUMENTS + 2 }).await;
        let lost = orders.find_one(doc! { "_id": DOCUMENTS + 1 }).await;
        matches!((found, lost), (Ok(Some(_)), Ok(None)))
    })
    .await
    .unwrap();
    assert_eq!(pair.finish(run).await, 0, "nothing that was followed was lost");
    assert_eq!(pair.migrated(DOCUMENTS + 1).await, None);
}

/// Protocol version 0 loses what a majority had. Members of a newer one do it if the majority is made to be one member, which is lost then.
async fn lost_writes_are_answered_by_a_resync(age: Age) {
    let pair = Pair::start(age).await;
    let set = pair.set();
    let primary = set.primary_index().await.unwrap();
    let (old, others) = (set.member_client(primary).await.unwrap(), pair.others(primary));
    let run = pair.run().await;
    ready(&run).await;
    for member in others {
        set.kill(member).await.unwrap();
    }
    alone(&old, primary).await;
    change(&old, 1).await;
    wait_until(DEADLINE, "what is lost later to be on the target", async || {
        pair.migrated(DOCUMENTS + 1).await.is_some() && pair.migrated(101).await.is_none()
    })
    .await
    .unwrap();
    let mut events = run.events();
    set.kill(primary).await.unwrap();
    for member in others {
        set.restart(member).await.unwrap();
    }
    let is_elected = async || set.primary_index().await.is_ok_and(|index| index != primary);
    wait_until(DEADLINE, "another primary", is_elected).await.unwrap();
    change(&pair.client().await, 2).await;
    let found = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Resync { .. }) {
                return;
            }
        }
        panic!("the run ended");
    };
    tokio::time::timeout(DEADLINE, found).await.expect("it is found");
    assert_eq!(pair.finish(run).await, 1);
    assert_eq!(pair.migrated(DOCUMENTS + 1).await, None);
    assert!(pair.migrated(101).await.is_some());
}

/// A primary is lost together with a change of the configuration, so that the next one has an older configuration.
async fn a_primary_with_an_older_configuration_is_found(age: Age) {
    let pair = Pair::start(age).await;
    let set = pair.set();
    let primary = set.primary_index().await.unwrap();
    let (old, others) = (set.member_client(primary).await.unwrap(), pair.others(primary));
    for member in others {
        set.kill(member).await.unwrap();
    }
    alone(&old, primary).await;
    let source = MongoSource::connect(pair.options()).await.unwrap();
    source.position().await.unwrap();
    set.kill(primary).await.unwrap();
    for member in others {
        set.restart(member).await.unwrap();
    }
    wait_until(DEADLINE, "the next primary to be found", async || {
        source.position().await.is_ok()
    })
    .await
    .unwrap();
}

/// The copy reads what the set loses before the tail comes to it, as on a busy source or after a pause.
async fn lost_writes_that_were_only_copied_are_found(age: Age) {
    let pair = Pair::start(age).await;
    let set = pair.set();
    let primary = set.primary_index().await.unwrap();
    let (old, others) = (set.member_client(primary).await.unwrap(), pair.others(primary));
    let gates = Gates::default();
    gates.reads.send_replace(true);
    let source = MongoSource::connect(pair.options()).await.unwrap();
    let held = Held {
        source: Arc::new(source),
        gates: gates.clone(),
    };
    let sink = MongoSink::connect(pair.target.uri()).await.unwrap();
    // All documents are in one chunk, since the next one would wait for the tail.
    let builder = Migration::builder(Layered(held), sink).chunk_bytes(16 << 20);
    let run = builder.build().unwrap().start().await.unwrap();
    // Preflight is over once a read waits.
    wait_until(DEADLINE, "the copy to begin", async || {
        gates.waits_to_read.load(Ordering::Relaxed)
    })
    .await
    .unwrap();
    gates.tail.send_replace(true);
    let orders = old.database("shop").collection::<Document>("orders");
    // The tail waits once it has taken an entry, which has to be one that is not lost.
    wait_until(DEADLINE, "the tail to wait", async || {
        let set = doc! { "$inc": { "n": 1 } };
        let written = orders.update_one(doc! { "_id": 0 }, set);
        written.write_concern(everywhere()).await.unwrap();
        gates.tail_waits.load(Ordering::Relaxed)
    })
    .await
    .unwrap();
    for member in others {
        set.kill(member).await.unwrap();
    }
    alone(&old, primary).await;
    change(&old, 1).await;
    gates.reads.send_replace(false);
    wait_until(DEADLINE, "what is lost later to be copied", async || {
        let documents = u64::try_from(DOCUMENTS).unwrap();
        run.status().copied.documents >= documents && pair.migrated(DOCUMENTS + 1).await.is_some()
    })
    .await
    .unwrap();
    set.kill(primary).await.unwrap();
    for member in others {
        set.restart(member).await.unwrap();
    }
    let is_elected = async || set.primary_index().await.is_ok_and(|index| index != primary);
    wait_until(DEADLINE, "another primary", is_elected).await.unwrap();
    change(&pair.client().await, 2).await;
    gates.tail.send_replace(false);
    assert_eq!(pair.finish(run).await, 1);
    assert_eq!(pair.migrated(DOCUMENTS + 1).await, None);
    assert!(pair.migrated(101).await.is_some());
}

/// Holds the reads and the tail of a source while the values are `true`, and says which of them wait.
#[derive(Clone, Default)]
struct Gates {
    reads: watch::Sender<bool>,
    tail: watch::Sender<bool>,
    waits_to_read: Arc<AtomicBool>,
    tail_waits: Arc<AtomicBool>,
}

struct Held {
    source: Arc<MongoSource>,
    gates: Gates,
}

#[async_trait]
impl SourceLayer for Held {
    fn inner(&self) -> &dyn Source {
        &*self.source
    }

    async fn read(&self, request: ReadRequest) -> mongoferry::Result<BoxStream<'static, mongoferry::Result<Batch>>> {
        self.gates.waits_to_read.store(true, Ordering::Relaxed);
        passes(&self.gates.reads).await;
        self.source.read(request).await
    }

    async fn tail(&self, after: Position) -> mongoferry::Result<BoxStream<'static, mongoferry::Result<Vec<Entry>>>> {
        let entries = self.source.tail(after).await?;
        let (source, gates) = (Arc::clone(&self.source), self.gates.clone());
        let state = (entries, after, source, gates);
        let entries = stream::try_unfold(state, |(mut entries, mut last, source, gates)| async move {
            let waits = *gates.tail.borrow();
            gates.tail_waits.store(waits, Ordering::Relaxed);
            if waits {
                // A cursor that stays open may have an answer with what is lost under way.
                drop(entries);
                passes(&gates.tail).await;
                entries = source.tail(last).await?;
            }
            let Some(next) = entries.try_next().await? else {
                return Ok(None);
            };
            last = next.last().map_or(last, |entry| entry.position);
            Ok(Some((next, (entries, last, source, gates))))
        });
        Ok(entries.boxed())
    }
}

async fn passes(gate: &watch::Sender<bool>) {
    // An error means that the test has ended.
    let _ = gate.subscribe().wait_for(|held| !held).await;
}

/// Makes a member the only one with a vote, and waits until it is the primary.
async fn alone(member: &Client, index: usize) {
    let admin = member.database("admin");
    let answer = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
    let mut configuration = answer.get_document("config").unwrap().clone();
    let members = configuration.get_array_mut("members").unwrap();
    for (number, other) in members.iter_mut().filter_map(Bson::as_document_mut).enumerate() {
        if number != index {
            other.insert("votes", 0);
            other.insert("priority", 0);
        }
    }
    let command = doc! { "replSetReconfig": configuration, "force": true };
    admin.run_command(command).await.unwrap();
    wait_until(DEADLINE, "it to be the primary", async || {
        let answer = admin.run_command(doc! { "isMaster": 1 }).await;
        answer.is_ok_and(|answer| answer.get_bool("ismaster").unwrap())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_lost_writes_lead_to_a_resync_4_0() {
    lost_writes_are_answered_by_a_resync(Age::Compatible(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_lost_writes_lead_to_a_resync_2_6() {
    lost_writes_are_answered_by_a_resync(Age::Of(Period::V2_6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_primary_with_older_configuration_is_found_2_6() {
    a_primary_with_an_older_configuration_is_found(Age::Of(Period::V2_6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_copied_writes_that_are_lost_are_found_2_6() {
    lost_writes_that_were_only_copied_are_found(Age::Of(Period::V2_6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_minority_writes_are_not_followed_4_0() {
    writes_without_a_majority_are_not_followed(Age::Compatible(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_minority_writes_are_not_followed_2_6() {
    writes_without_a_majority_are_not_followed(Age::Of(Period::V2_6)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run it with `--ignored`"]
async fn legacy_rollbacks_of_every_version() {
    for age in Age::all([4, 3]) {
        eprintln!("{age:?}");
        writes_without_a_majority_are_not_followed(age).await;
        a_primary_with_an_older_configuration_is_found(age).await;
        lost_writes_are_answered_by_a_resync(age).await;
        lost_writes_that_were_only_copied_are_found(age).await;
    }
}
