//! Cursors, by commands and by the older messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;
use tokio::time::Instant;

use super::client::{Lease, LegacyClient, Pool, Primary, Target, encode_command};
use super::error::CommandError;
use super::find::{Find, FindMode};
use super::request::{command_of, flags_of, get_more_of, query_of};
use super::wire::{self, Query, Reply};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Batch;

const OPERATION: &str = "read from a cursor";

/// The first wire version with `find` and `getMore`, and with collations.
const FIND: i32 = 4;
const COLLATION: i32 = 5;

/// A cursor on a server. Its batches are limited by the server: 4 or 16 MB, and one document more.
///
/// Dropping it closes the cursor on the server: at once if a connection is free, or else before the client's next request to that server. No
/// task is started for that. A cursor that cannot be closed, as when the connection breaks, ends by the server's timeout of ten minutes,
/// unless the query says `no_cursor_timeout`.
pub struct LegacyCursor {
    client: LegacyClient,
    target: Target,
    primary: Arc<Primary>,
    find: Find,
    /// Whether it is read by commands.
    by_command: bool,
    opened: Instant,
    id: i64,
    /// Number of documents that were returned.
    returned: u64,
    first: Option<Batch>,
    reply: Option<RawDocumentBuf>,
    /// The connection on which the next batch has been asked for.
    in_flight: Option<Lease>,
    pool: Arc<Pool>,
}

impl LegacyCursor {
    pub(super) async fn open(client: LegacyClient, find: Find) -> Result<Self> {
        let (target, primary) = place_of(&client, &find).await?;
        check(&find, &primary)?;
        let mut cursor = Self::new(client, target, primary, find);
        let limit = cursor.client.answer_timeout() + cursor.find.max_time.unwrap_or_default();
        let reply = cursor.ask(limit).await?;
        cursor.first = Some(cursor.take(reply)?);
        Ok(cursor)
    }

    pub(super) async fn of_command(client: LegacyClient, database: &str, command: &RawDocument) -> Result<Self> {
        let find = Find::new(database, "$cmd", RawDocumentBuf::new());
        let (target, primary) = place_of(&client, &find).await?;
        let reply = client.run(&target, database, command).await?;
        let mut cursor = Self::new(client, target, primary, find);
        // What is read on is not always what the command names: old servers list collections by `db.$cmd.listCollections`.
        let described = reply.get_document("cursor").and_then(|cursor| cursor.get_str("ns"));
        if let Some((database, collection)) = described.ok().and_then(|namespace| namespace.split_once('.')) {
            cursor.find.namespace = (database.to_owned(), collection.to_owned());
        }
        cursor.first = Some(cursor.take_command_reply(reply)?);
        Ok(cursor)
    }

    fn new(client: LegacyClient, target: Target, primary: Arc<Primary>, find: Find) -> Self {
        Self {
            pool: client.pool(&target),
            by_command: primary.is_master.max_wire_version >= FIND,
            client,
            target,
            primary,
            find,
            opened: Instant::now(),
            id: 0,
            returned: 0,
            first: None,
            reply: None,
            in_flight: None,
        }
    }

    /// Returns the next batch, or `None` at the end. The batch of an awaiting tail is empty if nothing came while the server waited.
    ///
    /// # Errors
    /// What the server says: [`PositionLost`](ErrorKind::PositionLost) if what comes next has been removed from a capped collection,
    /// [`Connection`](ErrorKind::Connection) if the cursor is gone, the member is no longer the primary of the same election, or the
    /// connection breaks. The cursor is at its end then.
    ///
    /// # Cancellation
    /// If the future is dropped, the next call continues where this one was. No batch is lost.
    pub async fn next_batch(&mut self) -> Result<Option<Batch>> {
        if let Some(first) = self.first.take()
            && !(first.is_empty() && self.id == 0)
        {
            return Ok(Some(first));
        }
        if self.id == 0 {
            return Ok(None);
        }
        let batch = Box::pin(self.advance()).await;
        if batch.is_err() {
            self.end();
        }
        batch.map(|batch| (!(batch.is_empty() && self.id == 0)).then_some(batch))
    }

    /// Where the cursor is: the member, and what it said of itself when the primary was last looked for, or when the connection to a named
    /// member was opened.
    #[cfg(feature = "test-util")]
    pub fn primary(&self) -> &Arc<Primary> {
        &self.primary
    }

    /// The last reply without its documents, such as for its `operationTime`. `None` for queries on servers before 3.2, which
    /// are no commands.
    #[cfg(feature = "test-util")]
    pub fn reply(&self) -> Option<&RawDocument> {
        self.reply.as_deref()
    }

    /// The cursor's number on the server, or 0 at its end.
    #[cfg(feature = "test-util")]
    pub fn id(&self) -> i64 {
        self.id
    }

    async fn advance(&mut self) -> Result<Batch> {
        if self.in_flight.is_none() {
            let encode = |id| self.encode_get_more(id);
            let mut lease = self.client.begin(&self.target, &encode, false).await?;
            self.check_election(&mut lease)?;
            self.in_flight = Some(lease);
        }
        let limit = self.client.answer_timeout() + self.wait();
        let lease = self.in_flight.as_mut().ok_or_else(Self::lost)?;
        let mut finished = lease.connection()?.finish(limit).await;
        if finished.is_err() && lease.is_reused && !lease.connection()?.is_sent() {
            // The server has closed the connection meanwhile, and has no whole request.
            self.in_flight = None;
            let encode = |id| self.encode_get_more(id);
            let mut fresh = self.client.begin(&self.target, &encode, true).await?;
            self.check_election(&mut fresh)?;
            let lease = self.in_flight.insert(fresh);
            finished = lease.connection()?.finish(limit).await;
        }
        // The connection goes back before the batch is used.
        self.in_flight = None;
        let reply = self.client.broken(&self.target, finished)?;
        self.take(reply)
    }

    /// Sends the query itself.
    async fn ask(&self, limit: Duration) -> Result<Reply> {
        let slave_ok = !self.target.is_primary;
        if self.by_command {
            let command = command_of(&self.find);
            let encode = |id| encode_command(id, &self.find.namespace.0, &command, slave_ok);
            return Ok(self.client.exchange(&self.target, limit, encode).await?.0);
        }
        let query = query_of(&self.find);
        let namespace = self.namespace();
        let encode = |id| {
            wire::query(
                id,
                &Query {
                    namespace: &namespace,
                    flags: flags_of(&self.find, slave_ok),
                    number_to_skip: self.find.skipped(),
                    number_to_return: self.find.first_batch(),
                    query: &query,
                    fields: self.find.projection.as_deref(),
                },
            )
        };
        Ok(self.client.exchange(&self.target, limit, encode).await?.0)
    }

    fn encode_get_more(&self, id: i32) -> Result<Vec<u8>> {
        if self.by_command {
            let command = get_more_of(&self.find, self.id);
            return encode_command(id, &self.find.namespace.0, &command, !self.target.is_primary);
        }
        wire::get_more(id, &self.namespace(), self.find.later_batch(self.returned), self.id)
    }

    /// Takes the documents out of a reply, and the cursor's number.
    fn take(&mut self, reply: Reply) -> Result<Batch> {
        let version = self.primary.is_master.max_wire_version;
        let refused = |cursor: &Self, said: &CommandError| {
            let error = cursor
                .client
                .refused(&cursor.target, OPERATION.to_owned(), said, version);
            error.with_context("namespace", cursor.namespace())
        };
        if reply.is_cursor_unknown {
            let said = CommandError {
                code: Some(43),
                code_name: None,
                message: "cursor not found".to_owned(),
            };
            return Err(refused(self, &said));
        }
        if reply.is_failure {
            let said = reply.iter().next().map(CommandError::of_query).unwrap_or_default();
            return Err(refused(self, &said));
        }
        if self.by_command {
            let reply = reply.into_document()?;
            return match CommandError::of_reply(&reply) {
                Some(said) => Err(refused(self, &said)),
                None => self.take_command_reply(reply),
            };
        }
        self.id = reply.cursor;
        // The older messages have no limit of their own.
        let limit = self.find.limit.map(u64::from).filter(|limit| *limit > 0);
        let rest = limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.returned));
        let batch = reply.into_batch(usize::try_from(rest).unwrap_or(usize::MAX));
        self.returned += batch.len() as u64;
        if batch.len() as u64 == rest {
            self.end();
        }
        Ok(batch)
    }

    fn take_command_reply(&mut self, reply: RawDocumentBuf) -> Result<Batch> {
        let malformed = |error: bson::error::Error| Error::malformed(OPERATION, error);
        let (mut id, mut rest) = (None, rawdoc! {});
        for element in reply.iter() {
            let (name, value) = element.map_err(malformed)?;
            match value.as_document().filter(|_| name.as_str() == "cursor") {
                Some(cursor) => id = cursor.get_i64("id").ok(),
                None => rest.append(name, value),
            }
        }
        let Some(id) = id else {
            let message = "the server's reply has no cursor";
            return Err(Error::new(ErrorKind::Protocol, OPERATION, message).with_context("host", &self.target.address));
        };
        let batch = Batch::from_legacy_reply(reply);
        let batch = batch.map_err(|error| error.with_context("host", &self.target.address))?;
        self.id = id;
        self.reply = Some(rest);
        self.returned += batch.len() as u64;
        Ok(batch)
    }

    /// Refuses to read on where a primary was elected since: it may have rolled back what was read. Servers before 4.2 close all connections
    /// when they step down, so that a later connection shows it.
    fn check_election(&self, lease: &mut Lease) -> Result<()> {
        if !self.target.is_primary {
            return Ok(());
        }
        let opened = self.primary.is_master.election_id;
        let connection = lease.connection()?;
        let is_other = connection.opened > self.opened && connection.is_master().election_id != opened;
        let is_followed = self
            .client
            .last_known_primary()
            .is_some_and(|primary| primary.address != self.target.address || primary.is_master.election_id != opened);
        if !is_other && !is_followed {
            return Ok(());
        }
        let message = "the set has elected a primary since the cursor was opened; open it anew";
        Err(Error::new(ErrorKind::Connection, OPERATION, message).with_context("host", &self.target.address))
    }

    /// How long the server waits before an empty answer.
    fn wait(&self) -> Duration {
        match self.find.mode {
            FindMode::TailAwait { await_ms } => Duration::from_millis(await_ms.into()),
            FindMode::Plain => self.find.max_time.unwrap_or_default(),
        }
    }

    fn namespace(&self) -> String {
        format!("{}.{}", self.find.namespace.0, self.find.namespace.1)
    }

    /// Closes the cursor on the server.
    fn end(&mut self) {
        self.in_flight = None;
        if self.id != 0 {
            self.pool.kill(self.id);
            self.id = 0;
        }
    }

    fn lost() -> Error {
        Error::new(ErrorKind::Connection, OPERATION, "the connection was returned")
    }
}

impl fmt::Debug for LegacyCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyCursor")
            .field("namespace", &self.namespace())
            .field("address", &self.target.address)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for LegacyCursor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a query goes, and what is there.
async fn place_of(client: &LegacyClient, find: &Find) -> Result<(Target, Arc<Primary>)> {
    let Some(address) = &find.address else {
        let primary = client.primary().await?;
        let target = Target {
            address: primary.address.clone(),
            is_primary: true,
        };
        return Ok((target, primary));
    };
    let target = Target {
        address: address.clone(),
        is_primary: false,
    };
    let is_master = client.describe(&target).await?;
    let member = Primary {
        address: address.clone(),
        is_master,
    };
    Ok((target, Arc::new(member)))
}

fn check(find: &Find, primary: &Primary) -> Result<()> {
    let version = primary.is_master.max_wire_version;
    let missing = match find {
        Find {
            read_concern: Some(_), ..
        } if version < FIND => "a read concern, which came with 3.2",
        Find { collation: Some(_), .. } if version < COLLATION => "a collation, which came with 3.4",
        _ => return Ok(()),
    };
    let message = format!("the query has {missing}; leave it out for this server");
    Err(Error::new(ErrorKind::InvalidConfiguration, OPERATION, message).with_context("host", &primary.address))
}
