//! A MongoDB replica set as the target.

mod absences;
mod accounts;
mod apply;
mod by_id;
mod catalog;
mod connection;
mod delta;
mod flush;
mod index;
mod insert;
mod names;
mod quiesce;
mod read;
mod records;
mod replace;
mod write_commands;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::RawDocumentBuf;
use futures::stream::BoxStream;
use mongodb::Client;

use crate::error::Result;
use crate::model::{
    AccountChanges, AccountName, Accounts, Batch, Collection, CollectionKind, Connection, Deployment, Inspection,
    Namespace, Position, Selection, Side, Write,
};
use crate::mongo::connect::{self, ConnectOptions, Connected};
use crate::mongo::oplog::majority;
use crate::mongo::{client, digest, foreign_writes, inspect, listing};
use crate::order::Key;
use crate::sink::{CatalogCommand, Refusal, Sink, SinkRead, WritesSeen};
use connection::TargetConnection;

/// Writes to a MongoDB replica set of version 4.2 to 6.0.
///
/// Documents are copied into the commands byte by byte. If a command would change or refuse a document, another command is used that stores
/// it exactly. Writes are acknowledged by the primary alone; [`flush`](Sink::flush) makes them durable on a majority. Every command is
/// retried through elections for up to 45 seconds. It may then have run twice, which gives the same result.
///
/// The migration's own records are in the database `__mdb_internal_mongoferry`.
pub struct MongoSink {
    target: TargetConnection,
    connection: Connection,
}

impl MongoSink {
    /// Connects to a replica set: by a connection string, by the driver's options, through a client of the host, or by
    /// [`ConnectOptions`].
    ///
    /// # Errors
    /// Same as [`MongoSource::connect`](crate::MongoSource::connect).
    ///
    /// # Cancellation
    /// Dropping the future abandons the connection.
    pub async fn connect(options: impl Into<ConnectOptions>) -> Result<Self> {
        let connected = connect::connect(options.into(), Side::Target).await?;
        let probed = TargetConnection::probe(connected.client.clone());
        let target = connected.ask("probe the target", probed).await?;
        let Connected { connection, .. } = connected;
        Ok(Self { target, connection })
    }

    /// The client of the target. It is private: whoever wrote through it would write past the fence.
    fn client(&self) -> &Client {
        self.target.client()
    }
}

impl std::fmt::Debug for MongoSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MongoSink")
            .field("version", &self.target.version())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for MongoSink {
    async fn describe(&self) -> Result<Deployment> {
        client::describe(self.client()).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        foreign_writes::members(self.client()).await
    }

    async fn foreign_writes(&self, after: Option<Position>) -> Result<Option<BoxStream<'static, Result<WritesSeen>>>> {
        foreign_writes::foreign_writes(self.client(), after).await.map(Some)
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        listing::collections(self.client()).await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        listing::collections_named(self.client(), names).await
    }

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let reached = |database: &str| selection.target_reaches(database);
        listing::collections_where(self.client(), &reached, &|name| selection.produces(name)).await
    }

    async fn names_in(&self, database: &str) -> Result<BTreeSet<Namespace>> {
        listing::names_in(self.client(), database).await
    }

    async fn identities(&self, names: &BTreeSet<Namespace>) -> Result<BTreeMap<Namespace, Uuid>> {
        listing::identities(self.client(), names).await
    }

    async fn execute(&self, command: &CatalogCommand) -> Result<()> {
        catalog::execute(&self.target, command).await
    }

    async fn create_index(&self, namespace: &Namespace, specification: &RawDocumentBuf) -> Result<()> {
        index::create(&self.target, namespace, specification).await
    }

    async fn insert(&self, namespace: &Namespace, batch: &Batch) -> Result<Vec<Refusal>> {
        insert::insert_batch(&self.target, namespace, batch).await
    }

    async fn apply(&self, namespace: &Namespace, kind: CollectionKind, writes: &[Write]) -> Result<Vec<Refusal>> {
        apply::apply(&self.target, namespace, kind, writes).await
    }

    fn losses(&self) -> u64 {
        self.target.flushes().losses()
    }

    async fn flush(&self) -> Result<()> {
        flush::flush(&self.target).await
    }

    async fn quiesce(&self, selection: &Selection) -> Result<()> {
        quiesce::quiesce(&self.target, selection).await
    }

    async fn sentinel(&self) -> Result<Option<Position>> {
        majority::newest_written(self.client()).await.map(Some)
    }

    async fn read(&self, request: SinkRead) -> Result<BoxStream<'static, Result<Batch>>> {
        read::read(&self.target, request).await
    }

    async fn read_documents(&self, namespace: &Namespace, keys: &[Key]) -> Result<Vec<RawDocumentBuf>> {
        let kind = by_id::kind_of(&self.target, namespace).await?;
        let keys: Vec<&Key> = keys.iter().collect();
        by_id::find(&self.target, namespace, kind, &keys, by_id::Part::Whole).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        inspect::inspect(self.client(), &self.connection, Side::Target).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        let Some(kind) = listing::kind(self.client(), namespace).await? else {
            return Ok(None);
        };
        let read = |kind, range| {
            self.read(SinkRead {
                namespace: namespace.clone(),
                kind,
                range,
                batch_bytes: digest::BATCH_BYTES,
                document_bytes: digest::DOCUMENT_BYTES,
            })
        };
        digest::digest(kind, read).await
    }

    async fn accounts(&self, names: &BTreeSet<AccountName>) -> Result<Accounts> {
        let mut named = crate::mongo::accounts::named(self.client(), names).await?;
        crate::mongo::accounts::add_facts(self.client(), &mut named).await?;
        Ok(named)
    }

    async fn unknown_actions(&self, actions: &BTreeSet<String>) -> Result<Option<BTreeSet<String>>> {
        crate::mongo::accounts::unknown_actions(self.client(), actions).await
    }

    async fn change_accounts(&self, changes: &AccountChanges) -> Result<()> {
        accounts::change(&self.target, changes).await
    }

    async fn load_record(&self, name: &str) -> Result<Option<RawDocumentBuf>> {
        records::load(&self.target, name).await
    }

    async fn save_record(&self, name: &str, record: &RawDocumentBuf, expected: i64) -> Result<bool> {
        records::save(&self.target, name, record, expected).await
    }

    async fn delete_record(&self, name: &str) -> Result<()> {
        records::delete(&self.target, name).await
    }
}
