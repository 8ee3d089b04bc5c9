//! Settings of collections by pattern.

use mongoferry::source::SourceCall;
use mongoferry::{CollectionPhase, CollectionSettings, IndexPolicy, Sink, Summary, Throttle};

use super::collections::{by_name, two, until_phase};
use super::*;

fn settings() -> CollectionSettings {
    CollectionSettings::default()
}

fn index(field: &str) -> RawDocumentBuf {
    let specification = bson::doc! { "v": 2, "key": { field: 1 }, "name": field };
    RawDocumentBuf::try_from(&specification).unwrap()
}

async fn indexes_of(bench: &Bench, name: &str) -> Vec<String> {
    let listed = bench.sink.collections().await.unwrap();
    let found = listed.iter().find(|listed| listed.namespace.as_str() == name).unwrap();
    let names = found
        .indexes
        .iter()
        .map(|index| index.get_str("name").unwrap().to_owned());
    names.collect()
}

async fn complete(bench: &Bench, run: MigrationHandle) -> Summary {
    run.ready_to_cut_over().await.unwrap();
    bench.caught_up().await;
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    summary
}

#[tokio::test(start_paused = true)]
async fn indexes_are_left_out_by_pattern() {
    let bench = two();
    let never = |bench: &Bench| {
        let never = settings().indexes(IndexPolicy::Never);
        bench
            .migration()
            .collection_settings("shop.or*", never)
            .build()
            .unwrap()
    };
    let plan = never(&bench).preflight().await.unwrap();
    let left_out = "the indexes n of shop.orders (left out by its settings)".to_owned();
    assert!(plan.not_migrated.contains(&left_out), "{:?}", plan.not_migrated);
    let run = never(&bench).start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let orders = until_phase(&run, "shop.orders", CollectionPhase::Following).await;
    assert_eq!((orders.indexes.total, orders.indexes.built), (0, 0));
    // Each command that concerns an index of the collection: one that is new, one that the target lacks, and one that is dropped.
    bench.source.create_index("shop.orders", index("m")).unwrap();
    bench.source.create_index("shop.orders", index("k")).unwrap();
    let hide = rawdoc! { "index": { "name": "n", "hidden": true } };
    bench.source.modify("shop.orders", hide).unwrap();
    bench.source.drop_index("shop.orders", "k").unwrap();
    bench.source.create_index("shop.items", index("m")).unwrap();
    let summary = complete(&bench, run).await;
    assert_eq!(indexes_of(&bench, "shop.orders").await, ["_id_"]);
    assert_eq!(indexes_of(&bench, "shop.items").await, ["_id_", "n", "m"]);
    let left_out = "the indexes n, m of shop.orders (left out by its settings)".to_owned();
    assert!(summary.not_migrated.contains(&left_out), "{:?}", summary.not_migrated);
    assert!(
        summary
            .indexes
            .iter()
            .all(|index| index.name == "_id_" || index.namespace.as_str() == "shop.items")
    );
}

/// The settings are no part of the checkpoint.
#[tokio::test(start_paused = true)]
async fn a_resumed_run_builds_what_the_first_has_left_out() {
    let bench = two();
    let never = settings().indexes(IndexPolicy::Never);
    let run = bench.migration().collection_settings("*.*", never).build().unwrap();
    let run = run.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    bench.source.create_index("shop.orders", index("m")).unwrap();
    bench.caught_up().await;
    run.abandon().await;
    let summary = complete(&bench, bench.start().await).await;
    assert_eq!(indexes_of(&bench, "shop.orders").await, ["_id_", "n", "m"]);
    assert_eq!(indexes_of(&bench, "shop.items").await, ["_id_", "n"]);
    assert!(summary.not_migrated.iter().all(|what| !what.contains("left out")));
}

/// What the target had under the name is the host's, except that its documents are made equal.
#[tokio::test(start_paused = true)]
async fn indexes_on_the_target_stay_where_none_are_built() {
    let bench = two();
    let command = mongoferry::sink::CatalogCommand::Create {
        namespace: "shop.orders".parse().unwrap(),
        kind: mongoferry::CollectionKind::Plain,
        options: rawdoc! {},
    };
    bench.sink.execute(&command).await.unwrap();
    let name: Namespace = "shop.orders".parse().unwrap();
    bench.sink.create_index(&name, &index("own")).await.unwrap();
    let migration = bench.migration().existing_data(mongoferry::ExistingData::Keep);
    let migration = migration.collection_settings("shop.orders", settings().indexes(IndexPolicy::Never));
    complete(&bench, migration.build().unwrap().start().await.unwrap()).await;
    assert_eq!(indexes_of(&bench, "shop.orders").await, ["_id_", "own"]);
}

#[tokio::test(start_paused = true)]
async fn later_indexes_wait_until_everything_is_copied() {
    for (policy, phase) in [
        (IndexPolicy::Later, CollectionPhase::Copied),
        (IndexPolicy::Now, CollectionPhase::Following),
    ] {
        let bench = two();
        // The copy of the larger one, which comes second, takes 20 seconds.
        bench.source.set_batch_documents(1);
        let migration = bench
            .migration()
            .walkers(1)
            .throttle(Throttle::unlimited().with_copy_bytes_per_second(1000));
        let first = settings().indexes(policy).priority(1);
        let run = migration.collection_settings("shop.orders", first).build().unwrap();
        let run = run.start().await.unwrap();
        until("the first is copied", || {
            by_name(&run)
                .get("shop.orders")
                .is_some_and(|orders| orders.copied.documents == 5)
        })
        .await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(by_name(&run)["shop.orders"].phase, phase, "{policy:?}");
        assert_eq!(by_name(&run)["shop.items"].phase, CollectionPhase::Copying);
        run.throttle(Throttle::unlimited());
        complete(&bench, run).await;
        assert_eq!(indexes_of(&bench, "shop.orders").await, ["_id_", "n"]);
    }
}

/// With `Digest` for the migration, or for one collection, as with `None`.
#[tokio::test(start_paused = true)]
async fn collections_are_compared_as_their_pattern_says() {
    use Verification::{Continuous, Digest, None};
    for (whole, orders, items) in [
        (Continuous, Digest, Continuous),
        (Continuous, None, Continuous),
        (Digest, Continuous, Digest),
        (None, Digest, None),
        (None, Continuous, Digest),
        (Continuous, None, None),
    ] {
        let bench = two();
        let set = |verification| settings().verification(verification);
        let migration = bench.migration().verification(whole).cross_check_bytes(0);
        let migration = migration
            .collection_settings("shop.or*", set(orders))
            .collection_settings("shop.items", set(items));
        let run = migration.build().unwrap().start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        let of = |name: &str| by_name(&run)[name].clone();
        let compared = |name: &str| of(name).compared.documents > 0 && of(name).all_compared;
        let what = format!("{whole:?} {orders:?} {items:?}");
        assert_eq!(
            (compared("shop.orders"), compared("shop.items")),
            (orders == Continuous, items == Continuous),
            "{what}"
        );
        let digests = bench.source.calls(SourceCall::Digest);
        let summary = complete(&bench, run).await;
        for (name, verification) in [("shop.orders", orders), ("shop.items", items)] {
            let found = summary
                .collections
                .iter()
                .find(|found| found.namespace.as_str() == name)
                .unwrap();
            assert_eq!(found.verified, verification != None, "{what}: {name}");
            assert_eq!(found.digest.is_some(), verification == Digest, "{what}: {name}");
        }
        let by_digest = [orders, items].iter().filter(|each| **each == Digest).count();
        assert_eq!(bench.source.calls(SourceCall::Digest) - digests, by_digest, "{what}");
    }
}

/// A comparison that the host asks for ends with its report.
#[tokio::test(start_paused = true)]
async fn a_collection_without_verification_can_be_compared_when_asked() {
    let bench = two();
    let none = settings().verification(Verification::None);
    let run = bench
        .migration()
        .collection_settings("shop.orders", none)
        .build()
        .unwrap();
    let run = run.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    let report = run.verify(&[]).await.unwrap();
    assert!(
        report.is_identical() && report.collections.iter().all(|each| each.not_compared.is_none()),
        "{report:?}"
    );
    let compared = |name: &str| by_name(&run)[name].all_compared;
    until("the comparison has ended", || {
        !compared("shop.orders") && compared("shop.items")
    })
    .await;
    complete(&bench, run).await;
}

/// A collection has the settings of its new name after a rename.
#[tokio::test(start_paused = true)]
async fn a_rename_changes_the_settings() {
    let bench = two();
    let none = settings().verification(Verification::None);
    let run = bench
        .migration()
        .collection_settings("shop.old_*", none)
        .build()
        .unwrap();
    let run = run.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    bench.source.rename("shop.orders", "shop.old_orders").unwrap();
    bench.source.rename("shop.items", "shop.goods").unwrap();
    bench.caught_up().await;
    until("one is compared once more", || {
        by_name(&run).get("shop.goods").is_some_and(|goods| goods.all_compared)
    })
    .await;
    let summary = complete(&bench, run).await;
    let verified: Vec<_> = summary
        .collections
        .iter()
        .map(|each| (each.namespace.as_str(), each.verified))
        .collect();
    assert!(
        verified.contains(&("shop.old_orders", false)) && verified.contains(&("shop.goods", true)),
        "{verified:?}"
    );
}
