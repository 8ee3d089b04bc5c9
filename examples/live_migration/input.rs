//! User input: lines on standard input, and signals.

use std::io::{self, Read};
use std::time::Duration;

use mongoferry::Throttle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::arguments::{hours, limit};
use crate::keyboard::{Keyboard, Line};

/// The reply to a line that is no command.
pub const COMMANDS: &str = "the commands are cutover, pause, resume, status, verify, repair, abandon, extend HOURS, and throttle \
     BYTES OPERATIONS";

/// Receives the user's input.
pub struct Input {
    bytes: mpsc::Receiver<u8>,
    line: Line,
    /// What is typed is shown by this program if this is set, else by the terminal.
    keyboard: Option<Keyboard>,
    interrupt: Signal,
    terminate: Signal,
    continued: Signal,
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
    /// The line that is being typed has changed. It has to be shown.
    Typed,
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
            Self::Typed => "",
        }
    }
}

impl Input {
    /// Starts listening. From now on signals no longer end the process by themselves. If `drawn`, the terminal does not
    /// show what is typed: [`typed`](Self::typed) has it.
    pub fn new(drawn: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            // Later than the signals, which would not restore the terminal before.
            keyboard: drawn.then(Keyboard::new).flatten(),
            bytes: bytes(),
            line: Line::default(),
        })
    }

    /// What has been typed so far. `None` if the terminal shows it, or nothing can be typed.
    pub fn typed(&self) -> Option<String> {
        self.keyboard.as_ref().map(|_| self.line.text())
    }

    /// Returns the next request. This method is cancel safe.
    pub async fn next(&mut self) -> Wish {
        loop {
            let byte = tokio::select! {
                _ = self.interrupt.recv() => return Wish::Stop(130),
                _ = self.terminate.recv() => return Wish::Stop(143),
                Some(_) = self.continued.recv() => {
                    if let Some(keyboard) = &self.keyboard {
                        keyboard.echo_off();
                    }
                    continue;
                }
                // Signals are still received when standard input is closed.
                Some(byte) = self.bytes.recv() => byte,
            };
            match self.line.push(byte) {
                Some(line) if !line.trim().is_empty() => return parse(line.trim()),
                _ if self.keyboard.is_some() => return Wish::Typed,
                _ => {}
            }
        }
    }
}

fn parse(line: &str) -> Wish {
    match line {
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

/// Returns the bytes of standard input. They are read on a separate thread, because only the end of the process can
/// interrupt such a read.
fn bytes() -> mpsc::Receiver<u8> {
    let (sender, bytes) = mpsc::channel(1024);
    std::thread::spawn(move || {
        // A file may end without a line break.
        for byte in io::stdin().lock().bytes().map_while(Result::ok).chain([b'\n']) {
            if sender.blocking_send(byte).is_err() {
                return;
            }
        }
    });
    bytes
}
