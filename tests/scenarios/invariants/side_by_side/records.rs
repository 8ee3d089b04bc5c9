//! The records of a migration beside those of others, and what is dropped with them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_migration_is_forgotten_with_everything_that_it_keeps() {
    let port = Port::default();
    let (a, b) = (source("a", 5), source("b", 5));
    let first = port.start("a", &a).await;
    let second = port.start("b", &b).await;
    first.ready_to_cut_over().await.unwrap();
    second.ready_to_cut_over().await.unwrap();
    let migration = || port.migration("a", &a).build().unwrap();
    assert_eq!(migration().id(), "a");
    assert!(
        migration()
            .checkpoint()
            .await
            .unwrap()
            .is_some_and(|checkpoint| checkpoint.id == "a")
    );
    let error = migration().forget().await.unwrap_err();
    assert_eq!(error.kind(), mongoferry::ErrorKind::LeaseHeld, "{error}");
    first.abandon().await;
    migration().forget().await.unwrap();
    assert_eq!(migration().checkpoint().await.unwrap(), None);
    for record in ["a/lease", "a/checkpoint", "a/creations"] {
        assert!(!port.has(record).await, "{record}");
    }
    let known = migrations(&port.target).await.unwrap();
    assert_eq!(known.iter().map(|known| known.id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(!port.is_dropped(), "the other one has records there");
    cut_over(&second).await;
    port.migration("b", &b).build().unwrap().forget().await.unwrap();
    assert!(port.is_dropped());
    assert_eq!(migrations(&port.target).await.unwrap(), []);
    // Everything begins again, with what was copied as existing data.
    let again = migration().start().await.unwrap_err();
    assert_eq!(codes(&again), ["existing_data"]);
    // To forget what is not known is no error.
    migration().forget().await.unwrap();
}

/// A process that died between the last checkpoint and the mark in the register leaves its names reserved until the next start.
#[tokio::test(start_paused = true)]
async fn a_start_of_a_complete_migration_frees_its_names() {
    let port = Port::default();
    let shop = source("shop", 5);
    let run = port.start("shop", &shop).await;
    run.ready_to_cut_over().await.unwrap();
    let before = port.target.load_record("migrations").await.unwrap().unwrap();
    cut_over(&run).await;
    let after = port.target.load_record("migrations").await.unwrap().unwrap();
    let fence = after.get_i64("fence").unwrap();
    let mut stale = bson::Document::try_from(&*before).unwrap();
    stale.insert("fence", fence + 1);
    let stale = RawDocumentBuf::try_from(&stale).unwrap();
    assert!(port.target.save_record("migrations", &stale, fence).await.unwrap());
    let other = || {
        port.migration("shop", &shop)
            .id("other")
            .existing_data(mongoferry::ExistingData::Keep)
            .build()
            .unwrap()
    };
    assert_eq!(codes(&other().start().await.unwrap_err()), ["overlapping_migration"]);
    let error = port
        .migration("shop", &shop)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), mongoferry::ErrorKind::AlreadyComplete);
    cut_over(&other().start().await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_beside_a_running_migration_removes_only_its_own() {
    let port = Port::default();
    let (a, b) = (source("a", 5), source("b", 5));
    let run = port.start("a", &a).await;
    run.ready_to_cut_over().await.unwrap();
    let rehearsal = port.migration("b", &b).build().unwrap().rehearse().clear_target(true);
    rehearsal.run(async { settle_down().await }).await.unwrap();
    assert!(!port.is_dropped());
    assert!(port.has("a/lease").await && port.has("a/checkpoint").await && !port.has("b/lease").await);
    let standing = port.target.collections().await.unwrap();
    assert_eq!(standing.len(), 1, "{standing:?}");
    a.insert("a.orders", rawdoc! { "_id": 99 }).unwrap();
    cut_over(&run).await;
    port.assert_same("a", &a);
}

/// The record of the lease is lost, because the last other migration was forgotten and dropped the database.
#[tokio::test(start_paused = true)]
async fn a_lease_survives_the_drop_of_the_records() {
    let port = Port::default();
    let a = source("a", 5);
    let run = port
        .migration("a", &a)
        .checkpoint_store(MemoryStore::default())
        .build()
        .unwrap();
    let run = run.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    port.target.delete_record("a/lease").await.unwrap();
    settle_down().await;
    assert!(port.has("a/lease").await);
    cut_over(&run).await;
}

/// While the last migration drops the database, another one waits before it registers; for no longer than a dead process may take.
#[tokio::test(start_paused = true)]
async fn nobody_registers_while_the_records_are_dropped() {
    let port = Port::default();
    let (a, b) = (source("a", 5), source("b", 5));
    let run = port.start("a", &a).await;
    run.ready_to_cut_over().await.unwrap();
    run.abandon().await;
    let forget = port.migration("a", &a).build().unwrap();
    let dropping = port.target.hold(mongoferry::sink::SinkCall::Execute);
    let forgetting = tokio::spawn(async move { forget.forget().await });
    timeout(DEADLINE, dropping.reached()).await.unwrap();
    let starting = tokio::spawn(port.migration("b", &b).build().unwrap().start());
    sleep(Duration::from_secs(2)).await;
    assert!(!starting.is_finished());
    dropping.release();
    forgetting.await.unwrap().unwrap();
    let run = starting.await.unwrap().unwrap();
    cut_over(&run).await;
    assert_eq!(migrations(&port.target).await.unwrap().len(), 1);
    // A process that died before it dropped the database.
    let fence = port
        .target
        .load_record("migrations")
        .await
        .unwrap()
        .unwrap()
        .get_i64("fence")
        .unwrap();
    let closing = rawdoc! { "format": 1, "fence": fence + 1, "closing": true, "migrations": [] };
    assert!(port.target.save_record("migrations", &closing, fence).await.unwrap());
    drop(port.start("a2", &source("a2", 1)).await);
}

/// The databases of two migrations have the same name on the target.
#[tokio::test(start_paused = true)]
async fn a_database_that_others_may_write_to_is_not_dropped() {
    for alone in [true, false] {
        let port = Port::default();
        let (ours, theirs) = (MemorySource::new(), MemorySource::new());
        ours.create_collection("shop.a1", rawdoc! {}).unwrap();
        let migration = |source: &MemorySource, id: &str, pattern: &str| {
            Migration::builder(source.clone(), port.target.clone())
                .id(id)
                .include(pattern)
                .build()
                .unwrap()
        };
        let run = migration(&ours, "a", "shop.a*").start().await.unwrap();
        let other = if alone { "store.*" } else { "shop.b*" };
        let _other = migration(&theirs, "b", other).start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        ours.drop_database("shop").unwrap();
        until("it is dropped", || port.target.documents("shop.a1").unwrap().is_empty()).await;
        run.ready_to_cut_over().await.unwrap();
        settle_down().await;
        let is_drop =
            |entry: &JournalEntry| matches!(entry, JournalEntry::Executed(CatalogCommand::DropDatabase { .. }));
        assert_eq!(port.target.journal().iter().any(is_drop), alone);
    }
}
