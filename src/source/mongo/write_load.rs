//! Asks a replica set's primary how long writes take.

use std::time::Duration;

use bson::doc;
use mongodb::Client;

use crate::driver::{self, number};
use crate::error::Result;
use crate::source::WriteLoad;

/// The writes of all clients since the server was started; `None` from a server that does not tell.
///
/// # Errors
/// A server error.
pub(super) async fn ask(client: &Client) -> Result<Option<WriteLoad>> {
    // The sections that cost a server most are left out.
    let command = doc! { "serverStatus": 1, "opLatencies": 1, "repl": 0, "wiredTiger": 0, "metrics": 0, "locks": 0, "tcmalloc": 0 };
    let status = driver::run(client, "ask how long writes take", "admin", command).await?;
    let writes = status
        .get_document("opLatencies")
        .and_then(|latencies| latencies.get_document("writes"));
    Ok(writes.ok().map(|writes| WriteLoad {
        operations: number(writes, "ops"),
        time: Duration::from_micros(number(writes, "latency")),
    }))
}
