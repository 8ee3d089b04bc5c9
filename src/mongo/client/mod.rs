//! Shared by source and sink: commands, cursors, and the meaning of driver errors.

mod answer;
mod commands;

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use mongodb::error::{Error as DriverError, ErrorKind as DriverErrorKind};
use mongodb::options::RunCursorCommandOptions;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use mongodb::{Client, Database};

use crate::error::{Error, ErrorKind, Finding, FindingCode, Result};
use crate::model::raw::batch_cursor;
use crate::model::{Batch, Deployment, Position};
use crate::mongo::error_codes::{self, Meaning};
use crate::mongo::identify::imitation;
use crate::mongo::retry::{COMMAND_TIMEOUT, answered, panicked};

pub(crate) use self::answer::{Answer, of_system, plain};
#[cfg(feature = "legacy")]
pub(crate) use self::commands::Bounded;
pub(crate) use self::commands::Commands;

/// Runs a command on a database, with retries through elections.
///
/// # Errors
/// The server's answer, or a connection error once the patience has run out.
pub(crate) async fn run(
    client: &dyn Commands,
    operation: &'static str,
    database: &str,
    command: Document,
) -> Result<Document> {
    client.run_within(COMMAND_TIMEOUT, operation, database, command).await
}

/// Same as [`run`], for a command that may take longer than others.
///
/// # Errors
/// Same as [`run`].
pub(crate) async fn run_within(
    limit: Duration,
    client: &dyn Commands,
    operation: &'static str,
    database: &str,
    command: Document,
) -> Result<Document> {
    client.run_within(limit, operation, database, command).await
}

/// Returns one section of the primary's `serverStatus`, or an empty document if there is no such section. The sections that cost the server
/// most are left out.
///
/// # Errors
/// Same as [`run`].
pub(crate) async fn server_status(client: &dyn Commands, operation: &'static str, section: &str) -> Result<Document> {
    let mut command = doc! { "serverStatus": 1, "repl": 0, "wiredTiger": 0, "metrics": 0, "locks": 0, "tcmalloc": 0 };
    command.insert(section, 1);
    let mut status = run(client, operation, "admin", command).await?;
    match status.remove(section) {
        Some(bson::Bson::Document(section)) => Ok(section),
        _ => Ok(Document::new()),
    }
}

/// Runs a command whose body is sent as is. It is sent once, and there is no timeout.
///
/// # Errors
/// The server's answer, or a connection error.
pub(crate) async fn run_raw(
    client: &Client,
    operation: &'static str,
    database: &str,
    command: RawDocumentBuf,
) -> Result<Document> {
    let database = client.database(database);
    match AssertUnwindSafe(database.run_raw_command(command).into_future())
        .catch_unwind()
        .await
    {
        Ok(answer) => answer.map_err(|error| convert(operation, error)),
        Err(_) => Err(panicked(operation)),
    }
}

/// Opens a cursor with a command whose body is sent as is, and returns its batches. Nothing is retried.
///
/// # Errors
/// The server's answer or a connection error, from the call or from the stream.
///
/// # Cancellation
/// Dropping the stream kills the cursor on the server.
pub(crate) fn open_cursor<'a>(
    client: &'a Client,
    operation: &'static str,
    database: &'a str,
    command: RawDocumentBuf,
    batch_size: Option<u32>,
) -> BoxFuture<'a, Result<BoxStream<'static, Result<Batch>>>> {
    open_cursor_within(COMMAND_TIMEOUT, client, operation, database, command, batch_size)
}

/// Same as [`open_cursor`], for a cursor whose batches may take longer than other answers.
///
/// # Errors
/// Same as [`open_cursor`].
pub(crate) fn open_cursor_within<'a>(
    limit: Duration,
    client: &'a Client,
    operation: &'static str,
    database: &'a str,
    command: RawDocumentBuf,
    batch_size: Option<u32>,
) -> BoxFuture<'a, Result<BoxStream<'static, Result<Batch>>>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        let mut options = RunCursorCommandOptions::default();
        options.batch_size = batch_size;
        let database = client.database(database);
        let cursor = to_its_end(operation, limit, async move {
            let opened = raw_batches(&database, command, options).await;
            opened.map_err(|error| convert(operation, error))
        });
        Ok(stream::unfold(Some(cursor.await?), move |cursor| async move {
            let mut cursor = cursor?;
            let next = answered(operation, limit, async {
                let batch = cursor.next().await.transpose();
                batch.map_err(|error| convert(operation, error))
            });
            match next.await {
                Ok(batch) => {
                    let documents = Batch::from_reply(batch?).map_err(|error| Error::malformed(operation, error));
                    Some((documents, Some(cursor)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }
    .boxed()
}

/// Opens a cursor of the driver. Nothing is retried, and there is no timeout.
///
/// # Cancellation
/// If the future is dropped halfway, the cursor may stay open on the server: see [`to_its_end`].
pub(crate) fn raw_batches(
    database: &Database,
    command: RawDocumentBuf,
    options: RunCursorCommandOptions,
) -> BoxFuture<'_, mongodb::error::Result<RawBatchCursor>> {
    // Boxed here, because each caller would compile the driver's code for running commands once more.
    database
        .run_raw_cursor_command(command)
        .with_options(options)
        .batch()
        .boxed()
}

/// Runs a call that opens something on the server to its end, even if the caller is dropped.
///
/// If the call were dropped halfway, the server would keep an unknown cursor for ten minutes, or a transaction for one minute. The call
/// therefore runs until it completes or reaches the limit, whether or not anybody still waits for it. A result that nobody takes is
/// dropped, and with it what the server holds.
///
/// # Errors
/// The errors of `call`, and [`Connection`](ErrorKind::Connection) if it takes longer than the limit.
pub(crate) async fn to_its_end<T: Send + 'static>(
    operation: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    // Boxed, so that the code of a task is compiled for each result and not for each call.
    tokio::spawn(answered(operation, limit, call.boxed()))
        .await
        .unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Panic, operation, "the task that opens a cursor panicked").with_source(error))
        })
}

/// Returns what a replica set says of itself.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) if it is not a replica set, or a server error.
pub(crate) fn describe(client: &dyn Commands) -> BoxFuture<'_, Result<Deployment>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        const OPERATION: &str = "describe the deployment";
        let hello = run(client, OPERATION, "admin", doc! { "isMaster": 1 }).await?;
        let Ok(name) = hello.get_str("setName") else {
            // Identifies imitations of MongoDB, most of which do not report a replica set.
            let build = run(client, OPERATION, "admin", doc! { "buildInfo": 1 })
                .await
                .unwrap_or_default();
            return Err(Error::refused(OPERATION, vec![not_a_replica_set(&hello, &build)]));
        };
        let build = run(client, OPERATION, "admin", doc! { "buildInfo": 1 }).await?;
        let version = build
            .get_array("versionArray")
            .map(|parts| {
                let part = |at: usize| {
                    parts
                        .get(at)
                        .and_then(|part| part.as_i32())
                        .unwrap_or_default()
                        .unsigned_abs()
                };
                [part(0), part(1), part(2)]
            })
            .map_err(|error| Error::malformed(OPERATION, error))?;
        // Reading the parameter needs a privilege. Without it, the version of the binary is assumed, at which the server normally runs. Servers
        // before 3.4 do not have the parameter.
        let parameter = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
        let reply = match version {
            [major, minor, _] if [major, minor] < [3, 4] => None,
            _ => if_allowed(run(client, OPERATION, "admin", parameter).await)?,
        };
        let feature_compatibility = reply
            .and_then(|reply| {
                let text = match reply.get("featureCompatibilityVersion")? {
                    bson::Bson::Document(version) => version.get_str("version").ok()?,
                    // 3.4 returns the version alone.
                    bson::Bson::String(version) => version.as_str(),
                    _ => return None,
                };
                let (major, minor) = text.split_once('.')?;
                Some([major.parse().ok()?, minor.parse().ok()?])
            })
            .unwrap_or([version[0], version[1]]);
        // The id in the replica set's configuration does not change when members or names change. If it may not be read, the name is used. Before
        // 3.0 there is no such command, and before 3.2 no such id.
        let configuration = match version {
            [major, _, _] if major < 3 => None,
            _ => if_allowed(run(client, OPERATION, "admin", doc! { "replSetGetConfig": 1 }).await)?,
        };
        let identity = configuration
            .and_then(|reply| {
                let settings = reply.get_document("config").ok()?.get_document("settings").ok()?;
                Some(settings.get_object_id("replicaSetId").ok()?.to_hex())
            })
            .unwrap_or_else(|| format!("set {name}"));
        Ok(Deployment {
            identity,
            name: name.to_owned(),
            version,
            feature_compatibility,
        })
    }
    .boxed()
}

/// Returns `None` if the answer is missing for lack of a privilege, and for no other reason: a made-up answer would differ from what the
/// server says the next time.
pub(crate) fn if_allowed<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the finding for a server that belongs to no replica set: what it is, and what to do about it.
pub(crate) fn not_a_replica_set(hello: &Document, build: &Document) -> Finding {
    let (code, what, fix) = if let Some(kind) = imitation(hello, build) {
        (
            FindingCode::NotMongodb,
            format!("it is {kind}, which has no oplog to follow"),
            "only replica sets of MongoDB can be migrated",
        )
    } else if hello.get_str("msg").is_ok_and(|text| text == "isdbgrid") {
        (
            FindingCode::Mongos,
            "it is a mongos of a sharded cluster".to_owned(),
            "only replica sets can be migrated; give the connection string of one that is not a shard",
        )
    } else if hello.get_bool("isreplicaset").unwrap_or(false) {
        (
            FindingCode::NotInitiated,
            "it is a member of a replica set that has no configuration yet".to_owned(),
            "run `rs.initiate()` on it",
        )
    } else {
        (
            FindingCode::Standalone,
            "it is a standalone server".to_owned(),
            "restart mongod with `--replSet rs0` and run `rs.initiate()` to make it a replica set of one member",
        )
    };
    Finding::blocker(code, what, fix)
}

/// Reads an optime `{ts, t}` as the server writes it. The first entry of a replica set has no term.
pub(crate) fn position_of(optime: &Document) -> Option<Position> {
    let term = optime.get_i64("t").unwrap_or(Position::ZERO.term);
    Some(Position::new(optime.get_timestamp("ts").ok()?, term))
}

/// Reads a count that the server may return as an int, a long or a double.
pub(crate) fn number(document: &Document, name: &str) -> u64 {
    match document.get(name) {
        Some(bson::Bson::Int32(value)) => u64::try_from(*value).unwrap_or_default(),
        Some(bson::Bson::Int64(value)) => u64::try_from(*value).unwrap_or_default(),
        // Counts are far below 2^53, and a negative one is clamped to 0.
        Some(bson::Bson::Double(value)) => *value as u64,
        _ => 0,
    }
}

/// Returns the server's error code, if the error is a server's answer.
pub(crate) fn code(error: &Error) -> Option<i32> {
    said(error).and_then(Answer::code)
}

/// Returns what the server said if the error is a server's answer, otherwise the whole error.
pub(crate) fn answer(error: &Error) -> String {
    said(error).map_or_else(|| error.report(), ToString::to_string)
}

fn said(error: &Error) -> Option<&Answer> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether the requested collection or database does not exist.
pub(crate) fn is_gone(error: &Error) -> bool {
    // NamespaceNotFound, and CommandNotSupportedOnView for a collection that a view has replaced.
    matches!(code(error), Some(26 | 166))
}

/// Returns what to do about a server that currently takes no writes, if the code means that.
pub(crate) fn blocked(code: i32) -> Option<&'static str> {
    let row = error_codes::row(code)?;
    (row.meaning == Meaning::Blocked).then_some(row.why)
}

/// Converts an error of the driver into one of the crate.
pub(crate) fn convert(operation: &'static str, error: DriverError) -> Error {
    let (kind, retryable) = classify(&error);
    explained(operation.into(), kind, retryable, Answer::of(&error))
}

/// Converts what a server said into an error, whose source it becomes.
#[cfg(feature = "legacy")]
pub(crate) fn of_answer(operation: impl Into<Cow<'static, str>>, answer: Answer) -> Error {
    let (kind, retryable) = answer.code().and_then(by_code).unwrap_or((ErrorKind::Server, false));
    explained(operation.into(), kind, retryable, answer)
}

fn explained(operation: Cow<'static, str>, kind: ErrorKind, retryable: bool, answer: Answer) -> Error {
    let row = answer.code().and_then(error_codes::row);
    let message = match kind {
        ErrorKind::Unauthorized => {
            "the server does not allow it; grant the missing privilege or correct the credentials".to_owned()
        }
        ErrorKind::Connection => match row {
            Some(row) => format!("the server cannot do this now: {}", row.why),
            None if answer.code().is_some() => "the server cannot do this now".to_owned(),
            None => "the server cannot be reached or the connection broke; see whether its members run and can be reached from here"
                .to_owned(),
        },
        ErrorKind::TargetBlocked => {
            let what = row.map_or("it takes no writes", |row| row.why);
            format!("the server takes no writes: {what}")
        }
        _ => "the server refuses it; fix what it reports, and try again".to_owned(),
    };
    Error::new(kind, operation, message)
        .with_retryable(retryable)
        .with_source(answer)
}

/// Labels with which the driver or the server says that the same call may succeed later.
const MAY_PASS: [&str; 4] = [
    "RetryableWriteError",
    "TransientTransactionError",
    "RetryableError",
    "SystemOverloadedError",
];

fn classify(error: &DriverError) -> (ErrorKind, bool) {
    match &*error.kind {
        DriverErrorKind::Authentication { .. } => return (ErrorKind::Unauthorized, false),
        DriverErrorKind::Io(_)
        | DriverErrorKind::ConnectionPoolCleared { .. }
        | DriverErrorKind::ServerSelection { .. }
        | DriverErrorKind::DnsResolve { .. } => return (ErrorKind::Connection, true),
        DriverErrorKind::InvalidArgument { .. } | DriverErrorKind::InvalidTlsConfig { .. } => {
            return (ErrorKind::InvalidConfiguration, false);
        }
        _ => {}
    }
    match answer::code_of(error).and_then(by_code) {
        Some(known) => known,
        None if MAY_PASS.iter().any(|label| error.contains_label(label)) => (ErrorKind::Connection, true),
        None => (ErrorKind::Server, false),
    }
}

/// The kind of an error by its code, and whether the same call may succeed later.
fn by_code(code: i32) -> Option<(ErrorKind, bool)> {
    Some(match error_codes::row(code)?.meaning {
        Meaning::Unauthorized => (ErrorKind::Unauthorized, false),
        Meaning::Snapshot => (ErrorKind::SnapshotUnavailable, true),
        Meaning::PositionLost => (ErrorKind::PositionLost, false),
        Meaning::Retried => (ErrorKind::Connection, true),
        Meaning::Blocked => (ErrorKind::TargetBlocked, false),
    })
}

#[cfg(test)]
mod tests;

impl batch_cursor::Bytes for RawBatch {
    fn whole(&self) -> &[u8] {
        self.as_raw_document().as_bytes()
    }

    fn array(&self) -> Result<&[u8]> {
        let array = self
            .doc_slices()
            .map_err(|error| convert(batch_cursor::OPERATION, error))?;
        Ok(array.as_bytes())
    }
}
