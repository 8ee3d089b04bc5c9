//! Phases of a run, their transitions, and the host calls allowed in each.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// Phase of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Checking both sides, listing the source, and creating collections on the target.
    #[default]
    Preflight,
    /// Collections are being copied while the oplog is followed.
    Copy,
    /// Everything is copied, and indexes are being built.
    Index,
    /// Everything is copied and indexed. The run is catching up with the oplog, and comparing both sides with
    /// [`Verification::Continuous`](crate::Verification::Continuous).
    CatchUp,
    /// The lag is small, and what can be compared during the run is compared: the applications stand still for a moment only if the cutover
    /// begins now.
    Ready,
    /// Writes are being stopped, and the remaining changes are applied and verified.
    Cutover,
    /// Handed over.
    Complete,
    /// Stopped by `pause`. `resume` continues from the checkpoint.
    Paused,
    /// Ended by `abandon` or `shutdown`. The checkpoint is kept.
    Stopped,
    /// Ended by an error. The checkpoint is kept.
    Failed,
}

/// A call of the host that is allowed only in some phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Pause,
    Resume,
    CutOver,
    Extend,
    Verify,
}

/// Why a second cutover is refused.
const SECOND_CUTOVER: &str = "another cutover is in progress: wait for it to end, or drop its future first";

impl Phase {
    /// All phases, in the order of a migration; those that can come at any time are last.
    pub(crate) const ALL: [Self; 10] = [
        Self::Preflight,
        Self::Copy,
        Self::Index,
        Self::CatchUp,
        Self::Ready,
        Self::Cutover,
        Self::Complete,
        Self::Paused,
        Self::Stopped,
        Self::Failed,
    ];

    /// Whether this is a final phase.
    pub(crate) fn is_last(self) -> bool {
        matches!(self, Self::Complete | Self::Stopped | Self::Failed)
    }

    /// Whether a run in this phase may enter `next`.
    ///
    /// A run that goes back to its checkpoint after an error stays in its old phase until it knows what is left to do. That may be more
    /// than before: a resync copies again.
    pub(crate) fn leads_to(self, next: Self) -> bool {
        match next {
            Self::Preflight => self == Self::Paused,
            Self::Copy => matches!(self, Self::Preflight | Self::Index | Self::CatchUp | Self::Ready),
            Self::Index => matches!(self, Self::Preflight | Self::Copy | Self::CatchUp | Self::Ready),
            // From `Cutover` if the cutover failed or was dropped.
            Self::CatchUp => matches!(
                self,
                Self::Preflight | Self::Copy | Self::Index | Self::Ready | Self::Cutover
            ),
            Self::Ready => self == Self::CatchUp,
            // The run was ready before the host stopped the writers, which may have taken a while.
            Self::Cutover => matches!(
                self,
                Self::Preflight | Self::Copy | Self::Index | Self::CatchUp | Self::Ready
            ),
            Self::Complete => self == Self::Cutover,
            Self::Paused => matches!(
                self,
                Self::Preflight | Self::Copy | Self::Index | Self::CatchUp | Self::Ready
            ),
            Self::Stopped | Self::Failed => !self.is_last(),
        }
    }

    /// Checks that `call` is allowed in this phase.
    ///
    /// # Errors
    /// [`WrongPhase`](ErrorKind::WrongPhase), with a message that says what is possible instead.
    pub(crate) fn check(self, call: Call) -> Result<()> {
        let possible = match (self, call) {
            (Self::Complete, _) => "the migration has been handed over, and there is nothing left to do",
            (Self::Stopped | Self::Failed, _) => {
                "the run has ended and its checkpoint is kept; start the migration again to continue from there"
            }
            (Self::Cutover, Call::Pause) => "wait for the cutover to end, or drop its future first",
            (Self::Cutover, Call::CutOver) => SECOND_CUTOVER,
            (Self::Paused, Call::CutOver) => "resume the run first; it can be cut over once it has caught up",
            (Self::Paused, Call::Verify) => "resume the run first; both sides are compared while it follows the source",
            (Self::Cutover, Call::Verify) => "wait for the cutover to end; it compares both sides itself",
            (Self::Paused, Call::Resume) => return Ok(()),
            (_, Call::Resume) => "the run is not paused",
            (_, Call::Pause | Call::CutOver | Call::Extend | Call::Verify) => return Ok(()),
        };
        Err(self.refuse(call, possible))
    }

    fn refuse(self, call: Call, possible: &str) -> Error {
        Error::new(ErrorKind::WrongPhase, call.operation(), possible).with_context("phase", self)
    }

    /// The error for a second cutover while one is in progress.
    pub(crate) fn second_cutover(self) -> Error {
        self.refuse(Call::CutOver, SECOND_CUTOVER)
    }

    /// The phase with this name, if there is one.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }

    /// The phase's name in snake case.
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
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl Call {
    fn operation(self) -> &'static str {
        match self {
            Self::Pause => "pause the run",
            Self::Resume => "resume the run",
            Self::CutOver => "cut over",
            Self::Extend => "extend the cutover window",
            Self::Verify => "compare both sides",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row is a phase. `x` marks the phases it may lead to.
    #[test]
    fn phases_follow_one_another_as_in_the_table() {
        #[rustfmt::skip]
        let table = [
            //  Pre Cop Ind Cat Rea Cut Com Pau Sto Fai
            "    .   x   x   x   .   x   .   x   x   x",  // Preflight
            "    .   .   x   x   .   x   .   x   x   x",  // Copy
            "    .   x   .   x   .   x   .   x   x   x",  // Index
            "    .   x   x   .   x   x   .   x   x   x",  // CatchUp
            "    .   x   x   x   .   x   .   x   x   x",  // Ready
            "    .   .   .   x   .   .   x   .   x   x",  // Cutover
            "    .   .   .   .   .   .   .   .   .   .",  // Complete
            "    x   .   .   .   .   .   .   .   x   x",  // Paused
            "    .   .   .   .   .   .   .   .   .   .",  // Stopped
            "    .   .   .   .   .   .   .   .   .   .",  // Failed
        ];
        for (from, row) in Phase::ALL.into_iter().zip(table) {
            for (to, cell) in Phase::ALL.into_iter().zip(row.split_whitespace()) {
                assert_eq!(from.leads_to(to), cell == "x", "{from} to {to}");
            }
        }
    }

    #[test]
    fn a_phase_is_found_by_its_name() {
        for phase in Phase::ALL {
            assert_eq!(Phase::named(phase.as_str()), Some(phase));
        }
        assert_eq!(Phase::named("other"), None);
    }

    #[test]
    fn calls_fit_phases_as_in_the_table() {
        #[rustfmt::skip]
        let table = [
            //                  pause  resume cut over extend verify
            (Phase::Preflight, [true,  false, true,  true,  true]),
            (Phase::Copy,      [true,  false, true,  true,  true]),
            (Phase::Index,     [true,  false, true,  true,  true]),
            (Phase::CatchUp,   [true,  false, true,  true,  true]),
            (Phase::Ready,     [true,  false, true,  true,  true]),
            (Phase::Cutover,   [false, false, false, true,  false]),
            (Phase::Complete,  [false, false, false, false, false]),
            (Phase::Paused,    [true,  true,  false, true,  false]),
            (Phase::Stopped,   [false, false, false, false, false]),
            (Phase::Failed,    [false, false, false, false, false]),
        ];
        for (phase, expected) in table {
            for (call, fits) in [Call::Pause, Call::Resume, Call::CutOver, Call::Extend, Call::Verify]
                .into_iter()
                .zip(expected)
            {
                match phase.check(call) {
                    Ok(()) => assert!(fits, "{call:?} in {phase}"),
                    Err(error) => {
                        assert!(!fits, "{call:?} in {phase}");
                        assert_eq!(error.kind(), ErrorKind::WrongPhase);
                        assert!(error.to_string().contains(phase.as_str()), "{error}");
                    }
                }
            }
        }
    }
}
