//! Index builds: what changes the catalog does not wait for them, and they outlive a run.

use futures::{FutureExt, StreamExt};
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Error, ErrorKind, Event};

use super::*;

/// With an index to be built of `shop.orders`, and another collection.
fn bench() -> Bench {
    let bench = Bench::with_orders(5);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    bench.source.create_collection("shop.parts", rawdoc! {}).unwrap();
    bench.source.insert("shop.parts", rawdoc! { "_id": 0 }).unwrap();
    bench
}

type Change = (&'static str, fn(&MemorySource));

/// What can happen to a collection of which an index is being built.
const CHANGES: &[Change] = &[
    ("drop the index", |source| {
        source.drop_index("shop.orders", "n").unwrap();
    }),
    ("another index", |source| {
        let index = rawdoc! { "v": 2, "key": { "m": 1 }, "name": "m" };
        source.create_index("shop.orders", index).unwrap();
    }),
    ("change the index", |source| {
        let change = rawdoc! { "index": { "name": "n", "hidden": true } };
        source.modify("shop.orders", change).unwrap();
    }),
    ("change an option", |source| {
        source
            .modify("shop.orders", rawdoc! { "validationLevel": "off" })
            .unwrap();
    }),
    ("rename", |source| {
        source.rename("shop.orders", "shop.sold").unwrap();
    }),
    ("rename into another database", |source| {
        source.rename("shop.orders", "other.sold").unwrap();
    }),
    ("drop", |source| {
        source.drop_collection("shop.orders").unwrap();
    }),
    ("drop and make anew", |source| {
        source.drop_collection("shop.orders").unwrap();
        source.create_collection("shop.orders", rawdoc! {}).unwrap();
        source.insert("shop.orders", rawdoc! { "_id": 7 }).unwrap();
    }),
];

/// Writes to the other collection, and waits until that is applied and in a checkpoint.
async fn others_go_on(bench: &Bench, what: &str) {
    bench.source.insert("shop.parts", rawdoc! { "_id": what }).unwrap();
    bench.caught_up().await;
    let documents = bench.sink.documents("shop.parts").unwrap();
    assert!(documents.contains(&rawdoc! { "_id": what }), "{what}");
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_catalog_do_not_wait_for_a_build() {
    for (what, change) in CHANGES {
        let bench = bench();
        let building = bench.sink.hold(SinkCall::CreateIndex);
        let run = bench.start().await;
        timeout(DEADLINE, building.reached()).await.unwrap();
        others_go_on(&bench, "before").await;
        change(&bench.source);
        others_go_on(&bench, what).await;
        building.release();
        bench.finish(run).await;
        let (ours, theirs) = (
            bench.source.collections().await.unwrap(),
            bench.sink.collections().await.unwrap(),
        );
        for there in theirs {
            let here = ours.iter().find(|here| here.namespace == there.namespace).unwrap();
            let sorted = |mut indexes: Vec<RawDocumentBuf>| {
                indexes.sort_by_key(|index| index.get_str("name").unwrap().to_owned());
                indexes
            };
            assert_eq!(sorted(here.indexes.clone()), sorted(there.indexes), "{what}");
            assert_eq!(here.options, there.options, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_build_outlives_a_pause_and_a_run_that_fails() {
    for pause in [true, false] {
        let bench = bench();
        let building = bench.sink.hold(SinkCall::CreateIndex);
        let run = bench.start().await;
        timeout(DEADLINE, building.reached()).await.unwrap();
        let mut events = run.events();
        if pause {
            run.pause().await.unwrap();
            sleep(Duration::from_secs(60)).await;
            run.resume().unwrap();
        } else {
            let error = Error::new(ErrorKind::Connection, "read the oplog", "the source is gone");
            bench.source.fail_next(SourceCall::TailEntries, error);
            bench.source.noop();
            timeout(DEADLINE, events.by_ref().filter(is_retrying).next())
                .await
                .unwrap();
        }
        others_go_on(&bench, "after").await;
        building.release();
        bench.finish(run).await;
        assert_eq!(bench.sink.calls(SinkCall::CreateIndex), 1, "paused: {pause}");
    }
}

fn is_retrying(event: &Event) -> futures::future::Ready<bool> {
    futures::future::ready(matches!(event, Event::Retrying { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_build_of_an_earlier_run_is_ended_where_its_index_is_gone() {
    let bench = bench();
    let building = bench.sink.hold(SinkCall::CreateIndex);
    let run = bench.start().await;
    timeout(DEADLINE, building.reached()).await.unwrap();
    run.pause().await.unwrap();
    bench.source.drop_index("shop.orders", "n").unwrap();
    run.resume().unwrap();
    others_go_on(&bench, "after").await;
    building.release();
    bench.finish(run).await;
    let listed = bench.sink.collections().await.unwrap();
    assert!(
        listed.iter().all(|collection| collection.indexes.len() == 1),
        "{listed:?}"
    );
}

fn refused() -> Error {
    Error::new(ErrorKind::TargetRefused, "create an index", "duplicate key")
}

/// While an index that was refused is built once more its collection alone stands still, and the checkpoint is of before that.
#[tokio::test(start_paused = true)]
async fn only_the_collection_of_a_refused_index_stands_still() {
    let bench = bench();
    let first = bench.sink.hold(SinkCall::CreateIndex);
    let run = bench.start().await;
    let mut events = run.events();
    timeout(DEADLINE, first.reached()).await.unwrap();
    bench.caught_up().await;
    bench.sink.fail_next(SinkCall::CreateIndex, refused());
    let again = bench.sink.hold_answer(SinkCall::CreateIndex);
    first.release();
    timeout(DEADLINE, again.reached()).await.unwrap();
    bench.set("shop.orders", 1, 1);
    bench.source.insert("shop.parts", rawdoc! { "_id": 1 }).unwrap();
    until("the other collection goes on", || {
        bench.sink.documents("shop.parts").unwrap().len() == 2
    })
    .await;
    sleep(Duration::from_secs(10)).await;
    assert!(bench.applied(1).is_empty(), "it stands still");
    let position = bench.source.position().await.unwrap();
    assert!(bench.checkpoint().unwrap().watermark < position);
    again.release();
    bench.finish(run).await;
    assert_eq!(bench.applied(1), [1]);
    let built = |event: &Event| matches!(event, Event::IndexBuilt { .. });
    let told: Vec<Event> = std::iter::from_fn(|| events.next().now_or_never().flatten()).collect();
    assert_eq!(told.iter().filter(|event| built(event)).count(), 1, "{told:?}");
}

/// A catalog change of another collection needs a checkpoint of everything. What stands still goes on for that, and the index is built
/// once more.
#[tokio::test(start_paused = true)]
async fn a_rename_does_not_wait_for_a_collection_that_stands_still() {
    let bench = bench();
    let first = bench.sink.hold(SinkCall::CreateIndex);
    let run = bench.start().await;
    timeout(DEADLINE, first.reached()).await.unwrap();
    bench.sink.fail_next(SinkCall::CreateIndex, refused());
    let again = bench.sink.hold_answer(SinkCall::CreateIndex);
    first.release();
    timeout(DEADLINE, again.reached()).await.unwrap();
    bench.set("shop.orders", 1, 1);
    bench.source.rename("shop.parts", "shop.pieces").unwrap();
    bench.caught_up().await;
    assert_eq!(bench.applied(1), [1]);
    again.release();
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_refused_for_good_is_told_once() {
    let bench = bench();
    bench.sink.fail_next(SinkCall::CreateIndex, refused());
    bench.sink.fail_next(SinkCall::CreateIndex, refused());
    let run = bench.start().await;
    let mut events = run.events();
    let failed = events
        .by_ref()
        .filter(|event| futures::future::ready(matches!(event, Event::IndexFailed { .. })));
    timeout(DEADLINE, std::pin::pin!(failed).next()).await.unwrap();
    others_go_on(&bench, "after").await;
    assert_eq!(bench.sink.calls(SinkCall::CreateIndex), 2);
    until("it is counted", || run.status().indexes.failed == 1).await;
}
