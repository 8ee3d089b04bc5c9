//! RateLimiters how fast a run goes: a token bucket whose rate can be changed while it is used.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::config::Throttle;

/// The limits of a run, shared by everything that keeps to them.
#[derive(Debug, Default)]
pub(crate) struct RateLimiters {
    pub copy: RateLimiter,
    pub tail: RateLimiter,
}

impl RateLimiters {
    pub fn set(&self, throttle: Throttle) {
        self.copy.set(throttle.copy_bytes_per_second);
        self.tail.set(throttle.tail_operations_per_second);
    }

    pub fn get(&self) -> Throttle {
        Throttle {
            copy_bytes_per_second: self.copy.get(),
            tail_operations_per_second: self.tail.get(),
        }
    }
}

/// The share of a second for which a limit may be saved up, and of which about one portion should be.
const BURST: f64 = 0.25;

/// A token bucket. What is done may be more than what is left of it: then the next has to wait for longer.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    /// How much each second; 0 for no limit. Apart from the bucket, so that no limit costs next to nothing.
    per_second: AtomicU64,
    bucket: Mutex<Bucket>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Less than nothing when more was done than what was there.
    left: f64,
    filled: Option<Instant>,
}

impl RateLimiter {
    /// Sets the limit. `Some(0)` would never end, so it is the least that there is.
    pub fn set(&self, per_second: Option<u64>) {
        let per_second = per_second.map_or(0, |per_second| per_second.max(1));
        {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.fill(self.per_second.load(Relaxed));
            // A debt that was made at a high rate would take too long to be paid at a low one.
            bucket.left = bucket.left.clamp(-(per_second as f64), 0.0);
            self.per_second.store(per_second, Relaxed);
        }
        self.changed.notify_waiters();
    }

    pub fn get(&self) -> Option<u64> {
        match self.per_second.load(Relaxed) {
            0 => None,
            per_second => Some(per_second),
        }
    }

    /// How much should be done at once, so that the limit is kept evenly; `most` where there is none.
    pub fn portion(&self, most: u64) -> u64 {
        match self.get() {
            None => most,
            Some(per_second) => ((per_second as f64 * BURST) as u64).clamp(1, most),
        }
    }

    /// Counts what was done.
    pub fn spend(&self, amount: u64) {
        let per_second = self.per_second.load(Relaxed);
        if per_second > 0 {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.fill(per_second);
            bucket.left -= amount as f64;
        }
    }

    /// How long the next has to wait; `None` when it may be done now.
    pub fn wait(&self) -> Option<Duration> {
        let per_second = self.per_second.load(Relaxed);
        if per_second == 0 {
            return None;
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.fill(per_second);
        // The clock is no finer than this.
        let wait = || Duration::from_secs_f64(-bucket.left / per_second as f64).max(Duration::from_millis(1));
        (bucket.left < 0.0).then(wait)
    }

    /// Waits until the next may be done.
    ///
    /// # Cancellation
    /// Nothing was counted yet when the future is dropped.
    pub async fn ready(&self) {
        loop {
            // Made before the state is looked at, so that no change in between is slept through.
            let changed = self.changed.notified();
            let Some(wait) = self.wait() else { return };
            let _ = timeout(wait, changed).await;
        }
    }
}

impl Bucket {
    fn fill(&mut self, per_second: u64) {
        let now = Instant::now();
        if let Some(filled) = self.filled {
            let more = (now - filled).as_secs_f64() * per_second as f64;
            self.left = (self.left + more).min(per_second as f64 * BURST);
        }
        self.filled = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::sleep;

    use super::*;

    /// Does `count` times `amount`, and answers how long that takes in seconds.
    async fn do_it(limit: &RateLimiter, count: u64, amount: u64) -> f64 {
        let started = Instant::now();
        for _ in 0..count {
            limit.ready().await;
            limit.spend(amount);
        }
        limit.ready().await;
        started.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let limit = RateLimiter::default();
        assert_eq!(do_it(&limit, 1000, u64::MAX / 2).await, 0.0);
        assert_eq!(limit.portion(77), 77);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_kept_by_small_and_large_portions() {
        for (count, amount) in [(1000, 10), (10, 1000), (1, 10_000)] {
            let limit = RateLimiter::default();
            limit.set(Some(1000));
            let took = do_it(&limit, count, amount).await;
            assert!((9.5..=11.0).contains(&took), "{count} times {amount} took {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_saved_up_while_nothing_is_done_is_bounded() {
        let limit = RateLimiter::default();
        limit.set(Some(1000));
        limit.spend(0);
        sleep(Duration::from_secs(3600)).await;
        let took = do_it(&limit, 100, 100).await;
        assert!(took > 9.5, "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_takes_effect_within_a_second() {
        let limit = Arc::new(RateLimiter::default());
        limit.set(Some(1));
        limit.spend(1_000_000);
        for change in [Some(1_000_000), None] {
            let waiting = tokio::spawn({
                let limit = Arc::clone(&limit);
                async move { limit.ready().await }
            });
            sleep(Duration::from_secs(5)).await;
            assert!(!waiting.is_finished());
            let changed = Instant::now();
            limit.set(change);
            waiting.await.unwrap();
            assert!(changed.elapsed() <= Duration::from_secs(1));
            limit.set(Some(1));
            limit.spend(1_000_000);
        }
        // From fast to slow: the debt of before does not keep it waiting for a day.
        limit.set(Some(1_000_000));
        limit.spend(100_000_000);
        limit.set(Some(10));
        assert!(limit.wait().unwrap() <= Duration::from_secs(1));
    }
}
