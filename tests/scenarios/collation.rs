//! Collections with a collation that takes different `_id`s for the same: at any time one of them exists, and which one it is changes
//! while the collection is copied and followed.
//!
//! `MONGOFERRY_SEED=17` runs one seed, `MONGOFERRY_SEEDS=100` that many from `MONGOFERRY_FIRST_SEED` on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::{Client, Collection};
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{Migration, MigrationHandle, Outcome};
use mongoferry_testbed::compare::{CompareOptions, assert_identical};
use mongoferry_testbed::{ReplicaSet, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use super::deadline::{cut_over, ready};

/// How many `_id`s there are that the collation tells apart.
const IDS: usize = 30;

/// Documents besides, so that the copy takes a while.
const OTHERS: i32 = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_a_collation_holds_equal_from_4_2_to_4_2() {
    seeds(Version::V4_2, Version::V4_2, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_a_collation_holds_equal_from_4_4_to_6_0() {
    seeds(Version::V4_4, Version::V6_0, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_a_collation_holds_equal_from_6_0_to_6_0() {
    seeds(Version::V6_0, Version::V6_0, 3).await;
}

async fn seeds(from: Version, to: Version, count: u64) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(from).start(),
        ReplicaSet::builder(to).name("rs1").start()
    )
    .unwrap();
    let only = number("MONGOFERRY_SEED");
    let first = only.or_else(|| number("MONGOFERRY_FIRST_SEED")).unwrap_or(1);
    let count = only.map_or_else(|| number("MONGOFERRY_SEEDS").unwrap_or(count), |_| 1);
    for seed in first..first + count {
        eprintln!("{from} to {to}: seed {seed}");
        for set in [&source, &target] {
            let client = set.client().await.unwrap();
            for database in client.list_database_names().await.unwrap() {
                if !["admin", "config", "local"].contains(&database.as_str()) {
                    client.database(&database).drop().await.unwrap();
                }
            }
        }
        one(&source, &target, seed).await;
    }
}

async fn one(source: &ReplicaSet, target: &ReplicaSet, seed: u64) {
    let (writer, reader) = (source.client().await.unwrap(), target.client().await.unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    let mut names = Names::create(&writer, random.random()).await;
    for _ in 0..200 {
        names.change().await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let changes = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            while !stop.load(Ordering::Relaxed) {
                names.change().await;
            }
        }
    });
    let mut run = start(source, target).await;
    for _ in 0..4 {
        sleep(Duration::from_millis(random.random_range(0..800))).await;
        run.abandon().await;
        run = start(source, target).await;
    }
    ready(&run).await;
    stop.store(true, Ordering::Relaxed);
    changes.await.unwrap();
    let summary = cut_over(&run).await;
    assert_identical(&writer, &reader, &CompareOptions::default())
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(summary.outcome, Outcome::Complete, "seed {seed}: {summary:#?}");
    assert_eq!(run.status().differences, 0, "seed {seed}");
}

async fn start(source: &ReplicaSet, target: &ReplicaSet) -> MigrationHandle {
    let (from, to) = (source.uri(), target.uri());
    let (reader, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
    let builder = Migration::builder(reader, sink).appliers(3).chunk_bytes(32 << 10);
    builder.build().unwrap().start().await.unwrap()
}

/// The collection, and which of its `_id`s exist.
struct Names {
    collection: Collection<Document>,
    random: StdRng,
    standing: Vec<Option<Bson>>,
}

impl Names {
    async fn create(client: &Client, seed: u64) -> Self {
        let database = client.database("d");
        let create = doc! { "create": "names", "collation": { "locale": "en", "strength": 2 } };
        database.run_command(create).await.unwrap();
        let collection = database.collection("names");
        let others = (0..OTHERS).map(|id| doc! { "_id": id, "pad": "p".repeat(200) });
        collection.insert_many(others).await.unwrap();
        Self {
            collection,
            random: StdRng::seed_from_u64(seed),
            standing: vec![None; IDS],
        }
    }

    async fn change(&mut self) {
        let at = self.random.random_range(0..IDS);
        let Some(id) = self.standing[at].take() else {
            let id = self.spelling(at);
            let document = doc! { "_id": id.clone(), "n": 0, "old": { "a": 1, "b": [1, 2, 3] } };
            self.collection.insert_one(document).await.unwrap();
            self.standing[at] = Some(id);
            return;
        };
        let filter = doc! { "_id": id.clone() };
        let value = self.random.random_range(0..1000);
        let update = match self.random.random_range(0..6) {
            0..2 => {
                self.collection.delete_one(filter).await.unwrap();
                return;
            }
            2 => doc! { "$set": { "n": value } },
            3 => doc! { "$set": { format!("f{}", value % 5): value }, "$unset": { format!("f{}", value % 3): true } },
            4 => doc! { "$push": { "old.b": { "$each": [value], "$slice": -5 } } },
            _ => {
                let document = doc! { "_id": id.clone(), "n": value };
                self.collection.replace_one(filter, document).await.unwrap();
                self.standing[at] = Some(id);
                return;
            }
        };
        // Two that conflict change nothing.
        let _ = self.collection.update_one(filter, update).await;
        self.standing[at] = Some(id);
    }

    /// One of the ways to write an `_id` that are the same to the collation.
    fn spelling(&mut self, at: usize) -> Bson {
        let letters = format!("key{at}");
        let letters = letters.chars().map(|letter| match self.random.random_bool(0.5) {
            true => letter.to_ascii_uppercase(),
            false => letter,
        });
        let text: String = letters.collect();
        match at % 3 {
            0 => Bson::Document(doc! { "x": text, "y": 1 }),
            _ => Bson::String(text),
        }
    }
}
