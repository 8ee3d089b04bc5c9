//! Rate limiters of a run: token buckets whose rate can change during use.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::config::Throttle;

/// All rate limits of a run, shared by its tasks.
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

/// Share of a second for which unused capacity accumulates. It is also the target size of one portion of work.
const BURST: f64 = 0.25;

/// A token bucket. Work may exceed what is left in the bucket. The next piece of work then waits for longer.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    /// Amount per second, or 0 for no limit. It is kept outside the bucket so that the unlimited case costs next to nothing.
    per_second: AtomicU64,
    bucket: Mutex<Bucket>,
    changed: Notify,
    /// Held by the one of those who share this limiter whose work is next.
    turn: tokio::sync::Mutex<()>,
    /// A limit that also applies, shared with other runs.
    shared: Option<Arc<RateLimiter>>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Negative if more was spent than was available.
    left: f64,
    filled: Option<Instant>,
}

impl RateLimiter {
    /// A limiter without a limit of its own that keeps to `shared`.
    pub fn within(shared: Arc<RateLimiter>) -> Self {
        Self {
            shared: Some(shared),
            ..Self::default()
        }
    }

    /// Sets the limit. `Some(0)` would block forever and is therefore raised to 1.
    pub fn set(&self, per_second: Option<u64>) {
        let per_second = per_second.map_or(0, |per_second| per_second.max(1));
        {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.fill(self.per_second.load(Relaxed));
            // A debt from a high rate would take too long to pay off at a low rate.
            bucket.left = bucket.left.clamp(-(per_second as f64), 0.0);
            self.per_second.store(per_second, Relaxed);
        }
        self.changed.notify_waiters();
    }

    /// The limit of this run alone.
    pub fn get(&self) -> Option<u64> {
        match self.per_second.load(Relaxed) {
            0 => None,
            per_second => Some(per_second),
        }
    }

    /// Returns how much work to do at once to keep an even rate, or `most` if there is no limit.
    pub fn portion(&self, most: u64) -> u64 {
        let own = match self.get() {
            None => most,
            Some(per_second) => ((per_second as f64 * BURST) as u64).clamp(1, most),
        };
        match &self.shared {
            // Everyone who shares the limit may begin a portion at the same moment.
            Some(shared) => (shared.portion(u64::MAX) / Arc::strong_count(shared) as u64).clamp(1, own),
            None => own,
        }
    }

    /// Counts an amount of work done.
    pub fn spend(&self, amount: u64) {
        let per_second = self.per_second.load(Relaxed);
        if per_second > 0 {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.fill(per_second);
            bucket.left -= amount as f64;
        }
        if let Some(shared) = &self.shared {
            shared.spend(amount);
        }
    }

    /// Returns how long the next piece of work has to wait, or `None` if it can begin now.
    pub fn wait(&self) -> Option<Duration> {
        self.own_wait()
            .max(self.shared.as_ref().and_then(|shared| shared.own_wait()))
    }

    fn own_wait(&self) -> Option<Duration> {
        let per_second = self.per_second.load(Relaxed);
        if per_second == 0 {
            return None;
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.fill(per_second);
        // The timer has a resolution of one millisecond.
        let wait = || Duration::from_secs_f64(-bucket.left / per_second as f64).max(Duration::from_millis(1));
        (bucket.left < 0.0).then(wait)
    }

    /// Waits until the next piece of work can begin.
    ///
    /// # Cancellation
    /// Dropping the future counts nothing.
    pub async fn ready(&self) {
        loop {
            self.own_ready().await;
            let Some(shared) = &self.shared else { return };
            {
                // One after the other: whoever happens to be woken first every time would leave nothing for the others.
                let _turn = shared.turn.lock().await;
                shared.own_ready().await;
            }
            if self.own_wait().is_none() {
                return;
            }
        }
    }

    async fn own_ready(&self) {
        loop {
            // Created before the state is read, so that no change in between is missed.
            let changed = self.changed.notified();
            let Some(wait) = self.own_wait() else { return };
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
    use tokio::time::sleep;

    use super::*;

    /// Spends `amount` `count` times. Returns how many seconds that takes.
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
    async fn runs_that_share_a_limit_keep_it_together() {
        let shared = Arc::new(RateLimiter::default());
        shared.set(Some(1000));
        let runs = [(); 4].map(|()| RateLimiter::within(Arc::clone(&shared)));
        // One of them has a lower limit of its own.
        runs[0].set(Some(100));
        assert!(runs[1].portion(u64::MAX) <= 250 / 4);
        let work = runs.iter().map(|run| do_it(run, 25, 100));
        let took = futures::future::join_all(work).await;
        assert!(
            (24.0..=27.0).contains(&took[0]) && took[1..].iter().all(|took| *took >= 7.0),
            "{took:?}"
        );
        // A change reaches everyone who waits.
        shared.spend(1_000_000);
        runs[1].spend(0);
        shared.set(None);
        assert_eq!(runs[1].wait(), None);
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
        // From fast to slow: the earlier debt does not block it for a day.
        limit.set(Some(1_000_000));
        limit.spend(100_000_000);
        limit.set(Some(10));
        assert!(limit.wait().unwrap() <= Duration::from_secs(1));
    }
}
