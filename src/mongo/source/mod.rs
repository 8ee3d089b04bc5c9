//! Reads from a MongoDB replica set.

pub(in crate::mongo) mod by_id;
mod driver;
pub(in crate::mongo) mod duplicates;
pub(in crate::mongo) mod newest;
mod read;
pub(in crate::mongo) mod split;
mod write_block;
pub(in crate::mongo) mod write_load;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use bson::Uuid;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::stream::BoxStream;

use self::driver::DriverSource;
use crate::error::Result;
use crate::model::{
    Accounts, Batch, Collection, Deployment, Inspection, Namespace, Position, Selection, Side, TransactionFacts,
};
#[cfg(feature = "legacy")]
use crate::mongo::connect::legacy;
use crate::mongo::connect::{self, ConnectOptions};
#[cfg(feature = "legacy")]
use crate::mongo::legacy::source::LegacySource;
use crate::oplog::Entry;
use crate::order::Key;
use crate::source::{PointRequest, ReadRequest, Source, WriteLoad, forward_source};

/// A replica set of MongoDB 4.2 to 6.0 as the source of a migration; with the feature `legacy` also one of
/// [2.6 to 4.0](crate::docs::versions#sources-before-42).
///
/// All reads go to the primary and are retried through elections. The source is never written to, with two exceptions. Writes are blocked
/// at the cutover if the host [requests it](crate::MigrationBuilder::block_source_writes). And the server itself notes reads with read
/// concern `linearizable` in its oplog, as an entry without effect: a few at the start and at a cutover. Servers before 3.4 have no such reads,
/// and are sent such an entry (`appendOplogNote`) instead.
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
    inner: Box<dyn Source>,
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
        let options = options.into();
        #[cfg(feature = "legacy")]
        let (too_old, options) = match options.is_legacy() {
            true => return Self::connect_legacy(options).await,
            false => (options.clone(), options),
        };
        let connected = connect::connect(options, Side::Source);
        #[cfg(not(feature = "legacy"))]
        let connected = connected.await;
        #[cfg(feature = "legacy")]
        let connected = tokio::select! {
            connected = connected => connected,
            () = legacy::found_too_old(&too_old) => return Self::connect_legacy(too_old).await,
        };
        #[cfg(feature = "legacy")]
        let connected = match connected {
            Err(error) if legacy::may_be_too_old(&error, &too_old) => {
                return match Self::connect_legacy(too_old).await {
                    Err(other) => Err(legacy::more_telling(error, other)),
                    connected => connected,
                };
            }
            connected => connected,
        };
        Ok(Self {
            inner: Box::new(DriverSource::new(connected?).await?),
        })
    }

    /// Connects without the driver.
    #[cfg(feature = "legacy")]
    async fn connect_legacy(options: ConnectOptions) -> Result<Self> {
        let connected = legacy::connect_legacy(options, Side::Source).await?;
        Ok(Self {
            inner: Box::new(LegacySource::new(connected).await?),
        })
    }

    fn inner(&self) -> &dyn Source {
        &*self.inner
    }
}

forward_source!(impl[] for MongoSource, MongoSource::inner);

/// Omits the client: its options hold credentials.
impl fmt::Debug for MongoSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MongoSource").finish_non_exhaustive()
    }
}
