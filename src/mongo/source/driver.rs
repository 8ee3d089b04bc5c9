//! Reads from a replica set by the driver.

use std::collections::{BTreeSet, HashSet};
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;
use mongodb::Client;

use super::newest::Newest;
use super::{by_id, duplicates, read, split, write_block, write_load};
use crate::error::Result;
use crate::model::{
    Accounts, Batch, Collection, CollectionKind, Connection, Deployment, Inspection, Namespace, Position, Selection,
    Side, TransactionFacts,
};
use crate::mongo::connect::Connected;
use crate::mongo::oplog::{majority, position};
use crate::mongo::{accounts, client, digest, foreign_writes, inspect, listing, transactions};
use crate::oplog::{Entry, OplogCursor};
use crate::order::Key;
use crate::source::{PointRequest, ReadRequest, Source, WriteLoad};

/// A replica set that the driver connects to.
pub(super) struct DriverSource {
    client: Client,
    version: [u32; 3],
    connection: Connection,
    /// Newest position ever returned.
    newest: Newest,
    /// Clustered collections among those listed so far: stored by `_id`, without an index on it. They need different queries.
    clustered: RwLock<HashSet<Namespace>>,
}

impl DriverSource {
    /// Takes a connection that was made.
    ///
    /// # Errors
    /// A server error.
    pub async fn new(connected: Connected) -> Result<Self> {
        let described = client::describe(&connected.client);
        let version = connected.ask("describe the source", described).await?.version;
        let Connected { client, connection, .. } = connected;
        Ok(Self {
            client,
            version,
            connection,
            newest: Newest::new(),
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
impl Source for DriverSource {
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
        let collections = listing::collections_where(&self.client, &reached, &|name| selection.contains(name)).await?;
        self.note_clustered(&collections, |name| reached(name.database()));
        Ok(collections)
    }

    async fn databases(&self) -> Result<BTreeSet<String>> {
        listing::databases(&self.client).await
    }

    async fn position(&self) -> Result<Position> {
        let newest = position::newest_position(&self.client).await?;
        Ok(self.newest.note(newest))
    }

    async fn sentinel(&self) -> Result<Position> {
        let position = majority::confirmed(&self.client).await?;
        self.newest.note(position);
        Ok(position)
    }

    // The driver never returns to an older primary than one it has read from.
    async fn read_position(&self) -> Result<Position> {
        let position = majority::newest_written(&self.client).await?;
        self.newest.note(position);
        Ok(position)
    }

    async fn start_position(&self) -> Result<Position> {
        let newest = position::newest_position(&self.client).await?;
        let start = position::start_position(&self.client).await?;
        self.newest.begin(newest);
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
        digest::of_source(self, namespace, kind, self.newest.get()).await
    }
}
