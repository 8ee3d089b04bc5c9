//! Several migrations into one target, side by side and one after the other.

use futures::future::{join_all, try_join_all};
use mongoferry::sink::CatalogCommand;
use mongoferry::{Error, Phase, Resources, Severity, Throttle, migrations};

use super::*;

/// Sources of migrations into one target. Each migration has the id and the database of its source.
#[derive(Default)]
struct Port {
    target: MemorySink,
}

/// A source with `count` documents in the collection `orders` of a database.
fn source(database: &str, count: i32) -> MemorySource {
    let source = MemorySource::with_seed(database.bytes().map(u64::from).sum());
    let name = format!("{database}.orders");
    source.create_collection(&name, rawdoc! {}).unwrap();
    for id in 0..count {
        source.insert(&name, rawdoc! { "_id": id, "n": 0 }).unwrap();
    }
    source
}

impl Port {
    /// A migration of everything in a database, under its name.
    fn migration(&self, database: &str, source: &MemorySource) -> MigrationBuilder {
        Migration::builder(source.clone(), self.target.clone())
            .id(database)
            .include(&format!("{database}.*"))
    }

    async fn start(&self, database: &str, source: &MemorySource) -> MigrationHandle {
        self.migration(database, source).build().unwrap().start().await.unwrap()
    }

    fn assert_same(&self, database: &str, source: &MemorySource) {
        let name = format!("{database}.orders");
        assert_eq!(source.documents(&name).unwrap(), self.target.documents(&name).unwrap());
    }

    /// Whether the database with the records was dropped.
    fn is_dropped(&self) -> bool {
        let is_drop = |entry: &JournalEntry| match entry {
            JournalEntry::Executed(CatalogCommand::DropDatabase { database }) => database.starts_with("__mdb_internal"),
            _ => false,
        };
        self.target.journal().iter().any(is_drop)
    }

    async fn has(&self, record: &str) -> bool {
        self.target.load_record(record).await.unwrap().is_some()
    }
}

async fn cut_over(run: &MigrationHandle) -> mongoferry::Summary {
    let summary = timeout(Duration::from_secs(600), run.cutover(async {}))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(summary.foreign_writes, [], "the others' writes are none of strangers");
    summary
}

/// The codes of the blockers of a refused start.
fn codes(error: &Error) -> Vec<&str> {
    assert_eq!(error.kind(), mongoferry::ErrorKind::Refused, "{error}");
    let blockers = error
        .findings()
        .iter()
        .filter(|finding| finding.severity == Severity::Blocker);
    blockers.map(|finding| finding.code.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn three_run_side_by_side_and_one_goes_on_after_it_was_dropped() {
    let port = Port::default();
    let names = ["a", "b", "c"];
    let sources = names.map(|name| source(name, 50));
    let starts = names
        .iter()
        .zip(&sources)
        .map(|(name, source)| port.start(name, source));
    let mut runs = join_all(starts).await;
    for run in &runs {
        run.ready_to_cut_over().await.unwrap();
    }
    let known = migrations(&port.target).await.unwrap();
    for (known, name) in known.iter().zip(names) {
        assert_eq!(
            (known.id.as_str(), known.phase, known.complete),
            (name, Phase::Ready, false)
        );
        let owner = known.owner.as_ref().unwrap();
        assert_eq!(owner.process, std::process::id());
        assert!(
            known.saved.is_some() && known.source.starts_with("memory-source"),
            "{known:?}"
        );
    }
    drop(runs.remove(1));
    for (name, source) in names.iter().zip(&sources) {
        for id in 0..50 {
            source
                .update_v2(&format!("{name}.orders"), id, rawdoc! { "u": { "n": 1 } })
                .unwrap();
        }
    }
    runs.insert(1, port.start("b", &sources[1]).await);
    for run in &runs {
        cut_over(run).await;
    }
    for (name, source) in names.iter().zip(&sources) {
        port.assert_same(name, source);
    }
    let known = migrations(&port.target).await.unwrap();
    assert_eq!(known.len(), 3);
    assert!(
        known
            .iter()
            .all(|known| known.complete && known.phase == Phase::Complete && known.owner.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn what_another_may_write_to_is_refused() {
    let port = Port::default();
    let (ours, theirs) = (source("shop", 5), source("shop", 5));
    let first = port.migration("first", &ours).include("shop.*");
    let run = first.build().unwrap().start().await.unwrap();
    // It writes to names that do not exist yet.
    let second = || {
        let second = Migration::builder(theirs.clone(), port.target.clone()).id("second");
        second
            .include("store.*")
            .rename("store.carts", "shop.carts")
            .include("shop.later*")
    };
    let refused = async || second().build().unwrap().start().await.unwrap_err();
    let error = refused().await;
    assert_eq!(codes(&error), ["overlapping_migration"]);
    assert!(
        error.to_string().contains("`first`") && error.to_string().contains("such as `shop."),
        "{error}"
    );
    let plan = second().build().unwrap().preflight().await.unwrap();
    assert_eq!(
        plan.blockers().map(|finding| finding.code).collect::<Vec<_>>(),
        ["overlapping_migration"]
    );
    // What it excludes is no conflict.
    let other = second().exclude("shop.*").build().unwrap().start().await;
    assert_eq!(
        codes(&other.unwrap_err()),
        ["overlapping_migration"],
        "the rename leads there, too"
    );
    let other = Migration::builder(theirs.clone(), port.target.clone())
        .id("third")
        .include("shop*.*")
        .exclude("shop.*");
    drop(other.build().unwrap().start().await.unwrap());
    // A migration that was stopped will go on.
    run.abandon().await;
    assert_eq!(codes(&refused().await), ["overlapping_migration"]);
    let known = migrations(&port.target).await.unwrap();
    assert!(known.iter().all(|known| !known.complete), "{known:?}");
    let run = port
        .migration("first", &ours)
        .include("shop.*")
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    cut_over(&run).await;
    // One after the other. Both have taken the same name here, so what stands there counts as existing data.
    let third = Migration::builder(theirs.clone(), port.target.clone())
        .id("third")
        .include("shop*.*")
        .exclude("shop.*");
    third.build().unwrap().forget().await.unwrap();
    let second = second()
        .include("shop.*")
        .existing_data(mongoferry::ExistingData::Clear);
    let run = second.build().unwrap().start().await.unwrap();
    cut_over(&run).await;
    port.assert_same("shop", &theirs);
}

#[tokio::test]
async fn of_those_that_start_at_the_same_moment_one_passes() {
    for _ in 0..10 {
        let port = Port::default();
        let sources: Vec<MemorySource> = (0..4).map(|_| source("shop", 1)).collect();
        let starts = sources.iter().enumerate().map(|(number, source)| {
            let migration = port.migration("shop", source).id(format!("m{number}")).build().unwrap();
            tokio::spawn(migration.start())
        });
        let started = join_all(starts).await;
        let started: Vec<_> = started.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            started.iter().filter(|started| started.is_ok()).count(),
            1,
            "{started:?}"
        );
        for error in started.iter().filter_map(|started| started.as_ref().err()) {
            assert_eq!(codes(error), ["overlapping_migration"]);
        }
    }
}

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

#[tokio::test(start_paused = true)]
async fn each_reason_why_a_migration_does_not_start_has_its_own_kind() {
    let port = Port::default();
    let shop = source("shop", 5);
    let migration = || port.migration("shop", &shop).build().unwrap();
    let run = migration().start().await.unwrap();
    let held = migration().start().await.unwrap_err();
    assert_eq!(held.kind(), mongoferry::ErrorKind::LeaseHeld);
    let owner = format!("process {} on host", std::process::id());
    assert!(held.to_string().contains(&owner), "{held}");
    // Also where the second one has a checkpoint store of its own, and would have to begin.
    let elsewhere = port
        .migration("shop", &shop)
        .checkpoint_store(MemoryStore::default())
        .build()
        .unwrap();
    run.ready_to_cut_over().await.unwrap();
    let held = elsewhere.start().await.unwrap_err();
    assert_eq!(held.kind(), mongoferry::ErrorKind::LeaseHeld);
    assert!(held.to_string().contains(&owner), "{held}");
    assert_eq!(migration().certificate().await.unwrap(), None);
    let certificate = cut_over(&run).await.certificate;
    // Another process has it from the checkpoint.
    drop(run);
    assert!(certificate.is_some());
    assert_eq!(migration().certificate().await.unwrap(), certificate);
    let complete = migration().start().await.unwrap_err();
    assert_eq!(complete.kind(), mongoferry::ErrorKind::AlreadyComplete, "{complete}");
    assert!(complete.to_string().contains("forget"), "{complete}");
    for id in ["", "a b", "a/b"] {
        let error = port.migration("shop", &shop).id(id).build().unwrap_err();
        assert_eq!(error.kind(), mongoferry::ErrorKind::InvalidConfiguration);
    }
    // A checkpoint of another migration is not taken for one's own.
    let store = MemoryStore::default();
    let a = source("a", 5);
    let run = port.migration("a", &a).checkpoint_store(store.clone()).build().unwrap();
    let run = run.start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    run.abandon().await;
    let other = port
        .migration("a", &a)
        .id("other")
        .checkpoint_store(store)
        .build()
        .unwrap();
    let error = other.start().await.unwrap_err();
    assert!(error.to_string().contains("belongs to the migration `a`"), "{error}");
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

#[tokio::test(start_paused = true)]
async fn a_shared_throttle_holds_for_all_together_and_can_be_changed() {
    let port = Port::default();
    let limited = Throttle::unlimited().with_copy_bytes_per_second(100_000);
    let resources = Resources::new().throttle(limited);
    let sources = ["a", "b", "c", "d"].map(|name| {
        let source = MemorySource::new();
        source.create_collection(&format!("{name}.orders"), rawdoc! {}).unwrap();
        for document in documents(0..500, 1000) {
            source.insert(&format!("{name}.orders"), document).unwrap();
        }
        (name, source)
    });
    // Half a MB each, so twenty seconds for all together.
    let began = tokio::time::Instant::now();
    let starts = sources.iter().map(|(name, source)| {
        let migration = port.migration(name, source).resources(&resources).chunk_bytes(20_000);
        migration.verification(Verification::None).build().unwrap().start()
    });
    let runs = try_join_all(starts).await.unwrap();
    let copied = || runs.iter().map(|run| run.status().copied.bytes).sum::<u64>();
    until("half is copied", || copied() >= 1_000_000).await;
    let took = began.elapsed().as_secs_f64();
    assert!((8.0..16.0).contains(&took), "{took}");
    resources.set_throttle(Throttle::default());
    let began = tokio::time::Instant::now();
    until("everything is copied", || {
        runs.iter().all(|run| run.status().copy_complete)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Two hundred small migrations in one process, with 256 MB for all of them, half of which are written to.
#[tokio::test(start_paused = true)]
async fn two_hundred_share_one_target_and_one_budget() {
    let port = Port::default();
    let resources = Resources::new().memory_bytes(256 << 20);
    let sources: Vec<(String, MemorySource)> = (0..200)
        .map(|number| (format!("t{number}"), source(&format!("t{number}"), 20)))
        .collect();
    let starts = sources.iter().map(|(name, source)| {
        port.migration(name, source)
            .resources(&resources)
            .build()
            .unwrap()
            .start()
    });
    let runs = try_join_all(starts).await.unwrap();
    for (name, source) in sources.iter().step_by(2) {
        for id in 0..20 {
            source
                .update_v2(&format!("{name}.orders"), id, rawdoc! { "u": { "n": 1 } })
                .unwrap();
        }
    }
    join_all(runs.iter().map(cut_over)).await;
    for (name, source) in &sources {
        port.assert_same(name, source);
    }
    let known = migrations(&port.target).await.unwrap();
    assert!(known.len() == 200 && known.iter().all(|known| known.complete));
}

/// Budgets so small that every migration has to wait for the others: all of them still end.
#[tokio::test(start_paused = true)]
async fn migrations_that_wait_for_each_others_memory_all_go_on() {
    let port = Port::default();
    let resources = Resources::new().memory_bytes(16 << 20);
    let sources: Vec<(String, MemorySource)> = (0..20)
        .map(|number| {
            let (name, source) = (format!("t{number}"), MemorySource::new());
            source.create_collection(&format!("{name}.orders"), rawdoc! {}).unwrap();
            for document in documents(0..20, 20_000) {
                source.insert(&format!("{name}.orders"), document).unwrap();
            }
            (name, source)
        })
        .collect();
    let starts = sources.iter().map(|(name, source)| {
        port.migration(name, source)
            .resources(&resources)
            .build()
            .unwrap()
            .start()
    });
    let runs = try_join_all(starts).await.unwrap();
    for round in 1..4 {
        for (name, source) in &sources {
            // One of them is larger than a whole share of the budget.
            for id in 0..20 {
                let bytes = if id == 0 { 6 << 20 } else { 50_000 };
                let document = rawdoc! { "_id": id, "n": round, "pad": "q".repeat(bytes) };
                source.replace(&format!("{name}.orders"), document).unwrap();
            }
        }
        sleep(Duration::from_millis(300)).await;
    }
    join_all(runs.iter().map(cut_over)).await;
    for (name, source) in &sources {
        port.assert_same(name, source);
    }
}
