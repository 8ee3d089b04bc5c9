//! What the user wants: lines on standard input, and signals.

use std::io;
use std::time::Duration;

use mongoferry::Throttle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::arguments::{hours, limit};

/// Where the user is heard.
pub struct Input {
    lines: mpsc::Receiver<String>,
    interrupt: Signal,
    terminate: Signal,
}

/// Something that the user wants.
#[derive(Debug)]
pub enum Wish {
    /// Hand over to the target.
    Cutover,
    /// Stop reading and writing for a while.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Say how far it is.
    Status,
    /// Compare both sides now.
    Verify,
    /// Write what the last comparison has found to differ.
    Repair,
    /// Make the cutover window longer by this.
    Extend(Duration),
    /// Go no faster than this.
    Throttle(Throttle),
    /// End, with the checkpoint kept, and with this exit code.
    Stop(u8),
    /// A line that is no command.
    Unknown(String),
}

impl Wish {
    /// The command that expresses it.
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
    /// Begins to listen. From now on the signals no longer end the process by themselves.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            lines: lines(),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next wish. Dropping the future loses none.
    pub async fn next(&mut self) -> Wish {
        loop {
            let line = tokio::select! {
                _ = self.interrupt.recv() => return Wish::Stop(130),
                _ = self.terminate.recv() => return Wish::Stop(143),
                // Without standard input the signals are still heard.
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

/// The time that a line `extend HOURS` asks for.
fn extension(line: &str) -> Option<Duration> {
    hours(line.strip_prefix("extend")?.trim())
}

/// The limits that a line `throttle BYTES OPERATIONS` sets.
fn throttle(line: &str) -> Option<Throttle> {
    let mut words = line.split_whitespace();
    let (command, bytes, operations) = (words.next()?, words.next()?, words.next()?);
    (command == "throttle" && words.next().is_none()).then_some(())?;
    Some(Throttle {
        copy_bytes_per_second: limit(bytes.parse().ok()?),
        tail_operations_per_second: limit(operations.parse().ok()?),
    })
}

/// The lines of standard input. A thread of its own waits for them, as nothing can end such a wait but the process's end.
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
