//! Blocks the writes of clients on a replica set.

use bson::doc;
use mongodb::Client;

use crate::error::{Error, ErrorKind, Result};
use crate::mongo::client::{self, number};
use crate::mongo::retry::WRITE_TIMEOUT;

/// First version that can block writes.
const SINCE: [u32; 3] = [6, 0, 0];

/// Blocks the writes of clients, or allows them again.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) if the server or its feature compatibility version is too old, or a server error.
pub(super) async fn set(client: &Client, version: [u32; 3], blocked: bool) -> Result<()> {
    let operation = match blocked {
        true => "block writes on the source",
        false => "lift the block of writes on the source",
    };
    if version < SINCE {
        if !blocked {
            // There is no block to lift.
            return Ok(());
        }
        let [major, minor, _] = version;
        return Err(Error::new(
            ErrorKind::Refused,
            operation,
            format!("its version is {major}.{minor}; servers support this from 6.0 on"),
        ));
    }
    // The server abandons the command before it is sent again, so that it never takes effect after a later command.
    let limit = i64::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    let command = doc! { "setUserWriteBlockMode": 1, "global": blocked, "maxTimeMS": limit };
    client::run(client, operation, "admin", command).await.map(|_| ())
}

/// Whether writes are blocked.
///
/// # Errors
/// A server error.
pub(super) async fn is_set(client: &Client, version: [u32; 3]) -> Result<bool> {
    if version < SINCE {
        return Ok(false);
    }
    const OPERATION: &str = "ask whether writes on the source are blocked";
    match client::server_status(client, OPERATION, "repl").await {
        // 1 means that writes are allowed.
        Ok(set) => Ok(number(&set, "userWriteBlockMode") == 2),
        // Preflight reports what the user may not see.
        Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_old_server_has_nothing_to_lift() {
        // The server is never contacted.
        let client = Client::with_uri_str("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1")
            .await
            .unwrap();
        set(&client, [5, 0, 4], false).await.unwrap();
        let error = set(&client, [5, 0, 4], true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
}
