//! Commands, whatever client carries them to the server.

use std::time::Duration;

use async_trait::async_trait;
use bson::Document;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::StreamExt;
use mongodb::Client;

use super::{convert, open_cursor};
use crate::error::{Error, Result};
use crate::mongo::retry::{RetryPolicy, answered, retry};

/// A client of a replica set, as far as its commands are concerned. Everything goes to the primary.
#[async_trait]
pub(crate) trait Commands: Send + Sync {
    /// Runs a command, with retries through elections.
    ///
    /// # Errors
    /// The server's answer, or a connection error once the patience has run out.
    async fn run_within(
        &self,
        limit: Duration,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Document>;

    /// Returns all documents of the cursor that a command opens, for answers known to be small.
    ///
    /// # Errors
    /// Same as [`run_within`](Self::run_within).
    async fn documents(
        &self,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Vec<RawDocumentBuf>>;

    /// Whether a listed collection shows its uuid.
    fn lists_uuids(&self) -> bool {
        true
    }

    /// Returns the listed options of a collection without those that have no meaning on this server.
    fn meant_options(&self, listed: &RawDocument) -> RawDocumentBuf {
        listed.to_owned()
    }

    /// Same as [`meant_options`](Self::meant_options), for the specification of an index.
    fn meant_index(&self, listed: RawDocumentBuf) -> RawDocumentBuf {
        listed
    }
}

#[async_trait]
impl Commands for Client {
    async fn run_within(
        &self,
        limit: Duration,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Document> {
        let database = self.database(database);
        retry(RetryPolicy::SERVER, || {
            answered(operation, limit, async {
                let answer = database.run_command(command.clone()).await;
                answer.map_err(|error| convert(operation, error))
            })
        })
        .await
    }

    async fn documents(
        &self,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Vec<RawDocumentBuf>> {
        let command = RawDocumentBuf::try_from(&command).map_err(|error| Error::malformed(operation, error))?;
        retry(RetryPolicy::SERVER, || async {
            let mut cursor = open_cursor(self, operation, database, command.clone(), None).await?;
            let mut documents = Vec::new();
            while let Some(batch) = cursor.next().await {
                documents.extend(batch?.iter().map(RawDocument::to_owned));
            }
            Ok(documents)
        })
        .await
    }
}
