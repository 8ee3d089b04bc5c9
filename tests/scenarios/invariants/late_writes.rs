//! A write that comes after the stop is met at any moment of the cutover, up to the checkpoint that says that the migration is complete.

use std::cell::RefCell;

use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::test_util::Gate;
use mongoferry::{CollectionKind, ErrorKind, Operation, Result, Summary, Write};

use super::*;

/// What takes time in a cutover beside the comparison.
#[derive(Clone, Copy, Debug)]
enum Step {
    ListSource,
    ListTarget,
    DescribeSource,
    DescribeTarget,
    /// Making durable what was applied after the comparison.
    LastFlush,
}

const STEPS: [Step; 5] = [
    Step::ListSource,
    Step::ListTarget,
    Step::DescribeSource,
    Step::DescribeTarget,
    Step::LastFlush,
];

impl Step {
    fn hold(self, bench: &Bench) -> Gate {
        match self {
            Step::ListSource => bench.source.hold(SourceCall::Collections),
            Step::ListTarget => bench.sink.hold(SinkCall::Collections),
            Step::DescribeSource => bench.source.hold(SourceCall::Describe),
            Step::DescribeTarget => bench.sink.hold(SinkCall::Describe),
            Step::LastFlush => bench.sink.hold(SinkCall::Digest),
        }
    }
}

/// Cuts over, and lets something happen during the step.
async fn cut_over_while(bench: &Bench, accept: bool, step: Step, meanwhile: impl FnOnce()) -> Result<Summary> {
    let migration = bench.by_digest().accept_late_writes(accept);
    let run = migration.build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let held = RefCell::new(None);
    let cutover = run.cutover(async {
        *held.borrow_mut() = Some(step.hold(bench));
    });
    let during = async {
        until("the writers are stopped", || held.borrow().is_some()).await;
        let mut gate = held.borrow_mut().take().unwrap();
        timeout(DEADLINE, gate.reached()).await.expect("it comes so far");
        if matches!(step, Step::LastFlush) {
            let flush = bench.sink.hold(SinkCall::Flush);
            gate.release();
            gate = flush;
            timeout(DEADLINE, gate.reached()).await.expect("it flushes");
        }
        meanwhile();
        // What follows the source reads it.
        settle_down_shortly().await;
        gate.release();
    };
    tokio::join!(timeout(DEADLINE * 10, cutover), during)
        .0
        .expect("the cutover ends")
}

/// Shorter than the lease lasts.
async fn settle_down_shortly() {
    sleep(Duration::from_secs(1)).await;
}

type Change = fn(&Bench);

const CHANGES: [(&str, Change); 6] = [
    ("insert", |bench| {
        bench
            .source
            .insert("shop.orders", rawdoc! { "_id": 6, "n": 0 })
            .unwrap();
    }),
    ("update", |bench| bench.set("shop.orders", 2, 7)),
    ("delete", |bench| {
        bench.source.delete("shop.orders", 2).unwrap();
    }),
    ("create", |bench| {
        bench.source.create_collection("shop.late", rawdoc! {}).unwrap();
    }),
    ("index", |bench| {
        let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
        bench.source.create_index("shop.orders", index).unwrap();
    }),
    ("drop", |bench| {
        bench.source.drop_collection("shop.old").unwrap();
    }),
];

fn bench() -> Bench {
    let bench = Bench::with_orders(5);
    bench.source.create_collection("shop.old", rawdoc! {}).unwrap();
    bench
}

#[tokio::test(start_paused = true)]
async fn a_late_write_fails_the_cutover_at_any_moment() {
    for step in STEPS {
        for (name, change) in CHANGES {
            let bench = bench();
            let result = cut_over_while(&bench, false, step, || change(&bench)).await;
            let error = result.expect_err(&format!("{name} during {step:?}"));
            assert_eq!(
                error.kind(),
                ErrorKind::WritesAfterStop,
                "{name} during {step:?}: {error}"
            );
            assert!(!bench.checkpoint().unwrap().complete);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_accepted_late_write_is_carried_over_at_any_moment() {
    for step in STEPS {
        for (name, change) in CHANGES {
            let bench = bench();
            let summary = cut_over_while(&bench, true, step, || change(&bench)).await.unwrap();
            assert_eq!(
                summary.outcome,
                Outcome::Complete,
                "{name} during {step:?}: {summary:#?}"
            );
            assert_eq!(summary.late_writes.count, 1, "{name} during {step:?}");
            let ours = bench.source.collections().await.unwrap();
            let theirs = bench.sink.collections().await.unwrap();
            assert_eq!(ours.len(), theirs.len(), "{name} during {step:?}");
            assert_eq!(summary.collections.len(), ours.len(), "{name} during {step:?}");
            for ours in ours {
                let theirs = theirs.iter().find(|theirs| theirs.namespace == ours.namespace).unwrap();
                assert_eq!(ours.indexes, theirs.indexes, "{name} during {step:?}");
                let name = ours.namespace.as_str();
                assert_eq!(
                    bench.source.documents(name).unwrap(),
                    bench.sink.documents(name).unwrap(),
                    "{name} during {step:?}"
                );
                let certified = summary.certificate.as_ref().unwrap();
                let certified = certified
                    .collections
                    .iter()
                    .find(|certified| certified.namespace == ours.namespace);
                assert_eq!(certified.unwrap().documents, ours.documents, "{name} during {step:?}");
            }
            assert!(bench.checkpoint().unwrap().complete);
        }
    }
}

/// What is found on the target beside a late write shows that the collection was compared after it.
#[tokio::test(start_paused = true)]
async fn an_accepted_late_write_is_compared() {
    for step in STEPS {
        let bench = bench();
        let (namespace, sink): (Namespace, _) = ("shop.orders".parse().unwrap(), bench.sink.clone());
        let summary = cut_over_while(&bench, true, step, || {
            bench.set("shop.orders", 2, 7);
            let operation = Operation::Insert(rawdoc! { "_id": 9, "n": 9 });
            let foreign = [Write { key: key(9), operation }];
            let applied = sink.apply(&namespace, CollectionKind::Plain, &foreign);
            futures::FutureExt::now_or_never(applied).unwrap().unwrap();
        })
        .await
        .unwrap();
        assert_eq!(summary.outcome, Outcome::Differences, "during {step:?}: {summary:#?}");
        assert!(!bench.checkpoint().unwrap().complete);
    }
}

/// What the target does not take is not passed over.
#[tokio::test(start_paused = true)]
async fn late_writes_that_never_end_fail_the_cutover_though_accepted() {
    let bench = bench();
    let migration = bench.by_digest().accept_late_writes(true);
    let run = migration.build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let writer = async {
        for n in 1.. {
            bench.set("shop.orders", 2, n);
            sleep(Duration::from_millis(1)).await;
        }
    };
    let digest = bench.sink.hold_answer(SinkCall::Digest);
    let pass = async {
        loop {
            digest.reached().await;
            sleep(Duration::from_millis(50)).await;
            digest.let_one_pass();
        }
    };
    let error = tokio::select! {
        cutover = timeout(DEADLINE * 10, run.cutover(async {})) => cutover.expect("it ends").unwrap_err(),
        () = writer => unreachable!(),
        () = pass => unreachable!(),
    };
    assert_eq!(error.kind(), ErrorKind::WritesAfterStop, "{error}");
    assert!(!bench.checkpoint().unwrap().complete);
    digest.release();
    bench.finish(run).await;
}
