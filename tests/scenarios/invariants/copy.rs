//! Chunks and the changes that come in while they are read.

use std::time::Duration;

use bson::rawdoc;
use mongoferry::sink::{JournalEntry, SinkCall};
use mongoferry::source::SourceCall;

use tokio::time::{sleep, timeout};

use super::{Bench, DEADLINE, applied_to, documents, key, settle_down, until};

/// What is held at most, of the least budget that can be set.
const HELD_LIMIT: u64 = (16 << 20) / 4;

/// I1: a change that is routed after a walker asked for the newest position, and before its chunk is registered, is in the snapshot.
#[tokio::test(start_paused = true)]
async fn a_change_before_the_registration_is_in_the_snapshot() {
    let bench = Bench::with_orders(3);
    let creating = bench.sink.hold(SinkCall::Execute);
    let run = bench.migration().walkers(1).build().unwrap().start().await.unwrap();
    timeout(DEADLINE, creating.reached()).await.unwrap();
    // From here on only the walker asks, and the one that counts the lag.
    let gate = bench.source.hold_answer(SourceCall::Position);
    creating.release();
    until("the walker has asked for the position", || gate.waiting() == 2).await;
    bench.set("shop.orders", 2, 1);
    until("the change is routed", || run.status().changes.dropped == 1).await;
    gate.release();
    bench.finish(run).await;
}

/// I1: the same for a change of a range that was given back.
#[tokio::test(start_paused = true)]
async fn a_change_to_what_was_given_back_is_in_the_next_snapshot() {
    let bench = Bench::with_orders(3);
    let gate = bench.source.hold(SourceCall::ReadBatch);
    let run = bench.migration().walkers(1).build().unwrap().start().await.unwrap();
    timeout(DEADLINE, gate.reached()).await.unwrap();
    bench.set("shop.orders", 2, 1);
    until("the change is held", || run.status().changes.held_bytes > 0).await;
    bench.source.fail_next(
        SourceCall::ReadBatch,
        mongoferry::Error::new(mongoferry::ErrorKind::SnapshotUnavailable, "read", "planned"),
    );
    gate.release();
    bench.finish(run).await;
}

/// I2: what is held for a chunk is applied when the chunk's documents are durable, not before.
#[tokio::test(start_paused = true)]
async fn held_changes_wait_until_the_chunk_is_durable() {
    let bench = Bench::with_orders(5);
    let reading = bench.source.hold(SourceCall::ReadBatch);
    let flushing = bench.sink.hold(SinkCall::Flush);
    let run = bench.start().await;
    timeout(DEADLINE, reading.reached()).await.unwrap();
    bench.set("shop.orders", 3, 1);
    until("the change is held", || run.status().changes.held_bytes > 0).await;
    reading.release();
    until("the documents are on the target", || {
        bench.sink.documents("shop.orders").unwrap().len() == 5
    })
    .await;
    settle_down().await;
    assert!(bench.applied(3).is_empty(), "nothing is durable yet");
    flushing.release();
    bench.finish(run).await;
    let journal = bench.sink.journal();
    let inserted = journal
        .iter()
        .position(|entry| matches!(entry, JournalEntry::Inserted { keys, .. } if keys.contains(&key(3))))
        .unwrap();
    let applied = journal.iter().position(|entry| applied_to(entry, 3).is_some()).unwrap();
    assert!(
        journal[inserted..applied]
            .iter()
            .any(|entry| matches!(entry, JournalEntry::Flushed))
    );
}

/// I3: what is held for a chunk stays within the budget, however much is written while the chunk cannot go on.
#[tokio::test(start_paused = true)]
async fn held_changes_stay_within_their_budget() {
    let bench = Bench::default();
    bench.source.insert_many("shop.orders", documents(0..50, 1000)).unwrap();
    let gate = bench.source.hold(SourceCall::ReadBatch);
    let run = bench
        .migration()
        .memory_bytes(16 << 20)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    timeout(DEADLINE, gate.reached()).await.unwrap();
    write_much(&bench, &run).await;
    gate.release();
    bench.finish(run).await;
}

/// I3: of a collection that can only be read as a whole, what is held goes to a file.
#[tokio::test(start_paused = true)]
async fn what_is_held_for_a_capped_collection_stays_within_the_budget() {
    let bench = Bench::default();
    let options = rawdoc! { "capped": true, "size": 1 << 30 };
    bench.source.create_collection("shop.orders", options).unwrap();
    bench.source.insert_many("shop.orders", documents(0..50, 1000)).unwrap();
    let gate = bench.source.hold(SourceCall::ReadBatch);
    let run = bench
        .migration()
        .memory_bytes(16 << 20)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    timeout(DEADLINE, gate.reached()).await.unwrap();
    write_much(&bench, &run).await;
    assert_eq!(gate.waiting(), 1, "the read goes on where it was");
    gate.release();
    bench.finish(run).await;
}

/// Ten times as many bytes as may be held, to documents that are being read.
async fn write_much(bench: &Bench, run: &mongoferry::MigrationHandle) {
    const BYTES: usize = 50_000;
    let mut most = 0;
    for n in 0..HELD_LIMIT as i32 * 10 / BYTES as i32 {
        let document = rawdoc! { "_id": n % 50, "n": n, "pad": "q".repeat(BYTES) };
        bench.source.replace("shop.orders", document).unwrap();
        // Nothing else goes on, so that every task has done what it can when the clock goes on.
        sleep(Duration::from_millis(1)).await;
        most = most.max(run.status().changes.held_bytes);
    }
    assert!(most > HELD_LIMIT / 2, "{most}");
    assert!(most <= HELD_LIMIT + 2 * BYTES as u64, "{most}");
}

/// A chunk is finished when the router has come past it. If chunks stayed small after trouble with snapshots, an application that adds
/// documents at the end of a collection would outrun them for ever.
#[tokio::test(start_paused = true)]
async fn chunks_are_not_small_for_want_of_snapshots() {
    let bench = Bench::default();
    bench
        .source
        .insert_many("shop.orders", documents(0..400, 1000))
        .unwrap();
    bench.source.set_snapshots(false);
    bench.source.set_batch_documents(1);
    let run = bench
        .migration()
        .walkers(1)
        .chunk_bytes(40_000)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    until("everything is copied", || run.status().copy_complete).await;
    let flushes = bench
        .sink
        .journal()
        .iter()
        .filter(|entry| matches!(entry, JournalEntry::Flushed))
        .count();
    // Ten chunks, and some checkpoints.
    assert!(flushes < 40, "{flushes}");
    bench.finish(run).await;
}

/// What is changed most for its size is copied last, so that its changes are dropped instead of applied.
#[tokio::test(start_paused = true)]
async fn what_is_changed_most_is_copied_last() {
    let bench = Bench::default();
    // By their size `hot` would be the second.
    for (name, count) in [("shop.cold", 20), ("shop.large", 200), ("shop.hot", 100)] {
        bench.source.insert_many(name, documents(0..count, 1_000)).unwrap();
    }
    let gate = bench.source.hold(SourceCall::ReadBatch);
    let run = bench.migration().walkers(1).build().unwrap().start().await.unwrap();
    timeout(DEADLINE, gate.reached()).await.unwrap();
    for n in 1..=50 {
        bench.set("shop.hot", 3, n);
    }
    until("the changes are met", || run.status().changes.dropped == 50).await;
    gate.release();
    until("all is copied", || run.status().copy_complete).await;
    assert_eq!(run.status().changes.applied, 0);
    let mut order: Vec<String> = Vec::new();
    for entry in bench.sink.journal() {
        if let JournalEntry::Inserted { namespace, .. } = entry {
            order.push(namespace.to_string());
        }
    }
    order.dedup();
    assert_eq!(order, ["shop.large", "shop.cold", "shop.hot"]);
    bench.finish(run).await;
}

/// Thousands of small collections would take the time of a flush each.
#[tokio::test(start_paused = true)]
async fn small_collections_are_copied_while_others_become_durable() {
    let bench = Bench::with_orders(1);
    for number in 0..20 {
        let name = format!("shop.small_{number}");
        bench.source.create_collection(&name, rawdoc! {}).unwrap();
        bench.source.insert(&name, rawdoc! { "_id": 1 }).unwrap();
    }
    let flushing = bench.sink.hold(SinkCall::Flush);
    let run = bench.migration().walkers(1).build().unwrap().start().await.unwrap();
    until("all are written before any is durable", || {
        let journal = bench.sink.journal();
        let inserts = journal
            .iter()
            .filter(|entry| matches!(entry, JournalEntry::Inserted { .. }));
        inserts.count() == 21
    })
    .await;
    assert_eq!(run.status().copied.documents, 0, "nothing counts as copied yet");
    bench.set("shop.small_7", 1, 1);
    until("the change is held", || run.status().changes.held_bytes > 0).await;
    flushing.release();
    bench.finish(run).await;
}
