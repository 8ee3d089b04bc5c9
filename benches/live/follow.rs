//! Catching up with a source that was written to meanwhile, and following it.

use std::time::{Duration, Instant};

use bson::{Document, Timestamp, doc};
use mongodb::Client;
use mongoferry_testbed::ReplicaSet;
use tokio::time::sleep;

use crate::Result;
use crate::arguments::Arguments;
use crate::child::Helper;
use crate::copy::{PATIENCE, settle, start_set, wait_for_secondary};
use crate::data::DATABASE;
use crate::lag;
use crate::meter::{Meter, Sample};
use crate::report::{Amount, Report, median};
use crate::traffic::Traffic;

/// Everything that follows one source. Whoever is not being measured stands still.
struct Followers {
    source: ReplicaSet,
    target: ReplicaSet,
    /// The native secondary's index in the source's set.
    secondary: usize,
    /// The migration.
    ours: Helper,
    /// A migration to a target that forgets everything.
    tail: Helper,
}

/// Measures how fast each of them catches up, in turns, and then how far behind they are while the source is being written to.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    report.progress("starting what follows a source");
    let mut source = start_set(arguments, "source").await?;
    let target = start_set(arguments, "target").await?;
    let mut traffic = Traffic::begin(&source.uri(), arguments.scaled(50_000, 1_000)).await?;
    let client = source.client().await?;
    client.database(DATABASE).create_collection(lag::PROBE).await?;
    let uri = source.uri();
    let secondary = source.start_member().await?;
    source.add_member(secondary).await?;
    wait_for_secondary(&source.member_client(secondary).await?).await?;
    source.stop(secondary).await?;
    let mut ours = Helper::migrating(&uri, &target.uri(), arguments.walkers).await?;
    let (mut tail, _) = Helper::start(&["--migrate", &uri]).await?;
    for helper in [&mut ours, &mut tail] {
        helper.tell("start").await?;
        // Before that its checkpoint may not know that everything is copied, and it would compare instead of catching up.
        helper.tell("ready").await?;
        helper.tell("pause").await?;
    }
    let mut followers = Followers {
        source,
        target,
        secondary,
        ours,
        tail,
    };

    // A native secondary sustains what it can apply, and no more than the source can be made to write beside it.
    let (mut applied, mut written) = (Vec::new(), Vec::new());
    let rounds = if arguments.wants("catch-up") {
        arguments.rounds
    } else {
        1
    };
    for round in 0..rounds {
        report.progress("writing what is to be caught up with");
        let started = Instant::now();
        let entries = traffic.write(arguments.scaled(500_000, 2_000), None).await?;
        written.push(entries as f64 / started.elapsed().as_secs_f64());
        let (amount, end) = (Amount::Entries(entries as f64), newest(&client).await?);
        for turn in 0..3 {
            settle(&followers.source).await?;
            match (round + turn) % 3 {
                0 => applied.push(entries as f64 / followers.native(amount, end, report).await?),
                1 => followers.ours(amount, end, report).await?,
                _ => followers.tail(amount, end, report).await?,
            }
        }
    }
    if arguments.wants("lag") {
        let rate = median(&applied).min(median(&written)) / 2.0;
        followers.lag(arguments, &mut traffic, rate, report).await?;
    }
    // What was measured is worth something only if it was done right: both sides are compared.
    report.progress("comparing");
    followers.ours.tell("resume").await?;
    followers.ours.tell("ready").await?;
    followers.ours.tell("cutover").await?;
    Ok(())
}

impl Followers {
    async fn native(&mut self, amount: Amount, end: Timestamp, report: &mut Report) -> Result<f64> {
        let sample = native_catch_up(&mut self.source, self.secondary, end, report).await?;
        let seconds = sample.seconds;
        report.add("catch-up", "native secondary", amount, sample);
        Ok(seconds)
    }

    async fn ours(&mut self, amount: Amount, end: Timestamp, report: &mut Report) -> Result<()> {
        report.progress("catch-up by mongoferry");
        let sample = catch_up(&mut self.ours, &self.source, self.target.process_id(0), end).await?;
        report.add("catch-up", "mongoferry", amount, sample);
        Ok(())
    }

    async fn tail(&mut self, amount: Amount, end: Timestamp, report: &mut Report) -> Result<()> {
        report.progress("tail and route alone");
        let sample = catch_up(&mut self.tail, &self.source, None, end).await?;
        report.add("tail", "mongoferry, tail and route alone", amount, sample);
        Ok(())
    }

    async fn lag(
        &mut self,
        arguments: &Arguments,
        traffic: &mut Traffic,
        rate: f64,
        report: &mut Report,
    ) -> Result<()> {
        let seconds = Duration::from_secs(arguments.scaled(20, 3));
        for round in 0..arguments.rounds.min(3) {
            for turn in 0..2 {
                let (who, target) = if (round + turn) % 2 == 0 {
                    self.ours.tell("resume").await?;
                    self.ours.tell("ready").await?;
                    ("mongoferry", self.target.member_client(0).await?)
                } else {
                    self.source.restart(self.secondary).await?;
                    ("native secondary", self.source.member_client(self.secondary).await?)
                };
                report.progress(&format!("lag of {who}"));
                let lag = lag::measure(&self.source, &target, traffic, rate, seconds).await?;
                if who == "mongoferry" {
                    self.ours.tell("pause").await?;
                } else {
                    self.source.stop(self.secondary).await?;
                }
                report.add_lag(who, &lag);
            }
        }
        Ok(())
    }
}

/// Starts a secondary, waits until it has caught up, and stops it.
///
/// # Errors
/// A server error, or that it takes too long.
pub(crate) async fn native_catch_up(
    source: &mut ReplicaSet,
    secondary: usize,
    end: Timestamp,
    report: &Report,
) -> Result<Sample> {
    report.progress("catch-up by a native secondary");
    source.restart(secondary).await?;
    let meter = Meter::start(None, source, source.process_id(secondary));
    let member = source.member_client(secondary).await?;
    // Its time begins with the first entry that it applies, since its start and its choice of whom to follow are not meant.
    let (mut started, beginning) = (Instant::now(), newest(&member).await?);
    let given_up = started + PATIENCE;
    loop {
        let reached = newest(&member).await?;
        if reached >= end {
            break;
        }
        if reached == beginning {
            started = Instant::now();
        }
        if Instant::now() > given_up {
            return Err("the secondary does not catch up".into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let sample = meter.stop(None, started.elapsed().as_secs_f64())?;
    source.stop(secondary).await?;
    Ok(sample)
}

/// Lets a migration that is paused catch up, and pauses it again.
///
/// # Errors
/// It has failed.
pub(crate) async fn catch_up(
    helper: &mut Helper,
    source: &ReplicaSet,
    target: Option<u32>,
    end: Timestamp,
) -> Result<Sample> {
    let meter = Meter::start(Some(helper), source, target);
    let mut seconds = helper.tell("resume").await?;
    seconds += helper.tell(&format!("applied {} {}", end.time, end.increment)).await?;
    let sample = meter.stop(Some(helper), seconds)?;
    helper.tell("ready").await?;
    helper.tell("pause").await?;
    Ok(sample)
}

/// The newest entry that a member has.
///
/// # Errors
/// A server error.
pub(crate) async fn newest(member: &Client) -> Result<Timestamp> {
    // Servers before 4.4.2 do not know `hello`.
    let answer: Document = member.database("admin").run_command(doc! { "isMaster": 1 }).await?;
    Ok(answer
        .get_document("lastWrite")?
        .get_document("opTime")?
        .get_timestamp("ts")?)
}
