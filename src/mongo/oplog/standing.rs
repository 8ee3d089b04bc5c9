//! How far a member is in the history of its set.

use bson::doc;
use futures::FutureExt;
use futures::future::BoxFuture;
use mongodb::Client;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::mongo::client;
use crate::mongo::retry::{COMMAND_TIMEOUT, answered};

/// First wire version whose servers seek in the oplog on their own (4.4). Older servers need `oplogReplay` for that.
const SEEKS: i32 = 9;

/// How far a member is in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Newest entry of the member itself.
    pub newest: Position,
    /// Newest entry that a majority has. Nothing up to it can be rolled back, and there are no holes before it.
    pub majority: Position,
    /// Whether a `find` on the oplog needs `oplogReplay` to be fast.
    pub needs_replay_flag: bool,
}

/// Returns how far the primary is in the history. Nothing is retried.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) if the server is not a member of a replica set, or a server error.
pub(crate) fn standing(client: &Client) -> BoxFuture<'_, Result<Standing>> {
    // Boxed here, so that it is compiled once and not in each caller.
    async move {
        const OPERATION: &str = "ask for the newest position";
        let database = client.database("admin");
        // Every version knows this name; `hello` was added in 4.4.2.
        let hello = answered(OPERATION, COMMAND_TIMEOUT, async {
            let hello = database.run_command(doc! { "isMaster": 1 }).await;
            hello.map_err(|error| client::convert(OPERATION, error))
        })
        .await?;
        let Ok(last_write) = hello.get_document("lastWrite") else {
            if hello.contains_key("setName") || hello.contains_key("isreplicaset") {
                return Err(Error::new(
                    ErrorKind::Connection,
                    OPERATION,
                    "the member has not joined its set yet",
                ));
            }
            return Err(Error::new(
                ErrorKind::Refused,
                OPERATION,
                "the server is no member of a replica set and has no oplog",
            ));
        };
        let optime = |name: &str| {
            last_write
                .get_document(name)
                .ok()
                .and_then(client::position_of)
                .filter(|position| position.time > 0)
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Connection,
                        OPERATION,
                        "the set has not committed anything since it started",
                    )
                })
        };
        Ok(Standing {
            newest: optime("opTime")?,
            majority: optime("majorityOpTime")?,
            needs_replay_flag: hello.get_i32("maxWireVersion").is_ok_and(|version| version < SEEKS),
        })
    }
    .boxed()
}
