//! An old source: read by the client for such servers, in both of its forms, against the driver.
//!
//! The driver reads no server that is as old. So the source is a 4.2 at feature compatibility version 4.0, whose oplog is that of 4.0 and
//! which all of them read.

use std::time::Instant;

use bson::doc;
use futures::StreamExt;
use mongoferry::{ConnectOptions, MongoSource, Source};
use mongoferry_testbed::{ReplicaSet, Version};

use crate::Result;
use crate::arguments::Arguments;
use crate::child::{Helper, Orders};
use crate::copy::{fill, settle, start_set_of};
use crate::follow::newest;
use crate::meter::Meter;
use crate::report::{Amount, Report};
use crate::traffic::Traffic;

pub(crate) const COPY: &str = "legacy copy";
pub(crate) const READ: &str = "legacy read";
pub(crate) const TAIL: &str = "legacy tail";

/// What reads a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Driver,
    /// The client for old servers as it reads 4.0: with `find` and `getMore`, and a majority.
    Commands,
    /// As it reads 3.0: with `OP_QUERY` and `OP_GET_MORE`, and asking what a majority has.
    Messages,
}

impl Reader {
    pub const ALL: [Self; 3] = [Self::Driver, Self::Commands, Self::Messages];

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "the driver",
            Self::Commands => "find and getMore",
            Self::Messages => "OP_QUERY and OP_GET_MORE",
        }
    }

    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Commands => "commands",
            Self::Messages => "messages",
        }
    }

    /// # Errors
    /// There is no such reader.
    pub fn parse(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|reader| reader.word() == word);
        found.ok_or_else(|| format!("there is no reader {word}").into())
    }

    /// Connects to a source.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(self, uri: &str) -> Result<MongoSource> {
        let options = ConnectOptions::uri(uri);
        let options = match self {
            Self::Driver => options,
            Self::Commands => options.as_legacy(7),
            Self::Messages => options.as_legacy(3),
        };
        Ok(MongoSource::connect(options).await?)
    }
}

/// Measures what is wanted, in turns.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    if arguments.wants_on_request("legacy-copy") || arguments.wants_on_request("legacy") {
        copies(arguments, report).await?;
    }
    if arguments.wants_on_request("legacy-tail") || arguments.wants_on_request("legacy") {
        tails(arguments, report).await?;
    }
    Ok(())
}

/// The copy to a real target, and the same to one that forgets everything, which is mostly reading.
async fn copies(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let source = old_set(arguments).await?;
    let amount = fill(arguments, &source, report).await?;
    let readers = Reader::ALL.len();
    for round in 0..arguments.rounds {
        for turn in 0..readers {
            let reader = Reader::ALL[(round + turn) % readers];
            settle(&source).await?;
            report.progress(&format!("copy by {}", reader.name()));
            let target = start_set_of(Version::V4_2, arguments, "target").await?;
            let mut helper = migrating(arguments, &source, Some(&target), reader).await?;
            let meter = Meter::start(Some(&helper), &source, target.process_id(0));
            let seconds = helper.tell("start").await?;
            report.add(COPY, reader.name(), amount, meter.stop(Some(&helper), seconds)?);
            if round == 0 {
                // What was measured is worth something only if it was done right.
                helper.tell("ready").await?;
                helper.tell("cutover").await?;
            }
            drop(helper);
            report.progress(&format!("read by {}", reader.name()));
            let mut helper = migrating(arguments, &source, None, reader).await?;
            let meter = Meter::start(Some(&helper), &source, None);
            let seconds = helper.tell("start").await?;
            report.add(READ, reader.name(), amount, meter.stop(Some(&helper), seconds)?);
        }
    }
    Ok(())
}

/// The same entries of the oplog, as fast as they can be had.
async fn tails(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let source = old_set(arguments).await?;
    let mut traffic = Traffic::begin(&source.uri(), arguments.scaled(50_000, 1_000)).await?;
    let mut followers = Vec::new();
    for reader in Reader::ALL {
        let (mut helper, _) = Helper::start(&["--follow", &source.uri(), "--as", reader.word()]).await?;
        helper.tell("here").await?;
        followers.push((reader, helper));
    }
    report.progress("writing what is to be read");
    let entries = traffic.write(arguments.scaled(1_000_000, 2_000), None).await?;
    let end = newest(&source.client().await?).await?;
    let order = format!("read {} {} {entries}", end.time, end.increment);
    let readers = followers.len();
    for round in 0..arguments.rounds {
        for turn in 0..readers {
            let (reader, helper) = &mut followers[(round + turn) % readers];
            report.progress(&format!("tail by {}", reader.name()));
            let meter = Meter::start(Some(helper), &source, None);
            let seconds = helper.tell(&order).await?;
            let sample = meter.stop(Some(helper), seconds)?;
            report.add(TAIL, reader.name(), Amount::Entries(entries as f64), sample);
        }
    }
    Ok(())
}

async fn old_set(arguments: &Arguments) -> Result<ReplicaSet> {
    let source = start_set_of(Version::V4_2, arguments, "source").await?;
    let command = doc! { "setFeatureCompatibilityVersion": "4.0" };
    source.client().await?.database("admin").run_command(command).await?;
    Ok(source)
}

async fn migrating(
    arguments: &Arguments,
    source: &ReplicaSet,
    target: Option<&ReplicaSet>,
    reader: Reader,
) -> Result<Helper> {
    let (walkers, source) = (arguments.walkers.to_string(), source.uri());
    let target = target.map(ReplicaSet::uri);
    let mut words = vec!["--migrate", &source, "--as", reader.word(), "--walkers", &walkers];
    if let Some(target) = &target {
        words.extend(["--to", target]);
    }
    Ok(Helper::start(&words).await?.0)
}

/// Reads the oplog when told, from a position that was noted to the given one, and answers how many seconds that took.
///
/// # Errors
/// A server error, or changes that are missing.
pub(crate) async fn serve(source: &str, reader: Reader) -> Result<()> {
    let source = reader.connect(source).await?;
    let mut orders = Orders::new();
    let (mut answer, mut from) = (0.0, None);
    while let Some(order) = orders.next(answer).await? {
        let words: Vec<&str> = order.split(' ').collect();
        match (words.as_slice(), from) {
            (["here"], _) => from = Some(source.position().await?),
            (["read", time, increment, changes], Some(from)) => {
                let (end, expected) = ((time.parse()?, increment.parse()?), changes.parse::<usize>()?);
                let started = Instant::now();
                let mut tail = source.tail(from).await?;
                let (mut reached, mut found) = ((0_u32, 0_u32), 0);
                while reached < end {
                    let entries = tail.next().await.ok_or("the tail has ended")??;
                    found += entries.iter().map(|entry| entry.items.len()).sum::<usize>();
                    reached = entries
                        .last()
                        .map_or(reached, |last| (last.position.time, last.position.increment));
                }
                answer = started.elapsed().as_secs_f64();
                if found != expected {
                    return Err(format!("{found} changes instead of {expected}").into());
                }
            }
            _ => return Err(format!("no such order at present: {order}").into()),
        }
    }
    Ok(())
}
