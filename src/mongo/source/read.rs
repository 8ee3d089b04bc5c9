//! Reads documents at a position: from a snapshot, or with a majority read after it.

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::{doc, rawdoc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use mongodb::options::{ReadPreference, RunCursorCommandOptions, WriteConcern};
use mongodb::raw_batch_cursor::SessionRawBatchCursor;
use mongodb::{Client, ClientSession};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Batch, Position};
use crate::mongo::client::{code, convert, open_cursor_within, to_its_end};
use crate::mongo::range_query::{Numbers, batch_size, open_range, range_find};
use crate::mongo::retry::{COMMAND_TIMEOUT, FIRST_BATCH_TIMEOUT, RetryPolicy, answered, retry};
use crate::source::{ReadMode, ReadRequest};

const OPERATION: &str = "read documents";

/// Returns the documents of a range. With a `query`, only those that match it.
pub(super) async fn range(
    client: &Client,
    version: [u32; 3],
    request: &ReadRequest,
    query: Option<&RawDocument>,
) -> Result<BoxStream<'static, Result<Batch>>> {
    let batch_size = batch_size(request.batch_bytes, request.document_bytes);
    let (namespace, kind, range) = (&request.namespace, request.kind, &request.range);
    let way = Way::new(version, request.mode);
    let reader = Reader {
        client: client.clone(),
        database: namespace.database().to_owned(),
        way,
    };
    let read_concern = way.read_concern(request.at);
    let (reader, read_concern) = (&reader, &read_concern);
    let opened = open_range(namespace, Numbers::All, |numbers| async move {
        let mut find = range_find(namespace, kind, range, batch_size, Some(read_concern), numbers);
        if let Some(query) = query {
            find.require(query)?;
        }
        let batches = reader.open(&find.command, batch_size).await?;
        Ok((find, batches))
    });
    let (find, batches) = opened.await?;
    let namespace = namespace.clone();
    Ok(find
        .within(batches)
        .map_err(move |error| error.with_context("namespace", &namespace))
        .boxed())
}

/// How to read documents as they were at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// 5.0 and newer provide a snapshot to any read.
    Snapshot,
    /// 4.2 and 4.4 provide a snapshot only to transactions.
    Transaction,
    /// No snapshot, but nothing older than the position.
    Interval,
}

impl Way {
    pub fn new(version: [u32; 3], mode: ReadMode) -> Self {
        match mode {
            ReadMode::Interval => Self::Interval,
            ReadMode::Snapshot if version[0] >= 5 => Self::Snapshot,
            ReadMode::Snapshot => Self::Transaction,
        }
    }

    /// Returns the `readConcern` for a read at `at`.
    pub fn read_concern(self, at: Position) -> RawDocumentBuf {
        match self {
            Self::Snapshot | Self::Transaction => rawdoc! { "level": "snapshot", "atClusterTime": at.timestamp() },
            // The server refuses the zero timestamp. Everything is newer than that anyway.
            Self::Interval if at.time == 0 => rawdoc! { "level": "majority" },
            Self::Interval => rawdoc! { "level": "majority", "afterClusterTime": at.timestamp() },
        }
    }
}

/// Where and how to read.
pub(super) struct Reader {
    pub client: Client,
    pub database: String,
    pub way: Way,
}

impl Reader {
    /// Opens the cursor of a `find` that carries its read concern and batch size. Opening is retried through elections.
    ///
    /// The stream has no empty batches. Once it is open, nothing is retried: it ends with a retryable error if it breaks.
    pub async fn open(&self, find: &RawDocumentBuf, batch_size: u32) -> Result<BoxStream<'static, Result<Batch>>> {
        let batches = retry(RetryPolicy::SERVER, || async {
            let opened = tokio::time::timeout(FIRST_BATCH_TIMEOUT, self.open_once(find, batch_size)).await;
            match opened.unwrap_or_else(|_| Err(no_answer())) {
                // This snapshot will not come back. The caller has to take a newer one.
                Err(error) if error.kind() == ErrorKind::SnapshotUnavailable => Ok(Err(error)),
                opened => opened.map(Ok),
            }
        })
        .await??;
        let way = self.way;
        Ok(batches
            .map_err(move |error| way.judge(error))
            .filter(|batch| std::future::ready(batch.as_ref().map_or(true, |batch| !batch.is_empty())))
            .boxed())
    }

    async fn open_once(&self, find: &RawDocumentBuf, batch_size: u32) -> Result<BoxStream<'static, Result<Batch>>> {
        let opened = match self.way {
            Way::Snapshot | Way::Interval => {
                // Longer than the timeout for the first batch, whose error says more.
                let limit = FIRST_BATCH_TIMEOUT + COMMAND_TIMEOUT;
                open_cursor_within(
                    limit,
                    &self.client,
                    OPERATION,
                    &self.database,
                    find.clone(),
                    Some(batch_size),
                )
                .await
            }
            Way::Transaction => {
                let (client, database, find) = (self.client.clone(), self.database.clone(), find.clone());
                let open = async move { Transaction::open(&client, &database, find, batch_size).await };
                to_its_end(OPERATION, FIRST_BATCH_TIMEOUT + COMMAND_TIMEOUT, open)
                    .await
                    .map(Transaction::into_batches)
            }
        };
        opened.map_err(|error| self.way.judge(error))
    }
}

impl Way {
    /// Classifies an error of a read for the caller.
    fn judge(self, error: Error) -> Error {
        let code = code(&error);
        match self {
            Self::Snapshot | Self::Transaction if error.kind() == ErrorKind::SnapshotUnavailable => {
                // 5.0 and newer never provide a snapshot of a capped collection. They report that with the code for snapshots that are too
                // old.
                let never = std::error::Error::source(&error)
                    .is_some_and(|source| source.to_string().contains("capped collections"));
                error.with_retryable(!never)
            }
            // InvalidOptions, OperationNotSupportedInTransaction: it cannot be read at a snapshot at all.
            Self::Snapshot | Self::Transaction if matches!(code, Some(72 | 263)) => {
                error.with_kind(ErrorKind::SnapshotUnavailable).with_retryable(false)
            }
            // LockTimeout, WriteConflict, NoSuchTransaction, TransactionTooOld, ExceededTimeLimit, TransactionExceededLifetimeLimitSeconds:
            // the server has ended the transaction because of its age, to relieve its cache, or because of concurrent DDL.
            Self::Transaction if matches!(code, Some(24 | 112 | 225 | 251 | 262 | 290)) => {
                error.with_kind(ErrorKind::SnapshotUnavailable).with_retryable(true)
            }
            // A majority read requests no snapshot. The server still refuses it with this error for an instant after DDL.
            Self::Interval if error.kind() == ErrorKind::SnapshotUnavailable => {
                error.with_kind(ErrorKind::Server).with_retryable(true)
            }
            // CappedPositionLost: the documents to read next have been pushed out of the capped collection.
            _ if code == Some(136) => error.with_kind(ErrorKind::Server).with_retryable(true),
            _ => error,
        }
    }
}

fn no_answer() -> Error {
    Error::new(
        ErrorKind::Connection,
        OPERATION,
        format!(
            "the server did not answer within {} seconds; see whether the replica set has lost its majority",
            FIRST_BATCH_TIMEOUT.as_secs()
        ),
    )
}

/// A read-only transaction and its only cursor.
///
/// Dropping it ends both on the server, at any point. The driver kills the cursor of a dropped `SessionRawBatchCursor`, and aborts the
/// transaction of a dropped `ClientSession` that is in progress. The session itself returns to the driver, which reuses it.
struct Transaction {
    cursor: SessionRawBatchCursor,
    session: ClientSession,
}

impl Transaction {
    async fn open(client: &Client, database: &str, find: RawDocumentBuf, batch_size: u32) -> Result<Self> {
        let failed = |error| convert(OPERATION, error);
        let mut session = client.start_session().causal_consistency(false).await.map_err(failed)?;
        // A transaction might refuse the client's own defaults.
        session
            .start_transaction()
            .selection_criteria(ReadPreference::Primary.into())
            .write_concern(WriteConcern::nodes(1))
            .await
            .map_err(failed)?;
        let database = client.database(database);
        // The driver considers a transaction in progress, and aborts it on drop, only after its first command has ended. If this future
        // were dropped while the server works on the `find`, the transaction would stay open until the server's own limit of 60 seconds. So
        // an empty command goes first, which ends in the driver itself. The `find` then states that it starts the transaction.
        if database
            .run_command(bson::Document::new())
            .session(&mut session)
            .await
            .is_ok()
        {
            return Err(Error::new(
                ErrorKind::Protocol,
                OPERATION,
                "the server took an empty command",
            ));
        }
        let mut find = find;
        find.append(cstr!("startTransaction"), true);
        let mut options = RunCursorCommandOptions::default();
        options.batch_size = Some(batch_size);
        let cursor = database
            .run_raw_cursor_command(find)
            .with_options(options)
            .session(&mut session)
            .batch()
            .await
            .map_err(failed)?;
        Ok(Self { cursor, session })
    }

    /// Ends the transaction and its session. The server would otherwise keep the session for half an hour. Errors are ignored.
    async fn end(self) {
        let Self { cursor, mut session } = self;
        drop(cursor);
        let client = session.client();
        let ended = async {
            session.abort_transaction().await?;
            let command = doc! { "endSessions": [session.id().clone()] };
            client.database("admin").run_command(command).await
        };
        let _ = answered(OPERATION, COMMAND_TIMEOUT, async {
            ended.await.map_err(|error| convert(OPERATION, error))
        })
        .await;
    }

    fn into_batches(self) -> BoxStream<'static, Result<Batch>> {
        stream::unfold(Some(self), |transaction| async {
            let mut transaction = transaction?;
            let next = answered(OPERATION, COMMAND_TIMEOUT, async {
                let batch = transaction
                    .cursor
                    .stream(&mut transaction.session)
                    .next()
                    .await
                    .transpose();
                batch.map_err(|error| convert(OPERATION, error))
            });
            match next.await {
                Ok(batch) => {
                    let batch = batch?;
                    let is_last = batch
                        .as_raw_document()
                        .get_document("cursor")
                        .and_then(|cursor| cursor.get_i64("id"))
                        .is_ok_and(|id| id == 0);
                    let documents = Batch::from_reply(batch).map_err(|error| Error::malformed(OPERATION, error));
                    if is_last {
                        // Releases the snapshot with the last batch, not when the caller has processed that batch.
                        transaction.end().await;
                        return Some((documents, None));
                    }
                    Some((documents, Some(transaction)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_at_its_position() {
        let at = Position {
            time: 5,
            increment: 2,
            term: 1,
        };
        let timestamp = bson::Timestamp { time: 5, increment: 2 };
        for (version, mode, read_concern) in [
            (
                [4, 4, 2],
                ReadMode::Snapshot,
                rawdoc! { "level": "snapshot", "atClusterTime": timestamp },
            ),
            (
                [5, 0, 4],
                ReadMode::Snapshot,
                rawdoc! { "level": "snapshot", "atClusterTime": timestamp },
            ),
            (
                [6, 0, 5],
                ReadMode::Interval,
                rawdoc! { "level": "majority", "afterClusterTime": timestamp },
            ),
        ] {
            assert_eq!(Way::new(version, mode).read_concern(at), read_concern);
        }
        assert_eq!(
            Way::Interval.read_concern(Position::ZERO),
            rawdoc! { "level": "majority" }
        );
        assert_eq!(Way::new([4, 2, 6], ReadMode::Snapshot), Way::Transaction);
        assert_eq!(Way::new([5, 0, 0], ReadMode::Snapshot), Way::Snapshot);
    }
}
