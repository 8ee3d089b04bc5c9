//! Speed of something that is counted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Period over which the speed is averaged.
const PERIOD: Duration = Duration::from_secs(10);

/// Speed of a growing number, averaged over the last seconds.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes the number as it is at `now`. A number that shrinks begins anew.
    pub fn push(&mut self, now: Instant, number: u64) {
        if self.samples.back().is_some_and(|(_, last)| *last > number) {
            self.samples.clear();
        }
        self.samples.push_back((now, number));
        // The oldest sample is as old as the period or older, so that the period is covered.
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= PERIOD) {
            self.samples.pop_front();
        }
    }

    /// Returns the growth per second. `None` within the first second.
    pub fn per_second(&self) -> Option<u64> {
        let ((from, first), (to, last)) = (self.samples.front()?, self.samples.back()?);
        let seconds = (*to - *from).as_secs_f64();
        (seconds >= 1.0).then(|| ((last - first) as f64 / seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (begin, mut rate) = (Instant::now(), Rate::default());
        for second in 0..=20 {
            let number = if second <= 10 { 0 } else { (second - 10) * 100 };
            rate.push(begin + Duration::from_secs(second), number);
        }
        assert_eq!(rate.per_second(), Some(100));
    }

    #[test]
    fn the_rate_is_unknown_at_first_and_after_a_new_beginning() {
        let (begin, mut rate) = (Instant::now(), Rate::default());
        rate.push(begin, 1000);
        assert_eq!(rate.per_second(), None);
        rate.push(begin + Duration::from_secs(2), 3000);
        assert_eq!(rate.per_second(), Some(1000));
        rate.push(begin + Duration::from_secs(3), 10);
        assert_eq!(rate.per_second(), None);
    }
}
