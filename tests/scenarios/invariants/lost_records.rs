//! What the target loses with its primary, or has got from a process that was killed, is still the migration's own: a run that goes on from
//! its checkpoint does not take it for that of others.

use futures::FutureExt;
use mongoferry::sink::{CatalogCommand, SinkCall};
use mongoferry::source::SourceCall;

use super::*;

async fn ready(bench: &Bench) -> MigrationHandle {
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    bench.caught_up().await;
    run
}

fn stands(bench: &Bench, name: &str) -> bool {
    // It answers at once.
    let listed = bench.sink.collections().now_or_never().unwrap().unwrap();
    listed.iter().any(|collection| collection.namespace.as_str() == name)
}

fn was_executed(bench: &Bench, is_it: fn(&CatalogCommand) -> bool) -> bool {
    let journal = bench.sink.journal();
    journal
        .iter()
        .any(|entry| matches!(entry, JournalEntry::Executed(command) if is_it(command)))
}

/// A drop that is lost again leaves what had the name before, and the run goes back to make the drop once more.
#[tokio::test(start_paused = true)]
async fn a_collection_whose_drop_was_lost_does_not_hold_its_name() {
    let bench = Bench::with_orders(5);
    let run = ready(&bench).await;
    let flushing = bench.sink.hold(SinkCall::Flush);
    bench.source.drop_collection("shop.orders").unwrap();
    until("it is dropped", || !stands(&bench, "shop.orders")).await;
    bench.sink.crash();
    assert!(stands(&bench, "shop.orders"));
    bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
    bench.source.insert("shop.orders", rawdoc! { "_id": 7 }).unwrap();
    settle_down().await;
    flushing.release();
    bench.finish(run).await;
}

/// The second of two drops is lost, after no checkpoint has come between them: what stands there is none that a checkpoint knows.
#[tokio::test(start_paused = true)]
async fn what_was_made_and_dropped_between_two_checkpoints_is_known() {
    let bench = Bench::with_orders(5);
    let run = ready(&bench).await;
    let executing = bench.sink.hold_answer(SinkCall::Execute);
    bench.source.drop_collection("shop.orders").unwrap();
    timeout(DEADLINE, executing.reached()).await.unwrap();
    bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
    bench.source.drop_collection("shop.orders").unwrap();
    bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
    bench.source.insert("shop.orders", rawdoc! { "_id": 7 }).unwrap();
    executing.let_one_pass();
    timeout(DEADLINE, executing.reached()).await.unwrap();
    assert!(stands(&bench, "shop.orders"), "it is made again");
    bench.sink.flush().await.unwrap();
    executing.let_one_pass();
    timeout(DEADLINE, executing.reached()).await.unwrap();
    assert!(!stands(&bench, "shop.orders"), "it is dropped again");
    bench.sink.crash();
    assert!(stands(&bench, "shop.orders"));
    executing.release();
    bench.finish(run).await;
}

/// What is applied once more writes to a collection that was dropped already, which makes it anew.
#[tokio::test(start_paused = true)]
async fn what_a_replay_makes_anew_is_dropped_again() {
    let bench = Bench::with_orders(5);
    let run = ready(&bench).await;
    let flushing = bench.sink.hold(SinkCall::Flush);
    bench.source.insert("shop.orders", rawdoc! { "_id": 6 }).unwrap();
    bench.source.drop_collection("shop.orders").unwrap();
    until("it is dropped", || !stands(&bench, "shop.orders")).await;
    drop(run);
    flushing.release();
    bench.sink.flush().await.unwrap();
    let run = bench.start().await;
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert!(!stands(&bench, "shop.orders"));
}

/// The first process is killed right after a rename, and the target loses that when the next one has seen it.
#[tokio::test(start_paused = true)]
async fn a_rename_that_was_seen_is_not_lost_any_more() {
    let bench = Bench::with_orders(5);
    let run = ready(&bench).await;
    let flushing = bench.sink.hold(SinkCall::Flush);
    let executing = bench.sink.hold_answer(SinkCall::Execute);
    bench.source.rename("shop.orders", "shop.sold").unwrap();
    // Its checkpoint comes before it.
    while !was_executed(&bench, |command| matches!(command, CatalogCommand::Rename { .. })) {
        flushing.let_one_pass();
        settle_down().await;
    }
    timeout(DEADLINE, executing.reached()).await.unwrap();
    drop(run);
    settle_down().await;
    executing.release();
    flushing.release();
    let tail = bench.source.hold(SourceCall::Tail);
    let run = bench.start().await;
    timeout(DEADLINE, tail.reached()).await.unwrap();
    bench.sink.crash();
    tail.release();
    bench.finish(run).await;
}
