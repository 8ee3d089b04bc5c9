use std::{io, path::PathBuf, time::Duration};

use crate::{Version, compare::Difference};

/// Why a test server could not be found, started or steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestbedError {
    /// No binary of the wanted version was found, and none could be fetched.
    #[error("no mongod {version} was found\n{tried}\n{advice}")]
    NoBinary {
        /// The version that was asked for.
        version: Version,
        /// What was tried, one line each.
        tried: String,
        /// What to install or set.
        advice: String,
    },

    /// The server ended before it answered.
    #[error("mongod {version} ended before it answered ({status}){hint}\nlast lines of its log:\n{log}")]
    Ended {
        /// The version that was started.
        version: Version,
        /// How the process ended.
        status: String,
        /// What to install, when the log tells; starts with a line break unless empty.
        hint: String,
        /// The last lines of the server's log.
        log: String,
    },

    /// Something did not happen in time.
    #[error("waited {waited:?} in vain for {what}{log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
        /// The last lines of a server's log or the last error seen; starts with a line break unless empty.
        log: String,
    },

    /// A command on a test server failed.
    #[error("{what} failed: {source}")]
    Server {
        /// What was attempted.
        what: String,
        /// The driver's error.
        source: mongodb::error::Error,
    },

    /// A server refused a command.
    #[error("{what} failed: {answer}")]
    Refused {
        /// What was attempted.
        what: String,
        /// The server's message.
        answer: String,
    },

    /// The operating system refused something.
    #[error("{what} failed: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The system's error.
        source: io::Error,
    },

    /// Two sets that should hold the same do not.
    #[error("{} differences:{}", .0.len(), .0.iter().map(|one| format!("\n  {one}")).collect::<String>())]
    Different(Vec<Difference>),

    /// A program that the testbed calls failed.
    #[error("{program} failed: {output}")]
    Program {
        /// The program's name.
        program: String,
        /// What it wrote.
        output: String,
    },

    /// The options contradict each other, or a member was asked for something in the wrong state.
    #[error("{0}")]
    Misuse(String),
}

impl TestbedError {
    /// For `map_err`: a failed command on a server.
    pub(crate) fn server(what: impl Into<String>) -> impl FnOnce(mongodb::error::Error) -> TestbedError {
        let what = what.into();
        move |source| TestbedError::Server { what, source }
    }

    /// For `map_err`: a failed system call.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> TestbedError {
        let what = what.into();
        move |source| TestbedError::Io { what, source }
    }
}

/// The last lines of a server's log at `path`, as part of an error's text. Connections that come and go would crowd out the rest, and so are left out.
pub(crate) fn log_tail(path: &PathBuf) -> String {
    const LINES: usize = 25;
    let Ok(bytes) = std::fs::read(path) else {
        return format!("(no log at {})", path.display());
    };
    let text = String::from_utf8_lossy(&bytes);
    // The components of 4.2, and of newer servers.
    let is_connection = |line: &str| line.contains(" I  NETWORK ") || line.contains(r#""s":"I",  "c":"NETWORK""#);
    let lines: Vec<&str> = text.lines().filter(|line| !is_connection(line)).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
