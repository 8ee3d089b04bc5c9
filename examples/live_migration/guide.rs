//! What the user can type next.

use mongoferry::Phase;

/// What decides about the next command, besides the phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation {
    /// Whether the cutover waits for the command `cutover`.
    pub waits_for_cutover: bool,
    /// Whether the run stops when it is ready.
    pub stops_when_ready: bool,
    /// Whether writes to the source end without the user: blocked, or those of the demonstration.
    pub writes_are_stopped: bool,
    /// Whether this is the way back.
    pub reversed: bool,
}

/// A sentence about what to type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub text: &'static str,
    /// Whether nothing goes on without the user.
    pub needed: bool,
}

/// What to type while there is no run.
pub const BEFORE: Next = optional("wait; or type `abandon` to stop");

const NOTHING: Next = optional("");

/// What to type in a phase of a run.
pub fn next(phase: Phase, situation: Situation) -> Next {
    let Situation {
        waits_for_cutover,
        stops_when_ready,
        writes_are_stopped,
        reversed,
    } = situation;
    match phase {
        Phase::Paused => needed("type `resume` to continue"),
        Phase::Cutover => optional("wait for the cutover to end; or press Ctrl-C to stop"),
        Phase::Complete | Phase::Stopped | Phase::Failed => NOTHING,
        Phase::Ready if waits_for_cutover => needed(match (reversed, writes_are_stopped) {
            (true, _) => "stop the writers, then type `cutover` to hand back; or `abandon`",
            (false, true) => "type `cutover` to cut over",
            (false, false) => "stop the applications' writes, then type `cutover` to cut over",
        }),
        _ if stops_when_ready => optional("wait: it stops when it is ready; or type `pause` or `abandon`"),
        _ if waits_for_cutover => optional("wait until it is ready; or type `pause`, `throttle`, `abandon`"),
        _ => optional("wait: it cuts over by itself; or type `pause` or `abandon`"),
    }
}

const fn optional(text: &'static str) -> Next {
    Next { text, needed: false }
}

const fn needed(text: &'static str) -> Next {
    Next { text, needed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_that_needs_the_user_names_the_command() {
        let manual = Situation {
            waits_for_cutover: true,
            ..Situation::default()
        };
        let ready = next(Phase::Ready, manual);
        assert!(ready.needed && ready.text.contains("`cutover`"), "{ready:?}");
        assert!(ready.text.contains("stop the applications"), "{ready:?}");
        let paused = next(Phase::Paused, manual);
        assert!(paused.needed && paused.text.contains("`resume`"), "{paused:?}");
        let back = Situation {
            reversed: true,
            ..manual
        };
        assert!(next(Phase::Ready, back).text.contains("hand back"));
    }

    #[test]
    fn nothing_is_needed_of_the_user_otherwise() {
        for phase in [Phase::Copy, Phase::Index, Phase::CatchUp, Phase::Ready] {
            let next = next(phase, Situation::default());
            assert!(!next.needed && next.text.contains("by itself"), "{phase}: {next:?}");
        }
        assert_eq!(next(Phase::Complete, Situation::default()).text, "");
    }

    #[test]
    fn every_sentence_fits_into_a_terminal() {
        for bits in 0..16 {
            let situation = Situation {
                waits_for_cutover: bits & 1 > 0,
                stops_when_ready: bits & 2 > 0,
                writes_are_stopped: bits & 4 > 0,
                reversed: bits & 8 > 0,
            };
            for phase in [
                Phase::Preflight,
                Phase::Copy,
                Phase::Ready,
                Phase::Cutover,
                Phase::Paused,
            ] {
                let text = next(phase, situation).text;
                assert!(text.len() <= 69, "{text}");
            }
        }
    }
}
