//! Reports to the host when a server takes long to respond.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::model::{Side, format};

/// A call that is waiting for a server. It is reported before a run exists, whose [events](crate::MigrationHandle::events) would report it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "waiting")]
#[non_exhaustive]
pub struct Wait {
    /// The side that the server belongs to.
    pub side: Side,
    /// The operation that is waiting, such as `connect to db1.example:27017`.
    pub operation: Cow<'static, str>,
    /// How long the operation has been waiting.
    #[serde(rename = "elapsed_ms", serialize_with = "format::milliseconds")]
    pub elapsed: Duration,
    /// Maximum wait, counted from the beginning. `None` if it depends on the amount of data.
    #[serde(rename = "limit_ms", serialize_with = "format::optional_milliseconds")]
    pub limit: Option<Duration>,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_wait(f, self.side, &self.operation, self.elapsed, self.limit)
    }
}

/// Writes a wait as a line for people.
pub(crate) fn write_wait(
    f: &mut fmt::Formatter<'_>,
    side: Side,
    operation: &str,
    elapsed: Duration,
    limit: Option<Duration>,
) -> fmt::Result {
    write!(f, "waiting for the {side} for {:.0} s", elapsed.as_secs_f64())?;
    if let Some(limit) = limit {
        write!(f, " (at most {:.0} s)", limit.as_secs_f64())?;
    }
    write!(f, ": {operation}")
}

/// The callback of the host for waits.
#[derive(Clone, Default)]
pub(crate) struct OnWait(Option<Arc<dyn Fn(Wait) + Send + Sync>>);

impl OnWait {
    pub fn new(tell: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Adds another callback.
    #[cfg(feature = "console")]
    pub fn and(self, other: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        let Some(first) = self.0 else { return Self::new(other) };
        Self::new(move |wait: Wait| {
            first(wait.clone());
            other(wait);
        })
    }

    /// Awaits `answer`, and reports to the host if that takes long.
    ///
    /// # Cancellation
    /// Dropping the future drops `answer`.
    pub async fn report_waits<T>(
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
        report_slow(&tell, answer).await
    }
}

impl fmt::Debug for OnWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnWait").finish_non_exhaustive()
    }
}

/// Awaits `answer`. If that takes long, calls `tell` with the elapsed time.
pub(crate) async fn report_slow<T>(tell: &(dyn Fn(Duration) + Sync), answer: impl Future<Output = T>) -> T {
    let (mut answer, mut reports) = (pin!(answer), pin!(report(Instant::now(), tell)));
    poll_fn(|context| {
        let answer = answer.as_mut().poll(context);
        if answer.is_pending() {
            // The reports have no end. Polling them sets their timer.
            let _ = reports.as_mut().poll(context);
        }
        answer
    })
    .await
}

/// Calls `tell` with the time since `since`, again and again. Does not depend on what is awaited, so that it is compiled once.
async fn report(since: Instant, tell: &(dyn Fn(Duration) + Sync)) -> Infallible {
    let mut pause = FIRST;
    loop {
        sleep(pause).await;
        pause = AGAIN;
        tell(since.elapsed());
    }
}

/// An operation is reported when it has taken this long.
pub(crate) const FIRST: Duration = Duration::from_secs(2);

/// Interval between further reports of the same operation.
pub(crate) const AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_before_a_run_is_told_after_two_seconds() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let on_wait = OnWait::new(move |wait| heard.lock().unwrap().push(wait.to_string()));
        let limit = Some(Duration::from_secs(30));
        on_wait
            .report_waits(Side::Target, "connect to h:1", limit, sleep(Duration::from_secs(5)))
            .await;
        assert_eq!(
            *told.lock().unwrap(),
            ["waiting for the target for 2 s (at most 30 s): connect to h:1"]
        );
    }
}
