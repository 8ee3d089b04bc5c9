//! Events that report when a server keeps a run waiting.

mod sink;
mod source;
mod store;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};

use crate::error::Result;
use crate::model::{Side, report_slow};
use crate::mongo::retry::{COMMAND_TIMEOUT, FIRST_BATCH_TIMEOUT, RetryPolicy};
use crate::report::{Event, Events};

/// Maximum duration of one call to a server: a response that never arrives, the patience, and one more attempt.
pub(crate) const LONGEST_CALL: Duration = COMMAND_TIMEOUT
    .saturating_mul(2)
    .saturating_add(RetryPolicy::SERVER.patience);

/// Maximum duration of a read of documents.
const LONGEST_READ: Duration = FIRST_BATCH_TIMEOUT
    .saturating_mul(2)
    .saturating_add(RetryPolicy::SERVER.patience);

/// Awaits a server's response and emits an event while that takes long. Callers retry through elections, restarts and lost connections.
/// Without these events the host would only see a run that makes no progress.
///
/// # Cancellation
/// Dropping the future drops `answer`.
pub(crate) async fn report_waits<T>(
    events: &Events,
    side: Side,
    operation: &'static str,
    answer: impl Future<Output = T>,
) -> T {
    report_waits_within(events, side, operation, Some(LONGEST_CALL), answer).await
}

/// Like [`report_waits`], with `limit` as the maximum duration instead of that of one call.
pub(crate) async fn report_waits_within<T>(
    events: &Events,
    side: Side,
    operation: &'static str,
    limit: Option<Duration>,
    answer: impl Future<Output = T>,
) -> T {
    let tell = |elapsed| {
        events.send(Event::Waiting {
            side,
            operation,
            elapsed,
            limit,
        });
    };
    report_slow(&tell, answer).await
}

/// Wrapper of a source, sink or checkpoint store that emits an event when it keeps a run waiting.
///
/// Each method is forwarded explicitly, so that none can be forgotten. Open-ended streams are not reported: an idle source has no entries,
/// and a target that no other program writes to has no foreign writes.
pub(crate) struct Waiting<T: ?Sized> {
    inner: Arc<T>,
    side: Side,
    events: Events,
}

impl<T: ?Sized> Waiting<T> {
    pub fn new(inner: Arc<T>, side: Side, events: Events) -> Self {
        Self { inner, side, events }
    }

    /// Awaits a call that takes at most [`LONGEST_CALL`].
    async fn call<A>(&self, operation: &'static str, answer: impl Future<Output = A>) -> A {
        report_waits(&self.events, self.side, operation, answer).await
    }

    /// Awaits a call whose duration depends on the amount of data.
    async fn unbounded<A>(&self, operation: &'static str, answer: impl Future<Output = A>) -> A {
        report_waits_within(&self.events, self.side, operation, None, answer).await
    }

    /// Awaits a call that reads documents. Each batch of the returned stream is awaited in the same way.
    async fn read<B: Send + 'static>(
        &self,
        answer: impl Future<Output = Result<BoxStream<'static, B>>>,
    ) -> Result<BoxStream<'static, B>> {
        let batches = read(&self.events, self.side, answer).await?;
        let state = (batches, self.side, self.events.clone());
        let batches = stream::unfold(state, |(mut batches, side, events)| async move {
            let batch = read(&events, side, batches.next()).await?;
            Some((batch, (batches, side, events)))
        });
        Ok(batches.boxed())
    }
}

async fn read<A>(events: &Events, side: Side, answer: impl Future<Output = A>) -> A {
    report_waits_within(events, side, "read documents", Some(LONGEST_READ), answer).await
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use tokio::time::sleep;

    use super::*;
    use crate::model::wait::{AGAIN, FIRST};

    #[tokio::test(start_paused = true)]
    async fn only_long_waits_are_told_and_again_as_they_last() {
        let events = Events::new();
        let mut told = events.subscribe(false);
        assert_eq!(report_waits(&events, Side::Source, "ask", async { 5 }).await, 5);
        report_waits(&events, Side::Source, "ask", sleep(FIRST / 2)).await;
        assert!(told.next().now_or_never().is_none());
        report_waits(&events, Side::Target, "flush", sleep(FIRST + AGAIN + AGAIN / 2)).await;
        for expected in [FIRST, FIRST + AGAIN] {
            let Some(Some(Event::Waiting {
                side,
                operation,
                elapsed,
                limit,
            })) = told.next().now_or_never()
            else {
                panic!("no event was emitted");
            };
            assert_eq!((side, operation), (Side::Target, "flush"));
            assert_eq!(limit, Some(LONGEST_CALL));
            assert!(
                elapsed >= expected && elapsed < expected + Duration::from_millis(10),
                "{elapsed:?}"
            );
        }
        assert!(told.next().now_or_never().is_none());
    }
}
