//! What a change of the source's catalog does to a run, as the host has chosen.

use futures::{FutureExt, Stream, StreamExt};
use mongoferry::{DdlPolicy, ErrorKind, Event, Position};

use super::*;

async fn start(bench: &Bench, policy: DdlPolicy) -> MigrationHandle {
    let migration = bench.migration().ddl_policy(policy).build().unwrap();
    let run = migration.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    run
}

fn told(events: &mut (impl Stream<Item = Event> + Unpin)) -> Vec<Event> {
    std::iter::from_fn(|| events.next().now_or_never().flatten()).collect()
}

type Change = (&'static str, &'static str, fn(&MemorySource) -> Position);

/// Each kind of change, by its command and what it concerns.
fn changes() -> Vec<Change> {
    vec![
        ("create", "shop.made", |source| {
            source.create_collection("shop.made", rawdoc! {}).unwrap()
        }),
        ("createIndexes", "shop.orders", |source| {
            let index = rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b" };
            source.create_index("shop.orders", index).unwrap()
        }),
        ("dropIndexes", "shop.orders", |source| {
            source.drop_index("shop.orders", "n").unwrap()
        }),
        ("collMod", "shop.orders", |source| {
            source
                .modify("shop.orders", rawdoc! { "validationLevel": "off" })
                .unwrap()
        }),
        ("renameCollection", "shop.orders", |source| {
            source.rename("shop.orders", "shop.sold").unwrap()
        }),
        ("renameCollection", "shop.orders", |source| {
            source.rename("shop.orders", "archive.sold").unwrap()
        }),
        ("renameCollection", "shop.bought", |source| {
            source.rename("other.things", "shop.bought").unwrap()
        }),
        ("create (a view)", "shop.view", |source| {
            let view = rawdoc! { "viewOn": "orders", "pipeline": [] };
            source.create_collection("shop.view", view).unwrap()
        }),
        ("drop", "shop.orders", |source| {
            source.drop_collection("shop.orders").unwrap()
        }),
    ]
}

fn bench() -> Bench {
    let bench = Bench::with_orders(5);
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
    bench.source.create_index("shop.orders", index).unwrap();
    bench.source.create_collection("other.things", rawdoc! {}).unwrap();
    bench
}

#[tokio::test(start_paused = true)]
async fn a_catalog_change_can_end_the_run_before_it_is_applied() {
    for (change, namespace, make) in changes() {
        let bench = bench();
        let run = start(&bench, DdlPolicy::Fail).await;
        bench.set("shop.orders", 1, 7);
        let position = make(&bench.source);
        let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CatalogChanged, "{error}");
        let context: Vec<_> = error.context().collect();
        for named in [
            ("change", change),
            ("namespace", namespace),
            ("position", &position.to_string()),
        ] {
            assert!(context.contains(&named), "{named:?} in {error}");
        }
        assert!(bench.checkpoint().unwrap().watermark < position, "{change}");
        assert_eq!(bench.applied(1), [7], "what came before it is applied");
        // As long as nobody decides otherwise it stays so.
        let migration = bench.migration().ddl_policy(DdlPolicy::Fail).build().unwrap();
        let again = timeout(DEADLINE, migration.start().await.unwrap().wait())
            .await
            .unwrap();
        assert_eq!(again.unwrap_err().kind(), ErrorKind::CatalogChanged);
        bench.finish(bench.start().await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_warned_of_and_carried_over_where_that_is_wanted() {
    for policy in [DdlPolicy::Warn, DdlPolicy::Apply] {
        for (change, namespace, make) in changes() {
            let bench = bench();
            let run = start(&bench, policy).await;
            let mut events = run.events();
            let position = make(&bench.source);
            bench.caught_up().await;
            let met: Vec<_> = told(&mut events)
                .into_iter()
                .filter_map(|event| match event {
                    Event::CatalogChangeMet {
                        position,
                        namespace,
                        change,
                    } => Some((position, namespace, change)),
                    _ => None,
                })
                .collect();
            match policy {
                DdlPolicy::Warn => assert_eq!(met, [(position, namespace.to_owned(), change)]),
                _ => assert_eq!(met, []),
            }
            bench.finish(run).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_selected_or_known_already_is_no_change() {
    let bench = bench();
    // They are made while the run lists, so that both the list and the history may have them.
    let reads = bench.source.hold(mongoferry::source::SourceCall::Collections);
    let migration = bench.migration().ddl_policy(DdlPolicy::Fail).build().unwrap();
    let begin = async {
        // Preflight lists before, for the start and for the run.
        for _ in 0..2 {
            timeout(DEADLINE, reads.reached()).await.unwrap();
            reads.let_one_pass();
        }
        timeout(DEADLINE, reads.reached()).await.unwrap();
        bench.source.create_collection("shop.new", rawdoc! {}).unwrap();
        let index = rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b" };
        bench.source.create_index("shop.new", index).unwrap();
        reads.release();
    };
    let run = tokio::join!(migration.start(), begin).0.unwrap();
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    let mut events = run.events();
    bench.source.drop_collection("other.things").unwrap();
    bench.source.create_collection("other.new", rawdoc! {}).unwrap();
    bench.source.drop_database("other").unwrap();
    bench.set("shop.orders", 1, 7);
    bench.finish(run).await;
    let told = told(&mut events);
    assert!(
        !told.iter().any(|event| matches!(event, Event::CatalogChanged { .. })),
        "{told:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_selection_is_told_and_in_the_summary() {
    let bench = bench();
    bench.source.insert("shop.back", rawdoc! { "_id": 1 }).unwrap();
    let run = start(&bench, DdlPolicy::Apply).await;
    let mut events = run.events();
    let position = bench.source.rename("shop.orders", "archive.sold").unwrap();
    bench.source.rename("shop.back", "archive.back").unwrap();
    bench.caught_up().await;
    let left = told(&mut events)
        .into_iter()
        .filter(|event| matches!(event, Event::LeftSelection { .. }));
    assert_eq!(left.count(), 2);
    // One that comes back has not left, and a process that goes on from here still knows the other.
    bench.source.rename("archive.back", "shop.again").unwrap();
    bench.caught_up().await;
    drop(run);
    let run = bench.start().await;
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let [left] = &summary.left_selection[..] else {
        panic!("{summary:#?}")
    };
    assert_eq!(
        (left.from.as_str(), left.to.as_str(), left.position),
        ("shop.orders", "archive.sold", position)
    );
}

/// An index that an earlier run has built after its checkpoint counts as missing. When the source changes it before it is built again, the
/// target must not be left with what it was.
#[tokio::test(start_paused = true)]
async fn an_index_changed_while_it_is_built_is_as_on_the_source() {
    let bench = Bench::with_orders(5);
    let run = bench.start().await;
    bench.caught_up().await;
    let before = bench.store.load().await.unwrap().unwrap();
    let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" };
    bench.source.create_index("shop.orders", index).unwrap();
    until("it is built", || {
        let is_built = |entry: &JournalEntry| matches!(entry, JournalEntry::IndexBuilt { .. });
        bench.sink.journal().iter().any(is_built)
    })
    .await;
    run.abandon().await;
    bench.store.save(&before).await.unwrap();
    let hide = rawdoc! { "index": { "name": "n_1", "hidden": true } };
    bench.source.modify("shop.orders", hide).unwrap();
    let run = bench.start().await;
    bench.caught_up().await;
    bench.finish(run).await;
}

/// A source of 9.0 makes them so: nothing of them could be copied.
#[tokio::test(start_paused = true)]
async fn a_time_series_without_buckets_ends_the_run_where_it_is_met() {
    let time_series = || rawdoc! { "timeseries": { "timeField": "t" } };
    let made: fn(&MemorySource) = |source| {
        let options = rawdoc! { "timeseries": { "timeField": "t" } };
        source.create_collection("shop.weather", options).unwrap();
    };
    let renamed: fn(&MemorySource) = |source| {
        source.rename("other.weather", "shop.weather").unwrap();
    };
    for make in [made, renamed] {
        let bench = bench();
        bench.source.create_collection("other.weather", time_series()).unwrap();
        let run = start(&bench, DdlPolicy::Apply).await;
        bench.source.create_collection("other.ignored", time_series()).unwrap();
        bench.caught_up().await;
        make(&bench.source);
        let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedEntry, "{error}");
        assert!(error.to_string().contains(".exclude(\"shop.weather\")"), "{error}");
    }
}
