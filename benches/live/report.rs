//! What was measured: as a table, as JSON, and held against the goals.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::arguments::Arguments;
use crate::lag::Lag;
use crate::legacy::{self, Reader};
use crate::meter::Sample;
use crate::rules::{self, Rules};
use crate::usage;

/// What a run may have for documents and changes by default, in MB.
const BUDGET_MB: f64 = (256 << 20) as f64 / 1e6;

/// How much of something there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    /// Of BSON, uncompressed; a MB has 10^6 bytes.
    Megabytes(f64),
    /// Of the oplog.
    Entries(f64),
    /// Small ones.
    Collections(f64),
}

/// One way to do one thing.
pub(crate) struct Case {
    pub group: &'static str,
    pub name: &'static str,
    pub amount: Amount,
    pub samples: Vec<Sample>,
}

/// A lag that was measured.
struct LagSample {
    who: &'static str,
    wanted: f64,
    reached: f64,
    percentiles: [f64; 3],
}

/// A number that is to be at least or at most something.
pub(crate) struct Goal {
    pub name: &'static str,
    pub value: f64,
    pub bound: f64,
    pub at_least: bool,
    pub unit: &'static str,
}

impl Goal {
    pub fn is_met(&self) -> bool {
        if self.at_least {
            self.value >= self.bound
        } else {
            self.value <= self.bound
        }
    }
}

/// Everything that was measured so far.
pub(crate) struct Report {
    pub title: String,
    pub machine: String,
    scale: f64,
    rounds: usize,
    cases: Vec<Case>,
    lags: Vec<LagSample>,
    /// Writes a second of the source's own writers, by who else was at work.
    writers: Vec<(&'static str, Vec<f64>)>,
}

impl Report {
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            title: format!(
                "MongoDB {}, scale {}, {} rounds, server caches of {} GB",
                arguments.server, arguments.scale, arguments.rounds, arguments.cache_gb
            ),
            machine: usage::machine(),
            scale: arguments.scale,
            rounds: arguments.rounds,
            cases: Vec::new(),
            lags: Vec::new(),
            writers: Vec::new(),
        }
    }

    /// Says what is being done; this takes a while.
    pub fn progress(&self, what: &str) {
        eprintln!("  {what}");
    }

    pub fn add(&mut self, group: &'static str, name: &'static str, amount: Amount, sample: Sample) {
        eprintln!("    {:.2} s", sample.seconds);
        match self
            .cases
            .iter_mut()
            .find(|case| (case.group, case.name) == (group, name))
        {
            Some(case) => case.samples.push(sample),
            None => self.cases.push(Case {
                group,
                name,
                amount,
                samples: vec![sample],
            }),
        }
    }

    pub fn add_lag(&mut self, who: &'static str, lag: &Lag) {
        let sample = LagSample {
            who,
            wanted: lag.wanted,
            reached: lag.reached,
            percentiles: [50, 99, 100].map(|hundredths| lag.percentile(hundredths)),
        };
        eprintln!("    {:.3} s", sample.percentiles[1]);
        self.lags.push(sample);
    }

    pub fn add_writers(&mut self, who: &'static str, rate: f64) {
        eprintln!("    {rate:.0} writes/s beside {who}");
        match self.writers.iter_mut().find(|(name, _)| *name == who) {
            Some((_, rates)) => rates.push(rate),
            None => self.writers.push((who, vec![rate])),
        }
    }

    /// By how much the source's own writers are slowed down: the part of their writes that they do not get done.
    fn slow_down(&self, who: &str) -> Option<[f64; 3]> {
        let rates = |who: &str| self.writers.iter().find(|(name, _)| *name == who);
        let pairs = rates(who)?.1.iter().zip(&rates("alone")?.1);
        Some(spread(pairs.map(|(beside, alone)| 1.0 - beside / alone)))
    }

    pub fn cases(&self, group: &str) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.group == group)
    }

    fn case(&self, group: &str, name: &str) -> Option<&Case> {
        self.cases(group).find(|case| case.name == name)
    }

    /// How much longer one takes than another: the median over the rounds, and the least and the most.
    fn ratio(&self, group: &str, name: &str, other: &str) -> Option<[f64; 3]> {
        let (one, other) = (self.case(group, name)?, self.case(group, other)?);
        let pairs = one.samples.iter().zip(&other.samples);
        Some(spread(pairs.map(|(one, other)| one.seconds / other.seconds)))
    }

    /// What is to be reached, as far as it was measured.
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        if let Some([_, wall, _]) = self.ratio("copy", "mongoferry", "native initial sync") {
            goals.push(at_most(
                "copy, wall time against a native initial sync",
                wall,
                1.3,
                "times",
            ));
        }
        if let Some(copy) = self.case("copy", "mongoferry") {
            let cpu = copy.client_cpu_per_unit().unwrap_or_default();
            goals.push(at_most("copy, our CPU", cpu, 1.7, "ms/MB"));
            let peak = spread(copy.samples.iter().filter_map(|sample| sample.peak_memory))[2];
            goals.push(at_most("copy, peak memory", peak, BUDGET_MB + 64.0, "MB"));
        }
        if let Some([_, rate, _]) = self.ratio("verify", "reading both sides alone", "mongoferry") {
            goals.push(at_least(
                "comparing, rate against reading both sides",
                rate,
                0.7,
                "times",
            ));
        }
        if let Some(cutover) = self.cases("cutover").next() {
            goals.push(at_most(
                "from writes stopped to complete",
                cutover.seconds()[1],
                2.0,
                "s",
            ));
        }
        if let (Some([_, ours, _]), Some([_, native, _])) =
            (self.slow_down("mongoferry"), self.slow_down("native initial sync"))
        {
            goals.push(at_most(
                "slow-down of the source's writers",
                ours,
                native,
                "of their rate",
            ));
        }
        if let Some([_, slower, _]) = self.ratio("catch-up", "native secondary", "mongoferry") {
            goals.push(at_least(
                "catch-up, rate against a native secondary",
                slower,
                1.2,
                "times",
            ));
        }
        let names = [
            (
                Rules::Filter,
                "copy with a filter, rate against the plain copy",
                "catch-up with a filter, rate against a native secondary",
            ),
            (
                Rules::Transform,
                "copy without a field, rate against the plain copy",
                "catch-up without a field, rate against a native secondary",
            ),
        ];
        for (rules, copy, catch_up) in names {
            if let Some([_, rate, _]) = self.ratio(rules::COPY, Rules::None.name(), rules.name()) {
                goals.push(at_least(copy, rate, 0.9, "times"));
            }
            if let Some([_, rate, _]) = self.ratio(rules::CATCH_UP, "native secondary", rules.name()) {
                goals.push(at_least(catch_up, rate, 0.7, "times"));
            }
        }
        if let Some(tail) = self.cases("tail").next() {
            goals.push(at_least("tail and route alone", tail.rate(), 500_000.0, "entries/s"));
        }
        goals.extend(self.legacy_goals());
        if let Some([_, longer, _]) = self.ratio("collections", "mongoferry, ready", "listing and creation alone") {
            let name = "many collections, ready against listing and creating them";
            goals.push(at_most(name, longer, 2.0, "times"));
        }
        let lags = self.lags.iter().filter(|lag| lag.who == "mongoferry");
        let lags: Vec<f64> = lags.map(|lag| lag.percentiles[1]).collect();
        if !lags.is_empty() {
            goals.push(at_most("lag, 99th percentile", median(&lags), 1.0, "s"));
        }
        goals
    }

    /// What is to be reached with an old source.
    fn legacy_goals(&self) -> Vec<Goal> {
        let names = [
            (
                Reader::Commands,
                "copy by find and getMore, wall time against the driver",
                "tail by find and getMore",
            ),
            (
                Reader::Messages,
                "copy by OP_QUERY and OP_GET_MORE, wall time against the driver",
                "tail by OP_QUERY and OP_GET_MORE",
            ),
        ];
        let mut goals = Vec::new();
        for (reader, copy, tail) in names {
            if let Some([_, longer, _]) = self.ratio(legacy::COPY, reader.name(), Reader::Driver.name()) {
                goals.push(at_most(copy, longer, 1.2, "times"));
            }
            if let Some(case) = self.case(legacy::TAIL, reader.name()) {
                goals.push(at_least(tail, case.rate(), 300_000.0, "entries/s"));
            }
        }
        goals
    }

    /// The table that is printed.
    pub fn table(&self) -> String {
        let mut text = format!("\n{}\n{}\n\n", self.title, self.machine);
        let _ = writeln!(
            text,
            "{:<52}{:>9}{:>17}{:>18}{:>13}{:>10}{:>10}{:>9}{:>6}",
            "", "median s", "min to max", "rate", "our CPU", "source s", "target s", "peak MB", "load"
        );
        for case in &self.cases {
            let [least, median, most] = case.seconds();
            let column = |of: fn(&Sample) -> Option<f64>| spread(case.samples.iter().filter_map(of));
            let (rate, cpu) = match case.amount {
                Amount::Megabytes(_) => (format!("{:.0} MB/s", case.rate()), "ms/MB"),
                Amount::Entries(_) => (format!("{:.0} entries/s", case.rate()), "us/entry"),
                Amount::Collections(_) => (format!("{:.0} a second", case.rate()), "ms each"),
            };
            let cpu = case
                .client_cpu_per_unit()
                .map_or_else(String::new, |value| format!("{value:.2} {cpu}"));
            let peak = column(|sample| sample.peak_memory)[2];
            let _ = writeln!(
                text,
                "{:<52}{median:>9.2}{:>17}{rate:>18}{cpu:>13}{:>10.1}{:>10.1}{:>9}{:>6.1}",
                format!("{}: {}", case.group, case.name),
                format!("{least:.2} to {most:.2}"),
                column(|sample| Some(sample.source_cpu))[1],
                column(|sample| Some(sample.target_cpu))[1],
                if peak > 0.0 {
                    format!("{peak:.0}")
                } else {
                    String::new()
                },
                column(|sample| Some(sample.load))[2],
            );
        }
        for who in ["mongoferry", "native secondary"] {
            let of: Vec<&LagSample> = self.lags.iter().filter(|lag| lag.who == who).collect();
            let Some(lag) = of.first() else { continue };
            let percentile = |at: usize| spread(of.iter().map(|lag| lag.percentiles[at]));
            let ([_, half, _], [least, most, greatest]) = (percentile(0), percentile(1));
            let reached = median(&of.iter().map(|lag| lag.reached).collect::<Vec<_>>());
            let _ = writeln!(
                text,
                "lag: {who}, at {reached:.0} writes/s ({:.0} wanted): median {half:.3} s, 99th percentile {most:.3} s \
                 ({least:.3} to {greatest:.3}), longest {:.3} s",
                lag.wanted,
                percentile(2)[2],
            );
        }
        for (who, rates) in &self.writers {
            let [_, slower, _] = self.slow_down(who).unwrap_or_default();
            let [least, rate, most] = spread(rates.iter().copied());
            let _ = writeln!(
                text,
                "the source's own writers, {who}: {rate:.0} writes/s ({least:.0} to {most:.0}), {:.0} % less",
                slower * 100.0
            );
        }
        for (group, one, other) in [
            ("copy", "mongoferry", "native initial sync"),
            ("copy", "mongoferry", "insertion from memory"),
            ("copy", "mongoferry", "mongodump | mongorestore"),
            ("verify", "mongoferry", "reading both sides alone"),
            ("catch-up", "mongoferry", "native secondary"),
            (rules::COPY, Rules::Filter.name(), Rules::None.name()),
            (rules::COPY, Rules::Transform.name(), Rules::None.name()),
            (rules::CATCH_UP, Rules::None.name(), "native secondary"),
            (rules::CATCH_UP, Rules::Filter.name(), "native secondary"),
            (rules::CATCH_UP, Rules::Transform.name(), "native secondary"),
            (rules::CATCH_UP, Rules::Forwarding.name(), "native secondary"),
            (legacy::COPY, Reader::Commands.name(), Reader::Driver.name()),
            (legacy::COPY, Reader::Messages.name(), Reader::Driver.name()),
            (legacy::READ, Reader::Commands.name(), Reader::Driver.name()),
            (legacy::READ, Reader::Messages.name(), Reader::Driver.name()),
            (legacy::TAIL, Reader::Commands.name(), Reader::Driver.name()),
            (legacy::TAIL, Reader::Messages.name(), Reader::Driver.name()),
            ("collections", "mongoferry, ready", "listing and creation alone"),
            ("collections", "mongoferry, ready", "creation and insertion from memory"),
        ] {
            if let Some([least, median, most]) = self.ratio(group, one, other) {
                let _ = writeln!(
                    text,
                    "{group}: {one} takes {median:.2} times as long as {other} ({least:.2} to {most:.2})"
                );
            }
        }
        for goal in self.goals() {
            let (verdict, word) = (
                if goal.is_met() { "met" } else { "missed" },
                if goal.at_least { "at least" } else { "at most" },
            );
            let _ = writeln!(
                text,
                "goal {verdict}: {}: {:.2} {} ({word} {:.2})",
                goal.name, goal.value, goal.unit, goal.bound
            );
        }
        text
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, format!("{:#}\n", self.to_json()))?)
    }

    fn to_json(&self) -> Value {
        let cases = self.cases.iter().map(|case| {
            let (unit, amount) = match case.amount {
                Amount::Megabytes(amount) => ("MB", amount),
                Amount::Entries(amount) => ("entries", amount),
                Amount::Collections(amount) => ("collections", amount),
            };
            let [least, median, most] = case.seconds();
            json!({
                "group": case.group, "name": case.name, "unit": unit, "amount": amount, "rate": case.rate(),
                "seconds": { "min": least, "median": median, "max": most },
                "client_cpu_per_unit": case.client_cpu_per_unit(),
                "samples": case.samples.iter().map(Sample::to_json).collect::<Vec<_>>(),
            })
        });
        let lags = self.lags.iter().map(|lag| {
            let [median, most, longest] = lag.percentiles;
            json!({
                "name": lag.who, "writes_per_second": lag.reached, "wanted_writes_per_second": lag.wanted,
                "median_seconds": median, "p99_seconds": most, "longest_seconds": longest,
            })
        });
        let goals = self.goals().into_iter().map(|goal| {
            json!({
                "name": goal.name, "value": goal.value, "unit": goal.unit, "met": goal.is_met(),
                if goal.at_least { "at_least" } else { "at_most" }: goal.bound,
            })
        });
        let writers = self
            .writers
            .iter()
            .map(|(who, rates)| json!({ "beside": who, "writes_per_second": rates }));
        json!({
            "writers": writers.collect::<Vec<_>>(),
            "title": self.title, "machine": self.machine, "scale": self.scale, "rounds": self.rounds,
            "cases": cases.collect::<Vec<_>>(), "lag": lags.collect::<Vec<_>>(), "goals": goals.collect::<Vec<_>>(),
        })
    }
}

impl Case {
    pub fn seconds(&self) -> [f64; 3] {
        spread(self.samples.iter().map(|sample| sample.seconds))
    }

    /// Units a second, by the median.
    pub fn rate(&self) -> f64 {
        let (Amount::Megabytes(amount) | Amount::Entries(amount) | Amount::Collections(amount)) = self.amount;
        amount / self.seconds()[1]
    }

    /// Our CPU in ms per MB or collection, or in us per entry, by the median.
    pub fn client_cpu_per_unit(&self) -> Option<f64> {
        let seconds: Vec<f64> = self.samples.iter().filter_map(|sample| sample.client_cpu).collect();
        let per_unit = match self.amount {
            Amount::Megabytes(amount) | Amount::Collections(amount) => median(&seconds) * 1e3 / amount,
            Amount::Entries(amount) => median(&seconds) * 1e6 / amount,
        };
        (!seconds.is_empty()).then_some(per_unit)
    }
}

fn at_most(name: &'static str, value: f64, bound: f64, unit: &'static str) -> Goal {
    Goal {
        name,
        value,
        bound,
        at_least: false,
        unit,
    }
}

fn at_least(name: &'static str, value: f64, bound: f64, unit: &'static str) -> Goal {
    Goal {
        at_least: true,
        ..at_most(name, value, bound, unit)
    }
}

/// The value in the middle; 0 when there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    spread(values.iter().copied())[1]
}

/// The least, the median and the greatest.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    let (count, middle) = (values.len(), values.len() / 2);
    let median = if count.is_multiple_of(2) && count > 0 {
        (at(middle - 1) + at(middle)) / 2.0
    } else {
        at(middle)
    };
    [at(0), median, at(count.saturating_sub(1))]
}
