//! Crashes, and what the checkpoint says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use mongoferry::checkpoint::MemoryStore;
use mongoferry::sink::{JournalEntry, MemorySink, SinkCall};
use mongoferry::source::{MemorySource, SourceCall};
use mongoferry::{Checkpoint, CheckpointStore, Position, Result, Source};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::super::random_memory::chaos::{ChaosSink, Dice};
use super::{Bench, DEADLINE, applied_to, documents, settle_down, until};

/// I4: what a target loses before a chunk is flushed is copied again, and what had been applied to other collections too.
#[tokio::test(start_paused = true)]
async fn a_crash_of_the_target_takes_the_run_back_to_its_checkpoint() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    // A collection that is renamed into the selection gives the walkers something to do.
    bench.source.insert_many("other.items", documents(0..20, 100)).unwrap();
    let inserting = bench.sink.hold_answer(SinkCall::Insert);
    bench.source.rename("other.items", "shop.items").unwrap();
    timeout(DEADLINE, inserting.reached()).await.unwrap();
    // The walker is the one that flushes first, and that is told.
    bench.caught_up().await;
    let flushing = bench.sink.hold(SinkCall::Flush);
    inserting.release();
    timeout(DEADLINE, flushing.reached()).await.unwrap();
    bench.set("shop.orders", 1, 1);
    until("the change is applied", || bench.applied(1) == [1]).await;
    bench.sink.crash();
    let lost = bench.sink.documents("shop.orders").unwrap().remove(0);
    assert_eq!(lost, rawdoc! { "_id": 1, "n": 0 });
    flushing.release();
    bench.finish(run).await;
}

/// I4: the range that was being copied when the process died is made equal, not copied on top of what is there.
#[tokio::test(start_paused = true)]
async fn a_range_that_was_in_flight_is_repaired() {
    let bench = Bench::with_orders(9);
    let flushing = bench.sink.hold(SinkCall::Flush);
    let run = bench.start().await;
    until("the documents are on the target", || {
        bench.sink.documents("shop.orders").unwrap().len() == 9
    })
    .await;
    drop(run);
    flushing.release();
    bench.source.delete("shop.orders", 4).unwrap();
    bench.source.delete("shop.orders", 9).unwrap();
    bench.set("shop.orders", 5, 1);
    let run = bench.start().await;
    bench.finish(run).await;
    assert_eq!(bench.sink.documents("shop.orders").unwrap().len(), 7);
}

/// I4: at the moment a checkpoint is saved everything up to its watermark has been applied and flushed.
#[tokio::test(start_paused = true)]
async fn the_watermark_covers_only_what_is_durable() {
    let bench = Bench::with_orders(4);
    let store = Witness::new(&bench);
    let sink = ChaosSink {
        inner: bench.sink.clone(),
        dice: Dice::new(9, 1, Duration::from_millis(300), false),
    };
    let run = mongoferry::Migration::builder(bench.source.clone(), sink)
        .include("shop.*")
        .checkpoint_store(store.clone())
        .appliers(4)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    until("everything is copied", || run.status().copy_complete).await;
    let mut written = Vec::new();
    for n in 1..=400 {
        let id = 1 + n % 4;
        let delta = rawdoc! { "u": { "n": n } };
        written.push((bench.source.update_v2("shop.orders", id, delta).unwrap(), id, n));
        sleep(Duration::from_millis(20)).await;
    }
    bench.finish(run).await;
    let checked = store.assert_never_ahead(&written, "in order");
    assert!(checked > 10, "{checked}");
}

/// I4: the same whatever happens: answers that are lost, a target that crashes, processes that are killed. Documents are changed at random by
/// several appliers, and each checkpoint is held against what the target would have left if it crashed at that moment.
#[tokio::test(start_paused = true)]
async fn no_checkpoint_is_ever_ahead_of_what_is_durable() {
    let mut checked = 0;
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let bench = Bench::with_orders(DOCUMENTS);
        let store = Witness::new(&bench);
        // Answers of writes are lost by some seeds, and arrive late when nobody waits for them by others.
        let delay = Duration::from_millis(random.random_range(1..400));
        let dice = Dice::new(seed, random.random_range(20..200), delay, seed % 4 == 3);
        let sink = ChaosSink {
            inner: bench.sink.clone(),
            dice: dice.clone(),
        };
        let start = || async {
            let migration = mongoferry::Migration::builder(bench.source.clone(), sink.clone())
                .include("shop.*")
                .checkpoint_store(store.clone())
                .appliers(1 + seed as usize % 5)
                .chunk_bytes(1 << 10);
            migration.build().unwrap().start().await.unwrap()
        };
        let mut run = start().await;
        until("everything is copied", || {
            bench.checkpoint().is_some_and(|checkpoint| checkpoint.copied)
        })
        .await;
        dice.set_faults(true);
        let mut written = Vec::new();
        for n in 1..=400 {
            let id = random.random_range(1..=DOCUMENTS);
            let delta = rawdoc! { "u": { "n": n } };
            written.push((bench.source.update_v2("shop.orders", id, delta).unwrap(), id, n));
            match random.random_range(0..100) {
                0 => bench.sink.crash(),
                1 => {
                    dice.set_faults(false);
                    drop(run);
                    run = start().await;
                    dice.set_faults(true);
                }
                2..60 => {}
                _ => sleep(Duration::from_millis(random.random_range(1..200))).await,
            }
        }
        dice.set_faults(false);
        bench.finish(run).await;
        checked += store.assert_never_ahead(&written, &format!("seed {seed}"));
    }
    assert!(checked > 1000, "{checked}");
}

/// I4: a rename that was carried out, and not noted before the process died, is not carried out once more over what it made.
#[tokio::test(start_paused = true)]
async fn a_rename_is_not_repeated_onto_its_own_result() {
    for crash in [false, true] {
        let bench = Bench::default();
        bench.source.insert_many("shop.orders", documents(0..20, 200)).unwrap();
        let reading = bench.source.hold(SourceCall::Read);
        let migration = bench.migration().chunk_bytes(1 << 10).walkers(1).build().unwrap();
        let run = migration.start().await.unwrap();
        // One range is done, the others are not.
        reading.let_one_pass();
        until("a range is done", || done_ranges(&bench) == 1 && reading.waiting() == 1).await;
        let renaming = bench.sink.hold_answer(SinkCall::Execute);
        bench.source.rename("shop.orders", "shop.archive").unwrap();
        reading.let_one_pass();
        timeout(DEADLINE, renaming.reached()).await.unwrap();
        drop(run);
        if crash {
            bench.sink.crash();
        }
        renaming.release();
        reading.release();
        // What has the old name now is what a walker reads that does not know of the rename yet.
        bench.source.insert_many("shop.orders", documents(15..25, 200)).unwrap();
        let tail = bench.source.hold(SourceCall::TailEntries);
        let run = bench.start().await;
        settle_down().await;
        // The tail goes on after the rename, which some sources could not relate to the new names.
        let noted = bench.checkpoint().unwrap();
        let name = if crash { "shop.orders" } else { "shop.archive" };
        assert_eq!(noted.collections[0].namespace.as_str(), name);
        assert_eq!(noted.resume, noted.watermark);
        tail.release();
        bench.finish(run).await;
        assert_eq!(bench.sink.documents("shop.archive").unwrap().len(), 20);
    }
}

/// The same with a second failure before the first checkpoint of the run that found it out: by then the old name is another collection's.
#[tokio::test(start_paused = true)]
async fn a_rename_is_not_repeated_by_the_second_restart() {
    type Next = fn(&MemorySource);
    let next: [(&str, Next); 3] = [
        ("created", |source| {
            source.insert_many("shop.orders", documents(100..105, 200)).unwrap();
        }),
        ("renamed", |source| {
            source.insert_many("shop.fresh", documents(200..205, 200)).unwrap();
            source.rename("shop.fresh", "shop.orders").unwrap();
        }),
        ("back and forth", |source| {
            source.rename("shop.archive", "shop.orders").unwrap();
            source.rename("shop.orders", "shop.archive").unwrap();
        }),
    ];
    for (case, next) in next {
        for replaces in [false, true] {
            let bench = Bench::default();
            bench.source.insert_many("shop.orders", documents(0..20, 200)).unwrap();
            if replaces {
                bench
                    .source
                    .insert_many("shop.archive", documents(50..60, 200))
                    .unwrap();
            }
            let run = bench.start().await;
            bench.caught_up().await;
            let renaming = bench.sink.hold_answer(SinkCall::Execute);
            bench.source.rename("shop.orders", "shop.archive").unwrap();
            timeout(DEADLINE, renaming.reached()).await.expect(case);
            drop(run);
            renaming.release();
            next(&bench.source);
            for _ in 0..2 {
                let flushing = bench.sink.hold(SinkCall::Flush);
                let run = bench.start().await;
                settle_down().await;
                drop(run);
                flushing.release();
            }
            let run = bench.start().await;
            bench.finish(run).await;
            assert_eq!(bench.sink.documents("shop.archive").unwrap().len(), 20, "{case}");
        }
    }
}

/// I6: the resume position stays before the first entry of a transaction that is open, and what a tail that starts there shows once more is
/// not applied once more.
#[tokio::test(start_paused = true)]
async fn the_resume_position_stays_before_an_open_transaction() {
    let bench = Bench::with_orders(3);
    let run = bench.start().await;
    bench.caught_up().await;
    let before = bench.source.noop();
    let open = bench.source.open_transaction();
    // Done twice, the first creation and its drop would take the second collection for the first.
    for n in [1, 2] {
        bench.source.create_collection("shop.short", rawdoc! {}).unwrap();
        bench.source.insert("shop.short", rawdoc! { "_id": n, "n": n }).unwrap();
        if n == 1 {
            bench.source.drop_collection("shop.short").unwrap();
        }
    }
    bench.set("shop.orders", 1, 1);
    let checkpoint = bench.caught_up().await;
    assert_eq!(checkpoint.resume, before);
    drop(run);
    open.commit(|transaction| transaction.insert("shop.orders", rawdoc! { "_id": 4, "n": 4 }))
        .unwrap();
    let run = bench.start().await;
    let checkpoint = bench.caught_up().await;
    assert!(checkpoint.resume > before);
    bench.finish(run).await;
}

fn done_ranges(bench: &Bench) -> usize {
    let Some(checkpoint) = bench.checkpoint() else { return 0 };
    let ranges = checkpoint.collections.iter().flat_map(|collection| &collection.ranges);
    ranges.filter(|range| range.done.is_some()).count()
}

/// How many documents there are whose values are looked at; each has a number for its value that only grows.
const DOCUMENTS: i32 = 8;

/// The watermark of a saved checkpoint, and the documents that were on the target then.
type Saved = (Position, Vec<i32>);

/// A store that looks at the target whenever a checkpoint is saved.
#[derive(Clone)]
struct Witness {
    store: MemoryStore,
    sink: MemorySink,
    /// Each watermark, with what was durable of the documents when it was saved.
    saves: Arc<Mutex<Vec<Saved>>>,
}

impl Witness {
    fn new(bench: &Bench) -> Self {
        Self {
            store: bench.store.clone(),
            sink: bench.sink.clone(),
            saves: Arc::default(),
        }
    }

    /// Of each checkpoint: what was written up to its watermark was durable. Answers how many there were.
    fn assert_never_ahead(&self, written: &[(Position, i32, i32)], case: &str) -> usize {
        let saves = self.saves.lock().unwrap();
        for (watermark, durable) in &*saves {
            for id in 1..=DOCUMENTS {
                let last = written
                    .iter()
                    .rev()
                    .find(|(position, to, _)| position <= watermark && *to == id);
                let expected = last.map_or(0, |(_, _, n)| *n);
                assert!(
                    durable[id as usize] >= expected,
                    "{case}: document {id} at {watermark}: {durable:?}, not {expected}"
                );
            }
        }
        saves.len()
    }
}

#[async_trait]
impl CheckpointStore for Witness {
    async fn load(&self) -> Result<Option<RawDocumentBuf>> {
        self.store.load().await
    }

    async fn save(&self, checkpoint: &RawDocumentBuf) -> Result<()> {
        let none = || vec![0; DOCUMENTS as usize + 1];
        let (mut written, mut durable) = (none(), none());
        for entry in self.sink.journal() {
            match entry {
                JournalEntry::Flushed => durable.clone_from(&written),
                JournalEntry::Crashed => written.clone_from(&durable),
                entry => {
                    for id in 1..=DOCUMENTS {
                        if let Some(n) = applied_to(&entry, id) {
                            written[id as usize] = n;
                        }
                    }
                }
            }
        }
        let watermark = Checkpoint::decode(checkpoint)?.watermark;
        self.saves.lock().unwrap().push((watermark, durable));
        self.store.save(checkpoint).await
    }

    async fn clear(&self) -> Result<()> {
        self.store.clear().await
    }
}

/// A host that waits for the lag to be small must not be told that it is while nothing is migrated.
#[tokio::test(start_paused = true)]
async fn what_the_source_writes_during_a_pause_is_seen() {
    let bench = Bench::with_orders(1);
    let run = bench.start().await;
    until("the run is ready", || run.status().can_cut_over).await;
    run.pause().await.unwrap();
    bench.set("shop.orders", 1, 1);
    let newest = bench.source.position().await.unwrap();
    until("the newest position is known", || {
        run.status().source_position == Some(newest)
    })
    .await;
    assert!(run.status().position < Some(newest));
    run.resume().unwrap();
    bench.finish(run).await;
}
