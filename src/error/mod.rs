//! The error type of the crate.

mod code;
mod finding;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

pub use self::code::FindingCode;
pub(crate) use self::finding::refuse;
pub use self::finding::{Finding, Severity};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: its kind, the operation that failed, the context and the cause.
///
/// `Display` writes one sentence: what failed, where, and how to fix it if that is known. It leaves out the cause, which
/// [`source`](StdError::source) returns. The alternate form `{:#}` and [`report`](Self::report) add the causes, on the same line: use them
/// where only one line is logged. None of these, nor `Debug`, shows passwords of connection strings.
///
/// `Serialize` writes the kind, the operation, the message, the context, the findings, and the texts of the causes; see
/// [`docs::format`](crate::docs::format#errors). A clone shares its contents with the original and costs nothing.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    message: String,
    context: Vec<(&'static str, String)>,
    retryable: bool,
    findings: Vec<Finding>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// Maximum number of blockers in the message of a refusal.
const BLOCKERS_SHOWN: usize = 3;

/// The kind of an error. Hosts match on it; the message is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The builder got a value that cannot work, such as a malformed pattern or connection string.
    InvalidConfiguration,
    /// Preflight found a blocker, so the migration cannot succeed. Nothing was changed.
    Refused,
    /// A server could not be reached, or the connection broke.
    Connection,
    /// The server refused the credentials, or a privilege is missing.
    Unauthorized,
    /// The source cannot provide the requested snapshot. A newer or smaller one may work.
    SnapshotUnavailable,
    /// The oplog no longer contains the position to resume from.
    PositionLost,
    /// The target's primary changed, so acknowledged writes may have been rolled back. The run continues from its checkpoint.
    PrimaryChanged,
    /// The oplog contains an entry that this version of the crate cannot apply exactly. The message names it.
    UnsupportedEntry,
    /// The target refused a document, an index or a command.
    TargetRefused,
    /// The target does not accept writes at the moment, because its disk is full or writes are blocked. The message says how to fix it. The
    /// run then continues by itself, unless its retry timeout has passed before.
    TargetBlocked,
    /// The feature compatibility version of one side changed during the run. The migration can be started again.
    VersionChanged,
    /// The checkpoint belongs to another migration, source, selection or format version.
    CheckpointMismatch,
    /// The checkpoint says that this migration is complete. Another migration, with another id, may still begin.
    AlreadyComplete,
    /// Another process holds the lease of this migration on the target. The message names its host and process.
    LeaseHeld,
    /// Another process has taken this migration over during the run. This process has stopped writing.
    LeaseLost,
    /// The source received writes after the host had declared that nothing writes to it any more. The run keeps following the source, and
    /// the cutover can be retried.
    WritesAfterStop,
    /// A hook of the host failed, panicked or timed out. The context names it.
    Hook,
    /// A filter or transform of the host failed for a document, or panicked. The context names the namespace and the `_id`.
    Rule,
    /// The catalog of the source changed, and the host has configured the run to end in that case. The context names the change, the
    /// namespace and the position.
    CatalogChanged,
    /// The call is not possible in the current phase of the run. The message says what is possible.
    WrongPhase,
    /// Operations of the applications did not end within the time that the host allows at the cutover, or transactions are still open on
    /// the source. The applications continue as before, and the cutover can be retried.
    OperationsUnderWay,
    /// The cutover window ran out. The checkpoint is kept, and the migration can be started again.
    WindowClosed,
    /// The run was stopped or abandoned before it completed.
    Stopped,
    /// The response of a server does not match its documented behaviour.
    Protocol,
    /// A task of the run panicked. A new run can resume from the checkpoint.
    Panic,
    /// Reading or writing a local file failed.
    Io,
    /// Any other error response of a server.
    Server,
}

impl Error {
    /// Creates an error of `kind`. `operation` is a short phrase such as `"read the oplog"`.
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let retryable = matches!(
            kind,
            ErrorKind::Connection | ErrorKind::PrimaryChanged | ErrorKind::SnapshotUnavailable
        );
        Self {
            inner: Arc::new(Inner {
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

    /// The error for an operation that preflight refused. The message has the first blockers among `findings`.
    pub(crate) fn refused(operation: &'static str, findings: Vec<Finding>) -> Self {
        let blockers = || findings.iter().filter(|finding| finding.severity == Severity::Blocker);
        let shown: Vec<String> = blockers()
            .take(BLOCKERS_SHOWN)
            .map(|finding| format!("{} ({})", finding.message, finding.fix))
            .collect();
        let mut message = shown.join("; ");
        let more = blockers().count() - shown.len();
        if more > 0 {
            message += &format!("; and {more} more, which the findings of this error and preflight list");
        }
        let mut error = Self::new(ErrorKind::Refused, operation, message);
        error.inner_mut().findings = findings;
        error
    }

    /// Adds a named fact that helps to locate the error, such as the namespace.
    #[must_use]
    pub fn with_context(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.inner_mut().context.push((name, value.to_string()));
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner_mut().source = Some(Arc::from(source.into()));
        self
    }

    /// Sets whether repeating the same call may succeed.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.inner_mut().retryable = retryable;
        self
    }

    /// Sets the kind, for callers that know more than the code that created the error.
    #[must_use]
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.inner_mut().kind = kind;
        self
    }

    fn inner_mut(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.inner)
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The operation that failed.
    pub fn operation(&self) -> &str {
        &self.inner.operation
    }

    /// What went wrong, without the operation and the context.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The named facts that help to locate the error.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.inner.context.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The findings behind the error, in the same form as those of [`preflight`](crate::Migration::preflight). Set if a start was refused
    /// or if no connection could be made; empty for every other error.
    pub fn findings(&self) -> &[Finding] {
        &self.inner.findings
    }

    /// Whether repeating the same call may succeed, as after a connection error, an election, or with a snapshot that is too old.
    pub fn is_retryable(&self) -> bool {
        self.inner.retryable
    }

    /// The error and its causes as one line: `cannot save the checkpoint: it cannot be written (file: a.bson): no space left on device`.
    pub fn report(&self) -> String {
        format!("{self:#}")
    }

    /// The texts of the causes, outermost first. A text that the one before it ends with is left out: some errors show their cause.
    fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            if !causes.last().is_some_and(|before| before.ends_with(&text)) {
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }

    /// The error of a run that was stopped.
    pub(crate) fn stopped(operation: &'static str) -> Self {
        Self::new(ErrorKind::Stopped, operation, "the run was stopped")
    }

    /// The error for malformed BSON from a server.
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
        if f.alternate() {
            for cause in self.causes() {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

/// Named facts as one object. Of two facts of the same name, the first is kept: it is from closer to the failure.
struct Context<'a>(&'a [(&'static str, String)]);

impl Serialize for Context<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            if !self.0[..index].iter().any(|(before, _)| before == name) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Error", 7)?;
        fields.serialize_field("kind", &self.inner.kind)?;
        fields.serialize_field("operation", &self.inner.operation)?;
        fields.serialize_field("message", &self.inner.message)?;
        fields.serialize_field("context", &Context(&self.inner.context))?;
        fields.serialize_field("retryable", &self.inner.retryable)?;
        fields.serialize_field("causes", &self.causes())?;
        fields.serialize_field("findings", &self.inner.findings)?;
        fields.end()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_source_and_not_part_of_the_text() {
        let inner = Error::new(ErrorKind::Connection, "read", "it broke")
            .with_context("hosts", "h:1")
            .with_source(std::io::Error::other("reset"));
        let error = Error::new(ErrorKind::Connection, "copy", "the source is gone").with_source(inner);
        assert_eq!(error.to_string(), "cannot copy: the source is gone");
        assert_eq!(
            error.report(),
            "cannot copy: the source is gone: cannot read: it broke (hosts: h:1): reset"
        );
        assert_eq!(format!("{error:#}"), error.report());
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(
            json["causes"],
            serde_json::json!(["cannot read: it broke (hosts: h:1)", "reset"])
        );
    }

    #[test]
    fn a_cause_that_shows_its_own_cause_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::io::Error);

        let error = Error::new(ErrorKind::Io, "read", "it failed").with_source(Outer(std::io::Error::other("inner")));
        assert_eq!(error.report(), "cannot read: it failed: outer: inner");
    }

    #[test]
    fn of_two_facts_of_a_name_the_first_is_serialized() {
        let error = Error::new(ErrorKind::Server, "read", "no")
            .with_context("namespace", "shop.a")
            .with_context("namespace", "shop");
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["context"], serde_json::json!({ "namespace": "shop.a" }));
        assert_eq!(json["kind"], "server");
    }

    #[test]
    fn a_refusal_has_every_finding_and_a_message_of_bounded_length() {
        let blocker =
            |number: usize| Finding::blocker(FindingCode::ExistingData, format!("number {number}"), "drop it");
        let error = Error::refused("start the migration", (0..5).map(blocker).collect());
        assert_eq!((error.kind(), error.findings().len()), (ErrorKind::Refused, 5));
        assert_eq!(
            error.message(),
            "number 0 (drop it); number 1 (drop it); number 2 (drop it); and 2 more, which the findings of this error and preflight list"
        );
    }

    #[test]
    fn a_clone_is_independent_and_keeps_the_cause() {
        let cause = std::io::Error::other("the disk is gone");
        let error = Error::new(ErrorKind::Io, "save the checkpoint", "it failed").with_source(cause);
        let clone = error.clone().with_context("file", "a.bson").with_retryable(true);
        assert_eq!(error.context().count(), 0);
        assert!(!error.is_retryable() && clone.is_retryable());
        let cause = StdError::source(&clone).map(ToString::to_string);
        assert_eq!(cause.as_deref(), Some("the disk is gone"));
    }
}
