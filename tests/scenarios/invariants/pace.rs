//! How fast a run goes: throttled by its host, behind its source, and soon out of its history.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use bson::rawdoc;
use futures::StreamExt;
use mongoferry::sink::JournalEntry;
use mongoferry::source::{SourceCall, WriteLoad};
use mongoferry::{Error, ErrorKind, Event, MigrationHandle, Phase, Throttle};
use tokio::time::{Instant, sleep, timeout};

use super::{Bench, DEADLINE, documents, until};

/// The copy keeps to its limit, whether chunks can end early or not, and a change of the limit takes effect on what is under way.
#[tokio::test(start_paused = true)]
async fn the_copy_keeps_to_its_limit() {
    for options in [rawdoc! {}, rawdoc! { "capped": true, "size": 1 << 30 }] {
        let bench = Bench::default();
        bench.source.create_collection("shop.orders", options).unwrap();
        // 2 MB.
        bench
            .source
            .insert_many("shop.orders", documents(0..200, 10_000))
            .unwrap();
        let migration = bench.migration().throttle(copy_bytes(200_000));
        let started = Instant::now();
        let run = migration.build().unwrap().start().await.unwrap();
        until("half of it is copied", || {
            run.status().copied.bytes >= 1_000_000 || started.elapsed().as_secs() > 5
        })
        .await;
        assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
        run.throttle(Throttle::default());
        let changed = Instant::now();
        until("it is copied", || run.status().copy_complete).await;
        assert!(
            changed.elapsed() < Duration::from_millis(1500),
            "{:?}",
            changed.elapsed()
        );
        bench.finish(run).await;
    }
}

/// What applications do to a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    None,
    /// They write, and nobody slows them down.
    Free,
    /// They write, and it takes longer the more walkers are at work.
    SlowedDown,
}

async fn applications(bench: &Bench, run: &MigrationHandle, writes: &Cell<Writes>) -> Infallible {
    let mut load = WriteLoad::default();
    loop {
        sleep(Duration::from_millis(50)).await;
        if writes.get() != Writes::None {
            let slowed_down = writes.get() == Writes::SlowedDown;
            let walkers = if slowed_down { run.status().walkers } else { 1 };
            load.operations += 20;
            load.time += Duration::from_millis(20 * walkers as u64);
        }
        bench.source.set_write_load(load);
    }
}

/// A copy that slows the applications down goes on with one walker, in the midst of ranges, and with all when more do not slow them down.
#[tokio::test(start_paused = true)]
async fn a_copy_yields_to_the_writes_of_applications() {
    for yields in [true, false] {
        let bench = Bench::default();
        bench.source.set_batch_documents(10);
        for name in ["shop.a", "shop.b", "shop.c", "shop.d"] {
            bench.source.create_collection(name, rawdoc! {}).unwrap();
            bench.source.insert_many(name, documents(0..5_000, 10)).unwrap();
        }
        bench.source.set_write_load(WriteLoad::default());
        let reads = bench.source.hold(SourceCall::ReadBatch);
        let migration = bench.migration().adaptive_walkers(yields).build().unwrap();
        let run = migration.start().await.unwrap();
        assert!((1..=4).contains(&run.status().walkers));
        let (writes, batch) = (Cell::new(Writes::None), Cell::new(Duration::from_millis(50)));
        let slow_reads = async {
            loop {
                sleep(batch.get()).await;
                reads.let_one_pass();
            }
        };
        let looks = async {
            until("all have begun", || reads.waiting() == 4).await;
            writes.set(Writes::SlowedDown);
            if yields {
                until("one goes on", || run.status().walkers == 1 && reads.waiting() == 1).await;
                // Whoever waits for a batch is at work.
                let usual = batch.replace(Duration::from_secs(10));
                for _ in 0..100 {
                    sleep(Duration::from_millis(100)).await;
                    assert_eq!(run.status().walkers, 1);
                }
                batch.set(usual);
                writes.set(Writes::Free);
                until("all go on", || run.status().walkers == 4 && reads.waiting() == 4).await;
            }
            for _ in 0..100 {
                sleep(Duration::from_millis(100)).await;
                assert_eq!(run.status().walkers, 4);
            }
        };
        tokio::select! {
            () = slow_reads => {}
            _ = applications(&bench, &run, &writes) => {}
            () = looks => {}
        }
        assert!(!run.status().copy_complete, "in the midst of it");
        reads.release();
        until("it is copied", || run.status().copy_complete).await;
        bench.finish(run).await;
    }
}

/// A source whose user may not ask how long writes take is copied all the same, by all walkers, and is not asked again.
#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_tell_of_writes_is_copied_by_all() {
    let bench = Bench::with_orders(4);
    let refused = Error::new(ErrorKind::Unauthorized, "ask how long writes take", "not authorized");
    bench.source.fail_next(SourceCall::WriteLoad, refused);
    let asked = bench.source.hold(SourceCall::WriteLoad);
    let run = bench.start().await;
    asked.reached().await;
    asked.let_one_pass();
    bench.caught_up().await;
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!((run.status().walkers, asked.waiting()), (4, 0));
    }
    asked.release();
    bench.finish(run).await;
}

/// What is repaired counts as what is copied.
#[tokio::test(start_paused = true)]
async fn a_repair_keeps_to_the_limit() {
    let bench = Bench::default();
    bench
        .source
        .insert_many("shop.orders", documents(0..200, 10_000))
        .unwrap();
    let run = bench.start().await;
    bench.caught_up().await;
    drop(run);
    bench.source.noop();
    bench.source.set_history_window(1);
    let migration = bench.migration().throttle(copy_bytes(200_000)).walkers(1);
    let run = migration.build().unwrap().start().await.unwrap();
    until("it has begun", || run.status().phase == Phase::Copy).await;
    let started = Instant::now();
    until("it is compared", || run.status().copy_complete).await;
    let took = started.elapsed().as_secs_f64();
    assert!((8.0..13.0).contains(&took), "{took}");
    bench.finish(run).await;
}

/// The tail keeps to its limit, through a pause too, until that is taken away.
#[tokio::test(start_paused = true)]
async fn the_tail_keeps_to_its_limit_through_a_pause() {
    let bench = Bench::with_orders(4);
    let run = bench.start().await;
    bench.caught_up().await;
    run.throttle(Throttle::unlimited().with_tail_operations_per_second(50));
    for n in 0..1000 {
        bench.set("shop.orders", 1 + n % 4, n);
    }
    sleep(Duration::from_secs(5)).await;
    run.pause().await.unwrap();
    assert_eq!(run.status().throttle.tail_operations_per_second, Some(50));
    run.resume().unwrap();
    sleep(Duration::from_secs(5)).await;
    // What was applied after the last checkpoint comes again.
    let applied = run.status().changes.applied;
    assert!((300..=650).contains(&applied), "{applied}");
    run.throttle(Throttle::default());
    let changed = Instant::now();
    bench.caught_up().await;
    assert!(
        changed.elapsed() < Duration::from_millis(1500),
        "{:?}",
        changed.elapsed()
    );
    bench.finish(run).await;
}

/// A run that cannot keep up says so, with both rates, and not again and again.
#[tokio::test(start_paused = true)]
async fn a_run_that_falls_behind_says_so() {
    let bench = Bench::with_orders(4);
    let run = bench.start().await;
    bench.caught_up().await;
    run.throttle(Throttle::unlimited().with_tail_operations_per_second(5));
    let mut events = run.events();
    // 20 operations each second for two minutes.
    for second in 0..120 {
        bench.source.skip_time(1);
        for n in 0..20 {
            bench.set("shop.orders", 1 + n % 4, second);
        }
        sleep(Duration::from_secs(1)).await;
    }
    run.throttle(Throttle::default());
    bench.caught_up().await;
    bench.finish(run).await;
    let mut said = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::FallingBehind {
            source_rate,
            applied_rate,
            lag,
        } = event
        {
            said.push((source_rate, applied_rate, lag));
        }
    }
    assert_eq!(said.len(), 2, "{said:?}");
    for (source, applied, lag) in said {
        assert!((15.0..30.0).contains(&source), "{source}");
        assert!((4.0..6.0).contains(&applied), "{applied}");
        assert!(lag > Duration::from_secs(15), "{lag:?}");
    }
}

/// It is warned before the position rolls off, by a run that cannot go on as well as by one that is paused; and when that does not help the
/// run goes on all the same.
#[tokio::test(start_paused = true)]
async fn it_is_warned_before_the_position_rolls_off() {
    for paused in [false, true] {
        let bench = Bench::with_orders(4);
        bench.source.set_history_window(600);
        let run = bench.start().await;
        // Ten minutes of history.
        for _ in 0..1500 {
            bench.source.skip_time(1);
            bench.source.noop();
            sleep(Duration::from_secs(1)).await;
        }
        bench.caught_up().await;
        let status = run.status();
        let near = |seconds: Option<Duration>| seconds.is_some_and(|it| it.as_secs().abs_diff(600) < 30);
        assert!(near(status.oplog_window) && near(status.oplog_time_left), "{status:?}");
        let mut events = run.events();
        let tail = bench.source.hold(SourceCall::TailEntries);
        if paused {
            run.pause().await.unwrap();
            assert_eq!(run.status().phase, Phase::Paused);
        }
        let warned = async {
            for second in 0..590 {
                bench.source.skip_time(1);
                bench.source.noop();
                sleep(Duration::from_secs(1)).await;
                if let Some(left) = warning(&run, &mut events) {
                    return (second, left);
                }
            }
            panic!("there was no warning");
        };
        let (second, left) = warned.await;
        assert!((430..480).contains(&second), "{second}");
        assert!((120..=160).contains(&left), "{left}");
        for _ in 0..300 {
            bench.source.skip_time(1);
            bench.source.noop();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(warning(&run, &mut events), None, "once is enough");
        }
        tail.release();
        if paused {
            run.resume().unwrap();
        }
        let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
        assert_eq!(summary.resyncs, 1);
    }
}

/// The seconds that are left by a warning among the events so far.
fn warning(run: &MigrationHandle, events: &mut (impl futures::Stream<Item = Event> + Unpin)) -> Option<u64> {
    while let Some(Some(event)) = futures::FutureExt::now_or_never(events.next()) {
        if let Event::OplogWindowShort {
            position, time_left, ..
        } = event
        {
            assert_eq!(run.status().position, Some(position));
            return Some(time_left.unwrap().as_secs());
        }
    }
    None
}

fn copy_bytes(per_second: u64) -> Throttle {
    Throttle::unlimited().with_copy_bytes_per_second(per_second)
}

/// Its cursor would be gone after the pause, and with it all that was copied.
#[tokio::test(start_paused = true)]
async fn a_pause_waits_for_the_copy_of_a_capped_collection() {
    let bench = Bench::default();
    let options = rawdoc! { "capped": true, "size": 1 << 30 };
    bench.source.create_collection("shop.log", options).unwrap();
    bench.source.insert_many("shop.log", documents(0..200, 100)).unwrap();
    bench.source.set_batch_documents(20);
    let gate = bench.source.hold(SourceCall::ReadBatch);
    let run = bench.start().await;
    for _ in 0..3 {
        timeout(DEADLINE, gate.reached()).await.unwrap();
        gate.let_one_pass();
    }
    timeout(DEADLINE, gate.reached()).await.unwrap();
    let mut pause = Box::pin(run.pause());
    let waited = timeout(Duration::from_secs(1800), &mut pause).await;
    assert!(waited.is_err(), "the pause did not wait: {waited:?}");
    gate.release();
    timeout(DEADLINE, pause).await.unwrap().unwrap();
    assert_eq!(run.status().phase, Phase::Paused);
    let checkpoint = bench.checkpoint().unwrap();
    assert!(
        checkpoint.collections[0]
            .ranges
            .iter()
            .all(|range| range.done.is_some())
    );
    run.resume().unwrap();
    until("it is copied", || run.status().copy_complete).await;
    let written = bench.sink.journal().into_iter().map(|entry| match entry {
        JournalEntry::Inserted { keys, .. } => keys.len(),
        _ => 0,
    });
    assert_eq!(written.sum::<usize>(), 200, "each document once");
    bench.finish(run).await;
}

/// A server closes a cursor that nothing is asked of for ten minutes.
#[tokio::test(start_paused = true)]
async fn the_slowest_copy_asks_for_more_before_its_cursor_is_closed() {
    let bench = Bench::default();
    let options = rawdoc! { "capped": true, "size": 1 << 30 };
    bench.source.create_collection("shop.log", options).unwrap();
    bench.source.insert_many("shop.log", documents(0..50, 100_000)).unwrap();
    let migration = bench.migration().throttle(copy_bytes(1));
    let run = migration.build().unwrap().start().await.unwrap();
    let copied = || bench.sink.documents("shop.log").map_or(0, |documents| documents.len());
    sleep(Duration::from_secs(3600)).await;
    assert!(copied() > 6, "{} in an hour", copied());
    run.throttle(Throttle::default());
    bench.finish(run).await;
}
