//! Random workloads against the engine, in memory: whatever is written, and whatever fails, both sides are identical in the end.
//!
//! `MONGOFERRY_SEED=17` runs one seed, with what happens printed (where both sides differ also, with `MONGOFERRY_TRACE='shop.a "47"'`,
//! what was done to that document); `MONGOFERRY_SEEDS=1000` that many from `MONGOFERRY_FIRST_SEED` on.
//! Time is paused: whenever every task waits, the clock goes on to the next timer, so that a run of minutes takes milliseconds and one
//! in which nothing can go on fails at once.

pub(super) mod chaos;
mod rules;
mod workload;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use futures::StreamExt;
use mongoferry::sink::{JournalEntry, MemorySink};
use mongoferry::source::{MemorySource, NameResolution, SourceCall};
use mongoferry::{
    Collection, CollectionKind, Error, ErrorKind, Event, Migration, MigrationHandle, Namespace, OnRuleError, Outcome,
    Sink, Source,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use self::chaos::{ChaosSink, ChaosSource, Dice};
use self::rules::Rules;
use self::workload::{Habits, Workload};

/// How long a run may take, by the paused clock.
const DEADLINE: Duration = Duration::from_secs(20_000);

#[test]
fn random_workloads_arrive_identical() {
    run_all(false);
}

#[test]
fn random_workloads_arrive_as_their_rules_say() {
    run_all(true);
}

fn run_all(ruled: bool) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("MONGOFERRY_SEED") {
        run(seed, ruled, true);
        return;
    }
    let first = number("MONGOFERRY_FIRST_SEED").unwrap_or(1);
    let mut failed = Vec::new();
    for seed in first..first + number("MONGOFERRY_SEEDS").unwrap_or(30) {
        if std::panic::catch_unwind(AssertUnwindSafe(|| run(seed, ruled, false))).is_err() {
            eprintln!("seed {seed} failed");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "run again with MONGOFERRY_SEED one of {failed:?}");
}

fn run(seed: u64, ruled: bool, loud: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        timeout(DEADLINE, Scenario::new(seed, ruled, loud).run())
            .await
            .unwrap_or_else(|_| panic!("seed {seed}: nothing goes on any more"));
    });
}

struct Scenario {
    random: StdRng,
    dice: Arc<Dice>,
    source: ChaosSource,
    sink: ChaosSink,
    workload: Workload,
    /// Filters and transforms.
    rules: Option<Rules>,
    loud: bool,
    rename: bool,
    appliers: usize,
    walkers: usize,
    /// How many steps there are at least.
    steps: u32,
    /// Whether there are more for as long as collections are being copied.
    while_copying: bool,
    /// Of a hundred steps, so many are followed by a disturbance.
    disturbances: u32,
    /// The longest pause between two steps.
    pause: Duration,
}

impl Scenario {
    fn new(seed: u64, ruled: bool, loud: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let habits = Habits {
            ids: [20, 50, 200][random.random_range(0..3)],
            catalog: [0, 3, 10, 25][random.random_range(0..4)],
            moves: random.random_bool(0.7),
            unique: random.random_bool(0.6),
            old_deltas: random.random_bool(0.5),
            kinds: random.random_bool(0.4),
        };
        let delay = Duration::from_millis([1, 20, 200][random.random_range(0..3)]);
        let dice = Dice::new(
            random.random(),
            random.random_range(50..500),
            delay,
            random.random_bool(0.5),
        );
        let inner = MemorySource::with_seed(random.random());
        inner.set_batch_documents(random.random_range(1..8));
        inner.set_batch_entries([1, 3, 100][random.random_range(0..3)]);
        let source = ChaosSource {
            inner: inner.clone(),
            dice: Arc::clone(&dice),
        };
        let sink = ChaosSink {
            inner: MemorySink::new(),
            dice: Arc::clone(&dice),
        };
        sink.inner.set_batch_documents(random.random_range(1..8));
        let scenario = Self {
            workload: Workload::new(inner, random.random(), habits),
            dice,
            source,
            sink,
            rules: ruled.then(|| Rules::new(seed, habits.ids)),
            loud,
            rename: random.random_bool(0.3),
            appliers: random.random_range(1..5),
            walkers: random.random_range(1..4),
            steps: random.random_range(50..400),
            while_copying: random.random_bool(0.8),
            disturbances: [0, 3, 10][random.random_range(0..3)],
            pause: delay.mul_f64([0.0, 0.1, 0.5, 2.0][random.random_range(0..4)]),
            random,
        };
        if loud {
            eprintln!(
                "{habits:?}, {:?}, {} steps, disturbances {}, pause {:?}, delay {delay:?}, ghosts {}, {} appliers, {} walkers, rename {}",
                scenario.rules,
                scenario.steps,
                scenario.disturbances,
                scenario.pause,
                scenario.dice.ghosts,
                scenario.appliers,
                scenario.walkers,
                scenario.rename
            );
        }
        scenario
    }

    async fn run(mut self) {
        if self.random.random_bool(0.2) {
            self.source.inner.set_snapshots(false);
        }
        if self.random.random_bool(0.2) {
            self.source.inner.set_snapshot_window(self.random.random_range(1..50));
        }
        if self.random.random_bool(0.4) {
            self.source.inner.set_name_resolution(NameResolution::Newest);
        }
        self.workload.load().await;
        let mut handle = self.start().await;
        self.dice.set_faults(self.disturbances > 0);
        let mut step = 0;
        while step < self.steps || (self.while_copying && step < 3000 && !handle.status().copy_complete) {
            step += 1;
            self.workload.step().await;
            if self.random.random_range(0..100) < self.disturbances {
                handle = self.disturb(handle, step).await;
            }
            if self.pause.is_zero() {
                if self.random.random_bool(0.1) {
                    sleep(Duration::from_millis(1)).await;
                }
            } else {
                sleep(self.pause.mul_f64(self.random.random_range(0.0..1.0))).await;
            }
        }
        self.workload.end();
        if self.random.random_bool(0.8) {
            self.dice.set_faults(false);
        }
        self.cut_over(handle).await;
        self.compare().await;
    }

    /// Starts a migration from the checkpoint, if there is one, again and again while the dice do not let it.
    async fn start(&mut self) -> MigrationHandle {
        loop {
            let mut builder = Migration::builder(self.source.clone(), self.sink.clone())
                .include("shop.*")
                .exclude("shop.tmp_*")
                .appliers(self.appliers)
                .walkers(self.walkers)
                .chunk_bytes(1 << 10)
                .cross_check_bytes(0);
            if self.rename {
                builder = builder.rename("shop.a", "store.aa");
            }
            if let Some(rules) = &self.rules {
                builder = rules.give(builder);
            }
            match builder.build().unwrap().start().await {
                Ok(handle) => {
                    if self.loud {
                        let mut events = handle.events();
                        tokio::spawn(async move {
                            while let Some(event) = events.next().await {
                                if !matches!(event, Event::CheckpointSaved { .. }) {
                                    eprintln!("      {event:?}");
                                }
                            }
                        });
                    }
                    return handle;
                }
                Err(error) if error.is_retryable() => sleep(Duration::from_millis(100)).await,
                Err(error) => panic!("the migration does not start: {error:#}"),
            }
        }
    }

    async fn disturb(&mut self, handle: MigrationHandle, step: u32) -> MigrationHandle {
        let what = self.random.random_range(0..12);
        if self.loud {
            eprintln!("--- step {step}: disturbance {what} at {:?}", handle.status().position);
        }
        match what {
            0 | 1 => self.sink.inner.crash(),
            2 => {
                drop(handle);
                self.sleep(2000).await;
                return self.start().await;
            }
            3 => {
                // The process and the target's primary die together.
                drop(handle);
                self.sink.inner.crash();
                return self.start().await;
            }
            4 => {
                handle.pause().await.unwrap();
                self.sleep(1000).await;
                handle.resume().unwrap();
            }
            5 => self.source.inner.disconnect_tail(),
            6 => {
                self.source.inner.elect();
            }
            7 => self.source.inner.expire_snapshots(),
            8 => self.source.inner.set_snapshots(false),
            9 => self.source.inner.set_snapshots(true),
            10 => self.source.inner.fail_next(
                SourceCall::ReadBatch,
                Error::new(ErrorKind::SnapshotUnavailable, "read a range", "planned"),
            ),
            _ => self.sleep(1500).await,
        }
        handle
    }

    async fn sleep(&mut self, most_millis: u64) {
        sleep(Duration::from_millis(self.random.random_range(0..most_millis))).await;
    }

    async fn cut_over(&mut self, mut handle: MigrationHandle) {
        let mut failures = 0;
        loop {
            match handle.cutover(async {}).await {
                Ok(summary) => {
                    if summary.outcome != Outcome::Complete {
                        self.trace();
                    }
                    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
                    return;
                }
                Err(error) if error.is_retryable() => {
                    if self.loud {
                        eprintln!("--- cutover again: {error}");
                    }
                    failures += 1;
                    if failures > 3 {
                        // With faults too dense for any progress the run's retry timeout passes.
                        self.dice.set_faults(false);
                        drop(handle);
                        handle = self.start().await;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("the migration ended: {error:#}"),
            }
        }
    }

    /// Prints what happened to the documents whose writes hold all of the words in `MONGOFERRY_TRACE`, and to the catalog.
    fn trace(&self) {
        let Ok(words) = std::env::var("MONGOFERRY_TRACE") else {
            return;
        };
        let concerned = |line: &String| words.split(' ').all(|word| line.contains(word));
        for item in self.source.inner.history().iter().flat_map(|entry| &entry.items) {
            let line = format!("{item:?}");
            if line.starts_with("Command") || concerned(&line) {
                eprintln!("source: {line}");
            }
        }
        for entry in self.sink.inner.journal() {
            let line = format!("{entry:?}");
            if !matches!(
                entry,
                JournalEntry::Inserted { .. } | JournalEntry::Applied { .. } | JournalEntry::Refused { .. }
            ) || concerned(&line)
            {
                eprintln!("target: {line}");
            }
        }
    }

    /// Compares both sides without the help of the crate.
    async fn compare(&self) {
        let target = |name: &Namespace| match name.as_str() {
            "shop.a" if self.rename => "store.aa".to_owned(),
            name => name.to_owned(),
        };
        let mut ours = self.source.inner.collections().await.unwrap();
        ours.retain(|our| our.namespace.database() == "shop" && !our.namespace.collection().starts_with("tmp_"));
        let mut theirs = self.sink.inner.collections().await.unwrap();
        theirs.retain(|their| their.namespace.database() != "letters");
        let mut expected: Vec<_> = ours.iter().map(|our| target(&our.namespace)).collect();
        expected.sort();
        let mut standing: Vec<_> = theirs
            .iter()
            .map(|collection| collection.namespace.to_string())
            .collect();
        standing.sort();
        assert_eq!(standing, expected, "the collections");
        for our in &ours {
            let target = target(&our.namespace);
            let their = theirs.iter().find(|their| their.namespace.as_str() == target).unwrap();
            let name = &our.namespace;
            assert_eq!(our.kind, their.kind, "the kind of {name}");
            assert_eq!(our.options, their.options, "the options of {name}");
            assert_eq!(indexes(our), indexes(their), "the indexes of {name}");
            if our.kind != CollectionKind::View {
                let mut documents = self.source.inner.documents(name.as_str()).unwrap();
                if let Some(rules) = &self.rules {
                    let expected = |document: &RawDocumentBuf| rules.expected(name.as_str(), document);
                    documents = documents.iter().filter_map(expected).collect();
                }
                assert_eq!(
                    documents,
                    self.sink.inner.documents(&target).unwrap(),
                    "the documents of {name}"
                );
            }
        }
        if let Some(Rules {
            on_error: OnRuleError::DeadLetter(letters),
            ..
        }) = &self.rules
        {
            self.compare_letters(letters, &ours);
        }
    }
}

impl Scenario {
    /// Exactly the documents for which a rule failed are in the collection for them, as they are on the source.
    fn compare_letters(&self, letters: &Namespace, ours: &[Collection]) {
        let mut expected = Vec::new();
        for our in ours.iter().filter(|our| our.kind != CollectionKind::View) {
            let name = our.namespace.as_str();
            for document in self.source.inner.documents(name).unwrap() {
                if self.rules.as_ref().unwrap().is_dead(name, &document) {
                    expected.push((name.to_owned(), document));
                }
            }
        }
        let found = self.sink.inner.documents(letters.as_str()).unwrap_or_default();
        let found = found.iter().map(|letter| {
            let id = letter.get_document("_id").unwrap();
            let document = letter.get_document("document").unwrap();
            assert_eq!(id.get("id").unwrap(), document.get("_id").unwrap());
            (id.get_str("ns").unwrap().to_owned(), document.to_owned())
        });
        let by_name = |(name, document): &(String, RawDocumentBuf)| (name.clone(), format!("{document:?}"));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(by_name);
        expected.sort_by_key(by_name);
        assert_eq!(found, expected, "the dead letters");
    }
}

fn indexes(collection: &Collection) -> Vec<RawDocumentBuf> {
    let mut indexes = collection.indexes.clone();
    indexes.sort_by_key(|index| index.get_str("name").unwrap().to_owned());
    indexes
}
