//! Makes sure that the primary is the primary: one that was superseded and does not know it yet must not answer.
//!
//! | version | how |
//! |---|---|
//! | 3.4 to 4.0 | a read with read concern `linearizable`, which a superseded primary never completes |
//! | 2.6 to 3.2, and protocol version 0 | an entry without effect in its oplog (`appendOplogNote`), which a majority has to have afterwards |
//! | the same, if the user may not write such an entry | all members have to name it as their primary for longer than they need to notice another one |

use std::time::Duration;

use bson::rawdoc;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::server::{Elected, LINEARIZABLE, MEMBER, Server, changed, oplog};
use crate::error::{ErrorKind, Result};
use crate::mongo::client::code;
use crate::mongo::oplog::majority::{CONFIRMATION, unconfirmed};

const OPERATION: &str = "have a majority confirm the primary";

/// How long all members have to agree on the primary. They ask each other every two seconds, and count a member as down after ten.
const AGREED: Duration = Duration::from_secs(13);

/// The pause between two questions.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

impl Server {
    /// Makes sure that no other primary existed when the call began. What this one wrote before then still has to reach a majority.
    ///
    /// # Errors
    /// A retryable error if the primary cannot be confirmed, or a server error. Nothing is retried.
    pub async fn confirm(&self, primary: &Elected) -> Result<()> {
        if self.wire_version >= LINEARIZABLE {
            let mut find = oplog(&primary.address, rawdoc! {});
            find.projection = Some(rawdoc! { "ts": 1 });
            find.read_concern = Some(rawdoc! { "level": "linearizable" });
            find.max_time = Some(CONFIRMATION);
            match self.first(find).await {
                // Protocol version 0 has no such reads: InvalidOptions, ReadConcernMajorityNotEnabled, NotAReplicaSet, CommandNotSupported.
                Err(error) if matches!(code(&error), Some(72 | 115 | 123 | 148)) => {}
                // MaxTimeMSExpired.
                Err(error) if code(&error) == Some(50) => return Err(unconfirmed(OPERATION).with_source(error)),
                found => return found.map(|_| ()),
            }
        }
        let note = rawdoc! { "appendOplogNote": 1, "data": { "mongoferry": "position" } };
        match self.client.command_on(&primary.address, "admin", &note).await {
            Err(error) if error.kind() == ErrorKind::Unauthorized => self.agreed(primary).await,
            noted => noted.map(|_| ()),
        }
    }

    /// Waits until all members have named the primary for long enough.
    async fn agreed(&self, primary: &Elected) -> Result<()> {
        let began = Instant::now();
        loop {
            let is_master = self.look(primary).await?;
            let me = is_master.me.clone().unwrap_or_else(|| primary.address.clone());
            let members: Vec<&String> = is_master.members().collect();
            let asked = members.iter().map(|host| async {
                let answer = timeout(MEMBER, self.client.is_master(host)).await;
                answer.ok()?.ok()?.primary
            });
            let named = join_all(asked).await;
            if named.iter().flatten().any(|primary| !primary.eq_ignore_ascii_case(&me)) {
                return Err(changed(primary));
            }
            let all = members.len() + is_master.arbiters.len();
            if named.iter().flatten().count() <= all / 2 {
                return Err(unconfirmed(OPERATION));
            }
            if began.elapsed() >= AGREED {
                return Ok(());
            }
            sleep(ASKED_AGAIN).await;
        }
    }
}
