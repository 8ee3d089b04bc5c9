//! Result of a run.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use crate::catalog::NotKept;
use crate::catalog::compare::IndexSummary;
use crate::checkpoint::WayBack;
use crate::model::{LeftSelection, Namespace, Position, format, shown};
use crate::report::numbers::grouped;
use crate::report::{AppliedRules, Certificate, LateWrites, UsersSummary};
use crate::rules::RuleKind;

/// Result of a run.
///
/// `Display` writes a table for people. `Serialize` leaves out the certificate and the way back, which have formats of their own; see
/// [`docs::format`](crate::docs::format#summary).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename = "summary")]
#[non_exhaustive]
pub struct Summary {
    /// How the run ended.
    pub outcome: Outcome,
    /// Position at which both sides were compared; `None` if they were not compared.
    pub position: Option<Position>,
    /// All migrated collections.
    pub collections: Vec<CollectionSummary>,
    /// All migrated indexes.
    pub indexes: Vec<IndexSummary>,
    /// Writes to the source after the host had reported that its writers are stopped. Empty unless the host accepts such writes.
    pub late_writes: LateWrites,
    /// How often the source's oplog no longer contained the position to resume from, so that everything was compared again.
    pub resyncs: u32,
    /// Collections on the target that another program wrote to, as far as this process has seen.
    pub foreign_writes: Vec<ForeignWrites>,
    /// The first 1000 collections that were renamed out of the selection during the migration and dropped on the target.
    #[serde(serialize_with = "left_selection")]
    pub left_selection: Vec<LeftSelection>,
    /// What was deliberately left out: users and roles that were not carried, system collections, and what was not selected.
    pub not_migrated: Vec<String>,
    /// Parts of options and indexes that the target cannot keep. Preflight has a finding for each one that existed at the start. They do
    /// not count as differences.
    #[serde(serialize_with = "not_kept")]
    pub not_kept: Vec<NotKept>,
    /// Users and roles; `None` if they were [not to be carried](crate::MigrationBuilder::users).
    pub users: Option<UsersSummary>,
    /// The summary as a document to keep; `None` unless the outcome is [complete](Outcome::Complete).
    #[serde(skip)]
    pub certificate: Option<Certificate>,
    /// How to reverse the hand-over; see [`Summary::reverse`]. `None` unless the outcome is [complete](Outcome::Complete), and `None` for a
    /// sink whose history cannot be followed.
    #[serde(skip)]
    pub way_back: Option<WayBack>,
}

/// Writes of other programs to a collection of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ForeignWrites {
    /// The collection's name on the target.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// Number of writes seen.
    pub writes: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Handed over, and nothing differs.
    Complete,
    /// Not handed over: the verification found differences. The run keeps following the source, so that the cutover can be called again. Do
    /// not use the target before the differences are understood.
    Differences,
}

/// Result for one collection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CollectionSummary {
    /// The collection's name on the source.
    #[serde(serialize_with = "format::name")]
    pub namespace: Namespace,
    /// The collection's name on the target.
    #[serde(serialize_with = "format::name")]
    pub target: Namespace,
    /// Number of documents on the target, according to its metadata. An estimate after an unclean shutdown of its primary.
    pub documents: u64,
    /// Whether both sides were compared and are identical, options included.
    pub verified: bool,
    /// Digest of the documents, which is the same on both sides; `None` if they were compared in another way, or not at all.
    pub digest: Option<String>,
    /// What differs, as text.
    pub differences: Vec<String>,
    /// The filters and transforms of the collection; `None` if it has none. `verified` and `differences` are about the documents of the
    /// target and what the rules make of those of the source.
    pub rules: Option<AppliedRules>,
}

impl Outcome {
    /// The outcome's name in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Differences => "differences",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl CollectionSummary {
    fn is_transformed(&self) -> bool {
        let mut rules = self.rules.iter().flat_map(|applied| &applied.rules);
        rules.any(|rule| rule.kind == RuleKind::Transform)
    }
}

/// Writes what was migrated and what differs as lines of text, without a line break at the end.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outcome, self.position) {
            (Outcome::Complete, Some(position)) => {
                write!(f, "complete: both sides are identical at position {position}")?
            }
            (Outcome::Complete, None) => f.write_str("complete: documents were not compared")?,
            (Outcome::Differences, _) => f.write_str("not handed over: the comparison found differences")?,
        }
        if !self.collections.is_empty() {
            write!(f, "\n{:<40} {:>12}  verification", "collection", "documents")?;
        }
        for collection in &self.collections {
            let verification = match (collection.verified, collection.differences.is_empty()) {
                (true, _) if collection.is_transformed() => "identical after transform",
                (true, _) => "identical",
                (false, true) => "not compared",
                (false, false) => "DIFFERENT",
            };
            let (name, documents) = (shown(&collection.target), grouped(collection.documents));
            write!(f, "\n{:<40} {documents:>12}  {verification}", name.as_str())?;
            if let Some(rules) = &collection.rules {
                write!(f, "\n    {rules}")?;
            }
            for difference in &collection.differences {
                write!(f, "\n    {difference}")?;
            }
        }
        let different = self.indexes.iter().filter(|index| !index.ok);
        if !self.indexes.is_empty() {
            let count = different.clone().count();
            write!(
                f,
                "\nindexes: {} identical, {count} different",
                self.indexes.len() - count
            )?;
        }
        for index in different {
            let reason = index.reason.as_deref().unwrap_or("it differs");
            write!(f, "\n    {} of {}: {reason}", index.name, shown(&index.namespace))?;
        }
        if let Some(users) = &self.users {
            let (carried, kept) = (users.carried.len(), users.kept.len());
            write!(f, "\nusers and roles: {carried} identical, {kept} kept by the target")?;
        }
        if self.late_writes.count > 0 {
            write!(f, "\nafter the writers were stopped: {}", self.late_writes)?;
        }
        if self.resyncs > 0 {
            write!(f, "\nresyncs after a lost position: {}", self.resyncs)?;
        }
        for foreign in &self.foreign_writes {
            let (name, writes) = (shown(&foreign.namespace), grouped(foreign.writes));
            write!(f, "\nwritten to by another program: {name}, {writes} writes")?;
        }
        for left in &self.left_selection {
            let (from, to) = (shown(&left.from), shown(&left.to));
            write!(f, "\nrenamed out of the selection: {from} to {to}")?;
        }
        for left_out in &self.not_migrated {
            write!(f, "\nnot migrated: {left_out}")?;
        }
        for lost in &self.not_kept {
            write!(f, "\nnot kept: {lost}")?;
        }
        Ok(())
    }
}

/// Writes the names that users know, unlike the checkpoint, which has those of buckets.
fn left_selection<S: Serializer>(all: &[LeftSelection], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(all.len()))?;
    for left in all {
        list.serialize_element(&LeftSelection {
            from: shown(&left.from),
            to: shown(&left.to),
            position: left.position,
        })?;
    }
    list.end()
}

/// Writes the names that users know, unlike the certificate, which has those of buckets.
fn not_kept<S: Serializer>(all: &[NotKept], serializer: S) -> Result<S::Ok, S::Error> {
    let shown = |lost: &NotKept| NotKept {
        namespace: shown(&lost.namespace),
        ..lost.clone()
    };
    all.iter().map(shown).collect::<Vec<_>>().serialize(serializer)
}
