//! Both sides are compared while both are written to: what differs is found, and nothing else.

use std::time::Duration;

use bson::rawdoc;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{
    CollectionKind, DifferenceKind, ErrorKind, Event, MigrationHandle, Namespace, Operation, Sink, Source,
    Verification, VerifyReport, Write,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::super::random_memory::chaos::{ChaosSink, Dice};
use super::{Bench, DEADLINE, documents, key, settle_down, until};

async fn verify(run: &MigrationHandle) -> VerifyReport {
    timeout(Duration::from_secs(600), run.verify(&[]))
        .await
        .expect("it ends")
        .unwrap()
}

/// Writes to the target behind the run's back.
async fn tamper(bench: &Bench, id: i32, operation: Operation) {
    let namespace: Namespace = "shop.orders".parse().unwrap();
    let write = Write {
        key: key(id),
        operation,
    };
    bench
        .sink
        .apply(&namespace, CollectionKind::Plain, &[write])
        .await
        .unwrap();
}

/// Documents that are dropped, added, changed in a byte, or whose fields change places are found, each with its field, although the others
/// are written to all the time; and a repair puts them right.
#[tokio::test(start_paused = true)]
async fn what_differs_is_found_and_nothing_else() {
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..8 {
        let bench = Bench::default();
        bench.source.insert_many("shop.orders", documents(0..300, 200)).unwrap();
        bench.sink.set_batch_documents(10);
        // Small chunks, so that there are many.
        let run = bench
            .migration()
            .chunk_bytes(5_000)
            .memory_bytes(16 << 20)
            .build()
            .unwrap();
        let run = run.start().await.unwrap();
        bench.caught_up().await;
        until("it is copied", || run.status().copy_complete).await;
        let mut ids: Vec<i32> = (0..300).collect();
        ids.shuffle(&mut random);
        let (tampered, written) = ids.split_at(8);
        for (number, id) in tampered.iter().enumerate() {
            let document = |n: i32| rawdoc! { "_id": *id, "n": n, "pad": "p".repeat(200) };
            let operation = match number % 4 {
                0 => Operation::Delete,
                1 => Operation::Replace(document(1)),
                2 => Operation::Replace(rawdoc! { "_id": *id, "pad": "p".repeat(200), "n": 0 }),
                _ => {
                    let extra = rawdoc! { "_id": *id + 1000, "n": 0 };
                    tamper(&bench, *id + 1000, Operation::Insert(extra)).await;
                    continue;
                }
            };
            tamper(&bench, *id, operation).await;
        }
        let mut events = run.events();
        let writing = async {
            for n in 0.. {
                bench.set("shop.orders", written[n % written.len()], n as i32);
                sleep(Duration::from_millis(random.random_range(0..3))).await;
            }
        };
        let report = tokio::select! {
            report = verify(&run) => report,
            () = writing => unreachable!("it goes on for ever"),
        };
        assert_eq!(report.difference_count(), 8, "round {round}: {report:#?}");
        assert!(!report.is_identical());
        let collection = &report.collections[0];
        assert!(
            collection.documents >= 298 && collection.position.is_some(),
            "{collection:?}"
        );
        for (number, id) in tampered.iter().enumerate() {
            let id = if number % 4 == 3 { *id + 1000 } else { *id };
            let found = collection
                .differences
                .iter()
                .find(|difference| difference.key == key(id));
            let found = found.unwrap_or_else(|| panic!("round {round}: {id} was not found"));
            let different = |path: &str| DifferenceKind::Different {
                paths: vec![path.to_owned()],
            };
            let expected = [
                DifferenceKind::Missing,
                different("n"),
                different("(order)"),
                DifferenceKind::Extra,
            ];
            assert_eq!(found.kind, expected[number % 4], "{id}");
            assert_ne!(found.source_hash, found.target_hash);
        }
        assert_eq!(run.status().differences, 8);
        let mut told = 0;
        while let Some(Some(event)) = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut events)) {
            told += u32::from(matches!(event, Event::DocumentDiffers { .. }));
        }
        assert_eq!(told, 8);
        let kinds = [(true, false), (true, true), (true, true), (false, true)];
        for (number, kind) in (0..).zip(kinds) {
            let id = tampered[number] + if number == 3 { 1000 } else { 0 };
            let both = run.read_both(&collection.namespace, &key(id)).await.unwrap();
            assert_eq!((both.source.is_some(), both.target.is_some()), kind, "{id}");
            assert_ne!(both.source, both.target);
        }
        let error = run
            .read_both(&"shop.nowhere".parse().unwrap(), &key(1))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
        assert_eq!(run.repair(&report).await.unwrap(), 8);
        let report = verify(&run).await;
        assert!(report.is_identical(), "round {round}: {report:#?}");
        bench.finish(run).await;
    }
}

/// However slow and uneven the target is, and whatever happens to the catalog meanwhile, nothing is a false alarm.
#[tokio::test(start_paused = true)]
async fn nothing_is_a_false_alarm() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let bench = Bench::default();
        for name in ["shop.orders", "shop.items"] {
            bench.source.insert_many(name, documents(0..200, 100)).unwrap();
        }
        let sink = ChaosSink {
            inner: bench.sink.clone(),
            dice: Dice::new(seed, 1, Duration::from_millis(20), false),
        };
        let run = mongoferry::Migration::builder(bench.source.clone(), sink)
            .include("shop.*")
            .checkpoint_store(bench.store.clone())
            .appliers(3)
            .walkers(3)
            .chunk_bytes(4_000)
            .build()
            .unwrap();
        let run = run.start().await.unwrap();
        bench.caught_up().await;
        let writing = async {
            for n in 0.. {
                let (name, id) = (["shop.orders", "shop.items"][n % 2], random.random_range(0..220));
                match random.random_range(0..20) {
                    0 => drop(bench.source.delete(name, id)),
                    1 => drop(bench.source.insert(name, rawdoc! { "_id": id, "n": -1 })),
                    2 if n % 40 == 2 => drop(bench.source.create_collection(&format!("shop.new_{n}"), rawdoc! {})),
                    _ => drop(bench.source.update_v2(name, id, rawdoc! { "u": { "n": n as i32 } })),
                }
                if random.random_bool(0.2) {
                    sleep(Duration::from_millis(random.random_range(0..10))).await;
                }
            }
        };
        let verifying = async {
            for _ in 0..5 {
                let report = verify(&run).await;
                assert!(report.is_identical(), "seed {seed}: {report:#?}");
                assert!(report.collections.iter().any(|collection| collection.documents > 0));
            }
            // What has changed is compared again all the while.
            sleep(Duration::from_secs(20)).await;
            assert_eq!(run.status().differences, 0, "seed {seed}");
        };
        tokio::select! {
            () = verifying => {}
            () = writing => unreachable!("it goes on for ever"),
        }
        bench.finish(run).await;
    }
}

/// I4: what is held for a range that is being compared is not on the target, so that no checkpoint says it is.
#[tokio::test(start_paused = true)]
async fn the_watermark_waits_for_what_is_compared() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    // The first time that it is ready is noted in the checkpoint.
    settle_down().await;
    let reading = bench.sink.hold(SinkCall::ReadBatch);
    let verifying = tokio::select! {
        biased;
        _ = run.verify(&[]) => unreachable!("the target is not read yet"),
        reached = timeout(DEADLINE, reading.reached()) => reached,
    };
    verifying.unwrap();
    bench.set("shop.orders", 3, 7);
    // Something that is not held follows.
    bench.source.noop();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.applied(3), [] as [i32; 0], "it is held");
    let checkpoint = bench.checkpoint().unwrap();
    assert!(checkpoint.watermark < bench.source.position().await.unwrap());
    drop(run);
    reading.release();
    let run = bench.start().await;
    bench.finish(run).await;
}

/// A document that was read from the source by itself can be newer than what has been routed; that is no difference.
#[tokio::test(start_paused = true)]
async fn what_was_read_ahead_is_no_difference() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    settle_down().await;
    tamper(&bench, 1, Operation::Delete).await;
    let report = verify(&run).await;
    assert_eq!(report.difference_count(), 1);
    let tail = bench.source.hold(SourceCall::TailEntries);
    bench.set("shop.orders", 1, 5);
    run.repair(&report).await.unwrap();
    until("it is read ahead", || {
        bench.sink.documents("shop.orders").unwrap()[0].get_i32("n").ok() == Some(5)
    })
    .await;
    let (report, ()) = futures::join!(verify(&run), async {
        sleep(Duration::from_secs(5)).await;
        tail.release();
    });
    assert!(report.is_identical(), "{report:#?}");
    bench.finish(run).await;
}

/// A source is read by name, which may be another collection's or nobody's by then; the tail says so later.
#[tokio::test(start_paused = true)]
async fn what_is_read_by_another_name_is_no_difference() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    settle_down().await;
    let tail = bench.source.hold(SourceCall::TailEntries);
    bench.source.noop();
    timeout(DEADLINE, tail.reached()).await.unwrap();
    let reading = bench.source.hold(SourceCall::Read);
    let verifying = async { timeout(DEADLINE, run.verify(&[])).await.unwrap().unwrap() };
    let renaming = async {
        timeout(DEADLINE, reading.reached()).await.unwrap();
        bench.source.rename("shop.orders", "shop.sold").unwrap();
        bench.source.insert("shop.orders", rawdoc! { "_id": 9 }).unwrap();
        reading.release();
        sleep(Duration::from_secs(2)).await;
        tail.release();
    };
    let (report, ()) = futures::join!(verifying, renaming);
    assert!(report.is_identical() && report.collections.len() == 2, "{report:#?}");
    assert_eq!(run.status().differences, 0);
    bench.finish(run).await;
}

/// What is compared holds up neither the catalog nor a cutover.
#[tokio::test(start_paused = true)]
async fn nothing_waits_for_what_is_compared() {
    for renamed in [true, false] {
        let bench = Bench::with_orders(5);
        let run = bench.start().await;
        bench.caught_up().await;
        settle_down().await;
        let reading = bench.sink.hold(SinkCall::ReadBatch);
        tokio::select! {
            biased;
            _ = run.verify(&[]) => unreachable!("the target is not read yet"),
            reached = timeout(DEADLINE, reading.reached()) => reached.unwrap(),
        }
        bench.set("shop.orders", 3, 7);
        if renamed {
            bench.source.rename("shop.orders", "shop.sold").unwrap();
            bench.set("shop.sold", 4, 8);
            bench.caught_up().await;
        }
        bench.finish(run).await;
        drop(reading);
    }
}

/// A run that has compared everything before does so no more at cutover, but for what has changed since; and it finds what differs there.
#[tokio::test(start_paused = true)]
async fn a_cutover_compares_only_what_has_changed_since() {
    for tampered in [None, Some(3), Some(40)] {
        let bench = Bench::with_orders(50);
        let run = bench
            .migration()
            .verification(Verification::Continuous)
            .cross_check_bytes(0)
            .build()
            .unwrap();
        let run = run.start().await.unwrap();
        bench.caught_up().await;
        assert!(!run.status().all_compared);
        until("everything is compared", || run.status().all_compared).await;
        assert_eq!(run.status().compared.documents, 50);
        bench.set("shop.orders", 3, 7);
        bench.source.create_collection("shop.new", rawdoc! {}).unwrap();
        bench.source.insert("shop.new", rawdoc! { "_id": 1 }).unwrap();
        bench.caught_up().await;
        if let Some(id) = tampered {
            // One that has changed since, or one that has not and has another size now.
            let document = if id == 3 {
                rawdoc! { "_id": id, "n": 8 }
            } else {
                rawdoc! { "_id": id }
            };
            tamper(&bench, id, Operation::Replace(document)).await;
        }
        // What is asked for a digest would stand still here.
        let digest = bench.sink.hold(SinkCall::Digest);
        let cutover = timeout(Duration::from_secs(60), run.cutover(async {}));
        if let Some(id) = tampered {
            let release = async {
                timeout(DEADLINE, digest.reached())
                    .await
                    .expect("a digest is asked for");
                digest.release();
            };
            let (summary, ()) = futures::join!(cutover, release);
            let summary = summary.unwrap().unwrap();
            let orders = summary
                .collections
                .iter()
                .find(|it| it.namespace.as_str() == "shop.orders")
                .unwrap();
            let expected = format!("the document with _id {{\"$numberInt\":\"{id}\"}} differs");
            assert_eq!(orders.differences, [expected]);
        } else {
            let summary = cutover.await.expect("no digest is asked for").unwrap();
            assert!(
                summary.collections.iter().all(|collection| collection.verified),
                "{summary:#?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_compared_is_said() {
    let bench = Bench::with_orders(5);
    bench
        .source
        .create_collection("shop.log", rawdoc! { "capped": true, "size": 1 << 20 })
        .unwrap();
    let run = bench.start().await;
    bench.caught_up().await;
    let report = verify(&run).await;
    let reason = |name: &str| {
        let found = report
            .collections
            .iter()
            .find(|it| it.namespace.as_str() == name)
            .unwrap();
        found.not_compared.clone()
    };
    assert_eq!(reason("shop.orders"), None);
    assert!(reason("shop.log").unwrap().contains("the cutover compares it"));
    let none: Namespace = "shop.none".parse().unwrap();
    let error = run.verify(&[none]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
    let orders: Namespace = "shop.orders".parse().unwrap();
    assert_eq!(run.verify(&[orders]).await.unwrap().collections.len(), 1);
    run.pause().await.unwrap();
    assert_eq!(run.verify(&[]).await.unwrap_err().kind(), ErrorKind::WrongPhase);
    run.resume().unwrap();
    bench.finish(run).await;
}

/// A collection can be compared as soon as it is copied, whatever is still to be copied besides, and however few walkers there are.
#[tokio::test(start_paused = true)]
async fn a_collection_is_compared_while_others_are_copied() {
    for walkers in [1, 3] {
        let bench = Bench::default();
        // The largest is copied first.
        bench
            .source
            .insert_many("shop.orders", documents(0..50, 10_000))
            .unwrap();
        bench.source.insert_many("shop.parts", documents(0..3000, 100)).unwrap();
        let sink = ChaosSink {
            inner: bench.sink.clone(),
            dice: Dice::new(1, 1, Duration::from_millis(200), false),
        };
        let migration = mongoferry::Migration::builder(bench.source.clone(), sink);
        let migration = migration.include("shop.*").walkers(walkers).chunk_bytes(2_000);
        let run = migration.build().unwrap().start().await.unwrap();
        let orders = ["shop.orders".parse().unwrap()];
        let report = timeout(Duration::from_secs(600), run.verify(&orders))
            .await
            .unwrap()
            .unwrap();
        assert!(
            report.is_identical() && report.collections[0].documents == 50,
            "{report:#?}"
        );
        let status = run.status();
        assert!(!status.copy_complete, "{walkers}: {status:?}");
        run.abandon().await;
    }
}
