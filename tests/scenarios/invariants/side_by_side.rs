//! Several migrations into one target, side by side and one after the other.

mod records;
mod resources;

use futures::future::join_all;
use mongoferry::sink::CatalogCommand;
use mongoferry::{Error, Phase, Severity, migrations};

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
