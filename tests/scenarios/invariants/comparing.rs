//! Both sides are compared while a run goes on, unless it has something better to do; and a cutover relies on it for what it says alone.

use mongoferry::sink::SinkCall;
use mongoferry::{CollectionKind, Operation, Phase, Summary, Write};

use super::*;

/// Gives a document on the target another value of the same size behind the run's back.
pub(super) async fn tamper(bench: &Bench, id: i32) {
    let write = Write {
        key: key(id),
        operation: Operation::Replace(rawdoc! { "_id": id, "n": -1 }),
    };
    let orders: Namespace = "shop.orders".parse().unwrap();
    let refusals = bench.sink.apply(&orders, CollectionKind::Plain, &[write]).await;
    assert_eq!(refusals.unwrap().len(), 0);
}

pub(super) async fn compared(run: &MigrationHandle, documents: u64) {
    until("everything is compared", || {
        run.status().compared.documents == documents
    })
    .await;
}

/// Cuts over, which has to ask for a digest, and finds the document that was tampered with.
pub(super) async fn assert_found(bench: &Bench, run: &MigrationHandle, id: i32) {
    let digest = bench.sink.hold(SinkCall::Digest);
    let release = async {
        timeout(DEADLINE, digest.reached())
            .await
            .expect("a digest is asked for");
        digest.release();
    };
    let cutover = timeout(DEADLINE * 10, run.cutover(async {}));
    let (summary, ()) = futures::join!(cutover, release);
    let Summary {
        outcome, collections, ..
    } = summary.expect("the cutover ends").unwrap();
    assert_eq!(outcome, Outcome::Differences);
    let expected = format!("the document with _id {{\"$numberInt\":\"{id}\"}} differs");
    let orders = collections.iter().find(|it| it.namespace.as_str() == "shop.orders");
    assert_eq!(orders.unwrap().differences, [expected]);
}

/// A document that another program has changed in place has the same size: only one who saw it can know.
#[tokio::test(start_paused = true)]
async fn what_others_may_have_written_to_is_compared_at_cutover() {
    for watched in [true, false] {
        let bench = Bench::with_orders(50);
        let migration = bench.migration().watch_foreign_writes(watched).cross_check_bytes(0);
        let run = migration.build().unwrap().start().await.unwrap();
        compared(&run, 50).await;
        tamper(&bench, 40).await;
        if watched {
            bench.sink.tell_foreign_write("shop.orders").unwrap();
        }
        assert_found(&bench, &run, 40).await;
    }
}

/// Nobody sees who writes without the driver's help, either.
#[tokio::test(start_paused = true)]
async fn a_small_collection_is_compared_by_digest_too() {
    let bench = Bench::with_orders(50);
    let run = bench.start().await;
    compared(&run, 50).await;
    tamper(&bench, 40).await;
    assert_found(&bench, &run, 40).await;
}

/// Documents in no order are looked up one by one.
#[tokio::test(start_paused = true)]
async fn what_differs_in_a_collated_collection_is_named() {
    let bench = Bench::default();
    let collation = rawdoc! { "collation": { "locale": "de" } };
    bench.source.create_collection("shop.orders", collation).unwrap();
    for id in 1..=50 {
        bench
            .source
            .insert("shop.orders", rawdoc! { "_id": id, "n": 0 })
            .unwrap();
    }
    let run = bench.start().await;
    bench.caught_up().await;
    // It comes last now on the target, though it is the same.
    for operation in [Operation::Delete, Operation::Insert(rawdoc! { "_id": 7, "n": 0 })] {
        let write = Write { key: key(7), operation };
        let orders: Namespace = "shop.orders".parse().unwrap();
        let refusals = bench.sink.apply(&orders, CollectionKind::Unordered, &[write]).await;
        assert_eq!(refusals.unwrap().len(), 0);
    }
    tamper(&bench, 40).await;
    assert_found(&bench, &run, 40).await;
}

/// When nothing can be compared, the lag does not suffer, and the run is ready once it has given up comparing for now. A cutover takes
/// nothing for granted then.
#[tokio::test(start_paused = true)]
async fn a_comparison_that_does_not_end_keeps_nothing_back() {
    let bench = Bench::with_orders(50);
    let reads = bench.sink.hold(SinkCall::ReadBatch);
    let run = bench.start().await;
    timeout(DEADLINE, reads.reached()).await.expect("it begins to compare");
    let writing = async {
        for n in 0.. {
            bench.set("shop.orders", 1 + n % 30, n);
            sleep(Duration::from_millis(100)).await;
            bench.source.skip_time(u32::from(n % 10 == 9));
        }
    };
    let watching = async {
        timeout(DEADLINE * 10, run.ready_to_cut_over())
            .await
            .expect("it is ready")
            .unwrap();
        for _ in 0..600 {
            let lag = run.status().lag.unwrap();
            assert!(lag <= Duration::from_secs(3), "{lag:?}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = writing => unreachable!("it goes on for ever"),
    }
    assert_eq!(run.status().compared.documents, 0);
    tamper(&bench, 40).await;
    let release = async {
        until("it is cut over", || run.status().phase == Phase::Cutover).await;
        reads.release();
    };
    futures::join!(assert_found(&bench, &run, 40), release);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_compared_before_indexing_nor_during_a_cutover() {
    let bench = Bench::with_orders(50);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    bench.source.create_collection("shop.parts", rawdoc! {}).unwrap();
    bench.source.insert("shop.parts", rawdoc! { "_id": 1 }).unwrap();
    let builds = bench.sink.hold(SinkCall::CreateIndex);
    let reads = bench.sink.hold(SinkCall::Read);
    let run = bench.start().await;
    timeout(DEADLINE, builds.reached()).await.expect("it is indexed");
    sleep(Duration::from_secs(10)).await;
    assert!(reads.waiting() == 0, "an index is being built");
    builds.release();
    timeout(DEADLINE, reads.reached()).await.expect("it compares now");
    // Both are given up for the cutover, and nothing begins in its course.
    let digest = bench.sink.hold(SinkCall::Digest);
    let during = async {
        timeout(DEADLINE, digest.reached())
            .await
            .expect("a digest is asked for");
        reads.release();
        let reads = bench.sink.hold(SinkCall::Read);
        sleep(Duration::from_secs(10)).await;
        assert!(reads.waiting() == 0, "it is cut over");
        reads.release();
        digest.release();
    };
    let (summary, ()) = futures::join!(timeout(DEADLINE * 10, run.cutover_now(async {})), during);
    assert_eq!(summary.expect("the cutover ends").unwrap().outcome, Outcome::Complete);
}

/// A run is ready once everything is compared. Whoever is impatient can cut over before that.
#[tokio::test(start_paused = true)]
async fn a_run_is_ready_once_everything_is_compared() {
    for is_impatient in [false, true] {
        let bench = Bench::with_orders(50);
        let reads = bench.sink.hold(SinkCall::ReadBatch);
        let run = bench
            .migration()
            .cross_check_bytes(0)
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        timeout(DEADLINE, reads.reached()).await.expect("it compares");
        let ready = timeout(Duration::from_secs(4), run.ready_to_cut_over()).await;
        assert!(ready.is_err(), "it is ready before it has compared");
        let before = run.status();
        assert_eq!(before.phase, Phase::CatchUp);
        assert!(before.can_cut_over && !before.all_compared, "{before:?}");
        if is_impatient {
            reads.release();
            let summary = timeout(DEADLINE * 10, run.cutover_now(async {}))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(summary.outcome, Outcome::Complete);
            continue;
        }
        let cutover = run.cutover(async {
            let now = run.status();
            assert_eq!(now.phase, Phase::Cutover);
            assert!(
                now.all_compared && now.cutover_estimate < before.cutover_estimate,
                "{now:?}"
            );
        });
        let release = async {
            sleep(Duration::from_secs(1)).await;
            reads.release();
        };
        let (summary, ()) = futures::join!(timeout(DEADLINE * 10, cutover), release);
        assert_eq!(summary.expect("it ends").unwrap().outcome, Outcome::Complete);
    }
}

/// A collection of which too much changes to remember is left to the cutover. It does not keep the run from being ready.
#[tokio::test(start_paused = true)]
async fn what_changes_too_much_does_not_delay_the_cutover() {
    let bench = Bench::default();
    bench.source.create_collection("shop.wide", rawdoc! {}).unwrap();
    let id = |number: u32| format!("{number:0>20000}");
    let insert = |number| bench.source.insert("shop.wide", rawdoc! { "_id": id(number) }).unwrap();
    for number in 0..100 {
        insert(number);
    }
    let migration = bench.migration().memory_bytes(16 << 20).cross_check_bytes(0);
    let run = migration.build().unwrap().start().await.unwrap();
    compared(&run, 100).await;
    let reads = bench.sink.hold(SinkCall::Read);
    // Their `_id`s take more than the share of the memory for changed documents.
    for number in 0..100 {
        bench.set("shop.wide", id(number), 7);
    }
    bench.caught_up().await;
    sleep(DEADLINE).await;
    assert_eq!(run.status().phase, Phase::Ready);
    let digest = bench.sink.hold(SinkCall::Digest);
    let release = async {
        timeout(DEADLINE, digest.reached())
            .await
            .expect("a digest is asked for");
        reads.release();
        digest.release();
    };
    let (summary, ()) = futures::join!(timeout(DEADLINE * 10, run.cutover(async {})), release);
    assert_eq!(summary.expect("it ends").unwrap().outcome, Outcome::Complete);
}
