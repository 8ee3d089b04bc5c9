//! A source of many small collections: how long until a run is ready and how long its cutover takes, against listing and creating them.

use std::time::Instant;

use bson::{Document, doc};
use futures::stream::{self, StreamExt, TryStreamExt};
use mongodb::{Client, Database};

use crate::Result;
use crate::arguments::Arguments;
use crate::child::{Helper, Orders};
use crate::copy::{settle, start_set};
use crate::data::DATABASE;
use crate::meter::Meter;
use crate::report::{Amount, Report};

/// Documents of each collection.
const DOCUMENTS: i32 = 3;

/// Commands under way at the same time.
const AT_ONCE: usize = 8;

/// Measures it in turns.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let source = start_set(arguments, "source").await?;
    let count = arguments.collections.to_string();
    report.progress("making the collections on the source");
    fill(&source.uri(), &count).await?.tell("fill").await?;
    let amount = Amount::Collections(arguments.collections as f64);
    for round in 0..arguments.rounds {
        for turn in 0..3 {
            settle(&source).await?;
            let target = start_set(arguments, "target").await?;
            match (round + turn) % 3 {
                0 => {
                    report.progress("listing and creation alone");
                    let words = [
                        "--catalog",
                        &target.uri(),
                        "--from",
                        &source.uri(),
                        "--collections",
                        &count,
                    ];
                    let (mut helper, _) = Helper::start(&words).await?;
                    let meter = Meter::start(Some(&helper), &source, target.process_id(0));
                    let seconds = helper.tell("list").await?;
                    report.add(
                        "collections",
                        "listing and creation alone",
                        amount,
                        meter.stop(Some(&helper), seconds)?,
                    );
                }
                1 => {
                    report.progress("creation and insertion from memory");
                    let mut helper = fill(&target.uri(), &count).await?;
                    let meter = Meter::start(Some(&helper), &source, target.process_id(0));
                    let seconds = helper.tell("fill").await?;
                    report.add(
                        "collections",
                        "creation and insertion from memory",
                        amount,
                        meter.stop(Some(&helper), seconds)?,
                    );
                }
                _ => {
                    report.progress("migration by mongoferry");
                    let mut helper = Helper::migrating(&source.uri(), &target.uri(), arguments.walkers).await?;
                    let meter = Meter::start(Some(&helper), &source, target.process_id(0));
                    let seconds = helper.tell("start").await?;
                    report.add(
                        "collections",
                        "mongoferry, ready",
                        amount,
                        meter.stop(Some(&helper), seconds)?,
                    );
                    helper.tell("ready").await?;
                    let meter = Meter::start(Some(&helper), &source, target.process_id(0));
                    let seconds = helper.tell("cutover").await?;
                    let name = "mongoferry, from writes stopped to complete";
                    report.add("collections", name, amount, meter.stop(Some(&helper), seconds)?);
                }
            }
        }
    }
    Ok(())
}

async fn fill(target: &str, count: &str) -> Result<Helper> {
    Ok(Helper::start(&["--catalog", target, "--collections", count]).await?.0)
}

/// Makes collections on a target when it is told: those it was told the number of, or as they are listed on a source.
///
/// # Errors
/// A server error.
pub(crate) async fn serve(target: &str, source: Option<&str>, count: usize) -> Result<()> {
    let target = Client::with_uri_str(target).await?.database(DATABASE);
    let mut orders = Orders::new();
    let mut answer = 0.0;
    while orders.next(answer).await?.is_some() {
        let started = Instant::now();
        match source {
            None => {
                let names = (0..count).map(|number| format!("collection_{number:06}"));
                at_once(names.map(|name| make(&target, name, true))).await?;
            }
            Some(source) => {
                let source = Client::with_uri_str(source).await?.database(DATABASE);
                let names = source.list_collection_names().await?;
                at_once(names.into_iter().map(|name| copy(&source, &target, name))).await?;
            }
        }
        answer = started.elapsed().as_secs_f64();
    }
    Ok(())
}

async fn at_once(calls: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    stream::iter(calls).buffer_unordered(AT_ONCE).try_collect().await
}

async fn copy(source: &Database, target: &Database, name: String) -> Result<()> {
    source.run_command(doc! { "listIndexes": &name }).await?;
    source.run_command(doc! { "collStats": &name }).await?;
    make(target, name, false).await
}

async fn make(database: &Database, name: String, with_documents: bool) -> Result<()> {
    let write_concern = doc! { "w": 1 };
    database
        .run_command(doc! { "create": &name, "writeConcern": write_concern.clone() })
        .await?;
    if with_documents {
        let documents: Vec<Document> = (0..DOCUMENTS).map(|id| doc! { "_id": id, "name": &name }).collect();
        database
            .run_command(doc! { "insert": name, "documents": documents, "writeConcern": write_concern })
            .await?;
    }
    Ok(())
}
