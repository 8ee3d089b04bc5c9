//! Asks a replica set's primary how long writes take.

use std::time::Duration;

use mongodb::Client;

use crate::error::Result;
use crate::mongo::client::{self, number};
use crate::source::WriteLoad;

/// The writes of all clients since the server was started; `None` from a server that does not tell.
///
/// # Errors
/// A server error.
pub(super) async fn ask(client: &Client) -> Result<Option<WriteLoad>> {
    let latencies = client::server_status(client, "ask how long writes take", "opLatencies").await?;
    Ok(latencies.get_document("writes").ok().map(|writes| WriteLoad {
        operations: number(writes, "ops"),
        time: Duration::from_micros(number(writes, "latency")),
    }))
}
