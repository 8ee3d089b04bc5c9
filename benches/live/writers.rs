//! How much the source's own writers are slowed down by whoever copies it.

use std::future::pending;
use std::time::{Duration, Instant};

use bson::doc;
use mongoferry_testbed::ReplicaSet;
use tokio::time::timeout;

use crate::Result;
use crate::arguments::Arguments;
use crate::child::Helper;
use crate::copy::{settle, start_set, wait_for_secondary};
use crate::report::Report;
use crate::traffic::Traffic;

/// The copy takes longer than this at full size, with anybody. The same span for all, since writes grow dearer the longer they go on: the
/// source keeps what it overwrites for five minutes.
const SPAN: Duration = Duration::from_secs(15);

/// Has applications write as fast as they can: alone, beside a native initial sync, and beside our copy, in turns.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, source: &mut ReplicaSet, report: &mut Report) -> Result<()> {
    let mut traffic = Traffic::begin(&source.uri(), arguments.scaled(50_000, 1_000)).await?;
    for round in 0..arguments.rounds {
        for turn in 0..3 {
            forget_history(source).await?;
            let (who, rate) = match (round + turn) % 3 {
                0 => ("alone", alone(&mut traffic).await?),
                1 => ("native initial sync", native(source, &mut traffic).await?),
                _ => ("mongoferry", ours(arguments, source, &mut traffic).await?),
            };
            report.add_writers(who, rate);
        }
    }
    Ok(())
}

/// Has the source drop what was overwritten in the turn before, which would slow the writers of the next one down.
async fn forget_history(source: &ReplicaSet) -> Result<()> {
    let client = source.member_client(0).await?;
    let admin = client.database("admin");
    const WINDOW: &str = "minSnapshotHistoryWindowInSeconds";
    // Servers before 4.4 keep none, and know no such parameter.
    let Ok(before) = admin.run_command(doc! { "getParameter": 1, WINDOW: 1 }).await else {
        return settle(source).await;
    };
    admin.run_command(doc! { "setParameter": 1, WINDOW: 0 }).await?;
    // The oldest snapshot moves with the next write, and a checkpoint drops what is older.
    for _ in 0..2 {
        let note =
            doc! { "appendOplogNote": 1, "data": { "bench": "a turn ends" }, "writeConcern": { "w": "majority" } };
        admin.run_command(note).await?;
        settle(source).await?;
    }
    let before = before.get(WINDOW).cloned().unwrap_or_default();
    admin.run_command(doc! { "setParameter": 1, WINDOW: before }).await?;
    Ok(())
}

/// Writes until the copy has ended, or for the whole span.
async fn rate_during(traffic: &mut Traffic, copied: impl Future<Output = Result<()>>) -> Result<f64> {
    let started = Instant::now();
    let ended = async { timeout(SPAN, copied).await.unwrap_or(Ok(())) };
    let writes = traffic.write_until(ended).await?;
    Ok(writes as f64 / started.elapsed().as_secs_f64())
}

async fn alone(traffic: &mut Traffic) -> Result<f64> {
    rate_during(traffic, pending()).await
}

async fn native(source: &mut ReplicaSet, traffic: &mut Traffic) -> Result<f64> {
    let index = source.start_member().await?;
    let member = source.member_client(index).await?;
    let copied = async {
        source.add_member(index).await?;
        wait_for_secondary(&member).await
    };
    let rate = rate_during(traffic, copied).await?;
    source.remove_member().await?;
    Ok(rate)
}

async fn ours(arguments: &Arguments, source: &ReplicaSet, traffic: &mut Traffic) -> Result<f64> {
    let target = start_set(arguments, "target").await?;
    let mut helper = Helper::migrating(&source.uri(), &target.uri(), arguments.walkers).await?;
    rate_during(traffic, async { helper.tell("start").await.map(drop) }).await
}
