//! Writes on the source are blocked for a cutover, and for no longer than it takes unless it is the last one.

use futures::StreamExt;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Error, ErrorKind, Event, Phase};

use super::*;

fn blocking(bench: &Bench) -> MigrationBuilder {
    bench.by_digest().block_source_writes(true)
}

async fn start(bench: &Bench) -> MigrationHandle {
    blocking(bench).build().unwrap().start().await.unwrap()
}

/// Whether an application is refused.
fn is_blocked(bench: &Bench) -> bool {
    bench
        .source
        .replace("shop.orders", rawdoc! { "_id": 1, "n": 9 })
        .is_err()
}

fn is_noted(bench: &Bench) -> bool {
    bench.checkpoint().unwrap().source_writes_blocked
}

/// Begins a cutover, and drops it when `reached` is.
async fn drop_cutover(run: &MigrationHandle, reached: impl Future<Output = ()>) {
    tokio::select! {
        _ = run.cutover(async {}) => panic!("the cutover is held"),
        reached = timeout(DEADLINE, reached) => reached.expect("it comes so far"),
    }
}

#[tokio::test(start_paused = true)]
async fn writes_stay_blocked_once_the_cutover_is_complete() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    let block = bench.source.hold(SourceCall::SetWriteBlock);
    let cutover = run.cutover(async {
        assert!(!is_blocked(&bench), "the host stops the writers first");
    });
    let during = async {
        timeout(DEADLINE, block.reached()).await.expect("it blocks");
        assert!(is_noted(&bench), "it is noted before");
        assert!(!is_blocked(&bench));
        block.release();
    };
    let summary = tokio::join!(timeout(DEADLINE, cutover), during).0.unwrap().unwrap();
    assert_eq!((summary.outcome, summary.late_writes.count), (Outcome::Complete, 0));
    assert!(is_blocked(&bench));
    drop(run);
    assert_eq!(
        bench.sink.documents("shop.orders").unwrap(),
        bench.source.documents("shop.orders").unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn the_block_is_lifted_when_the_cutover_does_not_complete() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    // Who may pass the block still writes.
    let digest = bench.sink.hold(SinkCall::Digest);
    let cutover = run.cutover(async {});
    let during = async {
        timeout(DEADLINE, digest.reached()).await.expect("it compares");
        assert!(is_blocked(&bench));
        bench.source.create_collection("shop.late", rawdoc! {}).unwrap();
        digest.release();
    };
    let error = tokio::join!(timeout(DEADLINE, cutover), during).0.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WritesAfterStop, "{error}");
    assert!(!is_blocked(&bench));
    until("the checkpoint no longer says so", || !is_noted(&bench)).await;

    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    bench.caught_up().await;
    let (namespace, name) = ("shop.orders".parse().unwrap(), "n".to_owned());
    let drop_it = mongoferry::sink::CatalogCommand::DropIndex { namespace, name };
    bench.sink.execute(&drop_it).await.unwrap();
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Differences, "{summary:#?}");
    assert!(!is_blocked(&bench));
    bench.source.drop_index("shop.orders", "n").unwrap();
    bench.caught_up().await;
    bench.finish(run).await;
    assert!(is_blocked(&bench));
}

#[tokio::test(start_paused = true)]
async fn the_block_is_lifted_whenever_the_cutover_is_dropped() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    let digest = bench.sink.hold(SinkCall::Digest);
    drop_cutover(&run, digest.reached()).await;
    digest.release();
    until("it is lifted", || !is_blocked(&bench)).await;
    // The command may be carried out though nobody waits for it any more.
    let block = bench.source.hold(SourceCall::SetWriteBlock);
    drop_cutover(&run, block.reached()).await;
    block.let_one_pass();
    timeout(DEADLINE, block.reached()).await.expect("it is to be lifted");
    block.release();
    until("it is lifted", || !is_blocked(&bench) && !is_noted(&bench)).await;
    bench.caught_up().await;
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn the_block_is_lifted_when_the_run_ends_during_the_cutover() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    let digest = bench.sink.hold(SinkCall::Digest);
    let cutover = run.cutover(async {});
    let during = async {
        timeout(DEADLINE, digest.reached()).await.expect("it compares");
        bench.source.unsupported("shop.orders", "it is of another world");
        digest.release();
    };
    let error = tokio::join!(timeout(DEADLINE, cutover), during).0.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
    assert_eq!(run.status().phase, Phase::Failed);
    assert!(!is_blocked(&bench));
}

#[tokio::test(start_paused = true)]
async fn the_next_process_lifts_the_block_of_one_that_died() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    let digest = bench.sink.hold(SinkCall::Digest);
    {
        let mut cutover = Box::pin(run.cutover(async {}));
        tokio::select! {
            _ = &mut cutover => panic!("the cutover is held"),
            reached = timeout(DEADLINE, digest.reached()) => reached.expect("it compares"),
        }
    }
    drop(run);
    digest.release();
    assert!(is_blocked(&bench), "nobody is left to lift it");
    // A refusal does not end it.
    let error = Error::new(ErrorKind::Unauthorized, "lift the block", "not now");
    bench.source.fail_next(SourceCall::SetWriteBlock, error);
    // Also by a process that does not want to block anything itself.
    let run = bench.start().await;
    until("it is lifted", || !is_blocked(&bench)).await;
    until("the checkpoint no longer says so", || !is_noted(&bench)).await;
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_block_of_somebody_else_is_left_alone() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    bench.source.set_write_block(true).await.unwrap();
    let digest = bench.sink.hold(SinkCall::Digest);
    drop_cutover(&run, digest.reached()).await;
    digest.release();
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    assert!(is_blocked(&bench) && !is_noted(&bench));
}

/// The host may choose the block for a run that goes on from a checkpoint, too: that it cannot be had is told before anything happens.
#[tokio::test(start_paused = true)]
async fn a_source_that_is_too_old_is_refused_when_a_run_is_to_go_on() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    run.pause().await.unwrap();
    drop(run);
    bench.source.set_version([5, 0, 4]);
    let (checkpoint, journal) = (bench.checkpoint(), bench.sink.journal().len());
    let error = blocking(&bench).build().unwrap().start().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    for part in ["version 5.0", "block_source_writes(false)"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!((bench.checkpoint(), bench.sink.journal().len()), (checkpoint, journal));
    let run = bench.start().await;
    bench.finish(run).await;
}

/// A source of the host's own may find out only when it is asked.
#[tokio::test(start_paused = true)]
async fn nothing_is_lifted_after_a_refusal_to_block() {
    let bench = Bench::with_orders(5);
    let run = start(&bench).await;
    run.ready_to_cut_over().await.unwrap();
    let events = run.events();
    for _ in 0..2 {
        let refused = Error::new(ErrorKind::Refused, "block writes", "this source cannot do that");
        bench.source.fail_next(SourceCall::SetWriteBlock, refused);
    }
    let began = tokio::time::Instant::now();
    let error = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    until("the checkpoint says nothing of a block", || !is_noted(&bench)).await;
    run.pause().await.unwrap();
    drop(run);
    let events: Vec<Event> = events.collect().await;
    let lifted = |event: &Event| {
        matches!(
            event,
            Event::SourceWritesUnblocked | Event::SourceWriteBlockStays { .. }
        )
    };
    assert!(!events.iter().any(lifted), "{events:?}");
}
