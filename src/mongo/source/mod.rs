//! Reads from a MongoDB replica set.

mod by_id;
mod duplicates;
mod read;
mod split;
mod write_block;
mod write_load;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;
use mongodb::Client;

use crate::error::Result;
use crate::model::{
    Accounts, Batch, Collection, CollectionKind, Connection, Deployment, Inspection, Namespace, Position, Selection,
    Side, TransactionFacts,
};
use crate::mongo::connect::{self, ConnectOptions, Connected};
use crate::mongo::oplog::position;
use crate::mongo::{accounts, client, digest, foreign_writes, inspect, listing, transactions};
use crate::oplog::{Entry, OplogCursor};
use crate::order::Key;
use crate::source::{PointRequest, ReadMode, ReadRequest, Source, WriteLoad};

/// A replica set of MongoDB 4.2 to 6.0 as the source of a migration.
///
/// All reads go to the primary and are retried through elections. The source is never written to, with two exceptions. Writes are blocked
/// at the cutover if the host [requests it](crate::MigrationBuilder::block_source_writes). And the server itself notes reads with read
/// concern `linearizable` in its oplog, as an entry without effect: a few at the start and at a cutover.
///
/// # Snapshots
/// Servers from 5.0 on are read outside transactions. They keep 300 seconds of history by default. Older servers provide a snapshot only to
/// a transaction, so each read opens its own. They keep a few seconds of history, less under heavy writes, and end a transaction after 60
/// seconds. A transaction is ended when its last batch has arrived or the stream is dropped. None is left behind to hold old data in the
/// server's cache.
///
/// # Cancellation
/// Dropping a stream closes its cursor. If a read is dropped at the moment in which the server opens the cursor, before the cursor's id is
/// known here, the server closes the cursor by its own rule, after 10 idle minutes by default. Such a cursor holds no snapshot.
pub struct MongoSource {
    client: Client,
    version: [u32; 3],
    connection: Connection,
    /// Newest position ever returned.
    newest: Mutex<Position>,
    /// Clustered collections among those listed so far: stored by `_id`, without an index on it. They need different queries.
    clustered: RwLock<HashSet<Namespace>>,
}

impl MongoSource {
    /// Connects to a replica set: by a connection string, by the driver's options, through a client of the host, or by
    /// [`ConnectOptions`]. Each range that is read concurrently takes one connection of the client, and the tail takes one.
    ///
    /// # Errors
    /// [`InvalidConfiguration`](crate::ErrorKind::InvalidConfiguration) for a malformed connection string or if TLS cannot be negotiated,
    /// [`Unauthorized`](crate::ErrorKind::Unauthorized) if the credentials are refused, [`Refused`](crate::ErrorKind::Refused) if the
    /// server is not a replica set or not its primary, [`Connection`](crate::ErrorKind::Connection) if no primary is reached in time, or a
    /// server error. The error's [findings](crate::Error::findings) name the causes.
    ///
    /// # Cancellation
    /// Dropping the future abandons the connection.
    pub async fn connect(options: impl Into<ConnectOptions>) -> Result<Self> {
        let connected = connect::connect(options.into(), Side::Source).await?;
        let described = client::describe(&connected.client);
        let version = connected.ask("describe the source", described).await?.version;
        let Connected { client, connection, .. } = connected;
        Ok(Self {
            client,
            version,
            connection,
            newest: Mutex::new(Position::ZERO),
            clustered: RwLock::default(),
        })
    }

    /// Whether the collection is known to have no index on `_id`.
    fn is_clustered(&self, namespace: &Namespace) -> bool {
        namespace.time_series().is_some()
            || self
                .clustered
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(namespace)
    }

    /// Remembers which collections are clustered. `is_new` returns whether a listing covers a name.
    fn note_clustered(&self, listed: &[Collection], is_new: impl Fn(&Namespace) -> bool) {
        let mut clustered = self.clustered.write().unwrap_or_else(PoisonError::into_inner);
        clustered.retain(|name| !is_new(name));
        let of_kind = listed
            .iter()
            .filter(|collection| collection.kind == CollectionKind::Clustered);
        clustered.extend(of_kind.map(|collection| collection.namespace.clone()));
    }
}

#[async_trait]
impl Source for MongoSource {
    async fn describe(&self) -> Result<Deployment> {
        client::describe(&self.client).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        foreign_writes::members(&self.client).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        let collections = listing::collections(&self.client).await?;
        self.note_clustered(&collections, |_| true);
        Ok(collections)
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        let collections = listing::collections_named(&self.client, names).await?;
        self.note_clustered(&collections, |name| names.contains(name));
        Ok(collections)
    }

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let reached = |database: &str| selection.reaches(database);
        let collections = listing::collections_where(&self.client, reached, |name| selection.contains(name)).await?;
        self.note_clustered(&collections, |name| reached(name.database()));
        Ok(collections)
    }

    async fn databases(&self) -> Result<BTreeSet<String>> {
        listing::databases(&self.client).await
    }

    async fn position(&self) -> Result<Position> {
        let newest = position::newest_position(&self.client).await?;
        // A new primary may learn later than the old one what a majority has. A position that was committed once stays committed.
        let mut known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *known = newest.max(*known);
        Ok(*known)
    }

    async fn sentinel(&self) -> Result<Position> {
        let position = position::confirmed(&self.client).await?;
        let mut known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *known = position.max(*known);
        Ok(position)
    }

    // The driver never returns to an older primary than one it has read from.
    async fn read_position(&self) -> Result<Position> {
        let position = position::newest_written(&self.client).await?;
        let mut known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *known = position.max(*known);
        Ok(position)
    }

    async fn start_position(&self) -> Result<Position> {
        let newest = position::newest_position(&self.client).await?;
        let start = position::start_position(&self.client).await?;
        // The caller begins anew. The source may have been restored from a backup, so the position known before may belong to a history
        // that no longer exists.
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
        Ok(start)
    }

    async fn oldest_position(&self) -> Result<Position> {
        position::oldest_position(&self.client).await
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        Ok(OplogCursor::builder(&self.client).after(after).build().into_batches())
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        split::split(&self.client, collection, bytes).await
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        read::range(&self.client, self.version, &request, None).await
    }

    async fn read_matching(
        &self,
        request: ReadRequest,
        query: &RawDocument,
    ) -> Result<BoxStream<'static, Result<Batch>>> {
        // The server answers once it has found a batch, however many documents it looks at. Only a range with an end is known to be small.
        // A collection without ranges may also have a collation, by which the server would compare.
        let is_small = request.kind == CollectionKind::Plain && request.range.upper.is_some();
        read::range(&self.client, self.version, &request, Some(query).filter(|_| is_small)).await
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        let is_clustered = self.is_clustered(request.namespace);
        by_id::read(&self.client, self.version, request, is_clustered).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        inspect::inspect(&self.client, &self.connection, Side::Source).await
    }

    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        duplicates::find(&self.client, collection, index, limit).await
    }

    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        write_block::set(&self.client, self.version, blocked).await
    }

    async fn writes_blocked(&self) -> Result<bool> {
        write_block::is_set(&self.client, self.version).await
    }

    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        transactions::open(&self.client).await
    }

    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        write_load::ask(&self.client).await
    }

    async fn accounts(&self) -> Result<Accounts> {
        accounts::stored(&self.client).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        let Some(kind) = listing::kind(&self.client, namespace).await? else {
            return Ok(None);
        };
        let at = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |kind, range| {
            self.read(ReadRequest {
                namespace: namespace.clone(),
                kind,
                range,
                at,
                mode: ReadMode::Interval,
                batch_bytes: digest::BATCH_BYTES,
                document_bytes: digest::DOCUMENT_BYTES,
            })
        };
        digest::digest(kind, read).await
    }
}

/// Omits the client: its options hold credentials.
impl fmt::Debug for MongoSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MongoSource")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
