//! Output to the user: JSON lines, a progress display on a terminal, or plain lines.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use mongoferry::{ComparedCollection, Event, Finding, Namespace, Plan, Status, VerifyReport, Wait};
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::ending::Ending;
use crate::json::{self, CommandLine, FindingLine};

/// Width of the progress bar in characters.
const BAR: usize = 30;

/// Output to the user, in one of several modes.
pub struct Console {
    mode: Mode,
    /// Number of lines of the progress display that are on the terminal now.
    drawn: usize,
    /// An additional line of the progress display.
    further: Option<Box<dyn Fn() -> String>>,
    /// Whether the output is about the way back.
    reversed: bool,
    /// Whether preflight findings were shown.
    plan_shown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// JSON on standard output, text on standard error.
    Json,
    /// Progress display that is redrawn in place.
    Terminal,
    /// A line every second.
    Lines,
}

impl Console {
    pub fn new(json: bool) -> Self {
        let mode = match json {
            true => Mode::Json,
            false if io::stdout().is_terminal() => Mode::Terminal,
            false => Mode::Lines,
        };
        Self {
            mode,
            drawn: 0,
            further: None,
            reversed: false,
            plan_shown: false,
        }
    }

    /// Sets or removes an additional line below the progress.
    pub fn set_further(&mut self, further: Option<Box<dyn Fn() -> String>>) {
        self.further = further;
    }

    /// Marks all further output as being about the way back.
    pub fn set_reversed(&mut self) {
        self.reversed = true;
    }

    /// Interval between two status reports.
    pub fn interval(&self) -> Interval {
        let mut interval = interval(match self.mode {
            // Twice as often as promised, so that a busy machine does not break the promise.
            Mode::Json => Duration::from_millis(500),
            Mode::Terminal => Duration::from_millis(200),
            Mode::Lines => Duration::from_secs(1),
        });
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Shows the status at each tick.
    pub fn status(&mut self, status: &Status) {
        match self.mode {
            Mode::Json => self.line(status),
            Mode::Terminal => self.draw(status),
            Mode::Lines => {
                let further = self
                    .further
                    .as_ref()
                    .map(|further| format!("; {}", further()))
                    .unwrap_or_default();
                self.text(&format!("{}; {}{further}", copy_text(status), changes_text(status)));
            }
        }
    }

    /// Shows the status because it has changed or was requested. Only JSON output needs this: the other modes show
    /// changes at the next tick.
    pub fn status_now(&mut self, status: &Status) {
        if self.mode == Mode::Json {
            self.line(status);
        }
    }

    /// Shows an event. As text, only events that need attention are shown.
    pub fn event(&mut self, event: &Event) {
        if self.mode == Mode::Json {
            self.line(event);
        }
        if needs_attention(event) {
            self.text(&event.to_string());
        }
    }

    /// Shows the plan and the findings of preflight.
    pub fn plan(&mut self, plan: &Plan) {
        if self.mode == Mode::Json {
            self.line(plan);
        }
        self.finding_lines(&plan.findings);
        self.plan_shown = true;
        self.text(plan.to_string().trim_end());
    }

    fn finding_lines(&self, findings: &[Finding]) {
        if self.mode == Mode::Json {
            for finding in findings {
                self.line(&FindingLine { finding });
            }
        }
    }

    /// Shows a wait that occurs before the run exists.
    pub fn wait(&mut self, wait: &Wait) {
        if self.mode == Mode::Json {
            self.line(wait);
        }
        self.text(&wait.to_string());
    }

    /// Shows the reply to a command.
    pub fn reply(&mut self, command: &str, accepted: bool, message: &str) {
        if self.mode == Mode::Json {
            self.line(&CommandLine {
                command,
                accepted,
                message,
            });
        }
        self.text(&format!(
            "{command}: {}{message}",
            if accepted { "" } else { "refused: " }
        ));
    }

    /// Shows the result of a comparison.
    pub fn report(&mut self, report: &VerifyReport) {
        if self.mode == Mode::Json {
            self.line(report);
        }
        for collection in &report.collections {
            let what = match &collection.not_compared {
                Some(reason) => format!("not compared: {reason}"),
                None => format!(
                    "{} documents compared, {} differ",
                    collection.documents, collection.difference_count
                ),
            };
            self.text(&format!("{}: {what}", shown(collection)));
        }
    }

    /// Shows text.
    pub fn note(&mut self, text: &str) {
        self.text(text);
    }

    /// Shows the result, as the last line.
    pub fn summary(&mut self, ending: &Ending) {
        if !self.plan_shown {
            // If connecting failed, its findings have not been shown yet.
            self.finding_lines(ending.findings());
        }
        for line in ending.to_string().lines() {
            self.text(line);
        }
        if self.mode == Mode::Json {
            self.line(&json::summary(ending));
        }
    }

    // Write errors are ignored: whoever closes the output early wants to see no more, and the migration continues.

    fn line(&self, content: &impl Serialize) {
        let mut line = json::stamped(content);
        if self.reversed {
            line["direction"] = "reverse".into();
        }
        let _ = writeln!(io::stdout(), "{line}");
    }

    fn text(&mut self, text: &str) {
        let _ = match self.mode {
            Mode::Json => writeln!(io::stderr(), "{text}"),
            Mode::Lines => writeln!(io::stdout(), "{text}"),
            Mode::Terminal => writeln!(io::stdout(), "{}{text}", self.erasure()),
        };
    }

    /// Redraws the progress in place.
    fn draw(&mut self, status: &Status) {
        let mut lines = vec![bar(status) + &copy_text(status), changes_text(status)];
        lines.extend(self.further.as_ref().map(|further| further()));
        let erasure = self.erasure();
        self.drawn = lines.len();
        // A line that wraps could not be erased. Terminals have at least this many columns.
        let lines: Vec<String> = lines
            .iter()
            .map(|line| line.chars().take(columns()).collect())
            .collect();
        let mut out = io::stdout();
        let _ = writeln!(out, "{erasure}{}", lines.join("\n"));
        let _ = out.flush();
    }

    /// Returns the escape codes that erase the progress display.
    fn erasure(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }
}

/// Whether an event is shown as text: what is good to know, and not already in the progress or in the summary.
fn needs_attention(event: &Event) -> bool {
    !matches!(
        event,
        Event::PhaseChanged { .. }
            | Event::Started { resumed: false, .. }
            | Event::CollectionCopied { .. }
            | Event::IndexBuilt { .. }
            | Event::CheckpointSaved { .. }
            | Event::Verified { .. }
            // The cutover fails with the same text.
            | Event::WritesAfterStop { accepted: false, .. }
    )
}

/// The name that users know. For a time series this is the name of the series rather than of its buckets.
fn shown(collection: &ComparedCollection) -> Namespace {
    let namespace = &collection.namespace;
    namespace.time_series().unwrap_or_else(|| namespace.clone())
}

fn columns() -> usize {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok())
        .unwrap_or(80)
        .max(40)
        - 1
}

fn bar(status: &Status) -> String {
    let share = share(status);
    let full = (share * BAR as f64).round() as usize;
    format!("[{}{}] ", "#".repeat(full), "-".repeat(BAR - full))
}

/// Share of the data that is copied, from 0 to 1.
fn share(status: &Status) -> f64 {
    match (status.copy_complete, status.total.bytes) {
        (true, _) => 1.0,
        (false, 0) => 0.0,
        (false, total) => (status.copied.bytes as f64 / total as f64).min(1.0),
    }
}

fn copy_text(status: &Status) -> String {
    let mut text = format!("{:<9} {:>3.0} %", status.phase.as_str(), share(status) * 100.0);
    text += &format!(
        "  {} documents, {}",
        grouped(status.copied.documents),
        megabytes(status.copied.bytes)
    );
    if let (false, Some(left)) = (status.copy_complete, status.time_left) {
        text += &format!(", {} s left", left.as_secs());
    }
    text
}

fn changes_text(status: &Status) -> String {
    let changes = status.changes;
    let lag = status
        .lag
        .map_or("unknown".to_owned(), |lag| format!("{} s", lag.as_secs()));
    format!(
        "changes: {} applied, {} dropped, {} held; lag: {lag}",
        grouped(changes.applied),
        grouped(changes.dropped),
        megabytes(changes.held_bytes)
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Formats a number with commas between groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
