//! Retry policy and timeouts of the whole crate.

use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, timeout};

use crate::error::{Error, ErrorKind, Result};

/// Timeout for the answer to a command. A server that takes longer has lost the command or its answer, or hangs. On a connection that stays
/// open, nothing else reveals that.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time a server may work on a write. The server must have abandoned the write before it is sent again: a late write could undo a
/// newer one of the same document.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(45);

/// Timeout for the first batch of a read. The server first waits until it reaches the position, which a member that has lost its majority
/// never does.
pub(crate) const FIRST_BATCH_TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout for a command that reads a whole collection.
pub(crate) const WHOLE_COLLECTION: Duration = Duration::from_secs(3600);

/// Awaits `answer` for at most `limit`.
///
/// # Errors
/// [`Connection`](ErrorKind::Connection), a retryable error, if there is no answer in time. [`Panic`](ErrorKind::Panic) if `answer` panics.
/// The driver panics once the runtime in which its client was created is gone.
///
/// # Cancellation
/// Dropping the future drops `answer`.
pub(crate) async fn answered<T>(
    operation: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    // Any state that a panic leaves behind belongs to the driver.
    match timeout(limit, AssertUnwindSafe(answer).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(panicked(operation)),
        Err(_) => Err(Error::new(
            ErrorKind::Connection,
            operation,
            format!("the server did not answer within {} seconds", limit.as_secs()),
        )),
    }
}

/// Returns the error for a call during which the driver panicked.
pub(crate) fn panicked(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Panic,
        operation,
        "the driver panicked; the runtime in which its client was made has to live as long as the run",
    )
}

/// How often, how fast and for how long a call is retried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    /// Pause after the first failure; each further pause is twice as long. The actual pause is a random time between half of it and all of
    /// it, so that callers that failed together do not retry together.
    pub first_pause: Duration,
    /// Maximum pause.
    pub longest_pause: Duration,
    /// Maximum time between the first failure and the start of the last attempt.
    pub patience: Duration,
}

impl RetryPolicy {
    /// For calls to a server: long enough to get through an election or a restart.
    pub const SERVER: RetryPolicy = RetryPolicy {
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_secs(2),
        patience: Duration::from_secs(45),
    };

    /// Starts the attempts of one call.
    pub fn begin(self) -> Attempts {
        Attempts {
            rule: self,
            since: None,
            pause: self.first_pause,
        }
    }
}

/// Retry state of one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    rule: RetryPolicy,
    since: Option<Instant>,
    pause: Duration,
}

impl Attempts {
    /// Returns the pause before the next attempt, or `None` if the error is final or the patience has run out.
    pub fn next_pause(&mut self, error: &Error) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.rule.patience {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(self.rule.longest_pause);
        Some(pause.mul_f64(0.5 + random() / 2.0))
    }
}

/// Returns a random number from 0 to 1. Each new `RandomState` of the standard library hashes differently.
pub(crate) fn random() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

/// Calls `operation` until it succeeds, fails with a final error, or the patience of `rule` has run out.
///
/// # Cancellation
/// Dropping the future drops the attempt in flight.
pub(crate) async fn retry<T, F>(rule: RetryPolicy, mut operation: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut attempts = rule.begin();
    loop {
        match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => match attempts.next_pause(&error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retryable_errors_are_retried_until_patience_runs_out() {
        let mut calls = 0;
        let started = Instant::now();
        let result: Result<()> = retry(RetryPolicy::SERVER, || {
            calls += 1;
            async { Err(Error::new(ErrorKind::Connection, "test", "gone")) }
        })
        .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Connection);
        assert!(started.elapsed() >= RetryPolicy::SERVER.patience);
        assert!(calls > 20, "{calls}");
    }

    #[test]
    fn callers_that_failed_together_do_not_come_back_together() {
        let error = Error::new(ErrorKind::Connection, "test", "gone");
        let mut callers: Vec<Attempts> = (0..8).map(|_| RetryPolicy::SERVER.begin()).collect();
        let mut whole = RetryPolicy::SERVER.first_pause;
        for _ in 0..10 {
            let pauses: Vec<Duration> = callers
                .iter_mut()
                .map(|caller| caller.next_pause(&error).unwrap())
                .collect();
            assert!(
                pauses.iter().all(|pause| *pause >= whole / 2 && *pause <= whole),
                "{pauses:?}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
            whole = (whole * 2).min(RetryPolicy::SERVER.longest_pause);
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_driver_is_an_error() {
        let answer = async { panic!("JoinError::Cancelled") };
        let error = answered::<()>("test", COMMAND_TIMEOUT, answer).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.is_retryable()),
            (ErrorKind::Panic, false),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_final() {
        let mut calls = 0;
        let result: Result<()> = retry(RetryPolicy::SERVER, || {
            calls += 1;
            async { Err(Error::new(ErrorKind::Unauthorized, "test", "no")) }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }
}
