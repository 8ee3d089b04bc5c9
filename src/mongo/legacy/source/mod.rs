//! Reads from a replica set that the driver does not talk to: 2.6 to 4.0.

mod commands;
mod committed;
mod decoder;
mod identities;
mod majority;
mod read;
mod seen;
mod sentinel;
mod server;
mod split;
mod tail;
mod unindexed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Uuid, rawdoc};
use futures::stream::BoxStream;

use self::server::{Elected, FIND_COMMAND, Server, TRANSACTIONS, oplog};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    Accounts, Batch, Collection, Connection, Deployment, Inspection, Namespace, Position, Selection, Side,
    TransactionFacts,
};
use crate::mongo::client::{self, code};
use crate::mongo::connect::PemFile;
use crate::mongo::connect::legacy::LegacyConnected;
use crate::mongo::oplog::position;
use crate::mongo::retry::{RetryPolicy, retry};
use crate::mongo::source::newest::Newest;
use crate::mongo::source::{duplicates, write_load};
use crate::mongo::{accounts, digest, foreign_writes, inspect, listing, transactions};
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{PointRequest, ReadRequest, Source, WriteLoad};

/// A replica set of MongoDB 2.6 to 4.0.
pub(in crate::mongo) struct LegacySource {
    server: Arc<Server>,
    version: [u32; 3],
    connection: Connection,
    /// Certificates that the client reads for each connection.
    _files: Vec<PemFile>,
    /// Newest position ever returned.
    newest: Newest,
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
            newest: Newest::new(),
        })
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
        let reached = |database: &str| selection.reaches(database);
        let wanted = |name: &Namespace| selection.contains(name);
        self.listed(|| listing::collections_where(&*self.server, &reached, &wanted))
            .await
    }

    async fn databases(&self) -> Result<BTreeSet<String>> {
        listing::databases(&*self.server).await
    }

    async fn position(&self) -> Result<Position> {
        let committed = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            self.server.committed(&primary).await
        });
        Ok(self.newest.note(committed.await?))
    }

    async fn sentinel(&self) -> Result<Position> {
        let confirmed = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            self.server.confirm(&primary).await?;
            let newest = self.server.newest(&primary.address).await?;
            self.server.committed_through(&primary, newest).await
        });
        let confirmed = confirmed.await?;
        self.newest.note(confirmed);
        Ok(confirmed)
    }

    async fn read_position(&self) -> Result<Position> {
        let written = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            let newest = self.server.newest(&primary.address).await?;
            self.server.committed_through(&primary, newest).await
        });
        Ok(self.newest.note(written.await?))
    }

    async fn start_position(&self) -> Result<Position> {
        self.server.seen().begin();
        let (committed, start) = retry(RetryPolicy::SERVER, || async {
            let primary = self.server.primary().await?;
            let committed = self.server.committed(&primary).await?;
            Ok((committed, self.before_transactions(&primary, committed).await?))
        })
        .await?;
        self.newest.begin(committed);
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
        accounts::stored(&*self.server).await
    }

    async fn digest(&self, namespace: &Namespace) -> Result<Option<String>> {
        let Some(kind) = listing::kind(&*self.server, namespace).await? else {
            return Ok(None);
        };
        digest::of_source(self, namespace, kind, self.newest.get()).await
    }
}

impl LegacySource {
    /// Returns the last position before the first entry of the oldest open transaction. Only servers from 4.2 on log a transaction in several
    /// entries; older ones log it when it commits.
    async fn before_transactions(&self, primary: &Elected, committed: Position) -> Result<Position> {
        if self.server.wire_version <= TRANSACTIONS {
            return Ok(committed);
        }
        let Some(first) = position::oldest_transaction(&*self.server, committed).await? else {
            return Ok(committed);
        };
        let mut find = oplog(&primary.address, rawdoc! { "ts": { "$lt": first.timestamp() } });
        find.sort = Some(rawdoc! { "$natural": -1 });
        let entry = self.server.first_position(find).await?;
        entry.ok_or_else(|| position::as_old_as_the_oplog(first))
    }
}
