//! What a host shows of each collection.

use std::collections::BTreeMap;
use std::sync::Arc;

use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{CollectionPhase, CollectionSettings, CollectionStatus, Error, ErrorKind};

use super::comparing::tamper;
use super::*;

pub(super) fn by_name(run: &MigrationHandle) -> BTreeMap<String, Arc<CollectionStatus>> {
    let all = run.collections().into_iter();
    all.map(|status| (status.namespace.as_str().to_owned(), status))
        .collect()
}

pub(super) async fn until_phase(run: &MigrationHandle, name: &str, phase: CollectionPhase) -> Arc<CollectionStatus> {
    until(&format!("{name} is {phase}"), || {
        by_name(run).get(name).is_some_and(|status| status.phase == phase)
    })
    .await;
    Arc::clone(&by_name(run)[name])
}

/// Two collections with an index each; `shop.orders` is smaller and thus copied last.
pub(super) fn two() -> Bench {
    let bench = Bench::with_orders(5);
    bench.source.create_collection("shop.items", rawdoc! {}).unwrap();
    for document in documents(0..20, 1000) {
        bench.source.insert("shop.items", document).unwrap();
    }
    for name in ["shop.orders", "shop.items"] {
        let index = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n" };
        bench.source.create_index(name, index).unwrap();
    }
    bench
}

#[tokio::test(start_paused = true)]
async fn each_collection_shows_its_phase_and_amounts() {
    let bench = two();
    let (reads, builds) = (
        bench.source.hold(SourceCall::ReadBatch),
        bench.sink.hold(SinkCall::CreateIndex),
    );
    let migration = bench.migration().walkers(1).rename("shop.orders", "store.orders");
    let run = migration.build().unwrap().start().await.unwrap();
    let items = until_phase(&run, "shop.items", CollectionPhase::Copying).await;
    assert_eq!((items.copied.documents, items.total.documents), (0, 20));
    let orders = until_phase(&run, "shop.orders", CollectionPhase::Waiting).await;
    assert_eq!(
        (orders.target.as_str(), orders.total.documents, orders.indexes.total),
        ("store.orders", 5, 1)
    );
    drop(reads);
    let items = until_phase(&run, "shop.items", CollectionPhase::Indexing).await;
    assert_eq!(
        (items.indexes.building, items.indexes.built, items.copied.documents),
        (1, 0, 20)
    );
    // One index is built at a time.
    let orders = until_phase(&run, "shop.orders", CollectionPhase::Copied).await;
    assert_eq!((orders.copied.documents, orders.indexes.building), (5, 0));
    drop(builds);
    run.ready_to_cut_over().await.unwrap();
    for n in 0..3 {
        bench
            .source
            .update_v2("shop.orders", 1, rawdoc! { "u": { "n": n } })
            .unwrap();
    }
    bench.caught_up().await;
    let orders = until_phase(&run, "shop.orders", CollectionPhase::Following).await;
    assert_eq!(
        (orders.applied, orders.indexes.built, orders.last_error.as_deref()),
        (3, 1, None)
    );
    assert!(orders.all_compared && orders.compared.documents == 5, "{orders:?}");
    let (status, all) = (run.status(), run.collections());
    let sum = |value: fn(&CollectionStatus) -> u64| all.iter().map(|status| value(status)).sum::<u64>();
    assert_eq!(
        (
            sum(|it| it.copied.documents),
            sum(|it| it.copied.bytes),
            sum(|it| it.applied),
            sum(|it| it.indexes.built)
        ),
        (
            status.copied.documents,
            status.copied.bytes,
            status.changes.applied,
            status.indexes.built
        )
    );

    // The last that is known while it is paused, and the same and more afterwards.
    run.pause().await.unwrap();
    assert_eq!(*by_name(&run)["shop.orders"], *orders);
    run.resume().unwrap();
    bench
        .source
        .update_v2("shop.orders", 1, rawdoc! { "u": { "n": 9 } })
        .unwrap();
    bench.source.rename("shop.items", "shop.goods").unwrap();
    bench.caught_up().await;
    until("the change counts", || by_name(&run)["shop.orders"].applied == 4).await;
    let goods = until_phase(&run, "shop.goods", CollectionPhase::Following).await;
    assert_eq!((goods.id, goods.copied), (items.id, items.copied));
    bench.source.drop_collection("shop.goods").unwrap();
    bench.caught_up().await;
    until("it is gone", || run.collections().len() == 1).await;
    run.abandon().await;
    assert_eq!(run.collections().len(), 1);

    // A process that resumes knows what was copied before.
    let run = bench
        .migration()
        .rename("shop.orders", "store.orders")
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    let orders = until_phase(&run, "shop.orders", CollectionPhase::Following).await;
    assert_eq!((orders.copied.documents, orders.applied), (5, 0));
    run.abandon().await;
}

#[tokio::test(start_paused = true)]
async fn each_collection_shows_its_last_error() {
    let bench = two();
    let refused = |what: &str| Error::new(ErrorKind::TargetRefused, "build the index", what);
    for _ in 0..2 {
        bench.sink.fail_next(SinkCall::CreateIndex, refused("there is no room"));
    }
    let run = bench.migration().walkers(1).build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let with_error = || run.collections().into_iter().find(|status| status.last_error.is_some());
    let failed = with_error().unwrap();
    assert!(
        failed.last_error.as_ref().unwrap().contains("there is no room"),
        "{failed:?}"
    );
    assert_eq!((failed.phase, failed.indexes.built), (CollectionPhase::Following, 0));
    assert_eq!(
        run.collections()
            .iter()
            .filter(|status| status.last_error.is_some())
            .count(),
        1
    );

    tamper(&bench, 3).await;
    run.verify(&[]).await.unwrap();
    until("the difference counts", || {
        by_name(&run)["shop.orders"].differences == 1
    })
    .await;
    bench
        .source
        .fail_next(SourceCall::ReadDocuments, refused("not this one"));
    bench.set("shop.orders", 3, 5);
    let failure = || by_name(&run)["shop.orders"].last_error.clone().unwrap_or_default();
    until("the comparison fails", || failure().contains("not this one")).await;
    until("it is compared again", || by_name(&run)["shop.orders"].differences == 0).await;
    run.abandon().await;
}

/// Otherwise the larger one comes first.
#[tokio::test(start_paused = true)]
async fn a_collection_with_a_higher_priority_is_copied_first() {
    let settings = CollectionSettings::default();
    for (pattern, first) in [("shop.none_*", "shop.items"), ("shop.or*", "shop.orders")] {
        let bench = two();
        let reads = bench.source.hold(SourceCall::ReadBatch);
        let migration = bench.migration().walkers(1);
        // The last pattern that matches counts.
        let migration = migration
            .collection_settings("*.*", settings.priority(-1))
            .collection_settings("shop.items", settings);
        let run = migration
            .collection_settings(pattern, settings.priority(5))
            .build()
            .unwrap()
            .start()
            .await
            .unwrap();
        until_phase(&run, first, CollectionPhase::Copying).await;
        let waiting = run
            .collections()
            .into_iter()
            .filter(|status| status.phase == CollectionPhase::Waiting);
        assert_eq!(waiting.count(), 1);
        drop(reads);
        bench.finish(run).await;
    }
    let malformed = Bench::default()
        .migration()
        .collection_settings("shop", settings)
        .build()
        .unwrap_err();
    assert_eq!(malformed.kind(), ErrorKind::InvalidConfiguration);
}
