//! Reads the oplog of a server.

pub(crate) mod cursor;
pub(crate) mod lost;
pub(crate) mod majority;
pub(crate) mod position;
pub(crate) mod read_ahead;
pub(crate) mod seek;
pub(crate) mod standing;
pub(crate) mod tail;

use std::time::Duration;

use crate::error::Result;
use crate::mongo::retry::answered;

/// Operation named in the errors of a tail.
pub(crate) const OPERATION: &str = "follow the oplog";

/// How long the server waits for a new entry before it returns an empty batch. Servers before 3.2 wait for about 4 s.
pub(crate) const AWAIT: Duration = Duration::from_secs(1);

/// Timeout for an answer. After it the connection counts as broken. A lost network may never report that.
const REPLY: Duration = Duration::from_secs(30);

/// How long the primary may know of nothing as new as the position to start after, before the position counts as lost. A primary that has
/// lost its majority may be behind, and notices within 10 seconds.
pub(crate) const FUTURE: Duration = Duration::from_secs(12);

/// Approximate number of bytes of entries returned at once.
pub(crate) const BATCH: usize = 1 << 20;

/// Fails if an answer takes too long.
pub(crate) async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    answered(OPERATION, REPLY, call).await
}
