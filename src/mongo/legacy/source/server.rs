//! A replica set of old servers: its client, and which member is its primary in which election.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Timestamp, rawdoc};

use super::identities::Identities;
use super::seen::Seen;
use crate::catalog::Series;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Deployment, Position};
use crate::mongo::legacy::{Find, IsMaster, LegacyClient};

/// First wire version with `find` and `getMore` as commands, and with read concerns (3.2).
pub(super) const FIND_COMMAND: i32 = 4;

/// First wire version with linearizable reads (3.4).
pub(super) const LINEARIZABLE: i32 = 5;

/// First wire version whose collections have uuids (3.6).
pub(super) const UUIDS: i32 = 6;

/// First wire version with transactions on replica sets (4.0).
pub(super) const TRANSACTIONS: i32 = 7;

/// First wire version that the driver talks to (4.2).
pub(super) const DRIVER: i32 = 8;

/// Timeout for the answer of one member. One that is down must not hold up the others.
pub(super) const MEMBER: Duration = Duration::from_secs(5);

/// A replica set.
pub(super) struct Server {
    pub client: LegacyClient,
    pub wire_version: i32,
    /// Whether listings and entries name collections by uuid.
    pub lists_uuids: bool,
    /// Whether it reads with read concern `majority`.
    pub reads_majority: bool,
    /// The series whose oplog and catalog it has: an older one than its own at an older feature compatibility version.
    pub series: Series,
    pub identities: Identities,
    seen: Mutex<Seen>,
}

/// A primary, and the election that made it one. A member that was elected again is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elected {
    pub address: String,
    pub election: Option<ObjectId>,
}

impl Server {
    /// Takes a client, and what `deployment` says of the set.
    pub fn new(client: LegacyClient, wire_version: i32, deployment: &Deployment, reads_majority: bool) -> Self {
        let [major, minor, _] = deployment.version;
        // What 4.2 writes depends on its feature compatibility version alone.
        let series = match [major, minor] {
            [4, 2] => deployment.feature_compatibility,
            series => series,
        };
        let set = deployment.name.clone();
        let identities = Identities::new(set, series);
        Self {
            client,
            wire_version,
            // Listings show uuids once the feature compatibility version is 3.6.
            lists_uuids: [major, minor] >= [3, 6] && deployment.feature_compatibility >= [3, 6],
            reads_majority,
            series,
            identities,
            seen: Mutex::default(),
        }
    }

    /// Returns the primary. Waits for one, for a bounded time.
    pub async fn primary(&self) -> Result<Elected> {
        let primary = Box::pin(self.client.primary()).await?;
        Ok(Elected {
            address: primary.address.clone(),
            election: primary.is_master.election_id,
        })
    }

    /// Asks a primary what it is.
    ///
    /// # Errors
    /// A retryable error if it is no longer the primary, or was elected again meanwhile.
    pub async fn look(&self, primary: &Elected) -> Result<IsMaster> {
        let is_master = Box::pin(self.client.is_master(&primary.address)).await?;
        if !is_master.is_primary || is_master.election_id != primary.election {
            return Err(changed(primary));
        }
        Ok(is_master)
    }

    /// Returns the newest entry of a member, whether or not entries before it are still being written.
    pub async fn newest(&self, address: &str) -> Result<Position> {
        const OPERATION: &str = "ask for the newest position";
        let mut find = oplog(address, rawdoc! {});
        find.sort = Some(rawdoc! { "$natural": -1 });
        let entry = self.first_position(find).await?;
        entry.ok_or_else(|| Error::new(ErrorKind::Protocol, OPERATION, "the oplog is empty"))
    }

    /// Returns the first entry of a member at or after a time. There is no hole before it: an entry that is still being written hides what
    /// follows it.
    pub async fn first_from(&self, address: &str, time: Timestamp) -> Result<Option<Position>> {
        self.first_position(from(address, time)).await
    }

    /// Returns the position of the first entry of a query.
    pub async fn first_position(&self, mut find: Find) -> Result<Option<Position>> {
        // With a projection, servers that seek need `ts` in it.
        find.projection = Some(rawdoc! { "ts": 1, "t": 1, "h": 1 });
        self.first(find).await?.map(|entry| position_of(&entry)).transpose()
    }

    /// Returns the first document of a query.
    pub async fn first(&self, mut find: Find) -> Result<Option<RawDocumentBuf>> {
        find.limit = Some(1);
        // Calls of the client are boxed: they are deep inside the futures of a run, which would not fit on a stack otherwise.
        let mut cursor = Box::pin(self.client.find(find)).await?;
        while let Some(batch) = Box::pin(cursor.next_batch()).await? {
            if let Some(first) = batch.iter().next() {
                return Ok(Some(first.to_owned()));
            }
        }
        Ok(None)
    }

    /// The newest position that was seen to be committed on a primary.
    pub fn known(&self, primary: &Elected) -> Option<Position> {
        self.seen().known(primary)
    }

    /// What was seen to be committed.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a call that a primary did not live to answer. The same call on the next primary may succeed.
pub(super) fn changed(primary: &Elected) -> Error {
    Error::new(
        ErrorKind::Connection,
        "read from the primary",
        "the set has elected another primary meanwhile",
    )
    .with_context("member", &primary.address)
}

/// A query for entries of a member's oplog.
pub(super) fn oplog(address: &str, filter: RawDocumentBuf) -> Find {
    let mut find = Find::new("local", "oplog.rs", filter);
    find.address = Some(address.to_owned());
    find
}

/// A query for the entries of a member's oplog from a time on, which the server finds without a scan of those before.
pub(super) fn from(address: &str, time: Timestamp) -> Find {
    let mut find = oplog(address, rawdoc! { "ts": { "$gte": time } });
    find.oplog_replay = true;
    find
}

/// The position of an entry. Protocol version 0 has no terms: there, the hash of the entry takes its place. It depends on all entries
/// before, so that two entries with the same time and hash have the same history.
pub(super) fn position_of(entry: &RawDocument) -> Result<Position> {
    const OPERATION: &str = "read an oplog entry";
    let (mut time, mut term, mut hash) = (None, None, None);
    // In one pass, because every entry that is followed comes through here.
    for element in entry.iter_elements() {
        let element = element.map_err(|error| Error::malformed(OPERATION, error))?;
        let field = match element.key().as_str() {
            "ts" => {
                time = element.value().ok().and_then(|value| value.as_timestamp());
                continue;
            }
            "t" => &mut term,
            "h" => &mut hash,
            _ => continue,
        };
        *field = element.value().ok().and_then(|value| value.as_i64());
        if time.is_some() && term.is_some() {
            break;
        }
    }
    let time = time.ok_or_else(|| Error::new(ErrorKind::Protocol, OPERATION, "it has no timestamp `ts`"))?;
    let term = term.or(hash.filter(|hash| *hash != 0));
    Ok(Position::new(time, term.unwrap_or(Position::ZERO.term)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_the_term_or_the_hash() {
        let ts = Timestamp { time: 5, increment: 2 };
        for (entry, term) in [
            (rawdoc! { "ts": ts, "t": 3_i64, "h": 0_i64 }, 3),
            (rawdoc! { "ts": ts, "t": 3_i64, "h": -77_i64 }, 3),
            (rawdoc! { "ts": ts, "h": -77_i64 }, -77),
            (rawdoc! { "ts": ts, "h": 0_i64 }, -1),
            (rawdoc! { "ts": ts }, -1),
        ] {
            assert_eq!(position_of(&entry).unwrap(), Position::new(ts, term));
        }
        assert!(position_of(&rawdoc! { "ts": 5 }).is_err());
    }
}
