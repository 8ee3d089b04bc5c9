//! How much the source's own writers are slowed down by whoever copies it.

use std::time::Instant;

use mongoferry_testbed::ReplicaSet;

use crate::Result;
use crate::arguments::Arguments;
use crate::child::Helper;
use crate::copy::{settle, start_set, wait_for_secondary};
use crate::report::Report;
use crate::traffic::Traffic;

/// Has applications write as fast as they can: alone, beside a native initial sync, and beside our copy, in turns.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, source: &mut ReplicaSet, report: &mut Report) -> Result<()> {
    let mut traffic = Traffic::begin(&source.uri(), arguments.scaled(50_000, 1_000)).await?;
    for round in 0..arguments.rounds {
        for turn in 0..3 {
            settle(source).await?;
            let (who, rate) = match (round + turn) % 3 {
                0 => ("alone", alone(&mut traffic, arguments).await?),
                1 => ("native initial sync", native(source, &mut traffic).await?),
                _ => ("mongoferry", ours(arguments, source, &mut traffic).await?),
            };
            report.add_writers(who, rate);
        }
    }
    Ok(())
}

async fn alone(traffic: &mut Traffic, arguments: &Arguments) -> Result<f64> {
    let started = Instant::now();
    let writes = traffic.write(arguments.scaled(200_000, 2_000), None).await?;
    Ok(writes as f64 / started.elapsed().as_secs_f64())
}

async fn native(source: &mut ReplicaSet, traffic: &mut Traffic) -> Result<f64> {
    let index = source.start_member().await?;
    let member = source.member_client(index).await?;
    let started = Instant::now();
    let copied = async {
        source.add_member(index).await?;
        wait_for_secondary(&member).await
    };
    let writes = traffic.write_until(copied).await?;
    let rate = writes as f64 / started.elapsed().as_secs_f64();
    source.remove_member().await?;
    Ok(rate)
}

async fn ours(arguments: &Arguments, source: &ReplicaSet, traffic: &mut Traffic) -> Result<f64> {
    let target = start_set(arguments, "target").await?;
    let mut helper = Helper::migrating(&source.uri(), &target.uri(), arguments.walkers).await?;
    let started = Instant::now();
    let copied = async { helper.tell("start").await.map(drop) };
    let writes = traffic.write_until(copied).await?;
    Ok(writes as f64 / started.elapsed().as_secs_f64())
}
