//! The example as a process that is talked to.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mongodb::bson::DateTime;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long anything may take that is waited for; far more than a busy machine needs.
pub(in crate::scenarios) const PATIENCE: Duration = Duration::from_secs(120);

/// The example while it runs.
pub(in crate::scenarios) struct Example {
    pub(super) child: Child,
    commands: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
    errors: JoinHandle<String>,
}

/// The example after it has ended.
pub(in crate::scenarios) struct Ended {
    pub(in crate::scenarios) exit: Option<i32>,
    pub(in crate::scenarios) lines: Vec<Value>,
    /// What it wrote to standard error.
    pub(super) text: String,
}

impl Example {
    pub(in crate::scenarios) fn start(arguments: &[&str]) -> Self {
        let mut child = piped("live_migration").arg("--json").args(arguments).spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        Self {
            commands: child.stdin.take(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            seen: Vec::new(),
            errors: tokio::spawn(async move {
                let mut text = String::new();
                errors.read_to_string(&mut text).await.unwrap();
                text
            }),
            child,
        }
    }

    /// Reads until a line fits.
    pub(in crate::scenarios) async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let read = timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&line).unwrap();
                self.seen.push(line.clone());
                if fits(&line) {
                    return Some(line);
                }
            }
            None
        });
        match read.await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("it ended without {what}: {:#?}", self.seen.last()),
            Err(_) => panic!("{what} did not come: {:#?}", self.seen.last()),
        }
    }

    pub(in crate::scenarios) async fn phase(&mut self, phase: &str) {
        self.until(phase, |line| line["type"] == "status" && line["phase"] == phase)
            .await;
    }

    pub(in crate::scenarios) async fn command(&mut self, command: &str) {
        let commands = self.commands.as_mut().unwrap();
        commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    pub(in crate::scenarios) async fn signal(&self, signal: &str) {
        let process = self.child.id().unwrap().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &process])
            .status()
            .await
            .unwrap();
        assert!(sent.success());
    }

    /// Reads for so long, or until it ends; answers the newest status that came.
    pub(in crate::scenarios) async fn last_status_within(&mut self, time: Duration) -> Option<Value> {
        let mut last = None;
        let read = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let line: Value = serde_json::from_str(&line).unwrap();
                self.seen.push(line.clone());
                if line["type"] == "status" {
                    last = Some(line);
                }
            }
        };
        let _ = timeout(time, read).await;
        last
    }

    /// Reads the rest.
    pub(in crate::scenarios) async fn end(mut self) -> Ended {
        let end = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.seen.push(serde_json::from_str(&line).unwrap());
            }
            for line in &self.seen {
                assert_in_format(line);
            }
            self.child.wait().await.unwrap().code()
        };
        let exit = timeout(PATIENCE, end).await.expect("it did not end");
        Ended {
            exit,
            lines: self.seen,
            text: self.errors.await.unwrap(),
        }
    }
}

impl Ended {
    /// The last line, which is the summary, whatever happened; checks outcome and exit code.
    #[track_caller]
    pub(in crate::scenarios) fn summary(&self, outcome: &str, exit: i32) -> &Value {
        let last = self.lines.last().expect("it wrote nothing");
        assert_eq!(last["type"], "summary", "{last:#}\n{}", self.text);
        assert_eq!(last["outcome"], outcome, "{last:#}\n{}", self.text);
        assert_eq!(self.exit, Some(exit), "{last:#}\n{}", self.text);
        last
    }

    pub(super) fn of_type<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().filter(move |line| line["type"] == wanted)
    }

    /// The phases in the order in which each was first reported.
    pub(super) fn phases(&self) -> Vec<&str> {
        let mut phases = Vec::new();
        for line in self.of_type("status") {
            let phase = line["phase"].as_str().unwrap();
            if !phases.contains(&phase) {
                phases.push(phase);
            }
        }
        phases
    }

    pub(super) fn resumed(&self) -> bool {
        self.of_type("started").next().expect("it did not start")["resumed"] == true
    }
}

/// The message of the error in a summary.
pub(super) fn message(summary: &Value) -> &str {
    let message = summary["error"]["message"].as_str();
    message.unwrap_or_else(|| panic!("it has no error: {summary:#}"))
}

/// Each line is as the guide `format` and its schema say.
#[track_caller]
fn assert_in_format(line: &Value) {
    let schema = serde_json::from_str(include_str!("../../../src/docs/format.schema.json")).unwrap();
    if let Err(failure) = mongoferry_testbed::schema::check(&schema, Some("live_migration"), line) {
        panic!("{failure}");
    }
    DateTime::parse_rfc3339_str(line["at"].as_str().unwrap()).unwrap();
}

/// An example that is talked to, and that ends with the test.
pub(in crate::scenarios) fn piped(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

pub(in crate::scenarios) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let examples = test.parent().and_then(Path::parent).unwrap().join("examples");
    let binary = examples.join(name);
    assert!(
        binary.is_file(),
        "build the example first, with `cargo test` or `cargo build --examples`"
    );
    binary
}
