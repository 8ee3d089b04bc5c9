//! The plan of a run, and its text form.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::error::{Finding, Result, Severity, refuse};
use crate::model::{Amount, CollectionKind, Deployment, Namespace, format, joined};
use crate::report::UsersSummary;
use crate::rules::RuleRecord;

/// What a run would do, and everything that prevents it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "plan")]
#[non_exhaustive]
pub struct Plan {
    /// Source deployment.
    pub source: Deployment,
    /// Target deployment.
    pub target: Deployment,
    /// Findings, blockers first.
    pub findings: Vec<Finding>,
    /// Collections and views to migrate.
    pub collections: Vec<PlannedCollection>,
    /// Documents and bytes to copy.
    pub total: Amount,
    /// Number of indexes to build, not counting those on `_id`.
    pub indexes: usize,
    /// Estimated duration of the copy, if a sample could be measured.
    pub estimate: Option<Estimate>,
    /// Collections on the target that a start with [`ExistingData::Clear`](crate::ExistingData::Clear) would drop. No others are dropped.
    #[serde(serialize_with = "format::names")]
    pub to_drop: Vec<Namespace>,
    /// What is not migrated.
    pub not_migrated: Vec<String>,
    /// Users and roles that would be carried; `None` if none are to be carried, or if they could not be read.
    pub users: Option<UsersSummary>,
}

/// A collection or view that would be migrated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedCollection {
    /// Its name on the source.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// Its name on the target.
    #[serde(serialize_with = "format::name")]
    pub target: Namespace,
    /// How its documents are stored.
    #[serde(serialize_with = "kind")]
    pub kind: CollectionKind,
    /// Documents and bytes according to the source's metadata.
    #[serde(flatten)]
    pub amount: Amount,
    /// Number of indexes, including the one on `_id`.
    pub indexes: usize,
    /// Filters and transforms of the collection: filters first, then transforms in the order in which they are applied.
    pub rules: Vec<RuleRecord>,
}

/// Estimated duration of a copy, measured by reading a few megabytes of the source with one reader. It does not include writing, index
/// builds or other load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Documents and bytes that were read.
    pub sample: Amount,
    /// Bytes of documents read per second.
    pub bytes_per_second: u64,
    /// Time to copy everything at this speed.
    #[serde(rename = "copy_time_ms", serialize_with = "format::milliseconds")]
    pub copy_time: Duration,
    /// Bytes by which the source's oplog grows in that time, at the average rate of the entries that it holds. The oplog may be smaller
    /// than this, because the run follows it during the copy.
    pub oplog_bytes: Option<u64>,
}

impl Plan {
    /// Findings that prevent a start.
    pub fn blockers(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
    }

    /// Returns an error that names every blocker, if there is one.
    pub(crate) fn refuse(&self) -> Result<()> {
        refuse(&self.findings)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |deployment: &Deployment| {
            let [major, minor, patch] = deployment.version;
            format!("{} ({major}.{minor}.{patch})", deployment.name)
        };
        writeln!(f, "{} -> {}", version(&self.source), version(&self.target))?;
        if !self.findings.is_empty() {
            writeln!(f)?;
        }
        for finding in &self.findings {
            writeln!(f, "{:<8} {:<24} {}", finding.severity, finding.code, finding.message)?;
            writeln!(f, "{:<8} {:<24} -> {}", "", "", finding.fix)?;
        }
        // As wide as the longest name, so that the numbers align.
        let name = |collection: &PlannedCollection| match collection.namespace == collection.target {
            true => collection.namespace.to_string(),
            false => format!("{} -> {}", collection.namespace, collection.target),
        };
        let width = self
            .collections
            .iter()
            .map(|collection| name(collection).len())
            .max()
            .unwrap_or_default()
            .max(40);
        writeln!(f)?;
        writeln!(
            f,
            "{:<width$} {:>12} {:>16} {:>8}",
            "collection", "documents", "bytes", "indexes"
        )?;
        for collection in &self.collections {
            let Amount { documents, bytes } = collection.amount;
            writeln!(
                f,
                "{:<width$} {documents:>12} {bytes:>16} {:>8}",
                name(collection),
                collection.indexes
            )?;
            for rule in &collection.rules {
                writeln!(f, "    {} `{}` {}", rule.kind, rule.name, rule.version)?;
            }
        }
        let indexes: usize = self.collections.iter().map(|collection| collection.indexes).sum();
        let Amount { documents, bytes } = self.total;
        writeln!(f, "{:<width$} {documents:>12} {bytes:>16} {indexes:>8}", "in all")?;
        writeln!(f)?;
        if let Some(estimate) = &self.estimate {
            writeln!(
                f,
                "estimated copy time: {} (one reader gets {:.1} MB a second)",
                duration(estimate.copy_time),
                estimate.bytes_per_second as f64 / 1e6
            )?;
            if let Some(bytes) = estimate.oplog_bytes {
                writeln!(f, "oplog written meanwhile: {:.1} MB", bytes as f64 / 1e6)?;
            }
        }
        for namespace in &self.to_drop {
            writeln!(f, "dropped on the target: {namespace}")?;
        }
        if let Some(users) = &self.users {
            let carried = match users.carried.is_empty() {
                true => "none".to_owned(),
                false => joined(&users.carried, NAMED),
            };
            writeln!(f, "users and roles to carry: {carried}")?;
        }
        for left_out in &self.not_migrated {
            writeln!(f, "not migrated: {left_out}")?;
        }
        Ok(())
    }
}

/// Maximum number of users and roles that the plan names in its text.
const NAMED: usize = 20;

/// Writes the kind in snake case, unlike the checkpoint.
fn kind<S: Serializer>(kind: &CollectionKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

/// Formats a duration for people, with the two largest units that are not zero.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = seconds;
    let mut shown = Vec::new();
    for (unit, name) in parts {
        if left >= unit {
            shown.push(format!("{} {name}", left / unit));
            left %= unit;
        }
    }
    match shown.is_empty() {
        true => "less than a second".to_owned(),
        false => shown.into_iter().take(2).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FindingCode;
    use crate::model::AccountKind;
    use crate::report::CarriedUser;

    #[test]
    fn durations_are_for_people() {
        for (seconds, text) in [
            (0, "less than a second"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (7_200, "2 h"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    fn carried(number: u32) -> CarriedUser {
        CarriedUser {
            kind: AccountKind::User,
            database: "shop".to_owned(),
            name: format!("app{number}"),
            hash: String::new(),
        }
    }

    #[test]
    fn the_plan_is_a_table() {
        let deployment = |name: &str| Deployment {
            identity: name.to_owned(),
            name: name.to_owned(),
            version: [6, 0, 5],
            feature_compatibility: [6, 0],
        };
        let amount = Amount {
            documents: 3,
            bytes: 2_000_000,
        };
        let plan = Plan {
            source: deployment("rs0"),
            target: deployment("rs1"),
            findings: vec![Finding::warning(
                FindingCode::SmallCache,
                "it is small",
                "make it larger",
            )],
            collections: vec![PlannedCollection {
                namespace: "shop.orders".parse().unwrap(),
                target: "store.orders".parse().unwrap(),
                kind: CollectionKind::Plain,
                amount,
                indexes: 2,
                rules: Vec::new(),
            }],
            total: amount,
            indexes: 1,
            estimate: Some(Estimate {
                sample: amount,
                bytes_per_second: 20_000_000,
                copy_time: Duration::from_secs(61),
                oplog_bytes: Some(1_500_000),
            }),
            to_drop: vec!["store.orders".parse().unwrap()],
            not_migrated: vec!["users".to_owned()],
            users: Some(UsersSummary {
                carried: (0..23).map(carried).collect(),
                ..UsersSummary::default()
            }),
        };
        let expected = "\
rs0 (6.0.5) -> rs1 (6.0.5)

warning  small_cache              it is small
                                  -> make it larger

collection                                  documents            bytes  indexes
shop.orders -> store.orders                         3          2000000        2
in all                                              3          2000000        2

estimated copy time: 1 min 1 s (one reader gets 20.0 MB a second)
oplog written meanwhile: 1.5 MB
dropped on the target: store.orders
users and roles to carry: NAMES and 3 more
not migrated: users
";
        let names: Vec<String> = (0..20).map(|number| format!("user app{number}@shop")).collect();
        let expected = expected.replace("NAMES", &names.join(", "));
        assert_eq!(plan.to_string(), expected);
    }
}
