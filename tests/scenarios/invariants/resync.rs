//! A position that the source's history no longer holds: found whatever the reason, and answered by writing only what differs.

use std::time::Duration;

use bson::rawdoc;
use futures::StreamExt;
use mongoferry::sink::{CatalogCommand, JournalEntry, SinkCall};
use mongoferry::source::{MemorySource, SourceCall};
use mongoferry::{
    CheckpointStore, CollectionKind, ErrorKind, Event, LostPosition, Migration, MigrationHandle, Position, Sink, Source,
};
use tokio::time::timeout;

use super::{Bench, DEADLINE, documents, until};

/// The history no longer reaches back: every way in which a source can have changed meanwhile is made good, and nothing else is written.
#[tokio::test(start_paused = true)]
async fn a_resync_writes_only_the_differences() {
    let bench = changeable().await;
    change_everything(&bench);
    bench.source.set_history_window(1);
    let before = bench.sink.journal().len();
    let run = bench.start().await;
    let resync = resync_of(&run).await;
    bench.caught_up().await;
    let foreign = bench.sink.documents("shop.foreign").unwrap();
    assert_eq!(foreign.len(), 1, "what the migration did not make is left alone");
    let drop = CatalogCommand::Drop {
        namespace: "shop.foreign".parse().unwrap(),
    };
    bench.sink.execute(&drop).await.unwrap();
    let journal = bench.sink.journal().split_off(before);
    assert_eq!(resync.gap, u64::from(resync.position.time - resync.lost.time));
    bench.finish(run).await;
    // One document changed, one is new, one is gone; and the renamed collection went along as it was.
    let written = |name: &str| written_to(&journal, name);
    assert_eq!(written("shop.orders"), 3, "{journal:#?}");
    assert_eq!(written("shop.moved"), 1, "{journal:#?}");
    assert_eq!(written("shop.untouched"), 0, "{journal:#?}");
    let indexes = journal
        .iter()
        .filter(|entry| matches!(entry, JournalEntry::IndexBuilt { .. }))
        .count();
    assert_eq!(
        indexes, 2,
        "the index that changed and the one that is new: {journal:#?}"
    );
    let orders = bench.sink.collections().await.unwrap();
    let orders = orders
        .iter()
        .find(|collection| collection.namespace.as_str() == "shop.orders");
    let validator = rawdoc! { "n": { "$gte": 0 } };
    let options = rawdoc! { "validator": validator, "validationLevel": "strict", "validationAction": "error" };
    assert_eq!(orders.unwrap().options, options);
}

/// A process that is killed at any command of a resync, or when it has written some of the documents, leaves a checkpoint to go on from.
#[tokio::test(start_paused = true)]
async fn a_resync_can_be_killed_anywhere() {
    for call in [
        SinkCall::Execute,
        SinkCall::Apply,
        SinkCall::CreateIndex,
        SinkCall::Flush,
    ] {
        for passes in 0..8 {
            let bench = changeable().await;
            change_everything(&bench);
            bench.source.set_history_window(1);
            let gate = bench.sink.hold_answer(call);
            let run = bench.start().await;
            let resynced = resync_of(&run);
            for _ in 0..passes {
                gate.let_one_pass();
            }
            let killed = timeout(DEADLINE, gate.reached()).await.is_ok();
            resynced.await;
            drop(run);
            gate.release();
            // The next one is killed as it begins, when the position of the new checkpoint has been lost, too.
            bench.source.drop_collection("shop.moved").unwrap();
            bench
                .source
                .insert("shop.orders", rawdoc! { "_id": 1000, "n": 0 })
                .unwrap();
            let run = bench.start().await;
            resync_of(&run).await;
            let drop = CatalogCommand::Drop {
                namespace: "shop.foreign".parse().unwrap(),
            };
            bench.sink.execute(&drop).await.unwrap();
            bench.finish(run).await;
            if !killed {
                break;
            }
        }
    }
}

/// In the middle of a run: the tail falls out of the history.
#[tokio::test(start_paused = true)]
async fn a_run_that_falls_out_of_the_history_goes_on() {
    let bench = Bench::with_orders(50);
    let run = bench.start().await;
    bench.caught_up().await;
    let tail = bench.source.hold(SourceCall::TailEntries);
    bench.set("shop.orders", 7, 1);
    timeout(DEADLINE, tail.reached()).await.unwrap();
    bench.set("shop.orders", 8, 1);
    bench.source.set_history_window(1);
    let before = bench.sink.journal().len();
    let resync = resync_of(&run);
    tail.release();
    resync.await;
    bench.caught_up().await;
    assert_eq!(written_to(&bench.sink.journal()[before..], "shop.orders"), 2);
    bench.finish(run).await;
}

/// A source that was restored from a backup has another history after it, whether or not it is as long as the one before was.
#[tokio::test(start_paused = true)]
async fn a_source_that_was_restored_is_found_out() {
    for written_since in [0, 1, 50] {
        for running in [false, true] {
            let bench = Bench::with_orders(20);
            let mut run = Some(bench.start().await);
            bench.caught_up().await;
            let backup = bench.source.position().await.unwrap();
            bench.set("shop.orders", 3, 1);
            bench.source.delete("shop.orders", 4).unwrap();
            bench
                .source
                .insert("shop.orders", rawdoc! { "_id": 21, "n": 5 })
                .unwrap();
            bench.caught_up().await;
            if !running {
                run = None;
            }
            bench.source.restore(backup);
            for n in 0..written_since {
                bench.set("shop.orders", 5, n);
            }
            let run = match run {
                Some(run) => run,
                None => bench.start().await,
            };
            resync_of(&run).await;
            bench.finish(run).await;
            assert_eq!(bench.sink.documents("shop.orders").unwrap().len(), 20);
        }
    }
}

/// The same where the history still holds the position at which the tail starts again, which is before a transaction that is open, but not
/// all that was read after it.
#[tokio::test(start_paused = true)]
async fn a_source_restored_past_the_resume_position_is_found_out() {
    for written_since in [0, 50] {
        let bench = Bench::with_orders(20);
        let run = bench.start().await;
        bench.caught_up().await;
        let open = bench.source.open_transaction();
        bench.set("shop.orders", 2, 1);
        let backup = bench.source.position().await.unwrap();
        for n in 1..10 {
            bench.set("shop.orders", 3, n);
        }
        let checkpoint = bench.caught_up().await;
        assert!(checkpoint.resume < backup && backup < checkpoint.watermark);
        drop(run);
        bench.source.restore(backup);
        for n in 0..written_since {
            bench.set("shop.orders", 5, n);
        }
        let run = bench.start().await;
        resync_of(&run).await;
        // A cutover waits for it.
        open.abort();
        bench.finish(run).await;
    }
}

/// The same where the checkpoint is of before the backup, but a change of after it was applied: the next run cannot know of it by the
/// watermark alone.
#[tokio::test(start_paused = true)]
async fn what_was_applied_after_the_last_checkpoint_is_not_forgotten() {
    for killed in [false, true] {
        let bench = Bench::with_orders(20);
        let mut run = Some(bench.start().await);
        bench.caught_up().await;
        // From here on at most one checkpoint is saved, which is of now.
        let flushing = bench.sink.hold(SinkCall::Flush);
        bench.source.noop();
        timeout(DEADLINE, flushing.reached()).await.unwrap();
        let backup = bench.source.noop();
        bench.set("shop.orders", 3, 1);
        until("the change is applied", || bench.applied(3) == [1]).await;
        if killed {
            flushing.let_one_pass();
            until("the checkpoint is saved", || bench.checkpoint().unwrap().seen > backup).await;
            run = None;
        }
        assert!(bench.checkpoint().unwrap().watermark < backup);
        bench.source.restore(backup);
        for n in 0..50 {
            bench.set("shop.orders", 5, n);
        }
        // One that was not killed fails by a broken connection first, so that here, too, it is the next one that has to find out.
        let run = match run {
            Some(run) => run,
            None => bench.start().await,
        };
        resync_of(&run).await;
        flushing.release();
        bench.finish(run).await;
    }
}

/// Where the host has chosen so the run ends, and the checkpoint is as good as before.
#[tokio::test(start_paused = true)]
async fn a_lost_position_can_end_the_run() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    let checkpoint = bench.caught_up().await;
    drop(run);
    bench.set("shop.orders", 3, 1);
    bench.source.noop();
    bench.source.set_history_window(1);
    let migration = bench.migration().lost_position(LostPosition::Fail);
    let run = migration.build().unwrap().start().await.unwrap();
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
    assert_eq!(bench.checkpoint().unwrap().collections, checkpoint.collections);
    let run = bench.start().await;
    resync_of(&run).await;
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.resyncs, 1);
}

/// Another replica set is no reason for a resync, and nothing is written to it.
#[tokio::test(start_paused = true)]
async fn another_source_or_target_is_refused() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    drop(run);
    let other = Migration::builder(MemorySource::with_seed(7), bench.sink.clone())
        .include("shop.*")
        .checkpoint_store(bench.store.clone());
    let error = other.build().unwrap().start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointMismatch, "{error}");
    assert_eq!(bench.sink.documents("shop.orders").unwrap().len(), 5);
    // Nor is another target.
    let mut elsewhere = bench.checkpoint().unwrap();
    elsewhere.sink = "another".to_owned();
    bench.store.save(&elsewhere.encode().unwrap()).await.unwrap();
    let error = bench.migration().build().unwrap().start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointMismatch, "{error}");
    assert!(
        error.to_string().contains("it belongs to the target `another`"),
        "{error}"
    );
}

/// A migration that has caught up and stopped, of a source with something of every kind.
async fn changeable() -> Bench {
    let bench = Bench::with_orders(100);
    let source = &bench.source;
    source
        .create_index("shop.orders", rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" })
        .unwrap();
    source
        .create_index("shop.orders", rawdoc! { "v": 2, "key": { "m": 1 }, "name": "m_1" })
        .unwrap();
    source.insert_many("shop.untouched", documents(0..50, 10)).unwrap();
    source
        .create_index("shop.untouched", rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" })
        .unwrap();
    source.insert_many("shop.mover", documents(0..50, 10)).unwrap();
    source.insert_many("shop.dropped", documents(0..5, 10)).unwrap();
    source.insert_many("shop.anew", documents(0..5, 10)).unwrap();
    let capped = rawdoc! { "capped": true, "size": 1 << 20 };
    source.create_collection("shop.log", capped).unwrap();
    source.insert_many("shop.log", documents(0..5, 10)).unwrap();
    let view = rawdoc! { "viewOn": "orders", "pipeline": [] };
    source.create_collection("shop.seen", view.clone()).unwrap();
    source.create_collection("shop.old_view", view).unwrap();
    let run = bench.start().await;
    until("everything is indexed", || run.status().can_cut_over).await;
    bench.caught_up().await;
    drop(run);
    let create = CatalogCommand::Create {
        namespace: "shop.foreign".parse().unwrap(),
        kind: CollectionKind::Plain,
        options: rawdoc! {},
    };
    bench.sink.execute(&create).await.unwrap();
    let mut batch = mongoferry::Batch::new();
    batch.push(&rawdoc! { "_id": 1 });
    let foreign = "shop.foreign".parse().unwrap();
    bench.sink.insert(&foreign, &batch).await.unwrap();
    bench.sink.flush().await.unwrap();
    bench
}

fn change_everything(bench: &Bench) {
    let source = &bench.source;
    bench.set("shop.orders", 10, 1);
    source.delete("shop.orders", 20).unwrap();
    source.insert("shop.orders", rawdoc! { "_id": 200, "n": 0 }).unwrap();
    source.drop_index("shop.orders", "m_1").unwrap();
    source.drop_index("shop.orders", "n_1").unwrap();
    source
        .create_index(
            "shop.orders",
            rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "sparse": true },
        )
        .unwrap();
    source
        .create_index("shop.orders", rawdoc! { "v": 2, "key": { "k": 1 }, "name": "k_1" })
        .unwrap();
    source
        .modify("shop.orders", rawdoc! { "validator": { "n": { "$gte": 0 } } })
        .unwrap();
    source.rename("shop.mover", "shop.moved").unwrap();
    bench.set("shop.moved", 3, 1);
    source.drop_collection("shop.dropped").unwrap();
    source.drop_collection("shop.anew").unwrap();
    let collation = rawdoc! { "collation": { "locale": "de" } };
    source.create_collection("shop.anew", collation).unwrap();
    source.insert_many("shop.anew", documents(3..9, 10)).unwrap();
    source.insert_many("shop.created", documents(0..5, 10)).unwrap();
    source.insert_many("shop.log", documents(5..8, 10)).unwrap();
    source.drop_collection("shop.old_view").unwrap();
    source.drop_collection("shop.seen").unwrap();
    let view = rawdoc! { "viewOn": "moved", "pipeline": [] };
    source.create_collection("shop.seen", view).unwrap();
    source.noop();
}

struct Resync {
    lost: Position,
    position: Position,
    gap: u64,
}

/// Waits until the run says that it begins anew.
fn resync_of(run: &MigrationHandle) -> impl Future<Output = Resync> + use<> {
    let mut events = run.events();
    async move {
        let found = timeout(Duration::from_secs(120), async {
            loop {
                match events.next().await {
                    Some(Event::Resync {
                        lost, position, gap, ..
                    }) => {
                        let gap = gap.as_secs();
                        return Resync { lost, position, gap };
                    }
                    Some(_) => {}
                    None => panic!("the run ended"),
                }
            }
        });
        found.await.expect("the position counts as lost")
    }
}

/// How many documents were written to a collection.
fn written_to(journal: &[JournalEntry], name: &str) -> usize {
    journal
        .iter()
        .map(|entry| match entry {
            JournalEntry::Inserted { namespace, keys } if namespace.as_str() == name => keys.len(),
            JournalEntry::Applied { namespace, .. } if namespace.as_str() == name => 1,
            _ => 0,
        })
        .sum()
}
