//! The whole copy with its indexes, and the hand-over after it.

use std::time::{Duration, Instant};

use bson::doc;
use mongodb::Client;
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::process::Command;

use crate::Result;
use crate::arguments::Arguments;
use crate::child::Helper;
use crate::data::Kind;
use crate::meter::Meter;
use crate::report::{Amount, Report};
use crate::usage;
use crate::writers;

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Measures the copy against a native initial sync and against insertion from memory, in turns.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut source = start_set(arguments, "source").await?;
    let megabytes = fill(arguments, &source, report).await?;
    let wants_ours = ["copy", "verify", "cutover"].iter().any(|name| arguments.wants(name));
    let tools = is_on_path("mongodump") && is_on_path("mongorestore");
    for round in 0..arguments.rounds {
        // What comes first has the source's disk and cache as the round before has left them.
        for turn in 0..4 {
            settle(&source).await?;
            match (round + turn) % 4 {
                0 if arguments.wants("copy") => native(&mut source, megabytes, report).await?,
                1 if wants_ours => ours(arguments, &source, megabytes, report).await?,
                2 if arguments.wants("copy") => plain(arguments, &source, megabytes, report).await?,
                3 if arguments.wants("copy") && tools => dumped(arguments, &source, megabytes, report).await?,
                _ => {}
            }
        }
    }
    if arguments.wants("writers") {
        report.progress("the source's own writers");
        writers::run(arguments, &mut source, report).await?;
    }
    Ok(())
}

/// Inserts the data into a source.
pub(crate) async fn fill(arguments: &Arguments, source: &ReplicaSet, report: &mut Report) -> Result<Amount> {
    report.progress("filling the source");
    let scale = arguments.scale.to_string();
    let (mut filler, bytes) = Helper::start(&["--insert", &source.uri(), "--scale", &scale]).await?;
    filler.tell("start").await?;
    Ok(Amount::Megabytes(bytes / 1e6))
}

/// A replica set of one member.
pub(crate) async fn start_set(arguments: &Arguments, name: &str) -> Result<ReplicaSet> {
    start_set_of(arguments.server, arguments, name).await
}

/// The same of another version.
pub(crate) async fn start_set_of(version: Version, arguments: &Arguments, name: &str) -> Result<ReplicaSet> {
    let builder = ReplicaSet::builder(version)
        .on_disk()
        .name(name)
        .cache_gb(arguments.cache_gb)
        .oplog_size_mb(2048)
        .enable_test_commands(false);
    Ok(builder.start().await?)
}

/// Has a server write to disk what is in its memory, so that it does not do so while something is measured.
pub(crate) async fn settle(set: &ReplicaSet) -> Result<()> {
    let client = set.member_client(0).await?;
    client.database("admin").run_command(doc! { "fsync": 1 }).await?;
    Ok(())
}

/// Waits until a member says that it is a secondary.
pub(crate) async fn wait_for_secondary(member: &Client) -> Result<()> {
    let admin = member.database("admin");
    let is_secondary = async || {
        let answer = admin.run_command(doc! { "hello": 1 }).await;
        answer.is_ok_and(|answer| answer.get_bool("secondary").unwrap_or(false))
    };
    Ok(wait_until(PATIENCE, "a secondary", is_secondary).await?)
}

async fn native(source: &mut ReplicaSet, amount: Amount, report: &mut Report) -> Result<()> {
    report.progress("native initial sync");
    let index = source.start_member().await?;
    let member = source.member_client(index).await?;
    let meter = Meter::start(None, source, source.process_id(index));
    let started = Instant::now();
    source.add_member(index).await?;
    wait_for_secondary(&member).await?;
    let sample = meter.stop(None, started.elapsed().as_secs_f64())?;
    report.add("copy", "native initial sync", amount, sample);
    Ok(source.remove_member().await?)
}

async fn ours(arguments: &Arguments, source: &ReplicaSet, amount: Amount, report: &mut Report) -> Result<()> {
    report.progress("copy by mongoferry");
    let target = start_set(arguments, "target").await?;
    let mut helper = Helper::migrating(&source.uri(), &target.uri(), arguments.walkers).await?;
    let meter = Meter::start(Some(&helper), source, target.process_id(0));
    let seconds = helper.tell("start").await?;
    let sample = meter.stop(Some(&helper), seconds)?;
    report.add("copy", "mongoferry", amount, sample);
    // It compares as soon as it has nothing else to do, and a cutover comes after that.
    report.progress("comparing both sides");
    let meter = Meter::start(Some(&helper), source, target.process_id(0));
    let documents: u64 = Kind::ALL.iter().map(|kind| kind.documents(arguments.scale)).sum();
    let seconds = helper.tell(&format!("compared {documents}")).await?;
    let sample = meter.stop(Some(&helper), seconds)?;
    if arguments.wants("verify") {
        report.add("verify", "mongoferry", amount, sample);
        report.progress("reading both sides");
        let (mut reader, _) = Helper::start(&["--read", &source.uri(), "--to", &target.uri()]).await?;
        let meter = Meter::start(Some(&reader), source, target.process_id(0));
        let seconds = reader.tell("read").await?;
        let mut sample = meter.stop(Some(&reader), seconds)?;
        sample.peak_memory = None;
        report.add("verify", "reading both sides alone", amount, sample);
    }
    if arguments.wants("cutover") {
        report.progress("cutover");
        helper.tell("ready").await?;
        let meter = Meter::start(Some(&helper), source, target.process_id(0));
        let seconds = helper.tell("cutover").await?;
        let sample = meter.stop(Some(&helper), seconds)?;
        report.add("cutover", "mongoferry, from writes stopped to complete", amount, sample);
    }
    Ok(())
}

async fn plain(arguments: &Arguments, source: &ReplicaSet, amount: Amount, report: &mut Report) -> Result<()> {
    report.progress("insertion from memory");
    let target = start_set(arguments, "target").await?;
    let scale = arguments.scale.to_string();
    let (mut helper, _) = Helper::start(&["--insert", &target.uri(), "--scale", &scale]).await?;
    let meter = Meter::start(Some(&helper), source, target.process_id(0));
    let seconds = helper.tell("start").await?;
    let mut sample = meter.stop(Some(&helper), seconds)?;
    // It holds the data, which says nothing.
    sample.peak_memory = None;
    report.add("copy", "insertion from memory", amount, sample);
    Ok(())
}

async fn dumped(arguments: &Arguments, source: &ReplicaSet, amount: Amount, report: &mut Report) -> Result<()> {
    report.progress("mongodump | mongorestore");
    let target = start_set(arguments, "target").await?;
    let pipe = format!(
        "mongodump --quiet --uri '{}' --archive | mongorestore --quiet --uri '{}' --archive --numInsertionWorkersPerCollection 4",
        source.member_uri(0),
        target.member_uri(0)
    );
    let meter = Meter::start(None, source, target.process_id(0));
    let (started, before) = (Instant::now(), usage::ended_children_cpu_seconds());
    if !Command::new("sh").args(["-c", &pipe]).status().await?.success() {
        return Err("mongodump or mongorestore has failed".into());
    }
    let mut sample = meter.stop(None, started.elapsed().as_secs_f64())?;
    sample.client_cpu = Some(usage::ended_children_cpu_seconds() - before);
    report.add("copy", "mongodump | mongorestore", amount, sample);
    Ok(())
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
