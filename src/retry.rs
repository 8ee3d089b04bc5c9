//! The retry rules of the whole crate.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::{Error, ErrorKind, Result};

/// How long a server may take to answer a command. One that takes longer has lost the command or its answer, or hangs; on a connection
/// that stays open nothing else would tell.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

/// How long a server may work on a write. It must have given it up before it is sent again: a write that came late could undo a newer one
/// of the same document.
pub(crate) const WRITE: Duration = Duration::from_secs(45);

/// How long a server may take to read a whole collection for its digest.
pub(crate) const WHOLE_COLLECTION: Duration = Duration::from_secs(3600);

/// Awaits an answer for so long.
///
/// # Errors
/// [`Connection`](ErrorKind::Connection), which may be tried again, when there is none.
///
/// # Cancellation
/// Dropping the future drops `answer`.
pub(crate) async fn answered<T>(
    operation: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Connection,
            operation,
            format!("the server did not answer within {} seconds", limit.as_secs()),
        ))
    })
}

/// How often, how fast and how long something is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryRule {
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long after the first failure the last attempt may begin.
    pub patience: Duration,
}

impl RetryRule {
    /// For calls to a server: long enough to sit out an election or a restart.
    pub const SERVER: RetryRule = RetryRule {
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_secs(2),
        patience: Duration::from_secs(45),
    };

    /// Starts counting for one call.
    pub fn begin(self) -> Attempts {
        Attempts {
            rule: self,
            since: None,
            pause: self.first_pause,
        }
    }
}

/// The state of one call that is being retried.
#[derive(Debug)]
pub(crate) struct Attempts {
    rule: RetryRule,
    since: Option<Instant>,
    pause: Duration,
}

impl Attempts {
    /// The pause before the next attempt, or `None` when the error is final or patience has run out.
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
        Some(pause)
    }
}

/// Calls `operation` until it succeeds, fails for good, or the rule's patience has run out.
///
/// # Cancellation
/// Dropping the future drops the attempt under way.
pub(crate) async fn retry<T, F>(rule: RetryRule, mut operation: impl FnMut() -> F) -> Result<T>
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
        let result: Result<()> = retry(RetryRule::SERVER, || {
            calls += 1;
            async { Err(Error::new(ErrorKind::Connection, "test", "gone")) }
        })
        .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Connection);
        assert!(started.elapsed() >= RetryRule::SERVER.patience);
        assert!(calls > 20, "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_final() {
        let mut calls = 0;
        let result: Result<()> = retry(RetryRule::SERVER, || {
            calls += 1;
            async { Err(Error::new(ErrorKind::Unauthorized, "test", "no")) }
        })
        .await;
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }
}
