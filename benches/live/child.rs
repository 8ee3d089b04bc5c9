//! A process of this very program, which does one thing at a time as it is told.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Result;
use crate::usage;

/// The process that measures holds on to this. The other one ends when this is dropped.
pub(crate) struct Helper {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts this program with other arguments and waits until it is ready; gives the number that it answers then.
    ///
    /// # Errors
    /// It cannot be started, or has failed.
    pub async fn start(arguments: &[&str]) -> Result<(Self, f64)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err("a process without pipes".into());
        };
        let output = BufReader::new(output).lines();
        let mut helper = Self { child, input, output };
        let number = helper.answer().await?;
        Ok((helper, number))
    }

    /// Starts one that migrates between these deployments when it is told to.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn migrating(source: &str, target: &str, walkers: usize) -> Result<Self> {
        let words = ["--migrate", source, "--to", target, "--walkers", &walkers.to_string()];
        Ok(Self::start(&words).await?.0)
    }

    /// Tells it to do something, and gives the number that it answers when it is done.
    ///
    /// # Errors
    /// It has failed, and said why.
    pub async fn tell(&mut self, command: &str) -> Result<f64> {
        self.input.write_all(format!("{command}\n").as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<f64> {
        match self.output.next_line().await? {
            Some(line) => Ok(line.parse()?),
            None => Err("a process of the bench has failed".into()),
        }
    }

    /// Its CPU time so far, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.child.id().map_or(0.0, usage::cpu_seconds)
    }

    /// The most memory that it has had, in MB.
    ///
    /// # Errors
    /// It has failed.
    pub fn peak_memory_mb(&self) -> Result<f64> {
        usage::peak_memory_mb(self.child.id().ok_or("a process of the bench has failed")?)
    }
}

/// What a helper is told, one line at a time.
pub(crate) struct Orders(Lines<BufReader<Stdin>>);

impl Orders {
    pub fn new() -> Self {
        Self(BufReader::new(tokio::io::stdin()).lines())
    }

    /// Answers the order before with a number, and gives the next one.
    ///
    /// # Errors
    /// The pipe is broken.
    pub async fn next(&mut self, answer: f64) -> Result<Option<String>> {
        println!("{answer}");
        Ok(self.0.next_line().await?)
    }
}
