//! Documents expire on the target only once the migration is complete, whatever becomes of a cutover.

use std::future::poll_fn;
use std::task::Poll;

use mongoferry::Phase;
use mongoferry::sink::{CatalogCommand, SinkCall};
use mongoferry::source::SourceCall;

use super::*;

const NAMES: [&str; 2] = ["shop.orders", "shop.carts"];

/// Two collections whose documents expire, and one whose do not.
fn bench() -> Bench {
    let bench = Bench::with_orders(5);
    bench.source.create_collection("shop.carts", rawdoc! {}).unwrap();
    bench.source.create_collection("shop.kept", rawdoc! {}).unwrap();
    for name in NAMES {
        let index = rawdoc! { "v": 2, "key": { "until": 1 }, "name": "until", "expireAfterSeconds": 60 };
        bench.source.create_index(name, index).unwrap();
    }
    bench
}

/// Whether documents expire on the target as on the source: in some of the collections, and in all.
async fn expires(bench: &Bench) -> (bool, bool) {
    let standing = bench.sink.collections().await.unwrap();
    let indexes = standing.iter().flat_map(|collection| &collection.indexes);
    let seconds: Vec<i32> = indexes
        .filter_map(|index| index.get_i32("expireAfterSeconds").ok())
        .collect();
    assert_eq!(seconds.len(), NAMES.len());
    (seconds.contains(&60), seconds.iter().all(|seconds| *seconds == 60))
}

/// Polls a future so often, whenever something that it waits for has come. Answers what it came to before.
async fn poll_so_often<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let (mut future, mut polled) = (Box::pin(future), 0);
    poll_fn(|context| {
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if polled >= times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn expiry_is_held_back_after_a_cutover_dropped_anywhere() {
    let mut was_final = 0;
    for times in 1.. {
        let bench = bench();
        let run = bench.by_digest().build().unwrap().start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        if poll_so_often(run.cutover_now(async {}), times).await.is_some() || run.status().phase == Phase::Complete {
            assert_eq!(expires(&bench).await, (true, true));
            break;
        }
        was_final += usize::from(expires(&bench).await.0);
        settle_down().await;
        if bench.checkpoint().unwrap().complete {
            assert_eq!(
                (expires(&bench).await, run.status().phase),
                ((true, true), Phase::Complete)
            );
            continue;
        }
        assert_eq!(expires(&bench).await, (false, false), "after {times} polls");
        assert!(!bench.checkpoint().unwrap().expiry_final);
        bench.set("shop.orders", 1, 7);
        bench.finish(run).await;
        assert_eq!(expires(&bench).await, (true, true));
    }
    assert!(was_final > 1, "{was_final}");
}

/// A command that nobody waits for any more may still be carried out.
#[tokio::test(start_paused = true)]
async fn a_command_under_way_comes_before_the_one_that_takes_it_back() {
    let bench = bench();
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let execute = bench.sink.hold(SinkCall::Execute);
    tokio::select! {
        _ = run.cutover(async {}) => panic!("the cutover is held"),
        reached = timeout(DEADLINE, execute.reached()) => reached.expect("documents are to expire"),
    }
    assert!(bench.checkpoint().unwrap().expiry_final, "it is noted before");
    settle_down().await;
    execute.release();
    let expire = || bench.checkpoint().unwrap().expiry_final;
    until("the checkpoint no longer says so", || !expire()).await;
    assert_eq!(expires(&bench).await, (false, false));
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_process_holds_the_expiry_back_before_it_goes_on() {
    for all in [false, true] {
        let bench = bench();
        let run = bench.by_digest().build().unwrap().start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        let execute = bench.sink.hold_answer(SinkCall::Execute);
        if all {
            execute.let_one_pass();
        }
        {
            let mut cutover = Box::pin(run.cutover(async {}));
            tokio::select! {
                _ = &mut cutover => panic!("the cutover is held"),
                reached = timeout(DEADLINE, execute.reached()) => reached.expect("documents are to expire"),
            }
            // As if the process was killed here, the cutover is not given up before the run is gone.
            std::mem::forget(cutover);
        }
        drop(run);
        execute.release();
        settle_down().await;
        assert!(expires(&bench).await.0, "nobody is left to take it back");
        let tail = bench.source.hold(SourceCall::Tail);
        let run = bench.start().await;
        timeout(DEADLINE, tail.reached()).await.expect("it goes on");
        assert_eq!(expires(&bench).await, (false, false));
        tail.release();
        bench.caught_up().await;
        until("the checkpoint no longer says so", || {
            !bench.checkpoint().unwrap().expiry_final
        })
        .await;
        bench.finish(run).await;
        assert_eq!(expires(&bench).await, (true, true));
    }
}

/// A run that loses what it has applied goes back to its checkpoint in the midst of the cutover, which then goes on.
#[tokio::test(start_paused = true)]
async fn a_restart_after_the_final_expiry_continues_the_cutover() {
    let bench = bench();
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let execute = bench.sink.hold_answer(SinkCall::Execute);
    let during = async {
        timeout(DEADLINE, execute.reached())
            .await
            .expect("documents are to expire");
        bench.sink.crash();
        execute.release();
    };
    let (summary, ()) = tokio::join!(timeout(DEADLINE * 10, run.cutover(async {})), during);
    assert_eq!(summary.expect("it ends").unwrap().outcome, Outcome::Complete);
    assert_eq!(expires(&bench).await, (true, true));
}

/// Commands are given a few at a time. Those that have not been given when the cutover is dropped need not be taken back.
#[tokio::test(start_paused = true)]
async fn a_dropped_cutover_lets_no_further_collection_expire() {
    const COUNT: usize = 30;
    let bench = Bench::default();
    for number in 0..COUNT {
        let name = format!("shop.c{number}");
        bench.source.create_collection(&name, rawdoc! {}).unwrap();
        let index = rawdoc! { "v": 2, "key": { "until": 1 }, "name": "until", "expireAfterSeconds": 60 };
        bench.source.create_index(&name, index).unwrap();
    }
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let execute = bench.sink.hold(SinkCall::Execute);
    tokio::select! {
        _ = run.cutover(async {}) => panic!("the cutover is held"),
        reached = timeout(DEADLINE, execute.reached()) => reached.expect("documents are to expire"),
    }
    execute.release();
    until("the checkpoint no longer says so", || {
        !bench.checkpoint().unwrap().expiry_final
    })
    .await;
    let is_final = |entry: &JournalEntry| match entry {
        JournalEntry::Executed(CatalogCommand::Modify { arguments, .. }) => arguments
            .get_document("index")
            .is_ok_and(|index| index.get_i32("expireAfterSeconds").is_ok_and(|seconds| seconds == 60)),
        _ => false,
    };
    let given = bench.sink.journal().iter().filter(|entry| is_final(entry)).count();
    assert!((1..COUNT).contains(&given), "{given}");
    bench.finish(run).await;
}
