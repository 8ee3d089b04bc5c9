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

    /// Returns all documents of the cursor that a command opens, or `None` once they have more than `most` bytes.
    ///
    /// # Errors
    /// Same as [`run_within`](Self::run_within).
    async fn documents_within(
        &self,
        most: usize,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Option<Vec<RawDocumentBuf>>>;

    /// Same as [`documents_within`](Self::documents_within), for answers known to be small.
    ///
    /// # Errors
    /// Same as [`run_within`](Self::run_within).
    async fn documents(
        &self,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Vec<RawDocumentBuf>> {
        let documents = self.documents_within(usize::MAX, operation, database, command).await?;
        Ok(documents.unwrap_or_default())
    }

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

    async fn documents_within(
        &self,
        most: usize,
        operation: &'static str,
        database: &str,
        command: Document,
    ) -> Result<Option<Vec<RawDocumentBuf>>> {
        let command = RawDocumentBuf::try_from(&command).map_err(|error| Error::malformed(operation, error))?;
        retry(RetryPolicy::SERVER, || async {
            let mut cursor = open_cursor(self, operation, database, command.clone(), None).await?;
            let mut documents = Bounded::new(most);
            while let Some(batch) = cursor.next().await {
                if !documents.add(batch?.iter().map(RawDocument::to_owned)) {
                    return Ok(None);
                }
            }
            Ok(Some(documents.documents))
        })
        .await
    }
}

/// Documents up to a number of bytes.
pub(crate) struct Bounded {
    pub documents: Vec<RawDocumentBuf>,
    /// Number of bytes that there is still room for.
    left: usize,
}

impl Bounded {
    pub fn new(most: usize) -> Self {
        Self {
            documents: Vec::new(),
            left: most,
        }
    }

    /// Adds documents. Returns `false` if there is no room for them.
    pub fn add(&mut self, documents: impl IntoIterator<Item = RawDocumentBuf>) -> bool {
        for document in documents {
            let Some(left) = self.left.checked_sub(document.as_bytes().len()) else {
                return false;
            };
            self.left = left;
            self.documents.push(document);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn documents_are_taken_while_there_is_room() {
        let document = rawdoc! { "a": 1 };
        let mut documents = Bounded::new(2 * document.as_bytes().len());
        assert!(documents.add([document.clone(), document.clone()]));
        assert!(!documents.add([document.clone()]));
        assert_eq!(documents.documents.len(), 2);
    }
}
