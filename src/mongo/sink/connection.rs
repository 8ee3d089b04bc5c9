//! Connection to the target: its capabilities, and how to send it commands.

use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::{Document, doc, rawdoc};
use mongodb::Client;

use super::absences::Absences;
use super::flush::{Flushes, Terms, term_of};
use super::names::UniqueNames;
use crate::catalog::Series;
use crate::error::{Error, ErrorKind, Result};
use crate::mongo::client::{self, Answer};
use crate::mongo::error_codes;
use crate::mongo::retry::{COMMAND_TIMEOUT, RetryPolicy, WRITE_TIMEOUT, answered, retry};

/// Maximum time for a majority to confirm a write before the write is sent again.
const MAJORITY_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the target.
#[derive(Debug)]
pub(super) struct TargetConnection {
    client: Client,
    version: [u32; 3],
    applies_deltas: bool,
    terms: Terms,
    flushes: Flushes,
    unique_names: UniqueNames,
    absences: Absences,
}

impl TargetConnection {
    /// Asks the server for its version and capabilities.
    pub async fn probe(client: Client) -> Result<Self> {
        let version = client::describe(&client).await?.version;
        let applies_deltas = applies_deltas(&client).await?;
        Ok(Self {
            client,
            version,
            applies_deltas,
            terms: Terms::default(),
            flushes: Flushes::default(),
            unique_names: UniqueNames::default(),
            absences: Absences::default(),
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn version(&self) -> [u32; 3] {
        self.version
    }

    /// Whether the server is of this version or newer.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let [has_major, has_minor, _] = self.version;
        (has_major, has_minor) >= (major, minor)
    }

    /// The release series of its servers.
    pub fn series(&self) -> Series {
        [self.version[0], self.version[1]]
    }

    /// Whether the server accepts logged `$v: 2` deltas as they are.
    pub fn applies_deltas(&self) -> bool {
        self.applies_deltas
    }

    /// Terms of the primaries that acknowledged writes.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The flushes, of whichever migration.
    pub fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// Collections whose documents need no care when they are updated.
    pub fn unique_names(&self) -> &UniqueNames {
        &self.unique_names
    }

    /// Collections in which most updates find no document.
    pub fn absences(&self) -> &Absences {
        &self.absences
    }

    /// Sends a write command, with retries through elections. Its answer may be lost, so the command may run twice. The driver consumes the
    /// body, so `body` creates one for each attempt.
    ///
    /// # Errors
    /// The server's answer if it concerns the command as a whole; [`ErrorKind::Connection`] once the patience has run out.
    pub async fn write(
        &self,
        operation: &'static str,
        database: &str,
        body: impl Fn() -> RawDocumentBuf,
    ) -> Result<Reply> {
        let reply = retry(RetryPolicy::SERVER, || async {
            let mut body = body();
            body.append(
                cstr!("maxTimeMS"),
                i64::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
            );
            let reply = client::run_raw(&self.client, operation, database, body);
            Reply::read(operation, &answered(operation, COMMAND_TIMEOUT, reply).await?)
        })
        .await?;
        if let Some(term) = reply.term {
            self.terms.acknowledged(term);
        }
        Ok(reply)
    }

    /// Sends a command that completes when a majority has journaled its effect. It is retried through elections.
    ///
    /// # Errors
    /// Same as [`write`](Self::write).
    pub async fn write_durably(&self, operation: &'static str, database: &str, command: &RawDocument) -> Result<Reply> {
        let mut body = command.to_owned();
        body.append(cstr!("writeConcern"), durable());
        retry(RetryPolicy::SERVER, || async {
            let reply = client::run_raw(&self.client, operation, database, body.clone());
            Reply::read(operation, &answered(operation, COMMAND_TIMEOUT, reply).await?)
        })
        .await
    }
}

/// Write concern for what must not be lost: on the disks of a majority.
fn durable() -> RawDocumentBuf {
    let timeout = i64::try_from(MAJORITY_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    rawdoc! { "w": "majority", "j": true, "wtimeout": timeout }
}

/// Whether an ordinary client may use the stage with which the server's own secondaries apply deltas. The stage is not documented, hence
/// the probe. Its filter matches nothing.
async fn applies_deltas(client: &Client) -> Result<bool> {
    let update = doc! {
        "update": "probe",
        "updates": [{
            "q": { "_id": "probe" },
            "u": [{ "$_internalApplyOplogUpdate": { "oplogUpdate": { "$v": 2, "diff": { "u": { "a": 1 } } } } }],
        }],
        "writeConcern": { "w": 1 },
    };
    match client::run(client, "probe the target", crate::METADATA_DATABASE, update).await {
        Ok(reply) => Ok(!reply.contains_key("writeErrors")),
        // A missing privilege shows up again, with its reason, where it is needed.
        Err(error) if matches!(error.kind(), ErrorKind::Server | ErrorKind::Unauthorized) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Result of a write command.
#[derive(Debug)]
pub(super) struct Reply {
    /// Number of documents inserted, matched, upserted or deleted.
    pub count: u64,
    /// Statements or documents that failed, in order.
    pub errors: Vec<WriteError>,
    /// Term of the primary.
    pub term: Option<i64>,
}

/// Why a statement or document failed.
#[derive(Clone, Debug)]
pub(super) struct WriteError {
    /// Index in the command.
    pub index: usize,
    pub code: i32,
    pub message: String,
    /// For a duplicate key: whether the index is the one on `_id`.
    pub on_id: bool,
}

impl Reply {
    fn read(operation: &'static str, reply: &Document) -> Result<Self> {
        // If the write concern was not met, the write itself may exist. All that can be done is to send it again.
        if let Ok(error) = reply.get_document("writeConcernError") {
            return Err(transient(
                operation,
                error.get_i32("code").unwrap_or_default(),
                error.get_str("errmsg").unwrap_or_default(),
            ));
        }
        let listed = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let errors: Vec<_> = listed
            .iter()
            .filter_map(|error| error.as_document())
            .map(|error| WriteError {
                index: usize::try_from(client::number(error, "index")).unwrap_or(usize::MAX),
                code: error.get_i32("code").unwrap_or_default(),
                message: client::plain(error.get_str("errmsg").unwrap_or_default()),
                on_id: error
                    .get_document("keyPattern")
                    .is_ok_and(|pattern| pattern.len() == 1 && pattern.contains_key("_id")),
            })
            .collect();
        // A server that steps down or shuts down reports that for each write.
        if let Some(error) = errors.iter().find(|error| error_codes::is_retried(error.code)) {
            return Err(transient(operation, error.code, &error.message));
        }
        // A target that takes no writes is not the fault of a document, either.
        if let Some((error, what)) = errors
            .iter()
            .find_map(|error| client::blocked(error.code).map(|what| (error, what)))
        {
            return Err(Error::new(
                ErrorKind::TargetBlocked,
                operation,
                format!("the server takes no writes: {what}"),
            )
            .with_source(Answer::of_reply(error.code, &error.message)));
        }
        Ok(Self {
            count: client::number(reply, "n"),
            errors,
            term: term_of(reply),
        })
    }
}

fn transient(operation: &'static str, code: i32, message: &str) -> Error {
    Error::new(ErrorKind::Connection, operation, "the server cannot take writes now")
        .with_source(Answer::of_reply(code, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_takes_no_writes_is_no_fault_of_a_document() {
        let reply = |code: i32| {
            let error = doc! { "index": 3, "code": code, "errmsg": "what the server says" };
            Reply::read("write", &doc! { "n": 0, "writeErrors": [error] })
        };
        for (code, advice) in [(371, "setUserWriteBlockMode"), (14031, "make room")] {
            let error = reply(code).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TargetBlocked);
            let text = error.report();
            assert!(text.contains(advice) && text.contains("what the server says"), "{text}");
        }
        assert_eq!(reply(121).unwrap().errors.len(), 1);
    }
}
