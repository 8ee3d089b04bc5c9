//! The phases of a run.

use std::fmt;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Checking, listing, and making the collections on the target.
    Preflight,
    /// Collections are being copied while the oplog is followed.
    Copy,
    /// Everything is copied; indexes are being built.
    Index,
    /// Everything is copied and indexed; the oplog is being caught up with.
    CatchUp,
    /// The lag is small: cutover is possible now.
    Ready,
    /// Writes are being stopped, the rest is applied and verified.
    Cutover,
    /// Handed over.
    Complete,
    /// Stopped by `pause`; `resume` goes on from the checkpoint.
    Paused,
    /// Ended by an error or by `abandon`. The checkpoint is kept.
    Failed,
}

impl Phase {
    /// Whether none follows it.
    pub(crate) fn is_last(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }

    /// The phase's name in lower case with underscores, such as `catch_up`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Copy => "copy",
            Self::Index => "index",
            Self::CatchUp => "catch_up",
            Self::Ready => "ready",
            Self::Cutover => "cutover",
            Self::Complete => "complete",
            Self::Paused => "paused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
