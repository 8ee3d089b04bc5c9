//! Result of a run.

use crate::catalog::NotKept;
use crate::catalog::compare::IndexSummary;
use crate::checkpoint::WayBack;
use crate::model::{LeftSelection, Namespace, Position};
use crate::report::{Certificate, LateWrites};

/// Result of a run.
#[derive(Clone, Debug, PartialEq)]
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
    pub left_selection: Vec<LeftSelection>,
    /// What was deliberately left out: users, roles, system collections, and what was not selected.
    pub not_migrated: Vec<String>,
    /// Parts of options and indexes that the target cannot keep. Preflight has a finding for each one that existed at the start. They do
    /// not count as differences.
    pub not_kept: Vec<NotKept>,
    /// The summary as a document to keep; `None` unless the outcome is [complete](Outcome::Complete).
    pub certificate: Option<Certificate>,
    /// How to reverse the hand-over; see [`Summary::reverse`]. `None` unless the outcome is [complete](Outcome::Complete), and `None` for a
    /// sink whose history cannot be followed.
    pub way_back: Option<WayBack>,
}

/// Writes of other programs to a collection of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignWrites {
    /// The collection's name on the target.
    pub namespace: Namespace,
    /// Number of writes seen.
    pub writes: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handed over, and nothing differs.
    Complete,
    /// Not handed over: the verification found differences. The run keeps following the source, so that the cutover can be called again. Do
    /// not use the target before the differences are understood.
    Differences,
}

/// Result for one collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionSummary {
    /// The collection's name on the source.
    pub namespace: Namespace,
    /// The collection's name on the target.
    pub target: Namespace,
    /// Number of documents on the target.
    pub documents: u64,
    /// Whether both sides were compared and are identical, options included.
    pub verified: bool,
    /// Digest of the documents, which is the same on both sides; `None` if they were compared in another way, or not at all.
    pub digest: Option<String>,
    /// What differs, as text.
    pub differences: Vec<String>,
}
