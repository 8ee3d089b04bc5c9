//! User input: lines on standard input, and signals.

use std::io;
use std::time::Duration;

use mongoferry::Throttle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::arguments::{hours, limit};

/// Receives the user's input.
pub struct Input {
    lines: mpsc::Receiver<String>,
    interrupt: Signal,
    terminate: Signal,
}

/// A request from the user.
#[derive(Debug)]
pub enum Wish {
    /// Hand over to the target.
    Cutover,
    /// Stop reading and writing until `resume`.
    Pause,
    /// Continue after a pause.
    Resume,
    /// Show the status.
    Status,
    /// Compare both sides now.
    Verify,
    /// Repair the documents that the last comparison found to differ.
    Repair,
    /// Extend the cutover window by this duration.
    Extend(Duration),
    /// Set the rate limits.
    Throttle(Throttle),
    /// End with this exit code, and keep the checkpoint.
    Stop(u8),
    /// A line that is not a command.
    Unknown(String),
}

impl Wish {
    /// The command for this request.
    pub fn name(&self) -> &str {
        match self {
            Self::Cutover => "cutover",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Status => "status",
            Self::Verify => "verify",
            Self::Repair => "repair",
            Self::Extend(_) => "extend",
            Self::Throttle(_) => "throttle",
            Self::Stop(_) => "abandon",
            Self::Unknown(line) => line,
        }
    }
}

impl Input {
    /// Starts listening. From now on signals no longer end the process by themselves.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            lines: lines(),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Returns the next request. This method is cancel safe.
    pub async fn next(&mut self) -> Wish {
        loop {
            let line = tokio::select! {
                _ = self.interrupt.recv() => return Wish::Stop(130),
                _ = self.terminate.recv() => return Wish::Stop(143),
                // Signals are still received when standard input is closed.
                Some(line) = self.lines.recv() => line,
            };
            return match line.trim() {
                "" => continue,
                "cutover" => Wish::Cutover,
                "pause" => Wish::Pause,
                "resume" => Wish::Resume,
                "status" => Wish::Status,
                "verify" => Wish::Verify,
                "repair" => Wish::Repair,
                "abandon" => Wish::Stop(crate::ending::STOPPED),
                other => extension(other)
                    .map(Wish::Extend)
                    .or_else(|| throttle(other).map(Wish::Throttle))
                    .unwrap_or_else(|| Wish::Unknown(other.to_owned())),
            };
        }
    }
}

/// Parses a line `extend HOURS`.
fn extension(line: &str) -> Option<Duration> {
    hours(line.strip_prefix("extend")?.trim())
}

/// Parses a line `throttle BYTES OPERATIONS`.
fn throttle(line: &str) -> Option<Throttle> {
    let mut words = line.split_whitespace();
    let (command, bytes, operations) = (words.next()?, words.next()?, words.next()?);
    (command == "throttle" && words.next().is_none()).then_some(())?;
    let mut throttle = Throttle::unlimited();
    throttle.copy_bytes_per_second = limit(bytes.parse().ok()?);
    throttle.tail_operations_per_second = limit(operations.parse().ok()?);
    Some(throttle)
}

/// Returns the lines of standard input. They are read on a separate thread, because only the end of the process can
/// interrupt such a read.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
