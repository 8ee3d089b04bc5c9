//! Waits until a majority of the set has what was written.
//!
//! A primary that the other members have superseded may not know it yet, and still answers for some seconds. Everything that it reports as
//! majority-committed is so, but may be far from the newest. That is good enough to read and to follow from, since later entries are met
//! from there. Where it matters that nothing newer exists, [`confirmed`] asks a majority.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bson::{Timestamp, doc};
use mongodb::Client;
use tokio::time::sleep;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::mongo::client;
use crate::mongo::oplog::standing::{Standing, standing};
use crate::mongo::retry::{COMMAND_TIMEOUT, RetryPolicy, answered, retry};

/// Timeout for a majority to confirm the primary before it is asked again.
pub(crate) const CONFIRMATION: Duration = Duration::from_secs(10);

/// Returns the newest entry of the primary, once a majority has it. Nothing that was written before the call comes after it.
///
/// # Errors
/// A server error, or an error if the majority does not advance for as long as the patience lasts.
pub(crate) async fn newest_written(client: &Client) -> Result<Position> {
    followed(|| standing(client)).await
}

async fn followed<F>(mut standing: impl FnMut() -> F) -> Result<Position>
where
    F: Future<Output = Result<Standing>>,
{
    let written = retry(RetryPolicy::SERVER, &mut standing).await?.newest;
    let majority = || {
        let standing = standing();
        async { Ok(standing.await?.majority) }
    };
    until_majority(RetryPolicy::SERVER, written, majority, |_| false).await
}

/// Asks what a majority has until that is everything up to `written`, and returns it. An error that `is_final` takes for one ends the wait,
/// others only if the majority does not advance for as long as the patience of `rule` lasts.
///
/// # Errors
/// A final error, or the last one of `majority`, or that the majority does not advance.
pub(crate) async fn until_majority<F>(
    rule: RetryPolicy,
    written: Position,
    mut majority: impl FnMut() -> F,
    is_final: impl Fn(&Error) -> bool,
) -> Result<Position>
where
    F: Future<Output = Result<Position>>,
{
    let (mut attempts, mut reached) = (rule.begin(), Position::ZERO);
    loop {
        let error = match majority().await {
            Ok(majority) if majority >= written => return Ok(majority),
            Ok(majority) => {
                if majority > reached {
                    reached = majority;
                    attempts = rule.begin();
                }
                Error::new(
                    ErrorKind::Connection,
                    "wait until a majority has everything",
                    "the members that make a majority do not follow the primary; see with `rs.status()` which are down or behind",
                )
                .with_context("written", written)
                .with_context("majority", majority)
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => error,
        };
        match attempts.next_pause(&error) {
            Some(pause) => sleep(pause).await,
            None => return Err(error),
        }
    }
}

/// Same as [`newest_written`], but from a primary that a majority has confirmed since the call began. No write that was made before the
/// call and acknowledged by any majority comes after the returned position.
///
/// To confirm itself, the server writes an entry without effect to its oplog, as it does for every read with read concern `linearizable`.
///
/// # Errors
/// A server error, or an error if no majority confirms the primary for as long as the patience lasts.
pub(crate) async fn confirmed(client: &Client) -> Result<Position> {
    const OPERATION: &str = "have a majority confirm the newest position";
    // If members were far behind, the read below would fail again and again.
    newest_written(client).await?;
    retry(RetryPolicy::SERVER, || async {
        let noted = note_linearizable_read(client, OPERATION).await?;
        // Any member may answer. If its majority position is as new as the note, that position comes after the note.
        let majority = standing(client).await?.majority;
        if majority.timestamp() >= noted {
            return Ok(majority);
        }
        let message = "the primary has changed, and the new one does not know yet what a majority has";
        Err(Error::new(ErrorKind::Connection, OPERATION, message).with_context("majority", majority))
    })
    .await
}

/// Makes the primary write an entry without effect and wait until a majority has it. On a superseded primary that never happens. Returns
/// the entry's time. Nothing is retried.
async fn note_linearizable_read(client: &Client, operation: &'static str) -> Result<Timestamp> {
    let milliseconds = i64::try_from(CONFIRMATION.as_millis()).unwrap_or(i64::MAX);
    // What is read does not matter. Every user of this crate may read this.
    let command = doc! {
        "find": "oplog.rs",
        "projection": { "ts": 1 },
        "limit": 1,
        "singleBatch": true,
        "readConcern": { "level": "linearizable" },
        "maxTimeMS": milliseconds,
    };
    let database = client.database("local");
    let reply = answered(operation, COMMAND_TIMEOUT, async {
        let reply = database.run_command(command).await;
        reply.map_err(|error| client::convert(operation, error))
    })
    .await
    .map_err(|error| match client::code(&error) {
        // MaxTimeMSExpired.
        Some(50) => unconfirmed(operation).with_source(error),
        _ => error,
    })?;
    reply
        .get_timestamp("operationTime")
        .map_err(|error| Error::malformed(operation, error))
}

/// Returns the error for a primary that no majority has confirmed in time.
pub(crate) fn unconfirmed(operation: &'static str) -> Error {
    let message = "no majority of the set confirms that the member is its primary; see whether the members reach each other, and whether \
                   writes are locked (`db.fsyncLock()`)";
    Error::new(ErrorKind::Connection, operation, message)
}
