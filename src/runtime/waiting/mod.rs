//! Tells the host when a server keeps it waiting.

mod sink;
mod source;
mod store;

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::{Instant, timeout};

use crate::error::Result;
use crate::mongo::retry::{ANSWER, FIRST_BATCH, RetryRule};
use crate::report::event::{Event, Events, Side};

/// An answer that takes longer than this is told.
const FIRST: Duration = Duration::from_secs(2);

/// It is told again each time that so much more time has passed.
const AGAIN: Duration = Duration::from_secs(10);

/// How long one call to a server takes at most: an answer that never comes, patience, and one more attempt.
pub(crate) const LONGEST_CALL: Duration = ANSWER.saturating_mul(2).saturating_add(RetryRule::SERVER.patience);

/// The same of a read of documents.
const LONGEST_READ: Duration = FIRST_BATCH.saturating_mul(2).saturating_add(RetryRule::SERVER.patience);

/// A server keeps the host waiting, before there is a run whose [events](crate::MigrationHandle::events) would tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// Whose server.
    pub side: Side,
    /// What is waited for, such as `connect to db1.example:27017`.
    pub operation: Cow<'static, str>,
    /// For how long it has been waited for.
    pub elapsed: Duration,
    /// For how long it is waited for at most, from the beginning; `None` where that depends on the amount of data.
    pub limit: Option<Duration>,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "waiting for the {} for {:.0} s",
            self.side,
            self.elapsed.as_secs_f64()
        )?;
        if let Some(limit) = self.limit {
            write!(f, " (at most {:.0} s)", limit.as_secs_f64())?;
        }
        write!(f, ": {}", self.operation)
    }
}

/// What a host wants to be called with when it has to wait.
#[derive(Clone, Default)]
pub(crate) struct OnWait(Option<Arc<dyn Fn(Wait) + Send + Sync>>);

impl OnWait {
    pub fn new(tell: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Awaits what a server answers, and tells the host when that takes long.
    ///
    /// # Cancellation
    /// Dropping the future drops `answer`.
    pub async fn telling<T>(
        &self,
        side: Side,
        operation: impl Into<Cow<'static, str>>,
        limit: Option<Duration>,
        answer: impl Future<Output = T>,
    ) -> T {
        let operation = operation.into();
        let tell = |elapsed| {
            if let Some(tell) = &self.0 {
                tell(Wait {
                    side,
                    operation: operation.clone(),
                    elapsed,
                    limit,
                });
            }
        };
        report_slow(tell, answer).await
    }
}

impl fmt::Debug for OnWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnWait").finish_non_exhaustive()
    }
}

/// Awaits what a server answers. Elections, restarts and lost connections are sat out by whoever asks, which the host would else see only
/// as a run that stands still.
///
/// # Cancellation
/// Dropping the future drops `answer`.
pub(crate) async fn telling<T>(
    events: &Events,
    side: Side,
    operation: &'static str,
    answer: impl Future<Output = T>,
) -> T {
    telling_within(events, side, operation, Some(LONGEST_CALL), answer).await
}

/// As [`telling`], for what may take as long as `limit` instead of one call.
pub(crate) async fn telling_within<T>(
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
    report_slow(tell, answer).await
}

/// A source, sink or checkpoint store that tells the host when it keeps a run waiting.
///
/// Each call is forwarded by hand, so that none can be forgotten. A stream of what may never come tells nothing: an idle source has no
/// entries, and a target that nobody else writes to has no foreign writes.
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
        telling(&self.events, self.side, operation, answer).await
    }

    /// Awaits a call whose time depends on the amount of data.
    async fn unbounded<A>(&self, operation: &'static str, answer: impl Future<Output = A>) -> A {
        telling_within(&self.events, self.side, operation, None, answer).await
    }

    /// Awaits a call that reads documents, and later each batch of its stream.
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
    telling_within(events, side, "read documents", Some(LONGEST_READ), answer).await
}

/// Awaits an answer, and tells how long that has taken when it takes long.
async fn report_slow<T>(tell: impl Fn(Duration), answer: impl Future<Output = T>) -> T {
    let (mut answer, since) = (pin!(answer), Instant::now());
    let mut pause = FIRST;
    loop {
        if let Ok(answer) = timeout(pause, &mut answer).await {
            return answer;
        }
        pause = AGAIN;
        tell(since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{FutureExt, StreamExt};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_long_waits_are_told_and_again_as_they_last() {
        let events = Events::new();
        let mut told = events.subscribe(false);
        assert_eq!(telling(&events, Side::Source, "ask", async { 5 }).await, 5);
        telling(&events, Side::Source, "ask", sleep(FIRST / 2)).await;
        assert!(told.next().now_or_never().is_none());
        telling(&events, Side::Target, "flush", sleep(FIRST + AGAIN + AGAIN / 2)).await;
        for expected in [FIRST, FIRST + AGAIN] {
            let Some(Some(Event::Waiting {
                side,
                operation,
                elapsed,
                limit,
            })) = told.next().now_or_never()
            else {
                panic!("it was not told");
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

    #[tokio::test(start_paused = true)]
    async fn a_wait_before_a_run_is_told_after_two_seconds() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let on_wait = OnWait::new(move |wait| heard.lock().unwrap().push(wait.to_string()));
        let limit = Some(Duration::from_secs(30));
        on_wait
            .telling(Side::Target, "connect to h:1", limit, sleep(Duration::from_secs(5)))
            .await;
        assert_eq!(
            *told.lock().unwrap(),
            ["waiting for the target for 2 s (at most 30 s): connect to h:1"]
        );
    }
}
