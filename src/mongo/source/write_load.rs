//! Reads from a replica set's primary how long writes take.

use std::time::Duration;

use crate::error::Result;
use crate::mongo::client::{self, number};
use crate::source::WriteLoad;

/// Returns the number and total time of all clients' writes since the server started. Returns `None` if the server does not report them.
///
/// # Errors
/// A server error.
pub(in crate::mongo) async fn ask(client: &dyn client::Commands) -> Result<Option<WriteLoad>> {
    let latencies = client::server_status(client, "ask how long writes take", "opLatencies").await?;
    Ok(latencies.get_document("writes").ok().map(|writes| WriteLoad {
        operations: number(writes, "ops"),
        time: Duration::from_micros(number(writes, "latency")),
    }))
}
