//! Result of a run of the example.

use std::fmt;
use std::time::Duration;

use mongoferry::{Error, ErrorKind, Finding, Outcome, Summary, WayBack};

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
}

/// The summary, and a last line with the outcome.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.summary {
            Some(summary) => writeln!(f, "{summary}")?,
            None => {
                for left_out in &self.not_migrated {
                    writeln!(f, "not migrated: {left_out}")?;
                }
            }
        }
        if let Some(error) = &self.error {
            writeln!(f, "error: {error:#}")?;
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
