//! Result of a run of the example.

use std::fmt;
use std::time::Duration;

use mongoferry::{
    CollectionSummary, Error, ErrorKind, Finding, ForeignWrites, IndexSummary, LateWrites, LeftSelection, Namespace,
    NotKept, Outcome, Position, Summary, WayBack,
};

use crate::console::grouped;

/// Exit code: stopped by `--stop-after` or `abandon`.
pub const STOPPED: u8 = 4;

/// Content of the last line, and the exit code.
pub struct Ending {
    pub exit: u8,
    /// `complete`, `refused`, `differences`, `stopped` or `failed`.
    pub outcome: &'static str,
    pub position: Option<Position>,
    pub collections: Vec<CollectionSummary>,
    pub indexes: Vec<IndexSummary>,
    pub late_writes: LateWrites,
    pub resyncs: u32,
    pub foreign_writes: Vec<ForeignWrites>,
    pub left_selection: Vec<LeftSelection>,
    pub not_migrated: Vec<String>,
    pub not_kept: Vec<NotKept>,
    pub error: Option<String>,
    /// The findings that caused a refusal, if any.
    pub findings: Vec<Finding>,
    /// Total time of the migration.
    pub took: Option<Duration>,
    /// Time during which nothing could be written.
    pub downtime: Option<Duration>,
    pub way_back: Option<WayBack>,
}

impl Ending {
    fn new(exit: u8, outcome: &'static str) -> Self {
        Self {
            exit,
            outcome,
            position: None,
            collections: Vec::new(),
            indexes: Vec::new(),
            late_writes: LateWrites::default(),
            resyncs: 0,
            foreign_writes: Vec::new(),
            left_selection: Vec::new(),
            not_migrated: Vec::new(),
            not_kept: Vec::new(),
            error: None,
            findings: Vec::new(),
            took: None,
            downtime: None,
            way_back: None,
        }
    }

    /// The result of a hand-over, with or without differences.
    pub fn handed_over(summary: Summary) -> Self {
        let ending = match summary.outcome {
            Outcome::Complete => Self::new(0, "complete"),
            Outcome::Differences => Self::new(3, "differences"),
        };
        Self {
            position: summary.position,
            collections: summary.collections,
            indexes: summary.indexes,
            late_writes: summary.late_writes,
            resyncs: summary.resyncs,
            foreign_writes: summary.foreign_writes,
            left_selection: summary.left_selection,
            not_migrated: summary.not_migrated,
            not_kept: summary.not_kept,
            way_back: summary.way_back,
            ..ending
        }
    }

    /// The result of a run that the user stopped, with the exit code that says how.
    pub fn stopped(exit: u8) -> Self {
        Self::new(exit, "stopped")
    }

    /// The result of an error: refused by preflight or when connecting, or failed.
    pub fn of_error(error: &Error) -> Self {
        if error.kind() == ErrorKind::Refused || !error.findings().is_empty() {
            return Self {
                error: Some(error.report()),
                findings: error.findings().to_vec(),
                ..Self::new(2, "refused")
            };
        }
        Self::failed(error.report())
    }

    /// The result of any other failure.
    pub fn failed(error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::new(1, "failed")
        }
    }

    /// Records that differences were found after the migration was complete.
    pub fn set_differences(&mut self, error: String) {
        (self.exit, self.outcome, self.error) = (3, "differences", Some(error));
    }
}

/// The name that users know. For a time series this is the name of the series rather than of its buckets.
pub fn shown(namespace: &Namespace) -> Namespace {
    namespace.time_series().unwrap_or_else(|| namespace.clone())
}

/// Human-readable table.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.collections.is_empty() {
            writeln!(f, "{:<40} {:>12}  verification", "collection", "documents")?;
        }
        for collection in &self.collections {
            let verification = match (collection.verified, collection.differences.is_empty()) {
                (true, _) => "identical",
                (false, true) => "not compared",
                (false, false) => "DIFFERENT",
            };
            let (name, documents) = (shown(&collection.target), grouped(collection.documents));
            writeln!(f, "{:<40} {documents:>12}  {verification}", name.as_str())?;
            for difference in &collection.differences {
                writeln!(f, "    {difference}")?;
            }
        }
        let (good, bad): (Vec<_>, Vec<_>) = self.indexes.iter().partition(|index| index.ok);
        if !self.indexes.is_empty() {
            writeln!(f, "indexes: {} identical, {} different", good.len(), bad.len())?;
        }
        for index in bad {
            let reason = index.reason.as_deref().unwrap_or("it differs");
            writeln!(f, "    {} of {}: {reason}", index.name, index.namespace)?;
        }
        for foreign in &self.foreign_writes {
            let (name, writes) = (shown(&foreign.namespace), grouped(foreign.writes));
            writeln!(f, "written to by another program: {name}, {writes} writes")?;
        }
        for left in &self.left_selection {
            writeln!(
                f,
                "renamed out of the selection: {} to {}",
                shown(&left.from),
                shown(&left.to)
            )?;
        }
        for left_out in &self.not_migrated {
            writeln!(f, "not migrated: {left_out}")?;
        }
        for lost in &self.not_kept {
            writeln!(f, "not kept: {lost}")?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "error: {error}")?;
        }
        write!(f, "outcome: {}", self.outcome)?;
        if let Some(took) = self.took {
            write!(f, " after {:.1} s", took.as_secs_f64())?;
        }
        if let Some(downtime) = self.downtime {
            write!(f, ", of which {:.1} s without writes", downtime.as_secs_f64())?;
        }
        Ok(())
    }
}
