//! Output to the user: JSON lines, a terminal that is drawn on, or plain lines.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use mongoferry::{ComparedCollection, Event, Finding, Namespace, Phase, Plan, Status, VerifyReport, Wait};
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::collections::Row;
use crate::ending::Ending;
use crate::guide::{self, Next};
use crate::json::{self, CommandLine, FindingLine};
use crate::panel::{Panel, copied_share, lag, phase};
use crate::rate::Rate;
use crate::screen::Screen;
use crate::text::{Tone, grouped, percent, size, time};
use crate::tone;
use crate::waits::{Waiting, Waits};

/// Interval between two plain lines that say the same.
const CALM: Duration = Duration::from_secs(5);

/// Output to the user, in one of several modes.
pub struct Console {
    output: Output,
    /// Whether escape codes may set colours.
    colours: bool,
    /// An additional line of the progress display.
    further: Option<Box<dyn Fn() -> String>>,
    /// Whether the output is about the way back.
    reversed: bool,
    /// Whether preflight findings were shown.
    plan_shown: bool,
    /// What is being done now while there is no run, and since when.
    step: Option<(String, Instant)>,
    /// State of the run.
    status: Option<Status>,
    collections: Vec<Row>,
    copied: Rate,
    waits: Waits,
    next: Next,
    /// What has been typed so far, if the terminal does not show it.
    typed: Option<String>,
    /// Phase and time of the last plain line.
    said: Option<(Option<Phase>, Instant)>,
}

enum Output {
    /// JSON on standard output, text on standard error.
    Json,
    Screen(Box<Screen>),
    /// Plain lines on standard output.
    Lines,
}

impl Console {
    pub fn new(json: bool) -> Self {
        let screen = (!json).then(Screen::new).flatten();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: screen.is_some() && !no_color,
            output: match screen {
                Some(screen) => Output::Screen(Box::new(screen)),
                None if json => Output::Json,
                None => Output::Lines,
            },
            further: None,
            reversed: false,
            plan_shown: false,
            step: None,
            status: None,
            collections: Vec::new(),
            copied: Rate::default(),
            waits: Waits::default(),
            next: guide::BEFORE,
            typed: None,
            said: None,
        }
    }

    /// Whether the terminal is drawn on.
    pub fn is_drawn(&self) -> bool {
        matches!(self.output, Output::Screen(_))
    }

    /// Sets or removes an additional line below the progress.
    pub fn set_further(&mut self, further: Option<Box<dyn Fn() -> String>>) {
        self.further = further;
    }

    /// Marks all further output as being about the way back.
    pub fn set_reversed(&mut self) {
        self.reversed = true;
    }

    /// Says what is done from now on, while there is no run.
    pub fn set_step(&mut self, step: &str) {
        self.step = Some((step.to_owned(), Instant::now()));
        (self.status, self.next) = (None, guide::BEFORE);
        self.waits.clear();
        self.said = Some((None, Instant::now()));
        match self.output {
            Output::Screen(_) => self.draw(),
            Output::Json | Output::Lines => self.text(Tone::Plain, step),
        }
    }

    /// Sets what the user can type next.
    pub fn set_next(&mut self, next: Next) {
        if next != self.next {
            self.next = next;
            if next.needed && matches!(self.output, Output::Lines) {
                self.text(Tone::Plain, &format!("next: {}", next.text));
            }
        }
    }

    /// Shows what has been typed so far.
    pub fn set_typed(&mut self, typed: Option<String>) {
        if self.typed != typed {
            self.typed = typed;
            self.draw();
        }
    }

    /// Interval between two status reports.
    pub fn interval(&self) -> Interval {
        let mut interval = interval(match self.output {
            // Twice as often as promised, so that a busy machine does not break the promise.
            Output::Json | Output::Lines => Duration::from_millis(500),
            Output::Screen(_) => Duration::from_millis(200),
        });
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Shows the status of a run at each tick.
    pub fn status(&mut self, status: &Status, collections: impl FnOnce() -> Vec<Row>) {
        self.step = None;
        self.copied.push(Instant::now(), status.copied.bytes);
        match self.output {
            Output::Json => self.line(status),
            Output::Screen(_) => {
                self.collections = collections();
                self.status = Some(status.clone());
                self.draw();
            }
            Output::Lines => self.status_if_due(status),
        }
    }

    /// Shows at each tick that a step still lasts. As JSON, this is the last status.
    pub fn still(&mut self, last: &Status) {
        match self.output {
            Output::Json => self.line(last),
            Output::Screen(_) => self.draw(),
            Output::Lines => {
                let Some((step, since)) = &self.step else { return };
                if self.is_due(None, 2 * CALM) {
                    let text = format!("{step}: {}", time(since.elapsed()));
                    self.said = Some((None, Instant::now()));
                    self.text(Tone::Plain, &text);
                }
            }
        }
    }

    /// Shows the status because the phase has changed.
    pub fn phase(&mut self, status: &Status) {
        self.waits.clear();
        match self.output {
            Output::Json => self.line(status),
            // The next tick shows it.
            Output::Screen(_) => {}
            Output::Lines => self.status_if_due(status),
        }
    }

    /// Shows the status because the user asked for it.
    pub fn status_now(&mut self, status: &Status) {
        match self.output {
            Output::Json => self.line(status),
            Output::Screen(_) | Output::Lines => self.text(Tone::Plain, &self.status_text(status)),
        }
    }

    /// Shows an event. As text, only events that need attention are shown.
    pub fn event(&mut self, event: &Event) {
        if let Output::Json = self.output {
            self.line(event);
        }
        match event {
            Event::Waiting {
                side,
                operation,
                elapsed,
                limit,
            } => {
                let waiting = Waiting {
                    what: format!("{side}: {operation}"),
                    elapsed: *elapsed,
                    limit: *limit,
                };
                self.waiting(waiting, &event.to_string());
            }
            event if tone::needs_attention(event) => self.text(tone::of_event(event), &event.to_string()),
            _ => {}
        }
    }

    /// Shows the plan and the findings of preflight.
    pub fn plan(&mut self, plan: &Plan) {
        if let Output::Json = self.output {
            self.line(plan);
        }
        self.finding_lines(&plan.findings);
        self.plan_shown = true;
        self.texts(&tone::of_lines(plan.to_string().trim_end()));
    }

    /// The same for a migration that is complete, whose plan is of no interest to people.
    pub fn plan_of_complete(&mut self, plan: &Plan) {
        if let Output::Json = self.output {
            self.line(plan);
        }
        self.finding_lines(&plan.findings);
        self.plan_shown = true;
    }

    fn finding_lines(&self, findings: &[Finding]) {
        if let Output::Json = self.output {
            for finding in findings {
                self.line(&FindingLine { finding });
            }
        }
    }

    /// Shows a wait that occurs before the run exists.
    pub fn wait(&mut self, wait: &Wait) {
        if let Output::Json = self.output {
            self.line(wait);
        }
        let waiting = Waiting {
            what: format!("{}: {}", wait.side, wait.operation),
            elapsed: wait.elapsed,
            limit: wait.limit,
        };
        self.waiting(waiting, &wait.to_string());
    }

    fn waiting(&mut self, waiting: Waiting, report: &str) {
        if !self.is_drawn() {
            return self.text(Tone::Warning, report);
        }
        self.waits.report(waiting, Instant::now());
        self.draw();
    }

    /// Shows the reply to a command.
    pub fn reply(&mut self, command: &str, accepted: bool, message: &str) {
        if let Output::Json = self.output {
            self.line(&CommandLine {
                command,
                accepted,
                message,
            });
        }
        let text = match accepted {
            true => format!("{command}: {message}"),
            false => format!("{command}: refused: {message}"),
        };
        self.text(if accepted { Tone::Good } else { Tone::Bad }, &text);
    }

    /// Shows the result of a comparison.
    pub fn report(&mut self, report: &VerifyReport) {
        if let Output::Json = self.output {
            self.line(report);
        }
        for collection in &report.collections {
            let (tone, what) = match &collection.not_compared {
                Some(reason) => (Tone::Warning, format!("not compared: {reason}")),
                None => (
                    match collection.difference_count {
                        0 => Tone::Plain,
                        _ => Tone::Bad,
                    },
                    format!(
                        "{} documents compared, {} differ",
                        grouped(collection.documents),
                        collection.difference_count
                    ),
                ),
            };
            self.text(tone, &format!("{}: {what}", shown(collection)));
        }
    }

    /// Shows text.
    pub fn note(&mut self, text: &str) {
        self.text(Tone::Plain, text);
    }

    /// Shows the result, as the last line.
    pub fn summary(&mut self, ending: &Ending) {
        if !self.plan_shown {
            // If connecting failed, its findings have not been shown yet.
            self.finding_lines(ending.findings());
        }
        self.texts(&ending.lines());
        if let Output::Json = self.output {
            self.line(&json::summary(ending));
        }
    }

    /// Writes a status as a plain line, unless the last one is recent and of the same phase.
    fn status_if_due(&mut self, status: &Status) {
        let phase = Some(status.phase);
        if self.is_due(phase, CALM) {
            self.said = Some((phase, Instant::now()));
            self.text(Tone::Plain, &self.status_text(status));
        }
    }

    /// Whether a plain line is to be written: in another phase than the last one, or after so long.
    fn is_due(&self, phase: Option<Phase>, interval: Duration) -> bool {
        self.said
            .as_ref()
            .is_none_or(|(last, at)| *last != phase || at.elapsed() >= interval)
    }

    /// A status on one line.
    fn status_text(&self, status: &Status) -> String {
        let mut parts = vec![format!(
            "{:<9} {}  {} documents, {}",
            phase(status.phase),
            percent(copied_share(status)),
            grouped(status.copied.documents),
            size(status.copied.bytes)
        )];
        if !status.copy_complete {
            parts.extend(self.copied.per_second().map(|rate| format!("{}/s", size(rate))));
            parts.extend(status.time_left.map(|left| format!("{} left", time(left))));
        }
        parts.push(format!("{} changes applied", grouped(status.changes.applied)));
        parts.push(format!("lag {}", status.lag.map_or("unknown".to_owned(), lag)));
        parts.extend(self.further.as_ref().map(|further| further()));
        parts.join(", ")
    }

    // Write errors are ignored: whoever closes the output early wants to see no more, and the migration continues.

    fn line(&self, content: &impl Serialize) {
        let mut line = json::stamped(content);
        if self.reversed {
            line["direction"] = "reverse".into();
        }
        let _ = writeln!(io::stdout(), "{line}");
    }

    fn text(&mut self, tone: Tone, text: &str) {
        self.texts(&[(tone, text.to_owned())]);
    }

    fn texts(&mut self, lines: &[(Tone, String)]) {
        let colours = self.colours;
        let painted = lines.iter().map(|(tone, text)| match colours {
            true => tone.paint(text),
            false => text.clone(),
        });
        match &mut self.output {
            Output::Json => painted.for_each(|line| drop(writeln!(io::stderr(), "{line}"))),
            Output::Lines => painted.for_each(|line| drop(writeln!(io::stdout(), "{line}"))),
            Output::Screen(screen) => screen.write(&painted.collect::<Vec<_>>()),
        }
    }

    /// Redraws the panel, if the terminal is drawn on.
    fn draw(&mut self) {
        let Output::Screen(screen) = &mut self.output else {
            return;
        };
        let panel = Panel {
            step: self.step.as_ref().map(|(step, since)| (step.as_str(), since.elapsed())),
            status: self.status.as_ref(),
            collections: match self.status {
                Some(_) => self.collections.clone(),
                None => Vec::new(),
            },
            bytes_per_second: self.copied.per_second(),
            waits: self.waits.lasting(Instant::now()),
            further: self.further.as_ref().map(|further| further()),
            next: self.next.text.to_owned(),
            typed: self.typed.as_deref(),
            colours: self.colours,
        };
        let (height, width) = screen.room();
        screen.draw(&panel.lines(width, height));
    }
}

/// The name that users know. For a time series this is the name of the series rather than of its buckets.
fn shown(collection: &ComparedCollection) -> Namespace {
    let namespace = &collection.namespace;
    namespace.time_series().unwrap_or_else(|| namespace.clone())
}
