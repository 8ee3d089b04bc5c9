//! The order of changes, and the catalog as a barrier.

use std::time::Duration;

use bson::rawdoc;
use mongoferry::sink::{JournalEntry, SinkCall};
use mongoferry::source::SourceCall;
use mongoferry::{Error, ErrorKind, Sink};
use tokio::time::{sleep, timeout};

use super::super::random_memory::chaos::{ChaosSink, Dice};
use super::{Bench, DEADLINE, settle_down, until};

/// I5: however far apart the appliers run, the changes of one document are applied in their order.
#[tokio::test(start_paused = true)]
async fn changes_of_a_document_are_applied_in_order() {
    const DOCUMENTS: i32 = 7;
    let bench = Bench::with_orders(DOCUMENTS);
    let sink = ChaosSink {
        inner: bench.sink.clone(),
        dice: Dice::new(5, 1, Duration::from_secs(1), false),
    };
    let run = mongoferry::Migration::builder(bench.source.clone(), sink)
        .include("shop.*")
        .checkpoint_store(bench.store.clone())
        .appliers(4)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    until("everything is copied", || run.status().copy_complete).await;
    for n in 1..=300 {
        bench.set("shop.orders", 1 + n % DOCUMENTS, n);
        sleep(Duration::from_millis(3)).await;
    }
    bench.finish(run).await;
    for id in 1..=DOCUMENTS {
        let applied = bench.applied(id);
        assert!(
            applied.is_sorted() && applied.last() >= Some(&(300 - DOCUMENTS)),
            "{applied:?}"
        );
    }
}

/// I5: what was written before a collection is dropped does not arrive in the one that is made in its place, nor make it again.
#[tokio::test(start_paused = true)]
async fn a_drop_waits_for_the_changes_before_it() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    let gate = bench.sink.hold(SinkCall::Apply);
    bench.set("shop.orders", 1, 1);
    timeout(DEADLINE, gate.reached()).await.unwrap();
    bench.set("shop.orders", 2, 1);
    bench.source.drop_collection("shop.orders").unwrap();
    bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
    bench
        .source
        .insert("shop.orders", rawdoc! { "_id": 1, "n": 7 })
        .unwrap();
    bench.source.drop_collection("shop.orders").unwrap();
    settle_down().await;
    gate.release();
    bench.caught_up().await;
    bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
    bench
        .source
        .insert("shop.orders", rawdoc! { "_id": 3, "n": 8 })
        .unwrap();
    bench.finish(run).await;
}

/// I5: the same for renames, onto another collection and back.
#[tokio::test(start_paused = true)]
async fn a_rename_waits_for_the_changes_before_it() {
    let bench = Bench::with_orders(5);
    bench
        .source
        .insert("shop.other", rawdoc! { "_id": 1, "n": 100 })
        .unwrap();
    let run = bench.start().await;
    bench.caught_up().await;
    let gate = bench.sink.hold(SinkCall::Apply);
    bench.set("shop.orders", 1, 1);
    timeout(DEADLINE, gate.reached()).await.unwrap();
    bench.set("shop.other", 1, 101);
    bench.source.rename("shop.orders", "shop.other").unwrap();
    bench.set("shop.other", 1, 2);
    bench
        .source
        .insert("shop.orders", rawdoc! { "_id": 1, "n": 200 })
        .unwrap();
    bench.source.rename("shop.other", "shop.third").unwrap();
    bench.source.rename("shop.orders", "shop.other").unwrap();
    bench.source.rename("shop.third", "shop.orders").unwrap();
    bench.set("shop.orders", 1, 3);
    settle_down().await;
    gate.release();
    bench.finish(run).await;
}

/// I5: a collection that is dropped, renamed or replaced while its chunk is being read.
#[tokio::test(start_paused = true)]
async fn a_collection_changes_while_its_chunk_is_read() {
    for case in 0..4 {
        let bench = Bench::with_orders(5);
        bench.source.insert("shop.other", rawdoc! { "_id": 9, "n": 9 }).unwrap();
        let gate = bench.source.hold(SourceCall::ReadBatch);
        let run = bench.start().await;
        until("both chunks are read", || gate.waiting() == 2).await;
        bench.set("shop.orders", 1, 1);
        match case {
            0 => drop(bench.source.drop_collection("shop.orders").unwrap()),
            1 => drop(bench.source.rename("shop.orders", "shop.new").unwrap()),
            2 => drop(bench.source.rename("shop.orders", "shop.other").unwrap()),
            _ => {
                bench.source.drop_collection("shop.orders").unwrap();
                bench
                    .source
                    .insert("shop.orders", rawdoc! { "_id": 1, "n": 5 })
                    .unwrap();
            }
        }
        settle_down().await;
        gate.release();
        bench.finish(run).await;
    }
}

/// I5: a unique index that meets two documents with one value, since one applier is ahead of another, is built when they are even.
#[tokio::test(start_paused = true)]
async fn a_unique_index_waits_for_the_lanes() {
    let bench = Bench::with_orders(8);
    for id in 1..=8 {
        bench.set("shop.orders", id, id);
    }
    let run = bench.start().await;
    bench.caught_up().await;
    let building = bench.sink.hold(SinkCall::CreateIndex);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "unique": true };
    bench.source.create_index("shop.orders", index).unwrap();
    timeout(DEADLINE, building.reached()).await.unwrap();
    let applying = bench.sink.hold(SinkCall::Apply);
    bench
        .source
        .transaction(|transaction| {
            for id in 1..=8 {
                let delta = rawdoc! { "$v": 2, "diff": { "u": { "n": id % 8 + 1 } } };
                transaction.update("shop.orders", id, delta)?;
            }
            Ok(())
        })
        .unwrap();
    until("several appliers have something to apply", || applying.waiting() > 1).await;
    applying.let_one_pass();
    settle_down().await;
    building.release();
    settle_down().await;
    applying.release();
    bench.finish(run).await;
    assert_eq!(bench.sink.collections().await.unwrap()[0].indexes.len(), 2);
}

/// I5: a unique index is built although its values moved from one document to another while appliers ran apart.
#[tokio::test(start_paused = true)]
async fn values_of_a_unique_index_move_between_lanes() {
    let bench = Bench::with_orders(8);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "unique": true, "sparse": true };
    for id in 1..=8 {
        bench.set("shop.orders", id, id);
    }
    let run = bench.start().await;
    bench.caught_up().await;
    // The build and the changes come together: each value goes round by one, through one that is free.
    let gate = bench.sink.hold(SinkCall::Apply);
    bench.source.create_index("shop.orders", index).unwrap();
    for round in 0..20 {
        let of = |id: i32| (id + round) % 8 + 1;
        bench
            .source
            .transaction(|transaction| {
                transaction.update("shop.orders", 1, rawdoc! { "$v": 2, "diff": { "u": { "n": 1000 } } })?;
                for id in (2..=8).rev() {
                    let delta = rawdoc! { "$v": 2, "diff": { "u": { "n": of(id) } } };
                    transaction.update("shop.orders", id, delta)?;
                }
                transaction.update("shop.orders", 1, rawdoc! { "$v": 2, "diff": { "u": { "n": of(1) } } })
            })
            .unwrap();
        if round == 10 {
            settle_down().await;
        }
    }
    gate.release();
    bench.finish(run).await;
    assert_eq!(bench.sink.collections().await.unwrap()[0].indexes.len(), 2);
}

/// A document that is read ahead of the tail, and holds the value of another one until that one's change is routed, waits for it however
/// long that takes.
#[tokio::test(start_paused = true)]
async fn a_document_read_ahead_waits_for_the_tail() {
    let bench = Bench::with_orders(2);
    bench.set("shop.orders", 1, 5);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "unique": true };
    bench.source.create_index("shop.orders", index).unwrap();
    let run = bench.start().await;
    until("the index is built", || {
        bench.checkpoint().is_some_and(|checkpoint| checkpoint.copied)
    })
    .await;
    // Without a position up to which the run may have written, all that follows may be applied again.
    let error = Error::new(ErrorKind::Connection, "read the position", "the source does not answer");
    bench.source.fail_next(SourceCall::Sentinel, error);
    run.pause().await.unwrap();
    // What is applied again in the old format is read instead.
    let delta = rawdoc! { "$v": 1, "$set": { "other": 1 } };
    bench.source.update("shop.orders", 2, delta).unwrap();
    bench.set("shop.orders", 1, 6);
    bench.set("shop.orders", 2, 5);
    bench.source.set_batch_entries(1);
    let tail = bench.source.hold(SourceCall::TailEntries);
    tail.let_one_pass();
    run.resume().unwrap();
    let refused = || {
        let journal = bench.sink.journal();
        journal
            .iter()
            .any(|entry| matches!(entry, JournalEntry::Refused { .. }))
    };
    until("the document is refused", refused).await;
    sleep(Duration::from_secs(90)).await;
    tail.release();
    bench.finish(run).await;
}

/// A name that leads to another collection's on the target must not be taken: the rename would put one in the place of the other.
#[tokio::test(start_paused = true)]
async fn no_two_collections_become_one() {
    for made in [false, true] {
        let bench = Bench::with_orders(5);
        bench.source.create_collection("shop.other", rawdoc! {}).unwrap();
        let migration = bench.migration().rename("shop.orders", "shop.bought");
        let run = migration.build().unwrap().start().await.unwrap();
        until("everything is copied", || run.status().copy_complete).await;
        if made {
            bench.source.create_collection("shop.bought", rawdoc! {}).unwrap();
        } else {
            bench.source.rename("shop.other", "shop.bought").unwrap();
        }
        let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
        assert!(error.to_string().contains("shop.orders"), "{error}");
        assert_eq!(bench.sink.documents("shop.bought").unwrap().len(), 5);
        // When that has come to pass while no process followed, and the history does not tell any more, it is found all the same.
        bench.source.set_history_window(1);
        bench.source.noop();
        let migration = bench.migration().rename("shop.orders", "shop.bought");
        let run = migration.build().unwrap().start().await.unwrap();
        let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
        assert_eq!(bench.sink.documents("shop.bought").unwrap().len(), 5);
    }
}
