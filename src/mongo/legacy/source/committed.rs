//! Which entries can no longer be rolled back.
//!
//! Each version tells it in its own way, and many do not tell it at all. The first of these that answers is used:
//!
//! 1. `isMaster` reports the newest entry that a majority has (`lastWrite.majorityOpTime`): 3.6 and 4.0, unless majority reads are off.
//! 2. `replSetGetStatus` reports it (`optimes.lastCommittedOpTime`): from 3.4 on.
//! 3. `replSetGetStatus` reports what each member has: 3.2, and all versions whose members cannot be asked. What it says of other members is
//!    up to two seconds old, so the result may be too low and is never too high.
//! 4. Each member is asked for its newest entry: 2.6 and 3.0, and where the user may not run the command. There the entries of all members
//!    are compared by their hashes.
//!
//! What is derived (all but the first) is then looked for by a forward cursor on the primary. Such a cursor stops before an entry that is
//! still being written, so there is no hole before an entry that it finds.

use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Document, Timestamp, rawdoc};
use futures::future::join_all;
use tokio::time::timeout;

use super::majority::{self, Member, Votes};
use super::server::{Elected, FIND_COMMAND, MEMBER, Server, changed};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::mongo::legacy::{Find, IsMaster};
use crate::mongo::oplog::majority::until_majority;
use crate::mongo::retry::RetryPolicy;

const OPERATION: &str = "ask what a majority of the set has";

/// First wire version that reports what a majority has (3.4).
const REPORTED: i32 = 5;

/// How a majority that does not have an entry yet is asked again. Members are milliseconds behind.
pub(super) const FOLLOWED: RetryPolicy = RetryPolicy {
    first_pause: Duration::from_millis(2),
    longest_pause: Duration::from_millis(250),
    ..RetryPolicy::SERVER
};

impl Server {
    /// Returns the newest entry that a majority has, as a primary knows it. It may be far from the newest on one that was superseded.
    /// Nothing is retried.
    ///
    /// # Errors
    /// A retryable error if the primary is no longer the one that was elected then, or a server error.
    pub async fn committed(&self, primary: &Elected) -> Result<Position> {
        let age = self.seen().age();
        let is_master = self.look(primary).await?;
        let reported = is_master
            .last_write
            .filter(|_| self.wire_version >= REPORTED)
            .and_then(|write| write.majority_op_time);
        let committed = match reported {
            Some((time, Some(term))) => Position::new(time, term),
            _ => {
                let time = Box::pin(self.derived(primary, &is_master)).await?;
                self.without_hole(primary, time).await?
            }
        };
        self.seen().note(primary, committed, age);
        Ok(committed)
    }

    /// Waits until a majority has everything up to an entry, and returns how far it is.
    ///
    /// # Errors
    /// A retryable error if the primary changes meanwhile, a server error, or an error if the majority does not advance for as long as the
    /// patience lasts.
    pub async fn committed_through(&self, primary: &Elected, written: Position) -> Result<Position> {
        // Another primary does not have what this one wrote, or is asked anew by the caller.
        let is_other = |error: &Error| error.operation() == changed(primary).operation();
        until_majority(FOLLOWED, written, || Box::pin(self.committed(primary)), is_other).await
    }

    /// Waits until a primary has everything up to a position that was committed on it or on an earlier one.
    pub async fn reaches(&self, primary: &Elected, position: Position) -> Result<()> {
        if self.known(primary).is_some_and(|known| known >= position) {
            return Ok(());
        }
        self.committed_through(primary, position).await.map(|_| ())
    }

    /// Derives the time of the newest entry that a majority has from what the members have.
    async fn derived(&self, primary: &Elected, is_master: &IsMaster) -> Result<Timestamp> {
        if self.wire_version < FIND_COMMAND {
            return match self.by_entries(primary, is_master).await {
                Err(error) if error.kind() == ErrorKind::Unauthorized => self.by_status(primary).await,
                found => found,
            };
        }
        match self.by_status(primary).await {
            Err(error) if error.kind() == ErrorKind::Unauthorized => self.by_entries(primary, is_master).await,
            found => found,
        }
    }

    async fn by_status(&self, primary: &Elected) -> Result<Timestamp> {
        let question = rawdoc! { "replSetGetStatus": 1 };
        let status = Box::pin(self.client.command_on(&primary.address, "admin", &question)).await?;
        let status = Document::try_from(status).map_err(|error| Error::malformed(OPERATION, error))?;
        let members = majority::of_status(&status);
        let newest = self.newest(&primary.address).await?;
        // A primary learns from its members that they have elected another one.
        if majority::highest_term(&members).is_some_and(|term| term > newest.term) {
            return Err(changed(primary));
        }
        if self.wire_version >= REPORTED
            && let Some((time, _)) = majority::reported(&status)
        {
            return Ok(time);
        }
        let (members, votes) = match self.configuration(primary).await? {
            Some(configured) => (majority::with_votes(members, &configured), Votes::Known),
            None => (members, Votes::Unknown),
        };
        let reached = majority::reached_by_majority(&members, &votes);
        reached.map(|(time, _)| time).ok_or_else(|| no_majority(&votes))
    }

    /// Asks each member for its newest entry, and confirms by hashes that they have the same history.
    async fn by_entries(&self, primary: &Elected, is_master: &IsMaster) -> Result<Timestamp> {
        let (mut members, votes) = match self.configuration(primary).await? {
            Some(configured) => (configured, Votes::Known),
            None => (listed(is_master), Votes::Unknown),
        };
        let me = is_master.me.as_deref().unwrap_or(&primary.address);
        let address_of = |member: &Member| match member.host.eq_ignore_ascii_case(me) {
            true => primary.address.clone(),
            false => member.host.clone(),
        };
        let asked = members.iter().map(|member| async {
            if member.arbiter || !member.votes {
                return None;
            }
            timeout(MEMBER, self.newest(&address_of(member))).await.ok()?.ok()
        });
        let newest: Vec<Option<Position>> = join_all(asked).await;
        for (member, newest) in members.iter_mut().zip(newest) {
            member.reached = newest.map(|newest| (newest.timestamp(), None));
        }
        let Some((time, _)) = majority::reached_by_majority(&members, &votes) else {
            return Err(no_majority(&votes));
        };
        let ours = self.term_at(&primary.address, time).await?;
        let same = members.iter_mut().map(|member| async {
            let Some((reached, _)) = member.reached.filter(|(reached, _)| *reached >= time) else {
                return;
            };
            let theirs = timeout(MEMBER, self.term_at(&address_of(member), time)).await;
            let is_same = ours.is_some() && matches!(theirs, Ok(Ok(theirs)) if theirs == ours);
            member.reached = is_same.then_some((reached, None));
        });
        join_all(same).await;
        match majority::reached_by_majority(&members, &votes) {
            Some((confirmed, _)) if confirmed >= time => Ok(time),
            _ => Err(Error::new(
                ErrorKind::Connection,
                OPERATION,
                "the members that make a majority do not have the same history as the primary; see with `rs.status()` whether one of them \
                 is rolling back",
            )),
        }
    }

    /// Returns the term or hash of the entry at a time on a member, if it has that entry.
    async fn term_at(&self, address: &str, time: Timestamp) -> Result<Option<i64>> {
        let entry = self.first_from(address, time).await?;
        Ok(entry.filter(|entry| entry.timestamp() == time).map(|entry| entry.term))
    }

    /// Returns the set's configuration, or `None` if the user may not read it.
    async fn configuration(&self, primary: &Elected) -> Result<Option<Vec<Member>>> {
        let mut find = Find::new("local", "system.replset", RawDocumentBuf::new());
        find.address = Some(primary.address.clone());
        match self.first(find).await {
            Ok(Some(configuration)) => {
                let configuration =
                    Document::try_from(configuration).map_err(|error| Error::malformed(OPERATION, error))?;
                let members = majority::of_configuration(&configuration);
                Ok((!members.is_empty()).then_some(members))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the whole position of the entry at a time, once no entry before it is still being written.
    async fn without_hole(&self, primary: &Elected, time: Timestamp) -> Result<Position> {
        if let Some(known) = self.known(primary)
            && known.timestamp() == time
        {
            return Ok(known);
        }
        match self.first_from(&primary.address, time).await? {
            Some(entry) if entry.timestamp() == time => Ok(entry),
            Some(_) => Err(Error::new(
                ErrorKind::Connection,
                OPERATION,
                "the primary does not have an entry that its members have; see with `rs.status()` whether one of them is rolling back",
            )),
            None => Err(Error::new(
                ErrorKind::Connection,
                OPERATION,
                "the entry is not visible yet",
            )),
        }
    }
}

/// The members that are not hidden.
fn listed(is_master: &IsMaster) -> Vec<Member> {
    let with_data = is_master.members().map(|host| (host, false));
    let arbiters = is_master.arbiters.iter().map(|host| (host, true));
    let member = |(id, (host, arbiter)): (usize, (&String, bool))| Member {
        id: id as u64,
        host: host.clone(),
        votes: true,
        arbiter,
        reached: None,
    };
    with_data.chain(arbiters).enumerate().map(member).collect()
}

fn no_majority(votes: &Votes) -> Error {
    let message = match votes {
        Votes::Known => "the members that make a majority do not answer; see with `rs.status()` which are down".to_owned(),
        Votes::Unknown => "not all members answer, and the user may not see which of them make a majority: start them, or grant the role \
                           `clusterMonitor`"
            .to_owned(),
    };
    Error::new(ErrorKind::Connection, OPERATION, message)
}
