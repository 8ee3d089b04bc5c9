//! What stands on the target and was made by others is treated as the host has chosen, whenever in a run it is met.

use mongoferry::sink::{CatalogCommand, SinkCall};
use mongoferry::source::SourceCall;
use mongoferry::{Batch, CollectionKind, Error, ErrorKind, ExistingData, OnRuleError, Position};

use super::*;

const FOREIGN: &str = "shop.new";

/// Puts a collection of three documents on the target, as another program would.
async fn make_foreign(bench: &Bench, name: &str) {
    let namespace: Namespace = name.parse().unwrap();
    let create = CatalogCommand::Create {
        namespace: namespace.clone(),
        kind: CollectionKind::Plain,
        options: rawdoc! {},
    };
    bench.sink.execute(&create).await.unwrap();
    bench.sink.insert(&namespace, &foreign_documents()).await.unwrap();
    bench.sink.flush().await.unwrap();
}

fn foreign_documents() -> Batch {
    let mut batch = Batch::new();
    for id in 1..=3 {
        batch.push(&rawdoc! { "_id": id, "whose": "others" });
    }
    batch
}

fn is_untouched(bench: &Bench, name: &str) -> bool {
    let expected: Vec<RawDocumentBuf> = foreign_documents().iter().map(|document| document.to_owned()).collect();
    bench.sink.documents(name).unwrap() == expected
}

async fn refusal(run: MigrationHandle, case: &str) -> Error {
    timeout(DEADLINE, run.wait())
        .await
        .unwrap_or_else(|_| panic!("{case}: the run goes on"))
        .expect_err(case)
}

fn assert_names(error: &Error, name: &str, case: &str) {
    assert_eq!(error.kind(), ErrorKind::Refused, "{case}: {error}");
    assert!(error.to_string().contains(&format!("`{name}`")), "{case}: {error}");
}

type Change = (&'static str, fn(&MemorySource) -> Position);

/// Each way in which a collection or view of the source comes by the name that is taken on the target.
fn changes() -> Vec<Change> {
    vec![
        ("create", |source| {
            source.create_collection(FOREIGN, rawdoc! {}).unwrap();
            source.insert(FOREIGN, rawdoc! { "_id": 1, "whose": "ours" }).unwrap()
        }),
        ("create, drop", |source| {
            source.create_collection(FOREIGN, rawdoc! {}).unwrap();
            source.drop_collection(FOREIGN).unwrap()
        }),
        ("create a capped one", |source| {
            let capped = rawdoc! { "capped": true, "size": 4096 };
            source.create_collection(FOREIGN, capped).unwrap();
            source.insert(FOREIGN, rawdoc! { "_id": 7 }).unwrap()
        }),
        ("rename", |source| source.rename("shop.orders", FOREIGN).unwrap()),
        ("rename into the selection", |source| {
            source.rename("other.things", FOREIGN).unwrap()
        }),
        ("view", |source| {
            let view = rawdoc! { "viewOn": "orders", "pipeline": [] };
            source.create_collection(FOREIGN, view).unwrap()
        }),
        ("replace one that was made meanwhile", |source| {
            source.create_collection("shop.tmp", rawdoc! {}).unwrap();
            source.insert("shop.tmp", rawdoc! { "_id": 2 }).unwrap();
            source.create_collection(FOREIGN, rawdoc! {}).unwrap();
            source.rename("shop.tmp", FOREIGN).unwrap()
        }),
    ]
}

fn bench() -> Bench {
    let bench = Bench::with_orders(5);
    bench
        .source
        .insert("other.things", rawdoc! { "_id": 3, "whose": "ours" })
        .unwrap();
    bench
}

async fn start(bench: &Bench, choice: ExistingData) -> MigrationHandle {
    let migration = bench.migration().existing_data(choice).build().unwrap();
    migration.start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn refuse_ends_the_run_before_foreign_data_is_touched() {
    for (case, change) in changes() {
        let bench = bench();
        make_foreign(&bench, FOREIGN).await;
        let run = start(&bench, ExistingData::Refuse).await;
        bench.caught_up().await;
        change(&bench.source);
        assert_names(&refusal(run, case).await, FOREIGN, case);
        assert!(is_untouched(&bench, FOREIGN), "{case}");
        // A start that nobody has decided anything for ends the same way.
        let again = start(&bench, ExistingData::Refuse).await;
        assert_names(&refusal(again, case).await, FOREIGN, case);
        assert!(is_untouched(&bench, FOREIGN), "{case}");
        // Another choice goes on from there.
        let run = start(&bench, ExistingData::Clear).await;
        bench.finish(run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clear_and_keep_replace_foreign_data_by_what_the_source_has() {
    for choice in [ExistingData::Clear, ExistingData::Keep] {
        for (case, change) in changes() {
            let bench = bench();
            make_foreign(&bench, FOREIGN).await;
            make_foreign(&bench, "shop.unrelated").await;
            let run = start(&bench, choice).await;
            bench.caught_up().await;
            change(&bench.source);
            bench.caught_up().await;
            assert!(is_untouched(&bench, "shop.unrelated"), "{case}");
            let namespace = "shop.unrelated".parse().unwrap();
            bench.sink.execute(&CatalogCommand::Drop { namespace }).await.unwrap();
            bench.finish(run).await;
        }
    }
}

/// What is equal is not written anew, and what the source does not have is deleted.
#[tokio::test(start_paused = true)]
async fn keep_writes_only_what_differs_of_a_collection_made_later() {
    let bench = bench();
    make_foreign(&bench, FOREIGN).await;
    let run = start(&bench, ExistingData::Keep).await;
    bench.caught_up().await;
    let tail = bench.source.hold(SourceCall::TailEntries);
    for id in [1, 2, 9] {
        let document = rawdoc! { "_id": id, "whose": "others" };
        bench.source.insert(FOREIGN, document).unwrap();
    }
    let before = bench.sink.journal().len();
    tail.release();
    bench.caught_up().await;
    bench.finish(run).await;
    let written: Vec<Key> = bench.sink.journal()[before..]
        .iter()
        .filter_map(|entry| match entry {
            JournalEntry::Applied { namespace, write } if namespace.as_str() == FOREIGN => Some(write.key.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(written, [key(3), key(9)]);
}

/// The process dies when the collection is made on the target, or is about to be, and no checkpoint knows it.
#[tokio::test(start_paused = true)]
async fn what_a_killed_run_made_is_its_own() {
    for made in [false, true] {
        for (case, change) in changes() {
            let bench = bench();
            let run = start(&bench, ExistingData::Refuse).await;
            bench.caught_up().await;
            let executing = match made {
                true => bench.sink.hold_answer(SinkCall::Execute),
                false => bench.sink.hold(SinkCall::Execute),
            };
            change(&bench.source);
            timeout(DEADLINE, executing.reached()).await.expect(case);
            drop(run);
            executing.release();
            let run = start(&bench, ExistingData::Refuse).await;
            bench.finish(run).await;
        }
    }
}

/// The same at every later step of each change, with the answer to one call after another being the last that the process sees.
#[tokio::test(start_paused = true)]
async fn a_run_killed_at_any_command_goes_on_under_refuse() {
    for (case, change) in changes() {
        for passes in 1..8 {
            let bench = bench();
            let run = start(&bench, ExistingData::Refuse).await;
            bench.caught_up().await;
            let executing = bench.sink.hold_answer(SinkCall::Execute);
            for _ in 0..passes {
                executing.let_one_pass();
            }
            change(&bench.source);
            let killed = timeout(DEADLINE, executing.reached()).await.is_ok();
            drop(run);
            executing.release();
            let run = start(&bench, ExistingData::Refuse).await;
            bench.finish(run).await;
            if !killed {
                break;
            }
            assert!(passes < 7, "{case}");
        }
    }
}

/// Made by others while no process was running: the replayed creation must not take it for what the run before has made.
#[tokio::test(start_paused = true)]
async fn what_others_made_during_a_pause_is_not_cleared_by_the_replay() {
    for (case, change) in changes() {
        let bench = bench();
        let run = start(&bench, ExistingData::Refuse).await;
        bench.caught_up().await;
        drop(run);
        change(&bench.source);
        make_foreign(&bench, FOREIGN).await;
        let run = start(&bench, ExistingData::Refuse).await;
        assert_names(&refusal(run, case).await, FOREIGN, case);
        assert!(is_untouched(&bench, FOREIGN), "{case}");
    }
}

/// Others have replaced what the migration made: it is theirs, and a drop on the source is none of it.
#[tokio::test(start_paused = true)]
async fn a_drop_leaves_what_others_put_in_the_place() {
    for running in [false, true] {
        let bench = bench();
        let mut run = Some(start(&bench, ExistingData::Refuse).await);
        bench.caught_up().await;
        if !running {
            run = None;
        }
        let namespace = "shop.orders".parse().unwrap();
        bench.sink.execute(&CatalogCommand::Drop { namespace }).await.unwrap();
        make_foreign(&bench, "shop.orders").await;
        bench.source.drop_collection("shop.orders").unwrap();
        let run = match run {
            Some(run) => run,
            None => start(&bench, ExistingData::Refuse).await,
        };
        bench.caught_up().await;
        assert!(is_untouched(&bench, "shop.orders"));
        // Made once more on the source, it meets it.
        bench.source.create_collection("shop.orders", rawdoc! {}).unwrap();
        assert_names(&refusal(run, "create").await, "shop.orders", "create");
        assert!(is_untouched(&bench, "shop.orders"));
    }
}

/// What cannot be compared in order is made anew on the target when its copy was broken off.
#[tokio::test(start_paused = true)]
async fn a_collection_made_anew_for_its_copy_stays_its_own() {
    for killed in [false, true] {
        let bench = bench();
        let capped = rawdoc! { "capped": true, "size": 1 << 20 };
        bench.source.create_collection("shop.log", capped).unwrap();
        bench.source.insert_many("shop.log", documents(0..9, 10)).unwrap();
        let flushing = bench.sink.hold(SinkCall::Flush);
        let run = start(&bench, ExistingData::Refuse).await;
        until("the documents are on the target", || {
            bench.sink.documents("shop.log").unwrap().len() == 9
        })
        .await;
        drop(run);
        flushing.release();
        if killed {
            let executing = bench.sink.hold_answer(SinkCall::Execute);
            let run = start(&bench, ExistingData::Refuse).await;
            // The drop passes, and the creation is the last that the process does.
            executing.let_one_pass();
            timeout(DEADLINE, executing.reached()).await.unwrap();
            drop(run);
            executing.release();
        }
        let run = start(&bench, ExistingData::Refuse).await;
        bench.caught_up().await;
        until("it is copied", || run.status().copy_complete).await;
        bench.source.drop_collection("shop.log").unwrap();
        bench.caught_up().await;
        bench.finish(run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_uuid_of_a_copy_made_anew_is_in_the_checkpoint() {
    let bench = bench();
    let capped = rawdoc! { "capped": true, "size": 1 << 20 };
    bench.source.create_collection("shop.log", capped).unwrap();
    bench.source.insert_many("shop.log", documents(0..9, 10)).unwrap();
    let flushing = bench.sink.hold(SinkCall::Flush);
    let run = start(&bench, ExistingData::Refuse).await;
    until("the documents are on the target", || {
        bench.sink.documents("shop.log").unwrap().len() == 9
    })
    .await;
    let name: Namespace = "shop.log".parse().unwrap();
    let names = std::collections::BTreeSet::from([name.clone()]);
    let uuid = async || bench.sink.identities(&names).await.unwrap()[&name];
    let first = uuid().await;
    drop(run);
    flushing.release();
    let run = start(&bench, ExistingData::Refuse).await;
    until("it is copied", || run.status().copy_complete).await;
    // The checkpoint that covers this comes after the copy.
    bench.source.noop();
    let checkpoint = bench.caught_up().await;
    let second = uuid().await;
    assert_ne!(first, second, "it is made anew");
    let log = checkpoint
        .collections
        .iter()
        .find(|state| state.target == name)
        .unwrap();
    assert_eq!(log.made, Some(second));
    // With that in the checkpoint there is nothing left to be noted of it elsewhere.
    let record = bench.sink.load_record("default/creations").await.unwrap().unwrap();
    assert!(record.get_array("names").unwrap().is_empty(), "{record:?}");
    bench.finish(run).await;
}

/// A cutover that finds a capped collection in another order copies it once more, for which it is made anew.
#[tokio::test(start_paused = true)]
async fn a_process_killed_while_copying_again_goes_on_with_that() {
    let bench = bench();
    let capped = rawdoc! { "capped": true, "size": 1 << 20 };
    bench.source.create_collection("shop.log", capped).unwrap();
    bench.source.insert_many("shop.log", documents(0..9, 10)).unwrap();
    let run = bench.by_digest().build().unwrap().start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    bench.caught_up().await;
    let name: Namespace = "shop.log".parse().unwrap();
    let mut batch = Batch::new();
    batch.push(&rawdoc! { "_id": "out of order" });
    bench.sink.insert(&name, &batch).await.unwrap();
    let executing = bench.sink.hold_answer(SinkCall::Execute);
    {
        let mut cutover = Box::pin(run.cutover(async {}));
        let killed = async {
            timeout(DEADLINE, executing.reached()).await.expect("it is dropped");
            executing.let_one_pass();
            timeout(DEADLINE, executing.reached()).await.expect("it is made anew");
        };
        tokio::select! {
            _ = &mut cutover => panic!("the cutover is held"),
            () = killed => {}
        }
        // As if the process was killed here.
        std::mem::forget(cutover);
    }
    drop(run);
    executing.release();
    settle_down().await;
    assert!(bench.sink.documents("shop.log").unwrap().is_empty());
    // What is not compared at the next cutover has to be right by itself.
    let migration = bench.migration().verification(Verification::None);
    let run = migration.build().unwrap().start().await.unwrap();
    bench.finish(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_database_leaves_what_others_have_in_it() {
    let bench = bench();
    let run = start(&bench, ExistingData::Refuse).await;
    bench.caught_up().await;
    make_foreign(&bench, FOREIGN).await;
    bench.source.drop_database("shop").unwrap();
    bench.caught_up().await;
    assert!(is_untouched(&bench, FOREIGN));
    assert_eq!(bench.sink.collections().await.unwrap().len(), 1);
    drop(run);
}

/// A resync goes by the collections that the source has by now, of which the migration did not make all.
#[tokio::test(start_paused = true)]
async fn a_resync_treats_what_others_made_as_chosen() {
    for choice in [ExistingData::Refuse, ExistingData::Clear, ExistingData::Keep] {
        let bench = bench();
        let run = start(&bench, choice).await;
        bench.caught_up().await;
        drop(run);
        bench
            .source
            .insert(FOREIGN, rawdoc! { "_id": 1, "whose": "ours" })
            .unwrap();
        make_foreign(&bench, FOREIGN).await;
        bench.source.noop();
        bench.source.set_history_window(1);
        let run = start(&bench, choice).await;
        if choice == ExistingData::Refuse {
            assert_names(&refusal(run, "resync").await, FOREIGN, "resync");
            assert!(is_untouched(&bench, FOREIGN));
            bench.source.noop();
            let run = start(&bench, ExistingData::Clear).await;
            bench.finish(run).await;
        } else {
            bench.finish(run).await;
        }
    }
}

/// Made by others between the checks of preflight and the first checkpoint.
#[tokio::test(start_paused = true)]
async fn a_first_start_looks_at_the_target_again_when_it_has_listed() {
    let bench = bench();
    let reads = bench.source.hold(SourceCall::Collections);
    let migration = bench.migration().build().unwrap();
    let begin = async {
        // Preflight lists before, for the start and for the run.
        for _ in 0..2 {
            timeout(DEADLINE, reads.reached()).await.unwrap();
            reads.let_one_pass();
        }
        timeout(DEADLINE, reads.reached()).await.unwrap();
        make_foreign(&bench, "shop.orders").await;
        reads.release();
    };
    let run = tokio::join!(migration.start(), begin).0.unwrap();
    assert_names(&refusal(run, "start").await, "shop.orders", "start");
    assert!(is_untouched(&bench, "shop.orders"));
    assert!(bench.checkpoint().is_none());
}

/// Letters would be written between the documents of others, and those that look like letters would be removed.
#[tokio::test(start_paused = true)]
async fn letters_are_not_kept_among_documents_of_others() {
    const LETTERS: &str = "kept.letters";
    for choice in [ExistingData::Refuse, ExistingData::Clear, ExistingData::Keep] {
        let bench = Bench::with_orders(1);
        make_foreign(&bench, LETTERS).await;
        let letters = OnRuleError::DeadLetter(LETTERS.parse().unwrap());
        let migration = bench.migration().on_rule_error(letters).existing_data(choice);
        let error = migration.build().unwrap().start().await.unwrap_err();
        assert_names(&error, LETTERS, &format!("{choice:?}"));
        assert!(is_untouched(&bench, LETTERS));
    }
}
