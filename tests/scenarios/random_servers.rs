//! Random workloads on real servers: documents, transactions and the catalog change while a migration copies, follows, is paused, is
//! started anew and hands over; then both sides are identical, indexes and options included.
//!
//! `MONGOFERRY_SEED=17` runs one seed with what happens printed, `MONGOFERRY_SEEDS=100` that many from `MONGOFERRY_FIRST_SEED` on, and
//! `MONGOFERRY_PAIR=4.2-6.0` chooses the versions of the long run. A seed gives each writer the same commands again; how the writers
//! meet each other and the migration is up to the machine.

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bson::doc;
use futures::{FutureExt, StreamExt};
use mongodb::Client;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{
    ConnectOptions, ErrorKind, Event, ExistingData, Migration, MigrationHandle, Outcome, Summary, Verification,
};
use mongoferry_testbed::compare::{CompareOptions, Difference, DifferenceKind, differences};
use mongoferry_testbed::{ReplicaSet, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use self::aside::Aside;
use self::commands::Commands;

mod aside;
pub(in crate::scenarios) mod commands;
mod foreign;

/// How long one seed may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(150);

/// How long a comparison is waited for while the writers go on. What is written to all the time may not come to its end.
const COMPARISON: Duration = Duration::from_secs(5);

/// How many write at the same time.
const WRITERS: u64 = 3;

/// The pause of a writer that has done its share.
const IDLE: Duration = Duration::from_millis(50);

/// What is left out, and what gets another name, where not everything is selected.
const LEFT_OUT: &str = "one.d";
const RENAMED: (&str, &str) = ("one.a", "uno.a");

/// Every so many seeds the source has a catalog of so many collections besides.
const MANY_COLLECTIONS_EVERY: u64 = 40;
const MANY_COLLECTIONS: i32 = 300;

const PAIRS: [(Version, Version); 14] = [
    (Version::V4_2, Version::V4_2),
    (Version::V4_2, Version::V4_4),
    (Version::V4_2, Version::V5_0),
    (Version::V4_2, Version::V6_0),
    (Version::V4_4, Version::V4_4),
    (Version::V4_4, Version::V5_0),
    (Version::V4_4, Version::V6_0),
    (Version::V5_0, Version::V5_0),
    (Version::V5_0, Version::V6_0),
    (Version::V6_0, Version::V6_0),
    (Version::V6_0_27, Version::V6_0_27),
    (Version::V4_4, Version::V5_0_32),
    (Version::V5_0_32, Version::V5_0_32),
    (Version::V5_0_32, Version::V6_0_27),
];

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_6_0_to_6_0() {
    seeds(Version::V6_0, Version::V6_0, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_4_2_to_4_2() {
    seeds(Version::V4_2, Version::V4_2, 3).await;
}

/// 4.2 at feature compatibility version 4.0 writes the oplog of 4.0. It is read without the driver.
#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_from_4_0_to_4_2() {
    seeds_by(Reader::Legacy(7), Version::V4_2, Version::V4_2, 3).await;
}

/// The same oplog, read as from a server before 3.2: by queries, up to what each member is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn random_workloads_by_old_queries() {
    seeds_by(Reader::Legacy(3), Version::V4_2, Version::V4_2, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn random_workloads_on_every_pair() {
    let only = std::env::var("MONGOFERRY_PAIR").ok();
    let name = |pair: &(Version, Version)| format!("{}-{}", pair.0.release(), pair.1.release());
    let is_late = |version| matches!(version, Version::V5_0_32 | Version::V6_0_27);
    let wanted = |pair: &&(Version, Version)| {
        let series = format!("{}-{}", pair.0.series(), pair.1.series());
        only.as_ref()
            .is_none_or(|only| *only == name(pair) || (*only == series && !is_late(pair.0) && !is_late(pair.1)))
    };
    let pairs: Vec<_> = PAIRS.iter().filter(wanted).collect();
    assert!(
        !pairs.is_empty(),
        "no such pair; there are {:?}",
        PAIRS.map(|pair| name(&pair))
    );
    for (from, to) in pairs {
        seeds(*from, *to, 50).await;
    }
}

async fn seeds(from: Version, to: Version, count: u64) {
    seeds_by(Reader::Driver, from, to, count).await;
}

/// How the source is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    Driver,
    /// Without the driver, as if the server had this wire version, and at feature compatibility version 4.0.
    Legacy(i32),
}

async fn seeds_by(reader: Reader, from: Version, to: Version, count: u64) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let (source_set, target_set) = futures::try_join!(
        ReplicaSet::builder(from).cache_gb(1.0).start(),
        ReplicaSet::builder(to).name("rs1").cache_gb(1.0).start()
    )
    .unwrap();
    let (source, target) = (source_set.client().await.unwrap(), target_set.client().await.unwrap());
    if reader != Reader::Driver {
        let command = doc! { "setFeatureCompatibilityVersion": "4.0" };
        source.database("admin").run_command(command).await.unwrap();
    }
    let only = number("MONGOFERRY_SEED");
    let first = only.or_else(|| number("MONGOFERRY_FIRST_SEED")).unwrap_or(1);
    let count = only.map_or_else(|| number("MONGOFERRY_SEEDS").unwrap_or(count), |_| 1);
    let mut failed = Vec::new();
    for seed in first..first + count {
        for client in [&source, &target] {
            for database in client.list_database_names().await.unwrap() {
                if !["admin", "config", "local"].contains(&database.as_str()) {
                    client.database(&database).drop().await.unwrap();
                }
            }
        }
        let scenario = Scenario {
            seed,
            reader,
            from,
            loud: only.is_some(),
            source: source.clone(),
            target: target.clone(),
            uris: [source_set.uri(), target_set.uri()],
            diary: Diary::new(),
        };
        let diary = scenario.diary.clone();
        let run = AssertUnwindSafe(timeout(DEADLINE, scenario.run())).catch_unwind();
        match run.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                eprintln!("{from} to {to}: seed {seed} is not done after {DEADLINE:?}: {diary}");
                failed.push(seed);
            }
            Err(_) => {
                eprintln!("{from} to {to}: seed {seed} failed: {diary}");
                failed.push(seed);
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{from} to {to}: run again with MONGOFERRY_SEED one of {failed:?}"
    );
    eprintln!("{from} to {to}: {count} seeds from {first} on");
}

struct Scenario {
    seed: u64,
    reader: Reader,
    from: Version,
    loud: bool,
    source: Client,
    target: Client,
    uris: [String; 2],
    diary: Diary,
}

/// The last things that happened and when, for a seed that fails.
#[derive(Clone)]
struct Diary {
    since: Instant,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Diary {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            lines: Arc::default(),
        }
    }

    fn add(&self, line: &str) {
        let line = format!("{:.1} {line}", self.since.elapsed().as_secs_f64());
        let mut lines = self.lines.lock().unwrap();
        if lines.len() == 60 {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

impl std::fmt::Display for Diary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .try_for_each(|line| write!(f, "\n      {line}"))
    }
}

impl Scenario {
    async fn run(self) {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut before = Commands::new(self.from, random.random());
        aside::make(&self.source).await;
        for _ in 0..random.random_range(20..200) {
            before.next().perform(&self.source, self.loud).await;
        }
        if self.seed.is_multiple_of(MANY_COLLECTIONS_EVERY) {
            self.make_many_collections().await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let least = random.random_range(50..400);
        let pause = Duration::from_millis([0, 2, 10][random.random_range(0..3)]);
        let writers = Writers(
            (0..WRITERS)
                .map(|_| {
                    let mut commands = Commands::new(self.from, random.random());
                    let (source, stop, loud) = (self.source.clone(), Arc::clone(&stop), self.loud);
                    tokio::spawn(async move {
                        for done in 0.. {
                            if done >= least && stop.load(Ordering::Relaxed) {
                                break;
                            }
                            commands.next().perform(&source, loud).await;
                            // Who waits for the cutover is not to be a flood.
                            sleep(if done < least { pause } else { pause.max(IDLE) }).await;
                        }
                    })
                })
                .collect(),
        );

        let shape = Shape {
            walkers: random.random_range(1..4),
            appliers: random.random_range(1..5),
            chunk_bytes: 1 << random.random_range(10..16),
            selected: random.random_bool(0.3),
            compared: self.seed.is_multiple_of(2),
            yields: (self.seed / 2).is_multiple_of(2),
            existing: [None, None, Some(ExistingData::Clear), Some(ExistingData::Keep)][random.random_range(0..4)],
            change_between_failures: random.random_bool(0.3),
            open_transaction: random.random_bool(0.3),
            late_write: random.random_bool(0.2),
        };
        if shape.existing.is_some() {
            foreign::make(&self.target, shape.selected).await;
        }
        let mut handle = self.start(&shape).await;
        for _ in 0..random.random_range(0..4) {
            sleep(Duration::from_millis(random.random_range(0..700))).await;
            if shape.change_between_failures && random.random_bool(0.5) {
                // Two processes fail around one change of the catalog.
                self.diary.add("failing twice");
                drop(handle);
                for _ in 0..2 {
                    before.next_of_catalog().perform(&self.source, self.loud).await;
                    let failing = self.start(&shape).await;
                    sleep(Duration::from_millis(random.random_range(0..400))).await;
                    drop(failing);
                }
                handle = self.start(&shape).await;
            } else if random.random_bool(0.5) {
                self.diary.add("pausing");
                handle.pause().await.unwrap();
                sleep(Duration::from_millis(random.random_range(0..300))).await;
                handle.resume().unwrap();
            } else {
                self.diary.add("starting anew");
                handle.abandon().await;
                handle = self.start(&shape).await;
            }
        }
        self.diary.add("comparing");
        if shape.compared
            && let Ok(report) = timeout(COMPARISON, handle.verify(&[])).await
        {
            self.diary.add("compared");
            let report = report.unwrap();
            assert_eq!(report.difference_count(), 0, "seed {}: {report:#?}", self.seed);
        }
        let mut aside = Aside::default();
        self.diary.add("cutting over");
        let stop_writes = async {
            self.diary.add("the writers stop");
            stop.store(true, Ordering::Relaxed);
            writers.end().await;
            self.diary.add("the writers have stopped");
            if shape.open_transaction {
                let open = aside::Open::begin(&self.source).await;
                aside.push(open.abort_after(Duration::from_millis(random.random_range(0..4000))));
            }
            if shape.late_write {
                let delay = Duration::from_millis(random.random_range(0..600));
                aside.push(aside::write_after(&self.source, delay));
            }
        };
        let report = async {
            loop {
                sleep(DEADLINE / 10).await;
                self.diary.add(&format!("{:?}", handle.status()));
            }
        };
        let mut summary = tokio::select! {
            summary = handle.cutover(stop_writes) => summary,
            () = report => unreachable!("it goes on for ever"),
        };
        if shape.late_write
            && let Err(error) = &summary
        {
            assert_eq!(
                error.kind(),
                ErrorKind::WritesAfterStop,
                "seed {}: {error:?}",
                self.seed
            );
            self.diary.add(&format!("cutting over again: {error}"));
            aside.end().await;
            summary = handle.cutover(async {}).await;
        }
        let summary = summary.unwrap_or_else(|error| panic!("seed {}: {error:?}", self.seed));
        aside.end().await;
        aside::tidy_up(&self.source, &self.target).await;
        foreign::tidy_up(&self.source, &self.target).await;
        let options = match shape.selected {
            true => self.selected().await,
            false => CompareOptions::default(),
        };
        assert_eq!(summary.outcome, Outcome::Complete, "seed {}: {summary:#?}", self.seed);
        let mut found = differences(&self.source, &self.target, &options).await.unwrap();
        found.retain(|difference| !is_not_kept(difference, &not_kept(&summary)));
        assert!(found.is_empty(), "seed {}: {found:#?}", self.seed);
        assert_eq!(handle.status().differences, 0, "seed {}: a false alarm", self.seed);
    }

    async fn make_many_collections(&self) {
        let many = self.source.database("many");
        for number in 0..MANY_COLLECTIONS {
            let collection = many.collection(&format!("c{number}"));
            collection.insert_one(doc! { "_id": number }).await.unwrap();
        }
    }

    /// What is to be compared where not everything was selected. On the target there must be nothing besides.
    async fn selected(&self) -> CompareOptions {
        let names = async |client: &Client, database: &str| {
            let names = client.database(database).list_collection_names().await.unwrap();
            let names = names.into_iter().filter(|name| !name.starts_with("system."));
            names.map(|name| format!("{database}.{name}")).collect::<Vec<_>>()
        };
        let mut wanted = names(&self.source, "one").await;
        wanted.retain(|name| name != LEFT_OUT);
        let mut expected: Vec<_> = wanted
            .iter()
            .map(|name| if name == RENAMED.0 { RENAMED.1 } else { name })
            .collect();
        let mut standing = Vec::new();
        for database in ["one", "two", "uno"] {
            standing.extend(names(&self.target, database).await);
        }
        expected.sort_unstable();
        standing.sort_unstable();
        assert_eq!(standing, expected, "the collections on the target");
        CompareOptions {
            namespaces: Some(wanted),
            renames: vec![(RENAMED.0.to_owned(), RENAMED.1.to_owned())],
            ..CompareOptions::default()
        }
    }

    async fn start(&self, shape: &Shape) -> MigrationHandle {
        let [from, to] = &self.uris;
        let options = match self.reader {
            Reader::Driver => ConnectOptions::uri(from),
            Reader::Legacy(wire_version) => ConnectOptions::uri(from).as_legacy(wire_version),
        };
        let (reader, writer) = futures::try_join!(MongoSource::connect(options), MongoSink::connect(to)).unwrap();
        let builder = Migration::builder(reader, writer)
            .walkers(shape.walkers)
            .adaptive_walkers(shape.yields)
            .appliers(shape.appliers)
            .chunk_bytes(shape.chunk_bytes)
            .verification(match shape.compared {
                true => Verification::Continuous,
                false => Verification::Digest,
            })
            // Each of the two has to find everything on its own.
            .cross_check_bytes(0)
            .existing_data(shape.existing.unwrap_or_default());
        let builder = match shape.selected {
            true => builder.include("one.*").exclude(LEFT_OUT).rename(RENAMED.0, RENAMED.1),
            false => builder,
        };
        let handle = builder.build().unwrap().start().await.unwrap();
        let (mut events, diary, loud) = (handle.events(), self.diary.clone(), self.loud);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if !matches!(event, Event::CheckpointSaved { .. }) {
                    diary.add(&format!("{event:?}"));
                    if loud {
                        eprintln!("      {event:?}");
                    }
                }
            }
        });
        handle
    }
}

/// What a target cannot keep: options of collections, and indexes by their names.
pub(in crate::scenarios) type NotKept = BTreeSet<(String, Option<String>)>;

pub(in crate::scenarios) fn not_kept(summary: &Summary) -> NotKept {
    let not_kept = summary.not_kept.iter();
    not_kept
        .map(|not_kept| (not_kept.namespace.to_string(), not_kept.index.clone()))
        .collect()
}

/// Whether a difference is one that the target cannot help.
pub(in crate::scenarios) fn is_not_kept(difference: &Difference, not_kept: &NotKept) -> bool {
    let of_index = match &difference.kind {
        DifferenceKind::Index { name, .. } => Some(name.clone()),
        DifferenceKind::Options { .. } => None,
        _ => return false,
    };
    not_kept.contains(&(difference.namespace.clone(), of_index))
}

/// How a run is set up. Where not everything is selected, renames lead into the selection and out of it, and transactions touch both sides.
struct Shape {
    walkers: usize,
    /// Whether fewer of them are at work where the writers feel them.
    yields: bool,
    appliers: usize,
    chunk_bytes: u64,
    selected: bool,
    /// Whether both sides are compared all the time.
    compared: bool,
    /// What becomes of collections that stand on the target before; without it there are none.
    existing: Option<ExistingData>,
    /// Whether the catalog changes between processes that fail soon one after the other.
    change_between_failures: bool,
    /// Whether a transaction is open at the cutover.
    open_transaction: bool,
    /// Whether the source is written to after the writers have stopped.
    late_write: bool,
}

/// Tasks that do not outlive their seed, however it ends.
struct Writers(Vec<tokio::task::JoinHandle<()>>);

impl Writers {
    async fn end(mut self) {
        for writer in &mut self.0 {
            writer.await.unwrap();
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for writer in &self.0 {
            writer.abort();
        }
    }
}
