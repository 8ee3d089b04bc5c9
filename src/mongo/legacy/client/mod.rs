//! The client: commands and queries on the primary or on a named member.

mod connection;
mod pool;
mod stream;
mod tls;
mod topology;
mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;

pub(super) use self::connection::encode_command;
use self::pool::Pools;
pub(super) use self::pool::{Lease, Pool};
use self::tls::Tls;
use self::topology::Topology;
use super::auth::{self, KeyCache};
use super::cursor::LegacyCursor;
use super::error::{CommandError, server_error};
use super::find::Find;
use super::is_master::IsMaster;
use super::options::LegacyOptions;
use super::wire::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::mongo::client::code;

/// Codes that say that a member is not, or no longer, the primary.
const NOT_PRIMARY: [i32; 9] = [91, 189, 10058, 10107, 11600, 11602, 13435, 13436, 94];

/// A client of one replica set. Clones share their connections, which are closed with the last of them.
#[derive(Clone)]
pub struct LegacyClient {
    shared: Arc<Shared>,
    answer_timeout: Duration,
}

struct Shared {
    settings: Settings,
    pools: Pools,
    topology: Topology,
}

/// What all connections have in common.
pub(super) struct Settings {
    pub options: LegacyOptions,
    tls: Option<Tls>,
    keys: KeyCache,
}

/// The primary of the set, or the member that a cursor was opened on.
#[derive(Clone, Debug)]
pub struct Primary {
    /// Where it is, as `host:port`.
    pub address: String,
    /// What it said of itself last.
    pub is_master: IsMaster,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub address: String,
    /// Whether the member must be the primary.
    pub is_primary: bool,
}

impl LegacyClient {
    /// Creates a client. Nothing is sent; the files with certificates are read.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if there is no host, the login cannot work, or a file cannot be used.
    pub fn new(options: LegacyOptions) -> Result<Self> {
        if options.hosts.is_empty() {
            let message = "the connection string names no host; add one";
            return Err(Error::new(ErrorKind::InvalidConfiguration, "connect", message));
        }
        if let Some(credential) = &options.credential {
            auth::check(credential)?;
        }
        let tls = options.tls.clone().map(Tls::new).transpose()?;
        let answer_timeout = options.answer_timeout;
        let settings = Settings {
            options,
            tls,
            keys: KeyCache::default(),
        };
        let shared = Shared {
            topology: Topology::new(&settings),
            pools: Pools::default(),
            settings,
        };
        Ok(Self {
            shared: Arc::new(shared),
            answer_timeout,
        })
    }

    /// Returns a client of the same connections that waits for answers for another time.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn with_answer_timeout(&self, answer_timeout: Duration) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            answer_timeout,
        }
    }

    /// The settings.
    pub fn options(&self) -> &LegacyOptions {
        &self.shared.settings.options
    }

    /// Returns the primary: the member that says so, with the newest election of those that do. What is known counts for five seconds; then
    /// all members are asked again. Waits for a primary if there is none.
    ///
    /// # Errors
    /// [`Connection`](ErrorKind::Connection), with a finding, if there is none within the server selection timeout.
    ///
    /// # Cancellation
    /// May be dropped at any time.
    pub async fn primary(&self) -> Result<Arc<Primary>> {
        // Boxed, as everything here that goes to a server: callers nest these futures deeply, and their stacks have 2 MiB.
        Box::pin(self.shared.topology.primary(&self.shared.settings)).await
    }

    /// Runs a command on the primary, which refuses it if it is no longer the primary. A command with `maxTimeMS` has that time in addition
    /// to the answer timeout. Nothing is retried, except for a request that a connection did not take because it had been closed.
    ///
    /// # Errors
    /// What the server says, by [`server_error`], or a connection error. After a connection error the server may have carried out the
    /// command.
    ///
    /// # Cancellation
    /// If the future is dropped, the connection is closed. The server may carry out the command all the same.
    pub async fn command(&self, database: &str, command: &RawDocument) -> Result<RawDocumentBuf> {
        let primary = self.primary().await?;
        let target = Target {
            address: primary.address.clone(),
            is_primary: true,
        };
        Box::pin(self.run(&target, database, command)).await
    }

    /// Runs a command on a member, whether or not it is the primary.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    ///
    /// # Cancellation
    /// As [`command`](Self::command).
    pub async fn command_on(&self, address: &str, database: &str, command: &RawDocument) -> Result<RawDocumentBuf> {
        let target = Target {
            address: address.to_owned(),
            is_primary: false,
        };
        Box::pin(self.run(&target, database, command)).await
    }

    /// Asks a member what it is, whether or not it is the primary.
    ///
    /// # Errors
    /// As [`command`](Self::command), and [`Protocol`](ErrorKind::Protocol) if the answer is malformed.
    ///
    /// # Cancellation
    /// As [`command`](Self::command).
    pub async fn is_master(&self, address: &str) -> Result<IsMaster> {
        let question = rawdoc! { "isMaster": 1 };
        IsMaster::parse(self.command_on(address, "admin", &question).await?)
    }

    /// Opens a cursor, on the primary if the query names no member. Servers from 3.2 on get the commands `find` and `getMore`, older ones
    /// `OP_QUERY` and `OP_GET_MORE`.
    ///
    /// # Errors
    /// As [`command`](Self::command), and [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the query asks for what the server
    /// does not have: a read concern before 3.2, a collation before 3.4.
    ///
    /// # Cancellation
    /// If the future is dropped, the server may keep the cursor: for ten minutes, or until it restarts if the query says
    /// `no_cursor_timeout`.
    pub async fn find(&self, find: Find) -> Result<LegacyCursor> {
        Box::pin(LegacyCursor::open(self.clone(), find)).await
    }

    /// Runs a command on the primary whose reply is a cursor, such as `aggregate` or `listCollections`, and returns that cursor.
    ///
    /// # Errors
    /// As [`command`](Self::command), and [`Protocol`](ErrorKind::Protocol) if the reply has no cursor.
    ///
    /// # Cancellation
    /// As [`find`](Self::find).
    pub async fn command_cursor(&self, database: &str, command: &RawDocument) -> Result<LegacyCursor> {
        LegacyCursor::of_command(self.clone(), database, command).await
    }

    /// Returns what a member said of itself when a connection to it was last opened.
    pub(super) async fn describe(&self, target: &Target) -> Result<IsMaster> {
        let leased = self.pool(target).lease(&self.shared.settings, false).await;
        let mut lease = leased.inspect_err(|error| self.suspect(target, error))?;
        Ok(lease.connection()?.is_master().clone())
    }

    pub(super) async fn run(&self, target: &Target, database: &str, command: &RawDocument) -> Result<RawDocumentBuf> {
        let limit = self.answer_timeout + max_time(command);
        let encode = |id| encode_command(id, database, command, !target.is_primary);
        let (reply, wire_version) = self.exchange(target, limit, encode).await?;
        let reply = reply.into_document()?;
        match CommandError::of_reply(&reply) {
            None => Ok(reply),
            Some(said) => Err(self.refused(target, operation_of(command), &said, wire_version)),
        }
    }

    /// Sends a request and returns the reply, with the server's wire version.
    pub(super) async fn exchange(
        &self,
        target: &Target,
        limit: Duration,
        encode: impl Fn(i32) -> Result<Vec<u8>>,
    ) -> Result<(Reply, i32)> {
        let mut lease = self.begin(target, &encode, false).await?;
        let finished = match lease.connection()?.finish(limit).await {
            Err(_) if lease.is_reused && !lease.connection()?.is_sent() => {
                // The server has closed the connection meanwhile, and has no whole request.
                drop(lease);
                lease = self.begin(target, &encode, true).await?;
                lease.connection()?.finish(limit).await
            }
            finished => finished,
        };
        let reply = self.broken(target, finished)?;
        let wire_version = lease.connection()?.is_master().max_wire_version;
        Ok((reply, wire_version))
    }

    /// Begins a request on a connection.
    pub(super) async fn begin(
        &self,
        target: &Target,
        encode: &impl Fn(i32) -> Result<Vec<u8>>,
        fresh: bool,
    ) -> Result<Lease> {
        let settings = &self.shared.settings;
        let leased = self.pool(target).lease(settings, fresh).await;
        let mut lease = leased.inspect_err(|error| self.suspect(target, error))?;
        self.check(target, lease.connection()?.is_master())?;
        lease.connection()?.begin(encode)?;
        Ok(lease)
    }

    /// The pool of a server.
    pub(super) fn pool(&self, target: &Target) -> Arc<Pool> {
        self.shared.pools.of(&target.address, &self.shared.settings)
    }

    /// The primary that was found last, without asking again.
    pub(super) fn last_known_primary(&self) -> Option<Arc<Primary>> {
        self.shared.topology.last_known()
    }

    /// The timeout for answers.
    pub(super) fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// Adds where it happened to a connection error, and asks for the primary again before the next request.
    pub(super) fn broken<T>(&self, target: &Target, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.suspect(target, &error);
            error.with_context("host", &target.address)
        })
    }

    /// Returns the error for what a server said.
    pub(super) fn refused(&self, target: &Target, operation: String, said: &CommandError, wire_version: i32) -> Error {
        let error = server_error(operation, said, wire_version);
        self.suspect(target, &error);
        error.with_context("host", &target.address)
    }

    fn suspect(&self, target: &Target, error: &Error) {
        let is_broken = error.kind() == ErrorKind::Connection && code(error).is_none();
        if is_broken || code(error).is_some_and(|code| NOT_PRIMARY.contains(&code)) {
            self.shared.topology.suspect(&target.address);
        }
    }

    /// Refuses a server of another set. The name that the set has for a member may belong to another server by now.
    fn check(&self, target: &Target, is_master: &IsMaster) -> Result<()> {
        let expected = self.options().set_name.as_ref();
        if expected.is_none() || is_master.set_name.as_ref() == expected {
            return Ok(());
        }
        let message = format!(
            "the server is no member of the set {}; correct `replicaSet`, or the address",
            expected.map_or("", String::as_str)
        );
        Err(Error::new(ErrorKind::Connection, "connect", message).with_context("host", &target.address))
    }
}

impl fmt::Debug for LegacyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyClient")
            .field("hosts", &self.options().hosts)
            .finish_non_exhaustive()
    }
}

/// What a command is called in messages: its name alone, since its values may be secret.
fn operation_of(command: &RawDocument) -> String {
    let name = command.iter().next().and_then(Result::ok);
    format!("run `{}`", name.map_or("a command", |(name, _)| name.as_str()))
}

/// The time that a command gives the server.
fn max_time(command: &RawDocument) -> Duration {
    let milliseconds = match command.get("maxTimeMS").ok().flatten() {
        Some(bson::raw::RawBsonRef::Int32(value)) => value.into(),
        Some(bson::raw::RawBsonRef::Int64(value)) => value,
        _ => 0,
    };
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}
