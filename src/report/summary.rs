//! The result of a run.

use crate::catalog::NotKept;
use crate::catalog::compare::IndexSummary;
use crate::checkpoint::WayBack;
use crate::model::{LeftSelection, Namespace, Position};
use crate::report::{Certificate, LateWrites};

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How it ended.
    pub outcome: Outcome,
    /// The position at which both sides were compared; `None` when they were not.
    pub position: Option<Position>,
    /// Each collection that was migrated.
    pub collections: Vec<CollectionSummary>,
    /// Each index that was migrated.
    pub indexes: Vec<IndexSummary>,
    /// Writes to the source after the host had said that nothing writes to it any more. There are none unless the host accepts them.
    pub late_writes: LateWrites,
    /// How often the source's history no longer held the position to go on from, so that everything was compared again.
    pub resyncs: u32,
    /// Collections of the target that another program wrote to, as far as this process has seen it.
    pub foreign_writes: Vec<ForeignWrites>,
    /// Collections that were renamed out of the selection during the migration, and were dropped on the target: the first 1000 of them.
    pub left_selection: Vec<LeftSelection>,
    /// What was left out on purpose: users, roles, system collections, what was not selected.
    pub not_migrated: Vec<String>,
    /// Parts of options and indexes that the target cannot keep. Preflight has a finding for each that was there at the start, and none is
    /// a difference.
    pub not_kept: Vec<NotKept>,
    /// All of it as a document to keep; `None` unless it is [complete](Outcome::Complete).
    pub certificate: Option<Certificate>,
    /// How the hand-over can be taken back; `None` unless it is [complete](Outcome::Complete), and for a sink whose history cannot be
    /// followed. See [`Summary::reverse`].
    pub way_back: Option<WayBack>,
}

/// Writes of another program to a collection of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignWrites {
    /// The collection's name on the target.
    pub namespace: Namespace,
    /// How many were seen.
    pub writes: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handed over; nothing differs.
    Complete,
    /// Not handed over: the verification found differences. The run goes on following, so that the cutover can be called again. The target
    /// must not be used before they are understood.
    Differences,
}

/// What became of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionSummary {
    /// Its name on the source.
    pub namespace: Namespace,
    /// Its name on the target.
    pub target: Namespace,
    /// Documents on the target.
    pub documents: u64,
    /// Whether both sides were compared and are identical, options included.
    pub verified: bool,
    /// The digest that the documents have on both sides; `None` where they were compared in another way or not at all.
    pub digest: Option<String>,
    /// What differs, in words.
    pub differences: Vec<String>,
}
