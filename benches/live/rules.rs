//! What filters and transforms cost: the copy and the catch-up with them, against those without and a native secondary.

use bson::doc;
use mongoferry::MigrationBuilder;
use mongoferry::rules::{FieldRules, HashKey};
use mongoferry_testbed::ReplicaSet;

use crate::Result;
use crate::arguments::Arguments;
use crate::child::Helper;
use crate::copy::{fill, settle, start_set, wait_for_secondary};
use crate::data::Kind;
use crate::follow::{catch_up, native_catch_up, newest};
use crate::meter::Meter;
use crate::report::{Amount, Report};
use crate::traffic::Traffic;

pub(crate) const COPY: &str = "copy with rules";
pub(crate) const CATCH_UP: &str = "catch-up with rules";

/// The rules of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    None,
    /// Keeps 1 % of the documents. No update changes what it reads.
    Filter,
    /// Drops one field of all documents. Every update changes it, so that each is applied without that field.
    Transform,
    /// Hashes that field, so that every update is applied by the document.
    Hashing,
    /// Drops a field that no update changes, so that all deltas are forwarded.
    Forwarding,
}

impl Rules {
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Filter,
        Self::Transform,
        Self::Hashing,
        Self::Forwarding,
    ];

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "mongoferry, no rule",
            Self::Filter => "mongoferry, a filter that keeps 1 %",
            Self::Transform => "mongoferry, one field dropped",
            Self::Hashing => "mongoferry, one field hashed",
            Self::Forwarding => "mongoferry, a field dropped that stays",
        }
    }

    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Filter => "filter",
            Self::Transform => "transform",
            Self::Hashing => "hashing",
            Self::Forwarding => "forwarding",
        }
    }

    /// # Errors
    /// There are no such rules.
    pub fn parse(word: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|rules| rules.word() == word);
        found.ok_or_else(|| format!("there are no rules {word}").into())
    }

    /// # Errors
    /// A rule is malformed.
    pub fn add_to(self, builder: MigrationBuilder, scale: f64) -> Result<MigrationBuilder> {
        let drop = |field: &str| FieldRules::builder(format!("without {field}"), "1").drop(field).build();
        Ok(match self {
            Self::None => builder,
            Self::Filter => {
                let last = format!("file-{:06}", Kind::Large.documents(scale) / 100);
                builder
                    .filter("bench.small", doc! { "sensor": { "$lt": 50 } })
                    .filter("bench.medium", doc! { "customer": { "$lt": 500 } })
                    .filter("bench.large", doc! { "_id": { "$lt": last } })
                    .filter("bench.table*", doc! { "price": { "$lt": 0.01 } })
            }
            Self::Transform => builder
                .transform("bench.small", drop("value")?)
                .transform("bench.medium", drop("address")?)
                .transform("bench.large", drop("at")?)
                .transform("bench.table*", drop("note")?),
            Self::Hashing => {
                let key = HashKey::new([7; 32])?;
                let rules = FieldRules::builder("hashed note", "1").hash("note", &key);
                builder.transform("bench.table*", rules.build()?)
            }
            Self::Forwarding => builder.transform("bench.*", drop("price")?),
        })
    }
}

/// Measures all of them in turns.
///
/// # Errors
/// Whatever fails.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    copies(arguments, report).await?;
    catch_ups(arguments, report).await
}

async fn copies(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let source = start_set(arguments, "source").await?;
    let amount = fill(arguments, &source, report).await?;
    let measured = [Rules::None, Rules::Filter, Rules::Transform];
    for round in 0..arguments.rounds {
        for turn in 0..measured.len() {
            let rules = measured[(round + turn) % measured.len()];
            settle(&source).await?;
            report.progress(&format!("copy: {}", rules.name()));
            let target = start_set(arguments, "target").await?;
            let mut helper = migrating(arguments, &source, &target, rules).await?;
            let meter = Meter::start(Some(&helper), &source, target.process_id(0));
            let seconds = helper.tell("start").await?;
            report.add(COPY, rules.name(), amount, meter.stop(Some(&helper), seconds)?);
            if round == 0 {
                // What was measured is worth something only if it was done right.
                helper.tell("ready").await?;
                helper.tell("cutover").await?;
            }
        }
    }
    Ok(())
}

async fn catch_ups(arguments: &Arguments, report: &mut Report) -> Result<()> {
    report.progress("starting what follows a source");
    let mut source = start_set(arguments, "source").await?;
    let mut traffic = Traffic::begin(&source.uri(), arguments.scaled(50_000, 1_000)).await?;
    let client = source.client().await?;
    let secondary = source.start_member().await?;
    source.add_member(secondary).await?;
    wait_for_secondary(&source.member_client(secondary).await?).await?;
    source.stop(secondary).await?;
    let mut followers = Vec::new();
    for rules in Rules::ALL {
        let target = start_set(arguments, "target").await?;
        let mut helper = migrating(arguments, &source, &target, rules).await?;
        for order in ["start", "ready", "pause"] {
            helper.tell(order).await?;
        }
        followers.push((rules, target, helper));
    }
    for round in 0..arguments.rounds {
        report.progress("writing what is to be caught up with");
        let entries = traffic.write(arguments.scaled(500_000, 2_000), None).await?;
        let (amount, end) = (Amount::Entries(entries as f64), newest(&client).await?);
        let turns = followers.len() + 1;
        for turn in 0..turns {
            settle(&source).await?;
            match followers.get_mut((round + turn) % turns) {
                None => {
                    let sample = native_catch_up(&mut source, secondary, end, report).await?;
                    report.add(CATCH_UP, "native secondary", amount, sample);
                }
                Some((rules, target, helper)) => {
                    report.progress(&format!("catch-up: {}", rules.name()));
                    let sample = catch_up(helper, &source, target.process_id(0), end).await?;
                    report.add(CATCH_UP, rules.name(), amount, sample);
                }
            }
        }
    }
    for (rules, _, mut helper) in followers {
        report.progress(&format!("comparing: {}", rules.name()));
        for order in ["resume", "ready", "cutover"] {
            helper.tell(order).await?;
        }
    }
    Ok(())
}

async fn migrating(arguments: &Arguments, source: &ReplicaSet, target: &ReplicaSet, rules: Rules) -> Result<Helper> {
    let (walkers, scale) = (arguments.walkers.to_string(), arguments.scale.to_string());
    let (source, target) = (source.uri(), target.uri());
    let words = [
        "--migrate",
        &source,
        "--to",
        &target,
        "--walkers",
        &walkers,
        "--rules",
        rules.word(),
        "--scale",
        &scale,
    ];
    Ok(Helper::start(&words).await?.0)
}
