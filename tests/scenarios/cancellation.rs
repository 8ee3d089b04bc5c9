//! Whatever is dropped, and whenever: the checkpoint is good to go on from, and no task, file or cursor is left.

mod servers;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bson::rawdoc;
use mongoferry::checkpoint::{Checkpoint, CheckpointStore, MemoryStore};
use mongoferry::sink::MemorySink;
use mongoferry::source::MemorySource;
use mongoferry::{Migration, MigrationHandle, Outcome, Phase, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::random_memory::chaos::{ChaosSink, ChaosSource, Dice};

/// How long anything may take, by the paused clock.
const DEADLINE: Duration = Duration::from_secs(900);

/// A source, a target and a checkpoint that take their time, so that every call is a point at which a future can be dropped.
struct Bench {
    source: MemorySource,
    sink: MemorySink,
    store: MemoryStore,
    seed: u64,
    next: i32,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let bench = Self {
            source: MemorySource::new(),
            sink: MemorySink::new(),
            store: MemoryStore::default(),
            seed,
            next: 200,
        };
        bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
        let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" };
        bench.source.create_index("shop.orders", index).unwrap();
        let capped = rawdoc! { "capped": true, "size": 1 << 20 };
        bench.source.create_collection("shop.log", capped).unwrap();
        for id in 0..bench.next {
            for name in ["shop.orders", "shop.log"] {
                let document = rawdoc! { "_id": id, "n": 0, "pad": "p".repeat(100) };
                bench.source.insert(name, document).unwrap();
            }
        }
        bench
    }

    fn migration(&self) -> Migration {
        let dice = || Dice::new(self.seed, 1, Duration::from_millis(200), false);
        let (source, sink) = (
            ChaosSource {
                inner: self.source.clone(),
                dice: dice(),
            },
            ChaosSink {
                inner: self.sink.clone(),
                dice: dice(),
            },
        );
        Migration::builder(source, sink)
            .include("shop.*")
            .checkpoint_store(self.store.clone())
            .chunk_bytes(2 << 10)
            .walkers(2)
            .appliers(2)
            .build()
            .unwrap()
    }

    async fn start(&self) -> MigrationHandle {
        timeout(DEADLINE, self.migration().start()).await.unwrap().unwrap()
    }

    /// Whether the checkpoint says that the migration is complete.
    async fn is_complete(&self) -> bool {
        let stored = self.store.load().await.unwrap();
        stored.is_some_and(|stored| Checkpoint::decode(&stored).unwrap().complete)
    }

    /// Writes that have to be carried over.
    fn write(&mut self) {
        for id in 0..20 {
            let delta = rawdoc! { "u": { "n": self.next } };
            self.source.update_v2("shop.orders", id * 7, delta).unwrap();
        }
        self.source
            .insert("shop.log", rawdoc! { "_id": self.next, "n": self.next })
            .unwrap();
        self.next += 1;
    }

    /// Hands over in a run of its own, and compares both sides.
    async fn finish(&self) {
        let run = self.start().await;
        let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
        assert_eq!(summary.outcome, Outcome::Complete, "seed {}: {summary:#?}", self.seed);
        for name in ["shop.orders", "shop.log"] {
            assert_eq!(
                self.sink.documents(name).unwrap(),
                self.source.documents(name).unwrap(),
                "seed {}: {name}",
                self.seed
            );
        }
        drop(run);
        no_task_is_left().await;
    }
}

/// Polls a future so often, then drops it; answers its output if it came to one.
async fn poll_times<T>(mut future: Pin<Box<dyn Future<Output = T> + '_>>, times: usize) -> Option<T> {
    for _ in 0..times {
        let mut polled = false;
        let output = poll_fn(|context| {
            // The second time is when something has happened that the future waits for.
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(None);
            }
            match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if output.is_some() {
            return output;
        }
    }
    None
}

/// A cutover whose future was dropped while its end was being saved comes to that end by itself, or goes back to following.
async fn no_cutover_is_under_way(run: &MigrationHandle) {
    let over = async {
        while run.status().phase == Phase::Cutover {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, over).await.unwrap();
}

/// Every task that the crate has started ends when what it belongs to is dropped.
async fn no_task_is_left() {
    let metrics = tokio::runtime::Handle::current().metrics();
    for _ in 0..100 {
        if metrics.num_alive_tasks() == 0 {
            return;
        }
        // What is cancelled ends when it is next polled; no timer is waited for.
        tokio::task::yield_now().await;
    }
    panic!("{} tasks are left", metrics.num_alive_tasks());
}

/// A start, or a preflight, that is dropped at each of its points.
#[tokio::test(start_paused = true)]
async fn a_start_may_be_dropped_at_any_point() {
    let mut bench = Bench::new(1);
    let mut points = 0;
    for polls in 0.. {
        let migration = bench.migration();
        let checked = poll_times(Box::pin(migration.preflight()), polls).await;
        no_task_is_left().await;
        let started = poll_times(Box::pin(bench.migration().start()), polls).await;
        let ended = checked.is_some() && started.is_some();
        drop(started);
        no_task_is_left().await;
        bench.write();
        points = polls;
        if ended {
            break;
        }
    }
    assert!(points > 5, "{points}");
    bench.finish().await;
}

/// A handle that is dropped at random moments, again and again, until the migration is through.
#[tokio::test(start_paused = true)]
async fn a_handle_may_be_dropped_at_any_moment() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new(seed);
        for _ in 0..8 {
            let run = bench.start().await;
            // Most of the time the lease of the one before has to expire first.
            sleep(Duration::from_millis(random.random_range(0..20_000))).await;
            bench.write();
            sleep(Duration::from_millis(random.random_range(0..500))).await;
            drop(run);
            no_task_is_left().await;
        }
        bench.finish().await;
    }
}

/// What a host asks of the handle, dropped after so many polls: the run goes on, or it is dropped as well.
#[tokio::test(start_paused = true)]
async fn what_is_asked_of_a_handle_may_be_dropped_at_any_point() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new(seed);
        let mut run = Some(bench.start().await);
        for _ in 0..8 {
            let Some(handle) = &run else { break };
            sleep(Duration::from_millis(random.random_range(0..15_000))).await;
            bench.write();
            let polls = random.random_range(0..60);
            let asked: Pin<Box<dyn Future<Output = Result<()>>>> = match random.random_range(0..3) {
                0 => Box::pin(handle.ready_to_cut_over()),
                1 => Box::pin(handle.pause()),
                _ => Box::pin(async { handle.cutover(sleep(Duration::from_millis(50))).await.map(|_| ()) }),
            };
            let answer = poll_times(asked, polls).await;
            if let (Some(answer), Phase::Complete) = (answer, handle.status().phase) {
                answer.unwrap();
            }
            let drops_run = random.random_range(0..2) == 0;
            if drops_run {
                run = None;
                no_task_is_left().await;
            } else {
                no_cutover_is_under_way(handle).await;
            }
            if bench.is_complete().await {
                break;
            }
            match &run {
                // Refused unless it was paused.
                Some(handle) => drop(handle.resume()),
                None => run = Some(bench.start().await),
            }
        }
        if !bench.is_complete().await {
            let cutover = run.as_ref().unwrap().cutover(async {});
            let summary = timeout(DEADLINE, cutover).await.unwrap().unwrap();
            assert_eq!(summary.outcome, Outcome::Complete, "seed {seed}: {summary:#?}");
        }
        drop(run);
        no_task_is_left().await;
        for name in ["shop.orders", "shop.log"] {
            assert_eq!(
                bench.sink.documents(name).unwrap(),
                bench.source.documents(name).unwrap()
            );
        }
    }
}
