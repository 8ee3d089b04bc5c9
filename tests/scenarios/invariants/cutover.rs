//! A cutover that cannot be trusted fails, and leaves the run as it was.

use futures::{FutureExt, StreamExt};
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{ErrorKind, Event, Phase, Result, Summary};

use super::*;

/// Cuts over, and lets something happen when the documents are being compared.
async fn cut_over_while(bench: &Bench, run: &MigrationHandle, meanwhile: impl FnOnce()) -> Result<Summary> {
    let digest = bench.sink.hold(SinkCall::Digest);
    let cutover = timeout(DEADLINE * 10, run.cutover(async {}));
    let during = async {
        timeout(DEADLINE, digest.reached()).await.expect("it compares");
        meanwhile();
        digest.release();
    };
    tokio::join!(cutover, during).0.expect("the cutover ends")
}

/// The expiry of the index `until` on the target.
async fn expiry_on_target(bench: &Bench) -> i32 {
    let standing = bench.sink.collections().await.unwrap();
    let orders = standing
        .iter()
        .find(|collection| collection.namespace.as_str() == "shop.orders");
    let index = orders
        .unwrap()
        .indexes
        .iter()
        .find(|index| index.get_str("name").is_ok_and(|name| name == "until"));
    index.unwrap().get_i32("expireAfterSeconds").unwrap()
}

fn expire_orders(bench: &Bench) {
    let index = rawdoc! { "v": 2, "key": { "until": 1 }, "name": "until", "expireAfterSeconds": 60 };
    bench.source.create_index("shop.orders", index).unwrap();
}

#[tokio::test(start_paused = true)]
async fn writes_after_the_stop_fail_the_cutover_which_can_be_repeated() {
    let bench = Bench::with_orders(5);
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    let mut events = run.events();
    let error = cut_over_while(&bench, &run, || {
        let write = |write: &mut mongoferry::source::Transaction| {
            write.insert("shop.orders", rawdoc! { "_id": 6, "n": 0 })?;
            write.delete("shop.orders", 1)
        };
        bench.source.transaction(write).unwrap();
        bench.source.create_collection("shop.late", rawdoc! {}).unwrap();
    })
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WritesAfterStop, "{error}");
    for part in [
        "3 writes",
        "shop.orders _id {\"$numberInt\":\"6\"}",
        "shop.orders _id {\"$numberInt\":\"1\"}",
        "shop.late (its catalog)",
    ] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    let mut told = std::iter::from_fn(|| events.next().now_or_never().flatten());
    let writes = told.find_map(|event| match event {
        Event::WritesAfterStop { writes, accepted } => Some((writes, accepted)),
        _ => None,
    });
    let (writes, accepted) = writes.expect("it is told");
    assert!(!accepted);
    assert_eq!(writes.count, 3);
    let named: Vec<_> = writes
        .named
        .iter()
        .map(|write| (write.namespace.as_str(), write.id.as_deref()))
        .collect();
    let orders = "shop.orders";
    assert_eq!(
        named,
        [
            (orders, Some(r#"{"$numberInt":"6"}"#)),
            (orders, Some(r#"{"$numberInt":"1"}"#)),
            ("shop.late", None)
        ]
    );
    assert!(matches!(run.status().phase, Phase::CatchUp | Phase::Ready));
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_before_the_position_of_the_stop_is_not_late() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    run.ready_to_cut_over().await.unwrap();
    let sentinel = bench.source.hold(SourceCall::Sentinel);
    let cutover = timeout(
        DEADLINE * 10,
        run.cutover(async {
            bench.set("shop.orders", 1, 7);
        }),
    );
    let during = async {
        timeout(DEADLINE, sentinel.reached())
            .await
            .expect("it asks for the position");
        bench.set("shop.orders", 2, 7);
        sentinel.release();
    };
    let summary = tokio::join!(cutover, during).0.unwrap().unwrap();
    assert_eq!((summary.outcome, summary.late_writes.count), (Outcome::Complete, 0));
}

/// A run that goes back to its checkpoint just when the cutover begins does not end it.
#[tokio::test(start_paused = true)]
async fn a_restart_while_the_stop_is_confirmed_continues_the_cutover() {
    let bench = Bench::with_orders(5);
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let mut events = run.events();
    let sentinel = bench.source.hold(SourceCall::Sentinel);
    let during = async {
        timeout(DEADLINE, sentinel.reached())
            .await
            .expect("it asks for the position");
        let error = mongoferry::Error::new(ErrorKind::Connection, "renew the lease", "planned");
        bench.sink.fail_next(SinkCall::SaveRecord, error);
        let again = async { while !matches!(events.next().await.unwrap(), Event::Retrying { .. }) {} };
        timeout(DEADLINE, again).await.expect("the run begins again");
        sentinel.release();
    };
    let cutover = timeout(DEADLINE * 10, run.cutover(async {}));
    let summary = tokio::join!(cutover, during).0.expect("the cutover ends").unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_expires_and_what_is_not_migrated_is_not_late() {
    let bench = Bench::with_orders(5);
    expire_orders(&bench);
    bench.source.create_collection("other.orders", rawdoc! {}).unwrap();
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    let summary = cut_over_while(&bench, &run, || {
        bench.source.noop();
        bench.source.delete("shop.orders", 3).unwrap();
        bench.source.insert("other.orders", rawdoc! { "_id": 1 }).unwrap();
    })
    .await
    .unwrap();
    assert_eq!(
        (summary.outcome, summary.late_writes.count),
        (Outcome::Complete, 0),
        "{summary:#?}"
    );
    let documents = |found: Result<Vec<RawDocumentBuf>>| found.unwrap();
    assert_eq!(
        documents(bench.sink.documents("shop.orders")),
        documents(bench.source.documents("shop.orders"))
    );
    assert_eq!(expiry_on_target(&bench).await, 60);
}

#[tokio::test(start_paused = true)]
async fn an_insert_is_late_also_where_documents_expire() {
    let bench = Bench::with_orders(5);
    expire_orders(&bench);
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    let error = cut_over_while(&bench, &run, || {
        bench.source.insert("shop.orders", rawdoc! { "_id": 6 }).unwrap();
    })
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WritesAfterStop, "{error}");
}

#[tokio::test(start_paused = true)]
async fn late_writes_that_the_host_accepts_are_carried_over_and_named() {
    let bench = Bench::with_orders(5);
    let migration = bench.by_digest().accept_late_writes(true);
    let run = migration.build().unwrap().start().await.unwrap();
    let summary = cut_over_while(&bench, &run, || bench.set("shop.orders", 2, 7))
        .await
        .unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(summary.late_writes.count, 1);
    assert_eq!(
        summary.late_writes.named[0].id.as_deref(),
        Some(r#"{"$numberInt":"2"}"#)
    );
    assert_eq!(
        bench.sink.documents("shop.orders").unwrap(),
        bench.source.documents("shop.orders").unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_goes_back_counts_late_writes_once() {
    let bench = Bench::with_orders(5);
    let migration = bench.by_digest().accept_late_writes(true);
    let run = migration.build().unwrap().start().await.unwrap();
    let summary = cut_over_while(&bench, &run, || {
        bench.set("shop.orders", 2, 7);
        bench.sink.crash();
    })
    .await
    .unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(summary.late_writes.count, 1);
}

/// Documents that expired on the target alone would be missed by what follows.
#[tokio::test(start_paused = true)]
async fn documents_do_not_expire_after_a_failed_cutover() {
    let bench = Bench::with_orders(5);
    expire_orders(&bench);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    let held_back = expiry_on_target(&bench).await;
    assert_ne!(held_back, 60);
    let execute = bench.sink.hold(SinkCall::Execute);
    let cutover = timeout(DEADLINE * 10, run.cutover(async {}));
    let during = async {
        timeout(DEADLINE, execute.reached())
            .await
            .expect("it gives indexes their final form");
        bench.set("shop.orders", 2, 7);
        execute.let_one_pass();
        timeout(DEADLINE, execute.reached()).await.expect("it takes that back");
        assert_eq!(expiry_on_target(&bench).await, 60);
        execute.release();
    };
    let error = tokio::join!(cutover, during).0.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WritesAfterStop, "{error}");
    assert_eq!(expiry_on_target(&bench).await, held_back);
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_after_differences_and_is_not_marked_complete() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    run.ready_to_cut_over().await.unwrap();
    // Somebody else has dropped an index, or made one, on the target.
    let namespace: Namespace = "shop.orders".parse().unwrap();
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    bench.caught_up().await;
    let name = "n".to_owned();
    let drop_it = mongoferry::sink::CatalogCommand::DropIndex { namespace, name };
    bench.sink.execute(&drop_it).await.unwrap();
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Differences, "{summary:#?}");
    assert!(!bench.checkpoint().unwrap().complete);
    assert!(matches!(run.status().phase, Phase::CatchUp | Phase::Ready));
    bench.set("shop.orders", 2, 7);
    bench.caught_up().await;
    bench.source.drop_index("shop.orders", "n").unwrap();
    bench.finish(run).await;
    assert!(bench.checkpoint().unwrap().complete);
}

/// What kind of error the call ends with.
fn refused<T: std::fmt::Debug>(answer: Result<T>) -> ErrorKind {
    answer.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn calls_that_do_not_fit_the_phase_are_refused() {
    let bench = Bench::with_orders(5);
    let reads = bench.source.hold(SourceCall::ReadBatch);
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    timeout(DEADLINE, reads.reached()).await.unwrap();
    let never = std::future::poll_fn::<(), _>(|_| panic!("the writers must not be stopped"));
    assert_eq!(refused(run.cutover_now(never).await), ErrorKind::WrongPhase);
    assert_eq!(refused(run.resume()), ErrorKind::WrongPhase);
    reads.release();
    run.ready_to_cut_over().await.unwrap();
    run.pause().await.unwrap();
    assert_eq!(refused(run.cutover(async {}).await), ErrorKind::WrongPhase);
    run.resume().unwrap();
    run.ready_to_cut_over().await.unwrap();
    let digest = bench.sink.hold(SinkCall::Digest);
    let cutover = timeout(DEADLINE * 10, run.cutover_now(async {}));
    let during = async {
        timeout(DEADLINE, digest.reached()).await.expect("it compares");
        assert_eq!(refused(run.pause().await), ErrorKind::WrongPhase);
        assert_eq!(refused(run.resume()), ErrorKind::WrongPhase);
        assert_eq!(refused(run.cutover(async {}).await), ErrorKind::WrongPhase);
        digest.release();
    };
    let summary = tokio::join!(cutover, during).0.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(refused(run.pause().await), ErrorKind::WrongPhase);
    assert_eq!(refused(run.resume()), ErrorKind::WrongPhase);
    assert_eq!(refused(run.cutover(async {}).await), ErrorKind::WrongPhase);
    run.abandon().await;
}

/// Late writes that are accepted lead back to an earlier step. A step that fails is the last one that was told.
#[tokio::test(start_paused = true)]
async fn each_step_of_a_cutover_is_told_as_it_begins() {
    use mongoferry::CutoverStep::{Compare, Drain, Finish, StopWrites};

    let bench = Bench::with_orders(5);
    let migration = bench.by_digest().accept_late_writes(true).build().unwrap();
    let run = migration.start().await.unwrap();
    let events = run.events();
    let refuses = run.cutover(async { Err::<(), _>("the application does not stop") });
    assert_eq!(refuses.await.unwrap_err().kind(), ErrorKind::Hook);
    let summary = cut_over_while(&bench, &run, || bench.set("shop.orders", 1, 7))
        .await
        .unwrap();
    assert_eq!(summary.late_writes.count, 1);
    let step = |event| async move {
        match event {
            Event::CutoverStep { step } => Some(step),
            _ => None,
        }
    };
    let steps: Vec<_> = timeout(DEADLINE, events.filter_map(step).collect()).await.unwrap();
    assert_eq!(steps, [StopWrites, StopWrites, Drain, Compare, Drain, Compare, Finish]);
}
