//! Handles are shared: whoever has a clone controls the run, and all get the same result.

use futures::StreamExt;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{ErrorKind, Event, Phase};
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn everyone_gets_the_error_that_ended_the_run() {
    let bench = Bench::with_orders(5);
    let migration = bench.migration().build().unwrap();
    let mut events = migration.events();
    let run = migration.start().await.unwrap();
    assert!(run.status().failure.is_none());
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let run = run.clone();
            tokio::spawn(async move { timeout(DEADLINE, run.wait()).await })
        })
        .collect();
    bench.caught_up().await;
    bench.source.unsupported("shop.orders", "it is of another world");
    let mut told = Vec::new();
    for waiting in waiting {
        told.push(waiting.await.unwrap().expect("the run ends").unwrap_err());
    }
    told.push(run.wait().await.unwrap_err());
    told.push(run.ready_to_cut_over().await.unwrap_err());
    told.extend(run.status().failure);
    while let Some(event) = events.next().await {
        if let Event::Failed { error } = event {
            told.push(error);
        }
    }
    assert_eq!(told.len(), 6);
    for error in told {
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
        assert!(error.context().any(|(name, _)| name == "position"), "{error}");
        assert!(!error.to_string().contains("cannot run the migration"), "{error}");
    }
}

/// A reader that begins before the start misses nothing.
#[tokio::test(start_paused = true)]
async fn events_begin_before_the_start() {
    let bench = Bench::with_orders(5);
    let migration = bench.migration().build().unwrap();
    let events = migration.events();
    let run = migration.start().await.unwrap();
    bench.finish(run).await;
    let told: Vec<Event> = timeout(DEADLINE, events.collect()).await.unwrap();
    let at = |is_meant: fn(&Event) -> bool| told.iter().position(is_meant);
    let started = at(|event| matches!(event, Event::Started { .. })).unwrap();
    let copied = at(|event| matches!(event, Event::PhaseChanged { phase: Phase::Copy })).unwrap();
    assert!(started < copied, "{told:?}");
    assert!(
        matches!(told.last(), Some(Event::PhaseChanged { phase: Phase::Complete })),
        "{told:?}"
    );

    // A start that fails is told, too, and ends the stream.
    let migration = bench.migration().build().unwrap();
    let events = migration.events();
    let error = migration.start().await.unwrap_err();
    let told: Vec<Event> = timeout(DEADLINE, events.collect()).await.unwrap();
    assert!(
        matches!(&told[..], [Event::Failed { error: told }] if told.kind() == error.kind()),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_run_stops_with_the_last_clone() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    let other = run.clone();
    drop(run);
    bench.set("shop.orders", 1, 7);
    bench.caught_up().await;
    let phases = other.events();
    drop(other);
    timeout(DEADLINE, phases.collect::<Vec<_>>())
        .await
        .expect("the tasks are gone");
    let before = bench.checkpoint().unwrap().watermark;
    bench.set("shop.orders", 1, 8);
    sleep(DEADLINE).await;
    assert_eq!(bench.checkpoint().unwrap().watermark, before);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_abandoned_is_stopped_and_not_failed() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    let other = run.clone();
    let (ended, ()) = futures::join!(timeout(DEADLINE, other.wait()), run.abandon());
    assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::Stopped);
    let status = run.status();
    assert_eq!((status.phase, status.failure.is_none()), (Phase::Stopped, true));
    run.shutdown(DEADLINE).await;
    bench.finish(bench.start().await).await;
}

/// A copy that cannot be resumed is finished by a shutdown that has the time.
#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_what_cannot_be_resumed() {
    for has_time in [true, false] {
        let bench = Bench::default();
        let capped = rawdoc! { "capped": true, "size": 1 << 20 };
        bench.source.create_collection("shop.ring", capped).unwrap();
        for id in 1..=50 {
            bench.source.insert("shop.ring", rawdoc! { "_id": id }).unwrap();
        }
        let mut reads = Some(bench.source.hold(SourceCall::ReadBatch));
        let run = bench.start().await;
        let reached = reads.as_ref().unwrap().reached();
        timeout(DEADLINE, reached).await.expect("it copies");
        let release = async {
            sleep(Duration::from_secs(5)).await;
            if has_time {
                reads = None;
            }
        };
        let begun = Instant::now();
        let deadline = Duration::from_secs(20);
        let ((), ()) = futures::join!(run.shutdown(deadline), release);
        assert!(begun.elapsed() <= deadline, "{:?}", begun.elapsed());
        assert_eq!(run.status().phase, Phase::Stopped);
        let checkpoint = bench.checkpoint().unwrap();
        let is_copied = checkpoint.collections[0]
            .ranges
            .iter()
            .all(|range| range.done.is_some());
        assert_eq!(is_copied, has_time, "{checkpoint:?}");
        drop(reads);
        bench.finish(bench.start().await).await;
    }
}

/// A cutover in progress ends first.
#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_a_cutover() {
    for has_time in [true, false] {
        let bench = Bench::with_orders(5);
        let run = bench.by_digest().build().unwrap().start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        let digest = bench.sink.hold(SinkCall::Digest);
        let shutdown = async {
            timeout(DEADLINE, digest.reached()).await.unwrap();
            let release = async {
                sleep(Duration::from_secs(if has_time { 5 } else { 30 })).await;
                digest.release();
            };
            futures::join!(run.shutdown(Duration::from_secs(20)), release);
        };
        let (cutover, ()) = futures::join!(timeout(DEADLINE, run.cutover(async {})), shutdown);
        let ended = cutover.expect("it ends with the run");
        let phase = run.status().phase;
        match has_time {
            true => assert_eq!((ended.unwrap().outcome, phase), (Outcome::Complete, Phase::Complete)),
            false => assert_eq!((ended.unwrap_err().kind(), phase), (ErrorKind::Stopped, Phase::Stopped)),
        }
    }
}

/// A run that does not end in time is aborted. That is its end for everyone, also for those who wait for something else.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_aborted_has_ended_for_everyone() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    // Whatever the run saves at its end, its lease included, gets no answer.
    let saves = bench.sink.hold(SinkCall::SaveRecord);
    timeout(DEADLINE, saves.reached()).await.expect("it renews its lease");
    let others = async {
        let other = run.clone();
        let ended = timeout(DEADLINE, other.wait()).await;
        ended.expect("the wait ends").unwrap_err().kind()
    };
    let begun = Instant::now();
    let (kind, ()) = futures::join!(others, run.shutdown(Duration::from_secs(20)));
    assert!(begun.elapsed() <= Duration::from_secs(21), "{:?}", begun.elapsed());
    assert_eq!((kind, run.status().phase), (ErrorKind::Stopped, Phase::Stopped));
    let ready = timeout(DEADLINE, run.ready_to_cut_over()).await;
    assert_eq!(
        ready.expect("it is not waited for").unwrap_err().kind(),
        ErrorKind::Stopped
    );
    drop(saves);
    bench.finish(bench.start().await).await;
}

/// The application is being stopped: what would break the cutover now waits for it, or is refused.
#[tokio::test(start_paused = true)]
async fn nothing_breaks_a_cutover_while_writers_are_stopped() {
    let bench = Bench::with_orders(3);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    let stopping = run.cutover(async { sleep(Duration::from_secs(20)).await });
    let meanwhile = async {
        until("the writers are being stopped", || run.status().phase == Phase::Cutover).await;
        assert_eq!(run.pause().await.unwrap_err().kind(), ErrorKind::WrongPhase);
        let begun = Instant::now();
        run.shutdown(Duration::from_secs(60)).await;
        begun.elapsed()
    };
    let (summary, took) = tokio::join!(stopping, meanwhile);
    assert_eq!(summary.unwrap().outcome, Outcome::Complete);
    assert!((19..40).contains(&took.as_secs()), "{took:?}");
    run.wait().await.unwrap();
}

/// Whoever takes over need not wait until a lease expires that nobody holds any more.
#[tokio::test(start_paused = true)]
async fn a_run_that_was_stopped_leaves_no_lease() {
    let bench = Bench::with_orders(3);
    for ready in [false, true] {
        for how in ["abandon", "shutdown"] {
            let run = bench.start().await;
            if ready {
                run.ready_to_cut_over().await.unwrap();
            }
            match how {
                "abandon" => run.abandon().await,
                _ => run.shutdown(DEADLINE).await,
            }
            let begun = Instant::now();
            bench.start().await.shutdown(DEADLINE).await;
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{ready} {how}: {:?}",
                begun.elapsed()
            );
        }
    }
}
