use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use tokio::time::sleep;

use super::{OldClient, Period, PeriodServer};
use crate::{ReplicaSet, TestbedError, Version, binary::Binary, replica_set::PATIENCE};

/// A replica set of a version before 4.2: a real one where the environment names its binary (`MONGOD_2_6` and so on), or
/// else a 4.2 that looks like it.
#[derive(Debug)]
pub struct OldSet {
    period: Period,
    /// Stands before the set unless that is real.
    server: Option<PeriodServer>,
    // Last: it outlives what stands before it.
    set: ReplicaSet,
}

impl OldSet {
    /// Starts a set of `members`, without authentication or TLS.
    ///
    /// # Errors
    ///
    /// As [`ReplicaSetBuilder::start`](crate::ReplicaSetBuilder::start) and [`PeriodServer::start`].
    pub async fn start(period: Period, members: usize) -> Result<OldSet, TestbedError> {
        let is_real = Binary::is_named(period.version());
        let version = if is_real { period.version() } else { Version::V4_2 };
        let set = ReplicaSet::builder(version).members(members).start().await?;
        let server = if is_real {
            None
        } else {
            Some(PeriodServer::start(&set, period).await?)
        };
        Ok(OldSet { period, server, set })
    }

    /// The version that it is or looks like.
    pub fn period(&self) -> Period {
        self.period
    }

    /// Whether this is a real set of the version.
    pub fn is_real(&self) -> bool {
        self.server.is_none()
    }

    /// The set itself, which is a 4.2 unless this is a real one.
    pub fn set(&self) -> &ReplicaSet {
        &self.set
    }

    /// What stands before the set unless this is a real one.
    pub fn server(&self) -> Option<&PeriodServer> {
        self.server.as_ref()
    }

    /// The connection string of the whole set.
    pub fn uri(&self) -> String {
        self.server.as_ref().map_or_else(|| self.set.uri(), PeriodServer::uri)
    }

    /// Runs a command on the primary of the set itself, as clients of every version can: for writers. Where one may fail it
    /// is up to the caller to try again.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when the connection ends, [`TestbedError::Refused`] when the server refuses the command or what
    /// it should write, [`TestbedError::Timeout`] when there is no primary for a minute.
    pub async fn run(&self, database: &str, command: Document) -> Result<Document, TestbedError> {
        let what = command.keys().next().cloned().unwrap_or_default();
        let address = self.primary().await?;
        let answer = OldClient::run(&address, database, command).await;
        let answer = answer.map_err(TestbedError::io(what.clone()))?;
        let is_done = answer.get_f64("ok").is_ok_and(|ok| ok == 1.0);
        if !is_done || answer.contains_key("writeErrors") || answer.contains_key("writeConcernError") {
            let answer = answer.to_string();
            return Err(TestbedError::Refused { what, answer });
        }
        Ok(answer)
    }

    /// The address of the primary.
    async fn primary(&self) -> Result<String, TestbedError> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            for index in 0..self.set.members() {
                let address = self.set.member_address(index);
                let answer = OldClient::run(&address, "admin", doc! { "isMaster": 1 }).await;
                if answer.is_ok_and(|answer| answer.get_bool("ismaster").is_ok_and(|is_primary| is_primary)) {
                    return Ok(address);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err(TestbedError::Timeout {
            what: "a primary".to_owned(),
            waited: PATIENCE,
            log: String::new(),
        })
    }
}
