//! Reads from a replica set that the driver does not talk to: 2.6 to 4.0.

mod commands;
mod committed;
mod decoder;
mod identities;
mod majority;
mod read;
mod sentinel;
mod server;
mod split;
mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, Timestamp, Uuid, rawdoc};
use futures::stream::BoxStream;

use self::server::{Elected, FIND_COMMAND, Server, TRANSACTIONS, oplog};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    Accounts, Batch, Collection, Connection, Deployment, Inspection, Namespace, Position, Selection, Side,
    TransactionFacts,
};
use crate::mongo::client::{self, Commands, code};
use crate::mongo::connect::PemFile;
use crate::mongo::connect::legacy::LegacyConnected;
use crate::mongo::retry::{RetryPolicy, retry};
use crate::mongo::source::{duplicates, unindexed, write_load};
use crate::mongo::{accounts, digest, foreign_writes, inspect, listing, transactions};
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{PointRequest, ReadMode, ReadRequest, Source, WriteLoad};

/// A replica set of MongoDB 2.6 to 4.0.
pub(in crate::mongo) struct LegacySource {
    server: Arc<Server>,
    version: [u32; 3],
    connection: Connection,
    /// Certificates that the client reads for each connection.
    _files: Vec<PemFile>,
    /// Newest position ever returned.
    newest: Mutex<Position>,
}

impl LegacySource {
    /// Takes a connection that was made.
    ///
    /// # Errors
    /// A server error.
    pub async fn new(connected: LegacyConnected) -> Result<Self> {
        let LegacyConnected {
            client,
            wire_version,
            connection,
            files,
        } = connected;
        let unknown = Deployment::new("", "", [0; 3], [0; 2]);
        let server = Server::new(client.clone(), wire_version, &unknown, false);
        let deployment = client::describe(&server).await?;
        let reads_majority = reads_majority(&server).await?;
        Ok(Self {
            server: Arc::new(Server::new(client, wire_version, &deployment, reads_majority)),
            version: deployment.version,
            connection,
            _files: files,
            newest: Mutex::new(Position::ZERO),
        })
    }

    /// Remembers a position, and returns the newest one so far.
    fn note(&self, position: Position) -> Position {
        let mut known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *known = position.max(*known);
        *known
    }

    /// Runs a listing, and waits until a majority has what it has shown.
    async fn listed<F>(&self, list: impl Fn() -> F) -> Result<Vec<Collection>>
    where
        F: Future<Output = Result<Vec<Collection>>>,
    {
        retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            let mut listed = list().await?;
            let newest = self.server.newest(&primary.address).await?;
            self.server.committed_through(&primary, newest).await?;
            self.server.identify(&primary, newest, &mut listed).await?;
            Ok(listed)
        })
        .await
    }
}

/// Whether the set reads with read concern `majority`: 3.6 and 4.0 do unless that is off, older ones where it was turned on.
async fn reads_majority(server: &Server) -> Result<bool> {
    if server.wire_version < FIND_COMMAND {
        return Ok(false);
    }
    let probe = retry(RetryPolicy::SERVER, || async {
        let primary = server.primary().await?;
        let mut find = oplog(&primary.address, rawdoc! {});
        find.projection = Some(rawdoc! { "ts": 1 });
        find.read_concern = Some(rawdoc! { "level": "majority" });
        match server.first(find).await {
            // ReadConcernMajorityNotEnabled, and what older servers say instead.
            Err(error) if matches!(code(&error), Some(148 | 72 | 2 | 9 | 115)) => Ok(false),
            found => found.map(|_| true),
        }
    });
    probe.await
}

#[async_trait]
impl Source for LegacySource {
    async fn describe(&self) -> Result<Deployment> {
        client::describe(&*self.server).await
    }

    async fn members(&self) -> Result<Vec<String>> {
        foreign_writes::members(&*self.server).await
    }

    async fn collections(&self) -> Result<Vec<Collection>> {
        self.listed(|| listing::collections(&*self.server)).await
    }

    async fn collections_named(&self, names: &BTreeSet<Namespace>) -> Result<Vec<Collection>> {
        self.listed(|| listing::collections_named(&*self.server, names)).await
    }

    async fn collections_selected(&self, selection: &Selection) -> Result<Vec<Collection>> {
        let list = || {
            listing::collections_where(
                &*self.server,
                |database| selection.reaches(database),
                |name| selection.contains(name),
            )
        };
        self.listed(list).await
    }

    async fn databases(&self) -> Result<BTreeSet<String>> {
        listing::databases(&*self.server).await
    }

    async fn position(&self) -> Result<Position> {
        let committed = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            self.server.committed(&primary).await
        });
        Ok(self.note(committed.await?))
    }

    async fn sentinel(&self) -> Result<Position> {
        let confirmed = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            self.server.confirm(&primary).await?;
            let newest = self.server.newest(&primary.address).await?;
            self.server.committed_through(&primary, newest).await
        });
        let confirmed = confirmed.await?;
        self.note(confirmed);
        Ok(confirmed)
    }

    async fn read_position(&self) -> Result<Position> {
        let written = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            let newest = self.server.newest(&primary.address).await?;
            self.server.committed_through(&primary, newest).await
        });
        Ok(self.note(written.await?))
    }

    async fn start_position(&self) -> Result<Position> {
        let (committed, start) = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            let committed = self.server.committed(&primary).await?;
            Ok((committed, self.before_transactions(&primary, committed).await?))
        })
        .await?;
        // The caller begins anew. The source may have been restored from a backup, so the position known before may belong to a history
        // that no longer exists.
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = committed;
        Ok(start)
    }

    async fn oldest_position(&self) -> Result<Position> {
        retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            tail::oldest(&self.server, &primary).await
        })
        .await
    }

    async fn restore_identities(&self, known: &BTreeMap<Namespace, Uuid>) -> Result<()> {
        self.server.identities.restore(known);
        Ok(())
    }

    async fn tail(&self, after: Position) -> Result<BoxStream<'static, Result<Vec<Entry>>>> {
        Ok(tail::follow(Arc::clone(&self.server), after))
    }

    async fn split(&self, collection: &Collection, bytes: u64) -> Result<Vec<Key>> {
        split::split(&self.server, collection, bytes).await
    }

    async fn read(&self, request: ReadRequest) -> Result<BoxStream<'static, Result<Batch>>> {
        read::range(&self.server, &request).await
    }

    async fn read_documents(&self, request: PointRequest<'_>) -> Result<Vec<RawDocumentBuf>> {
        read::documents(&self.server, request).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        inspect::inspect(&*self.server, &self.connection, Side::Source).await
    }

    async fn duplicates(&self, collection: &Collection, index: &RawDocument, limit: usize) -> Result<Vec<[Key; 2]>> {
        // Before 3.2, `$unwind` drops the documents that lack an array.
        if self.server.wire_version < FIND_COMMAND {
            return Ok(Vec::new());
        }
        duplicates::find(&*self.server, collection, index, limit).await
    }

    async fn unindexed(&self, collection: &Collection) -> Result<Option<u64>> {
        unindexed::count(&*self.server, collection).await
    }

    async fn set_write_block(&self, blocked: bool) -> Result<()> {
        if !blocked {
            // There is no block to lift.
            return Ok(());
        }
        let [major, minor, _] = self.version;
        Err(Error::new(
            ErrorKind::Refused,
            "block writes on the source",
            format!("its version is {major}.{minor}; servers support this from 6.0 on"),
        ))
    }

    async fn writes_blocked(&self) -> Result<bool> {
        Ok(false)
    }

    async fn open_transactions(&self) -> Result<Vec<TransactionFacts>> {
        if self.server.wire_version < TRANSACTIONS {
            return Ok(Vec::new());
        }
        transactions::open(&*self.server).await
    }

    async fn write_load(&self) -> Result<Option<WriteLoad>> {
        write_load::ask(&*self.server).await
    }

    async fn accounts(&self) -> Result<Accounts> {
        accounts::stored_on_old(&*self.server).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        let Some(kind) = listing::kind(&*self.server, namespace).await? else {
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

impl LegacySource {
    /// Returns the last position before the first entry of the oldest open transaction. Only servers from 4.2 on log a transaction in several
    /// entries; older ones log it when it commits.
    async fn before_transactions(&self, primary: &Elected, committed: Position) -> Result<Position> {
        const OPERATION: &str = "find the position to start at";
        if self.server.wire_version <= TRANSACTIONS {
            return Ok(committed);
        }
        let open = bson::doc! {
            "find": "transactions",
            "filter": { "state": { "$in": ["prepared", "inProgress"] }, "startOpTime": { "$exists": true } },
            "sort": { "startOpTime.ts": 1 },
            "projection": { "startOpTime": 1 },
            "limit": 1,
        };
        let found = self.server.documents(OPERATION, "config", open).await?;
        let first = found
            .first()
            .and_then(|transaction| transaction.get_document("startOpTime").ok())
            .and_then(|optime| Document::try_from(optime.to_owned()).ok())
            .and_then(|optime| client::position_of(&optime));
        let Some(first) = first.filter(|first| *first <= committed) else {
            return Ok(committed);
        };
        let before: Timestamp = first.timestamp();
        let mut find = oplog(&primary.address, rawdoc! { "ts": { "$lt": before } });
        find.sort = Some(rawdoc! { "$natural": -1 });
        find.projection = Some(rawdoc! { "ts": 1, "t": 1, "h": 1 });
        match self.server.first(find).await? {
            Some(entry) => server::position_of(&entry),
            None => Err(Error::new(
                ErrorKind::PositionLost,
                OPERATION,
                "a transaction is open that began at the oldest entry of the oplog; end it, or make the oplog larger, and start again",
            )
            .with_context("transaction", first)),
        }
    }
}
