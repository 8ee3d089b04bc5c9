//! Demonstration: a shop on its own replica set whose application keeps writing during the migration.

use std::cell::RefCell;
use std::rc::Rc;

use mongoferry::{Error, ErrorKind, Result};
use mongoferry_testbed::compare::{CompareOptions, Difference, differences};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, TestbedError, Version};

use crate::ending::Ending;
use crate::session::Session;
use crate::text::grouped;

/// Default number of documents to load.
const DOCUMENTS: u64 = 300_000;

/// Number of operations that the application starts per second.
const OPERATIONS: u32 = 400;

/// Seed for the data and for the application's choices, so that runs differ as little as possible.
const SEED: u64 = 42;

/// Starts both replica sets, loads the shop, migrates it while it is being written to, and compares both sides.
pub async fn run(session: &mut Session<'_>) -> Ending {
    match try_run(session).await {
        Ok(ending) => ending,
        Err(ending) => *ending,
    }
}

async fn try_run(session: &mut Session<'_>) -> Result<Ending, Box<Ending>> {
    let documents = session.arguments.documents.unwrap_or(DOCUMENTS);
    let step = "starting two replica sets; the first time, this downloads MongoDB 6.0.5";
    let (source, target) = session.while_informing(step, start()).await?;
    let step = format!("loading {} documents", grouped(documents));
    let writer = session.while_informing(&step, load(&source, documents)).await?;
    let writer = Rc::new(RefCell::new(Some(writer)));

    let shown = Rc::clone(&writer);
    session
        .console
        .set_further(Some(Box::new(move || match &*shown.borrow() {
            Some(writer) => format!("application: {} operations", grouped(writer.stats().operations)),
            None => "application: stopped".to_owned(),
        })));
    let stopped = Rc::new(RefCell::new(None));
    let (to_stop, statistics) = (Rc::clone(&writer), Rc::clone(&stopped));
    let stop_writes = Box::pin(async move {
        let writer = to_stop.borrow_mut().take();
        if let Some(writer) = writer {
            *statistics.borrow_mut() = Some(writer.stop().await);
        }
    });
    let mut ending = session.migrate(&source.uri(), &target.uri(), stop_writes).await;
    session.console.set_further(None);

    if let Some(statistics) = stopped.borrow_mut().take() {
        session.console.note(&format!(
            "the application did {} operations meanwhile, {} failed",
            grouped(statistics.operations),
            statistics.errors
        ));
    }
    if ending.exit == 0 {
        let found = session
            .while_informing(
                "comparing once more, without the library",
                compare(session.arguments, &source, &target),
            )
            .await?;
        take_over(&mut ending, &found);
        if found.is_empty() {
            session
                .console
                .note("compared once more, byte for byte and without the library: identical");
        }
    }
    Ok(ending)
}

async fn start() -> Result<(ReplicaSet, ReplicaSet)> {
    let set = |name| {
        ReplicaSet::builder(Version::V6_0)
            .name(name)
            .cache_gb(0.5)
            .enable_test_commands(false)
            .start()
    };
    futures::try_join!(set("old"), set("new")).map_err(|error| failure("start the replica sets", error))
}

/// Loads the shop and starts its application.
async fn load(source: &ReplicaSet, documents: u64) -> Result<Writer> {
    let load = async {
        let client = source.client().await?;
        workload::load(&client, documents, SEED).await?;
        workload::load_readings(&client, documents / 15, SEED).await?;
        Writer::builder(&client, SEED)
            .operations_per_second(OPERATIONS)
            .start()
            .await
    };
    load.await.map_err(|error| failure("load the shop", error))
}

async fn compare(
    arguments: &crate::arguments::Arguments,
    source: &ReplicaSet,
    target: &ReplicaSet,
) -> Result<Vec<Difference>> {
    let compare = async {
        let (source, target) = (source.client().await?, target.client().await?);
        let options = CompareOptions {
            renames: arguments.rename.clone(),
            ..CompareOptions::default()
        };
        differences(&source, &target, &options).await
    };
    compare.await.map_err(|error| failure("compare both sides", error))
}

/// Records differences that the library did not find.
fn take_over(ending: &mut Ending, found: &[Difference]) {
    if found.is_empty() {
        return;
    }
    for collection in ending.summary.iter_mut().flat_map(|summary| &mut summary.collections) {
        let of_collection = found
            .iter()
            .filter(|difference| difference.namespace == collection.namespace.as_str());
        collection.differences.extend(of_collection.map(ToString::to_string));
        collection.verified &= collection.differences.is_empty();
    }
    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
    ending.set_differences(format!("the second comparison found: {}", all.join("; ")));
}

fn failure(operation: &'static str, error: TestbedError) -> Error {
    Error::new(ErrorKind::Server, operation, "the testbed failed").with_source(error)
}
