//! What was compared stays known: over a restart, and however much changes afterwards.

use futures::{FutureExt, Stream, StreamExt};
use mongoferry::sink::SinkCall;
use mongoferry::{Event, Position};

use super::comparing::{assert_found, compared, tamper};
use super::*;

/// Waits until the checkpoint says of so many documents of `shop.orders` that they were compared.
async fn kept(bench: &Bench, documents: u64) {
    until("the checkpoint has what was compared", || {
        let checkpoint = bench.checkpoint();
        let compared = checkpoint.and_then(|checkpoint| checkpoint.collections[0].compared.clone());
        compared.is_some_and(|compared| compared.documents == documents && compared.upper.is_none())
    })
    .await;
}

async fn all_compared(run: &MigrationHandle) {
    until("everything is compared", || run.status().all_compared).await;
}

/// Starts, and waits until everything is compared.
async fn start_compared(bench: &Bench) -> MigrationHandle {
    let migration = bench.migration().cross_check_bytes(0);
    let run = migration.build().unwrap().start().await.unwrap();
    all_compared(&run).await;
    run
}

/// Cuts over without a digest, which would stand still here.
async fn cut_over_at_once(bench: &Bench, run: MigrationHandle) {
    let digest = bench.sink.hold(SinkCall::Digest);
    let summary = timeout(Duration::from_secs(60), run.cutover(async {})).await;
    let summary = summary.expect("no digest is asked for").unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    drop(digest);
}

/// In each case another process goes on. `shop.orders` has 50 documents that were compared, and 3 was changed since.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Nothing,
    /// A document that has changed since it was compared is not the same any more.
    ChangedDiffers,
    /// Another program writes to the collection, in place.
    Foreign,
    /// Nobody can know any more whether one did.
    HistoryLost,
    /// The source may have been restored from a backup.
    Election,
    /// The target was.
    TargetRestored,
}

#[tokio::test(start_paused = true)]
async fn a_process_that_goes_on_compares_only_what_has_changed() {
    use Meanwhile::{ChangedDiffers, Election, Foreign, HistoryLost, Nothing, TargetRestored};
    for meanwhile in [Nothing, ChangedDiffers, Foreign, HistoryLost, Election, TargetRestored] {
        let bench = Bench::with_orders(50);
        let migration = || bench.migration().cross_check_bytes(0).build().unwrap();
        let run = migration().start().await.unwrap();
        kept(&bench, 50).await;
        bench.set("shop.orders", 3, 7);
        bench.caught_up().await;
        drop(run);
        match meanwhile {
            Nothing => {}
            ChangedDiffers => tamper(&bench, 3).await,
            Foreign => {
                tamper(&bench, 40).await;
                bench.sink.tell_foreign_write("shop.orders").unwrap();
            }
            HistoryLost => bench.sink.forget_history(),
            Election => drop(bench.source.elect()),
            TargetRestored => {
                let mut checkpoint = bench.checkpoint().unwrap();
                let unknown = Position {
                    time: 1,
                    increment: 1_000,
                    term: 1,
                };
                checkpoint.durable = Some(unknown);
                bench.store.save(&checkpoint.encode().unwrap()).await.unwrap();
            }
        }
        let run = migration().start().await.unwrap();
        bench.set("shop.orders", 4, 8);
        bench.caught_up().await;
        all_compared(&run).await;
        let is_known = matches!(meanwhile, Nothing | ChangedDiffers | Foreign);
        let expected = if is_known { 0 } else { 50 };
        assert_eq!(run.status().compared.documents, expected, "{meanwhile:?}");
        match meanwhile {
            Nothing | HistoryLost | Election | TargetRestored => cut_over_at_once(&bench, run).await,
            ChangedDiffers => assert_found(&bench, &run, 3).await,
            Foreign => assert_found(&bench, &run, 40).await,
        }
    }
}

/// The collection is compared anew by the next process, which then knows as much of it as of any other.
#[tokio::test(start_paused = true)]
async fn a_collection_that_others_wrote_to_is_compared_anew() {
    let bench = Bench::with_orders(50);
    bench.source.create_collection("shop.parts", rawdoc! {}).unwrap();
    bench.source.insert("shop.parts", rawdoc! { "_id": 1 }).unwrap();
    let migration = || bench.migration().cross_check_bytes(0).build().unwrap();
    let run = migration().start().await.unwrap();
    compared(&run, 51).await;
    bench.sink.tell_foreign_write("shop.orders").unwrap();
    until("the checkpoint forgets it", || {
        // It is saved when something is to be said.
        bench.set("shop.parts", 1, 1);
        let collections = bench.checkpoint().unwrap().collections;
        let known = |name: &str| {
            let found = collections.iter().find(|it| it.namespace.as_str() == name);
            found.unwrap().compared.is_some()
        };
        known("shop.parts") && !known("shop.orders")
    })
    .await;
    drop(run);
    let run = migration().start().await.unwrap();
    all_compared(&run).await;
    assert_eq!(run.status().compared.documents, 50);
    cut_over_at_once(&bench, run).await;
}

/// Without the watch nobody could say whether what was compared is still true.
#[tokio::test(start_paused = true)]
async fn nothing_is_kept_that_was_not_watched() {
    let bench = Bench::with_orders(50);
    let run = bench.migration().watch_foreign_writes(false).build().unwrap();
    let run = run.start().await.unwrap();
    compared(&run, 50).await;
    bench.set("shop.orders", 3, 7);
    bench.caught_up().await;
    let checkpoint = bench.checkpoint().unwrap();
    assert_eq!((checkpoint.watched, &checkpoint.collections[0].compared), (None, &None));
    drop(run);
}

fn differences(events: &mut (impl Stream<Item = Event> + Unpin)) -> Vec<Key> {
    let mut found = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        if let Event::DocumentDiffers { difference, .. } = event {
            found.push(difference.key);
        }
    }
    found
}

/// More documents change than can be noted, again and again. What was compared is known all the while; what differs among the changed is
/// found, and nothing else.
#[tokio::test(start_paused = true)]
async fn what_has_changed_is_compared_again_so_that_it_stays_little() {
    const DOCUMENTS: i32 = 20_000;
    let bench = Bench::default();
    let documents = (0..DOCUMENTS).map(|id| rawdoc! { "_id": id, "n": 0, "u": 0 });
    bench.source.insert_many("shop.orders", documents).unwrap();
    let migration = bench.migration().memory_bytes(16 << 20).cross_check_bytes(0);
    let run = migration.build().unwrap().start().await.unwrap();
    all_compared(&run).await;
    let mut events = run.events();
    for round in 1..=2 {
        for id in 0..DOCUMENTS {
            bench.set("shop.orders", id, round);
            if id % 1000 == 999 {
                bench.caught_up().await;
                assert!(run.status().all_compared, "{round} {id}");
            }
        }
        sleep(Duration::from_secs(300)).await;
        bench.source.noop();
        let kept = bench.caught_up().await.collections[0].compared.clone().unwrap();
        assert_eq!(kept.changed, [], "round {round}");
    }
    assert_eq!(differences(&mut events), []);
    assert_eq!(run.status().compared.documents, DOCUMENTS as u64);
    // What the source changes of it is not what differs.
    let write = mongoferry::Write {
        key: key(77),
        operation: mongoferry::Operation::Replace(rawdoc! { "_id": 77, "n": 2, "u": 1 }),
    };
    let orders: Namespace = "shop.orders".parse().unwrap();
    bench
        .sink
        .apply(&orders, mongoferry::CollectionKind::Plain, &[write])
        .await
        .unwrap();
    for id in 70..80 {
        bench.set("shop.orders", id, 3);
    }
    until("the difference is found", || run.status().differences > 0).await;
    assert_eq!(differences(&mut events), [key(77)]);
    // It is found once, however often it changes.
    for n in 4..8 {
        bench.set("shop.orders", 77, n);
        sleep(Duration::from_secs(20)).await;
    }
    assert_eq!((differences(&mut events), run.status().differences), (vec![], 1));
    assert_eq!(bench.caught_up().await.collections[0].compared, None);
    // The source itself puts it right.
    let whole = rawdoc! { "_id": 77, "n": 8, "u": 0 };
    bench.source.replace("shop.orders", whole).unwrap();
    until("it is found to be the same", || {
        bench.source.noop();
        bench.checkpoint().unwrap().collections[0].compared.is_some()
    })
    .await;
    cut_over_at_once(&bench, run).await;
}

/// A document that changes while it is compared again counts as changed afterwards.
#[tokio::test(start_paused = true)]
async fn what_changes_while_it_is_compared_again_is_not_forgotten() {
    let bench = Bench::with_orders(50);
    let run = start_compared(&bench).await;
    let reads = bench.sink.hold_answer(SinkCall::ReadDocuments);
    bench.set("shop.orders", 3, 7);
    timeout(DEADLINE, reads.reached()).await.expect("it is compared again");
    let before = bench.applied(3);
    bench.set("shop.orders", 3, 8);
    bench.source.noop();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.applied(3), before, "it is held");
    let checkpoint = bench.checkpoint().unwrap();
    assert!(checkpoint.watermark < bench.source.position().await.unwrap());
    reads.release();
    bench.caught_up().await;
    assert_eq!(run.status().differences, 0);
    tamper(&bench, 3).await;
    assert_found(&bench, &run, 3).await;
}

/// Neither does one count as compared of which the comparison was stopped.
#[tokio::test(start_paused = true)]
async fn what_was_not_compared_again_to_its_end_has_still_changed() {
    let bench = Bench::with_orders(50);
    let run = start_compared(&bench).await;
    let reads = bench.sink.hold(SinkCall::ReadDocuments);
    bench.set("shop.orders", 3, 7);
    timeout(DEADLINE, reads.reached()).await.expect("it is compared again");
    // A change of the catalog stops it.
    bench.source.create_collection("shop.parts", rawdoc! {}).unwrap();
    bench.caught_up().await;
    reads.release();
    tamper(&bench, 3).await;
    assert_found(&bench, &run, 3).await;
}

/// The throttle leaves time for a few documents only.
#[tokio::test(start_paused = true)]
async fn what_there_was_no_time_to_compare_again_has_still_changed() {
    let bench = Bench::with_orders(50);
    let run = bench.start().await;
    all_compared(&run).await;
    run.throttle(mongoferry::Throttle::unlimited().with_copy_bytes_per_second(1));
    for id in 1..=20 {
        bench.set("shop.orders", id, 7);
    }
    let changed = || {
        // It is saved when something is to be said.
        bench.source.noop();
        bench.checkpoint().unwrap().collections[0]
            .compared
            .clone()
            .unwrap()
            .changed
    };
    until("all have changed", || changed().len() == 20).await;
    until("some are compared again", || changed().len() < 20).await;
    let left = changed();
    assert!(!left.is_empty() && left.iter().all(|id| (1..=20).any(|changed| key(changed) == *id)));
    run.abandon().await;
}

/// What was found to differ is found again by the next process, which may be the one that cuts over.
#[tokio::test(start_paused = true)]
async fn what_differs_is_not_kept_as_compared() {
    let bench = Bench::with_orders(50);
    let read = bench.sink.hold(SinkCall::Read);
    let migration = || bench.migration().cross_check_bytes(0).build().unwrap();
    let run = migration().start().await.unwrap();
    timeout(DEADLINE, read.reached()).await.expect("it begins to compare");
    tamper(&bench, 40).await;
    read.release();
    until("it is found", || run.status().differences == 1).await;
    bench.source.noop();
    bench.caught_up().await;
    assert_eq!(bench.checkpoint().unwrap().collections[0].compared, None);
    drop(run);
    let run = migration().start().await.unwrap();
    until("it is found again", || run.status().differences == 1).await;
    assert_found(&bench, &run, 40).await;
}

/// Who else writes to a collection on the target is known by its name, which may be another one by then.
#[tokio::test(start_paused = true)]
async fn a_renamed_collection_is_compared_anew() {
    let bench = Bench::with_orders(50);
    let migration = bench.migration().cross_check_bytes(0);
    let run = migration.build().unwrap().start().await.unwrap();
    compared(&run, 50).await;
    tamper(&bench, 40).await;
    bench.sink.tell_foreign_write("shop.orders").unwrap();
    bench.source.rename("shop.orders", "shop.sold").unwrap();
    until("it is found", || run.status().differences == 1).await;
    assert_eq!(run.status().compared.documents, 100);
    run.abandon().await;
}

/// A target that has failed over may lack what was written since the last flush, which is written again.
#[tokio::test(start_paused = true)]
async fn what_a_target_has_lost_is_no_difference() {
    let bench = Bench::with_orders(50);
    let run = start_compared(&bench).await;
    // The first time that it is ready is noted in the checkpoint.
    settle_down().await;
    let flushes = bench.sink.hold(SinkCall::Flush);
    let reads = bench.sink.hold(SinkCall::ReadDocuments);
    bench.set("shop.orders", 3, 7);
    timeout(DEADLINE, reads.reached()).await.expect("it is compared again");
    assert_eq!(bench.applied(3), [7]);
    bench.sink.crash();
    reads.release();
    sleep(Duration::from_millis(100)).await;
    flushes.release();
    bench.caught_up().await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(run.status().differences, 0);
    bench.finish(run).await;
}

/// What a run has counted is not counted once more by the next one of the same process.
#[tokio::test(start_paused = true)]
async fn a_write_of_others_is_counted_once() {
    let bench = Bench::with_orders(50);
    let run = start_compared(&bench).await;
    let mut events = run.events();
    bench.sink.tell_foreign_write("shop.orders").unwrap();
    let told = async { while !matches!(events.next().await, Some(Event::ForeignWrite { .. })) {} };
    timeout(DEADLINE, told).await.expect("it is told");
    run.pause().await.unwrap();
    run.resume().unwrap();
    all_compared(&run).await;
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(summary.foreign_writes[0].writes, 1);
    assert_eq!(run.status().foreign_writes, 1);
}
