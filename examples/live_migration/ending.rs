//! Result of a run of the example.

use std::time::Duration;

use mongoferry::{Error, ErrorKind, Finding, Outcome, Summary, WayBack};

use crate::text::Tone;
use crate::tone;

/// Exit code: stopped by `--stop-after` or `abandon`.
pub const STOPPED: u8 = 4;

/// Content of the last line, and the exit code.
pub struct Ending {
    pub exit: u8,
    /// `complete`, `refused`, `differences`, `stopped` or `failed`.
    pub outcome: &'static str,
    /// The result of the hand-over, if it has come that far.
    pub summary: Option<Summary>,
    pub not_migrated: Vec<String>,
    pub error: Option<Error>,
    /// Total time of the migration.
    pub took: Option<Duration>,
    /// Time during which nothing could be written.
    pub downtime: Option<Duration>,
    /// Whether the applications were on the target already, because this is the way back.
    pub reversed: bool,
    /// Whether an option asked to stop before the cutover.
    pub was_to_stop: bool,
}

impl Ending {
    fn new(exit: u8, outcome: &'static str) -> Self {
        Self {
            exit,
            outcome,
            summary: None,
            not_migrated: Vec::new(),
            error: None,
            took: None,
            downtime: None,
            reversed: false,
            was_to_stop: false,
        }
    }

    /// The result of a hand-over, with or without differences.
    pub fn handed_over(summary: Summary) -> Self {
        let ending = match summary.outcome {
            Outcome::Complete => Self::new(0, "complete"),
            _ => Self::new(3, "differences"),
        };
        Self {
            not_migrated: summary.not_migrated.clone(),
            summary: Some(summary),
            ..ending
        }
    }

    /// The result of a migration that an earlier process has completed.
    pub fn complete_before() -> Self {
        Self::new(0, "complete")
    }

    /// The result of a run that the user stopped, with the exit code that says how.
    pub fn stopped(exit: u8) -> Self {
        Self::new(exit, "stopped")
    }

    /// The result of an error: refused by preflight or when connecting, or failed.
    pub fn of_error(error: Error) -> Self {
        let ending = match error.kind() == ErrorKind::Refused || !error.findings().is_empty() {
            true => Self::new(2, "refused"),
            false => Self::new(1, "failed"),
        };
        Self {
            error: Some(error),
            ..ending
        }
    }

    /// The result of a failure of the example itself, which was about to do `operation`.
    pub fn failed(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self::of_error(Error::new(kind, operation, message))
    }

    /// Records that differences were found after the migration was complete.
    pub fn set_differences(&mut self, message: String) {
        (self.exit, self.outcome) = (3, "differences");
        self.error = Some(Error::new(ErrorKind::Server, "compare both sides", message));
    }

    /// The findings that caused a refusal, if any.
    pub fn findings(&self) -> &[Finding] {
        self.error.as_ref().map_or(&[], Error::findings)
    }

    /// Takes out how the hand-over can be reversed.
    pub fn take_way_back(&mut self) -> Option<WayBack> {
        self.summary.as_mut()?.way_back.take()
    }

    /// The summary, a line with the outcome, and last the sentence that says what the applications may do.
    pub fn lines(&self) -> Vec<(Tone, String)> {
        let mut lines = match &self.summary {
            Some(summary) => tone::of_lines(&summary.to_string()),
            None => {
                let left_out = self.not_migrated.iter();
                left_out
                    .map(|left_out| (Tone::Plain, format!("not migrated: {left_out}")))
                    .collect()
            }
        };
        if let Some(error) = &self.error {
            lines.extend(
                format!("error: {error:#}")
                    .lines()
                    .map(|line| (Tone::Bad, line.to_owned())),
            );
        }
        let mut outcome = format!("outcome: {}", self.outcome);
        if let Some(took) = self.took {
            outcome += &format!(" after {:.1} s", took.as_secs_f64());
        }
        if let Some(downtime) = self.downtime {
            outcome += &format!(", of which {:.1} s without writes", downtime.as_secs_f64());
        }
        lines.push((Tone::Plain, outcome));
        lines.push(self.sentence());
        lines
    }

    fn is_misconfigured(&self) -> bool {
        let error = self.error.as_ref();
        error.is_some_and(|error| error.kind() == ErrorKind::InvalidConfiguration)
    }

    /// Whether the applications may move, or why not and what to do.
    fn sentence(&self) -> (Tone, String) {
        let (here, there) = match self.reversed {
            false => ("source", "target"),
            true => ("target", "source"),
        };
        let compared = |summary: &Summary| summary.position.is_some();
        let (tone, advice) = match (self.outcome, &self.summary) {
            ("complete", Some(summary)) if compared(summary) => {
                let sentence = format!("The applications may go to the {there}: both sides are identical.");
                return (Tone::Good, sentence);
            }
            ("complete", Some(_)) => {
                let sentence = format!("The applications may go to the {there}, whose documents were not compared.");
                return (Tone::Warning, sentence);
            }
            ("complete", None) => {
                let sentence = format!("The applications may go to the {there}: this migration is already complete.");
                return (Tone::Good, sentence);
            }
            ("differences", _) => (
                Tone::Bad,
                "both sides differ; remove the cause, and run the same command again",
            ),
            ("refused", _) => (
                Tone::Bad,
                "the migration was refused; do what the findings say, and run the same command again",
            ),
            ("stopped", _) if self.was_to_stop => (
                Tone::Warning,
                "the migration stopped before the cutover; run the same command without --stop-after to go on",
            ),
            ("stopped", _) => (
                Tone::Warning,
                "the migration was stopped; run the same command again to continue it",
            ),
            _ if self.is_misconfigured() => (
                Tone::Bad,
                "nothing was started; correct what the error names, and run the command again",
            ),
            _ => (
                Tone::Bad,
                "the migration failed; remove the cause, and run the same command again",
            ),
        };
        (tone, format!("The applications stay on the {here}: {advice}."))
    }
}
