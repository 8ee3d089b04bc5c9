//! A run follows its source for as long as the cutover window lasts, by the clock of the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use futures::{FutureExt, StreamExt};
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{ErrorKind, Event};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// The time of day, which moves when the test says so.
#[derive(Clone, Default)]
struct Day(Arc<AtomicU64>);

impl Day {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Relaxed))
    }

    /// Moves on, and lets the run see it.
    async fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Relaxed);
        sleep(Duration::from_secs(3)).await;
    }
}

async fn start(bench: &Bench, day: &Day) -> MigrationHandle {
    begin(bench.migration(), day).await
}

async fn begin(migration: MigrationBuilder, day: &Day) -> MigrationHandle {
    let day = day.clone();
    let migration = migration.clock(move || day.now());
    migration.build().unwrap().start().await.unwrap()
}

/// A run that was ready for the first time at the beginning of the day.
async fn ready(bench: &Bench, day: &Day) -> MigrationHandle {
    let run = start(bench, day).await;
    until("the window begins", || run.status().cutover_deadline.is_some()).await;
    assert_eq!(run.status().cutover_deadline, Some(day.now() + 120 * HOUR));
    run
}

/// How many hours were left at each warning.
fn warnings(events: &mut (impl futures::Stream<Item = Event> + Unpin)) -> Vec<f64> {
    std::iter::from_fn(|| events.next().now_or_never().flatten())
        .filter_map(|event| match event {
            Event::CutoverWindowShort { left, .. } => Some(left.as_secs_f64() / 3600.0),
            _ => None,
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_run_ends_with_the_window_and_can_be_started_again() {
    let (bench, day) = (Bench::with_orders(5), Day::default());
    let run = ready(&bench, &day).await;
    day.pass(120 * HOUR - Duration::from_secs(1)).await;
    bench.set("shop.orders", 1, 7);
    bench.caught_up().await;
    day.pass(Duration::from_secs(1)).await;
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WindowClosed, "{error}");
    bench.set("shop.orders", 2, 7);
    // With a window of its own.
    let run = ready(&bench, &day).await;
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_run_ends_with_the_window_too() {
    let (bench, day) = (Bench::with_orders(5), Day::default());
    let run = ready(&bench, &day).await;
    run.pause().await.unwrap();
    day.pass(120 * HOUR).await;
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WindowClosed, "{error}");
}

#[tokio::test(start_paused = true)]
async fn it_warns_before_the_end_and_again_after_an_extension() {
    let (bench, day) = (Bench::with_orders(5), Day::default());
    let run = ready(&bench, &day).await;
    let mut events = run.events();
    day.pass(95 * HOUR).await;
    assert!(warnings(&mut events).is_empty());
    for left in [24u32, 4, 1] {
        let passed = Duration::from_secs(day.0.load(Relaxed));
        day.pass(120 * HOUR - left * HOUR - passed).await;
        day.pass(Duration::from_secs(60)).await;
        assert_eq!(warnings(&mut events), [f64::from(left)], "said once");
    }
    run.extend(24 * HOUR).await.unwrap();
    day.pass(Duration::from_secs(60)).await;
    assert!(warnings(&mut events).is_empty());
    day.pass(2 * HOUR).await;
    assert_eq!(warnings(&mut events).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_window_and_its_extensions_survive_the_process() {
    let (bench, day) = (Bench::with_orders(5), Day::default());
    let run = ready(&bench, &day).await;
    run.extend(24 * HOUR).await.unwrap();
    run.extend(HOUR).await.unwrap();
    let deadline = SystemTime::UNIX_EPOCH + 145 * HOUR;
    assert_eq!(run.status().cutover_deadline, Some(deadline));
    drop(run);
    day.pass(144 * HOUR).await;
    let run = start(&bench, &day).await;
    assert_eq!(run.status().cutover_deadline, Some(deadline));
    let mut events = run.events();
    run.ready_to_cut_over().await.unwrap();
    assert_eq!(warnings(&mut events), [1.0], "the new process is told");
    day.pass(HOUR).await;
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WindowClosed, "{error}");
}

#[tokio::test(start_paused = true)]
async fn there_is_nothing_to_extend_before_the_run_was_ready() {
    let (bench, day) = (Bench::with_orders(5), Day::default());
    let reads = bench.source.hold(SourceCall::ReadBatch);
    let run = start(&bench, &day).await;
    timeout(DEADLINE, reads.reached()).await.unwrap();
    assert_eq!(run.extend(HOUR).await.unwrap_err().kind(), ErrorKind::WrongPhase);
    assert_eq!(run.status().cutover_deadline, None);
    day.pass(1000 * HOUR).await;
    reads.release();
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_cutover_under_way_is_not_cut_off() {
    let (bench, day) = (Bench::with_orders(5), Day::default());
    let run = begin(bench.by_digest(), &day).await;
    until("the window begins", || run.status().cutover_deadline.is_some()).await;
    let digest = bench.sink.hold(SinkCall::Digest);
    let cutover = timeout(DEADLINE * 10, run.cutover(async {}));
    let during = async {
        timeout(DEADLINE, digest.reached()).await.expect("it compares");
        day.pass(121 * HOUR).await;
        digest.release();
    };
    let summary = tokio::join!(cutover, during).0.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}
