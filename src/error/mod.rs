//! The one error type of the crate.

mod code;
mod finding;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

pub(crate) use self::code::Code;
pub(crate) use self::finding::refuse;
pub use self::finding::{Finding, Severity};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its kind, the operation that failed, the context it failed in, and its cause.
///
/// `Display` gives one sentence that says what, where and, where that is known, how to put it right. Passwords in connection strings
/// never appear in it, nor in `Debug`.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    message: String,
    context: Vec<(&'static str, String)>,
    retryable: bool,
    findings: Vec<Finding>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What sort of error it is: hosts match on this, people read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The builder was given something that cannot work, such as a malformed pattern or connection string.
    InvalidConfiguration,
    /// Preflight found a reason why the migration cannot succeed. Nothing was changed.
    Refused,
    /// A server could not be reached, or the connection broke.
    Connection,
    /// The server refused the credentials or a privilege is missing.
    Unauthorized,
    /// The source cannot give the snapshot that was asked for; a newer or smaller one may do.
    SnapshotUnavailable,
    /// The oplog no longer holds the position to go on from.
    PositionLost,
    /// The target's primary changed, so that acknowledged writes may have been rolled back. The run goes on from its checkpoint.
    PrimaryChanged,
    /// An oplog entry that this version of the crate cannot apply faithfully. The message names it.
    UnsupportedEntry,
    /// The target refused a document, an index or a command.
    TargetRefused,
    /// The target takes no writes at present: its disk is full, or its writes are blocked. The message says how to put that right. A run
    /// goes on by itself once it is, as long as its patience lasts.
    TargetBlocked,
    /// The feature compatibility version of a side was changed during the run. The migration can be started again.
    VersionChanged,
    /// The checkpoint belongs to another migration, source, selection or format version.
    CheckpointMismatch,
    /// Another process holds the lease on the target, or took it over.
    Lease,
    /// The source was written to after the host had said that nothing writes to it any more. The run goes on following, and the cutover can be
    /// tried again.
    WritesAfterStop,
    /// A hook of the host failed, panicked or took too long. The context names it.
    Hook,
    /// The catalogue of the source was changed, and the host wants the run to end then. The context names the change, the namespace and the
    /// position.
    CatalogChanged,
    /// The call does not fit what the run is doing. The message says what is possible.
    WrongPhase,
    /// Operations of the applications did not end in the time that the host gave them at the cutover, or transactions stay open on the source.
    /// They go on as before, and the cutover can be tried again.
    OperationsUnderWay,
    /// The cutover window has run out. The checkpoint is kept, and the migration can be started again.
    WindowClosed,
    /// The run was stopped or abandoned before it was complete.
    Stopped,
    /// A server answered with something that does not fit its documented behaviour.
    Protocol,
    /// A task of the run panicked. The checkpoint is good to go on from.
    Panic,
    /// Reading or writing a local file failed.
    Io,
    /// Anything else that a server answered.
    Server,
}

impl Error {
    /// An error of `kind` in `operation`, which is a short phrase such as `"read the oplog"`.
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let retryable = matches!(
            kind,
            ErrorKind::Connection | ErrorKind::PrimaryChanged | ErrorKind::SnapshotUnavailable
        );
        Self {
            inner: Box::new(Inner {
                kind,
                operation: operation.into(),
                message: message.into(),
                context: Vec::new(),
                retryable,
                findings: Vec::new(),
                source: None,
            }),
        }
    }

    /// The error of something that was refused for `findings`, which names every blocker of them.
    pub(crate) fn refused(operation: &'static str, findings: Vec<Finding>) -> Self {
        let blockers: Vec<String> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
            .map(|finding| format!("{} ({})", finding.message, finding.fix))
            .collect();
        let mut error = Self::new(ErrorKind::Refused, operation, blockers.join("; "));
        error.inner.findings = findings;
        error
    }

    /// Adds a named fact, such as the namespace, that helps to find the place.
    #[must_use]
    pub fn with_context(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.inner.context.push((name, value.to_string()));
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// States whether the same call may succeed when it is made again.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.inner.retryable = retryable;
        self
    }

    /// States what sort of error it is, where the caller knows better than the place that made it.
    #[must_use]
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.inner.kind = kind;
        self
    }

    /// The sort of error.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The operation that failed.
    pub fn operation(&self) -> &str {
        &self.inner.operation
    }

    /// What went wrong, without operation and context.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The named facts of the place where it failed.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.inner.context.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// What stood in the way, in the form in which [`preflight`](crate::Migration::preflight) tells it: of a start that was refused, and of
    /// a connection that could not be made. Empty for every other error.
    pub fn findings(&self) -> &[Finding] {
        &self.inner.findings
    }

    /// Whether the same call may succeed when it is made again: connection errors, elections, snapshots that have aged.
    pub fn is_retryable(&self) -> bool {
        self.inner.retryable
    }

    /// The error of a run that was told to stop.
    pub(crate) fn stopped(operation: &'static str) -> Self {
        Self::new(ErrorKind::Stopped, operation, "the run was stopped")
    }

    /// The error of malformed BSON that a server sent.
    pub(crate) fn malformed(operation: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(
            ErrorKind::Protocol,
            operation,
            "the server sent BSON that cannot be read",
        )
        .with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.inner.operation, self.inner.message)?;
        let mut separator = " (";
        for (name, value) in &self.inner.context {
            write!(f, "{separator}{name}: {value}")?;
            separator = ", ";
        }
        if !self.inner.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &self.inner.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("operation", &self.inner.operation)
            .field("message", &self.inner.message)
            .field("context", &self.inner.context)
            .field("retryable", &self.inner.retryable)
            .field("source", &self.inner.source.as_ref().map(ToString::to_string))
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
