//! Calls to servers that are waited for. Nothing here reads or writes anything.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// How long a report of waiting counts. The library repeats it every 10 seconds while the call lasts.
const COUNTS: Duration = Duration::from_secs(11);

/// Maximum number of waits that are kept.
const KEPT: usize = 100;

/// A call to a server that is waited for.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The side and the operation.
    pub what: String,
    pub elapsed: Duration,
    /// The longest that it can take.
    pub limit: Option<Duration>,
}

/// The waits that have been reported lately.
#[derive(Debug, Default)]
pub struct Waits {
    /// Each with the time of its last report.
    reported: Vec<(Waiting, Instant)>,
}

impl Waits {
    /// Takes a report that comes at `now`. It replaces an earlier one of the same call.
    pub fn report(&mut self, waiting: Waiting, now: Instant) {
        self.reported
            .retain(|(other, at)| other.what != waiting.what && now - *at < COUNTS);
        if self.reported.len() < KEPT {
            self.reported.push((waiting, now));
        }
    }

    /// Forgets all waits, because what was waited for is over.
    pub fn clear(&mut self) {
        self.reported.clear();
    }

    /// Returns the waits that last at `now`, the longest one first.
    pub fn lasting(&self, now: Instant) -> Vec<Waiting> {
        let lasting = self.reported.iter().filter(|(_, at)| now - *at < COUNTS);
        let mut waits: Vec<Waiting> = lasting
            .map(|(waiting, at)| Waiting {
                elapsed: waiting.elapsed + (now - *at),
                ..waiting.clone()
            })
            .collect();
        waits.sort_by_key(|waiting| Reverse(waiting.elapsed));
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(what: &str, seconds: u64) -> Waiting {
        Waiting {
            what: what.to_owned(),
            elapsed: Duration::from_secs(seconds),
            limit: None,
        }
    }

    #[test]
    fn a_wait_lasts_until_its_report_is_old() {
        let (begin, mut waits) = (Instant::now(), Waits::default());
        let after = |seconds| begin + Duration::from_secs(seconds);
        waits.report(waiting("source: connect", 2), begin);
        waits.report(waiting("target: connect", 4), begin);
        assert_eq!(
            waits.lasting(after(1)),
            [waiting("target: connect", 5), waiting("source: connect", 3)]
        );
        waits.report(waiting("source: connect", 12), after(10));
        assert_eq!(waits.lasting(after(11)), [waiting("source: connect", 13)]);
        waits.clear();
        assert_eq!(waits.lasting(after(11)), []);
    }

    #[test]
    fn waits_are_bounded() {
        let (now, mut waits) = (Instant::now(), Waits::default());
        for number in 0..KEPT + 5 {
            waits.report(waiting(&number.to_string(), 2), now);
        }
        assert_eq!(waits.lasting(now).len(), KEPT);
    }
}
