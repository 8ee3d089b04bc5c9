//! What a migration waits for at the moment.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::console::lock;
use crate::model::Wait;
use crate::model::wait::AGAIN;
use crate::report::Event;

/// How long a report counts. It is repeated more often while the wait lasts.
const LASTS: Duration = AGAIN.saturating_add(Duration::from_secs(3));

/// Maximum number of waits. There are few at a time, because they are for operations on a whole side.
const MOST: usize = 20;

/// The waits that were reported lately, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Vec<(Wait, Instant)>>);

impl Waits {
    /// Notes a wait, in place of an earlier report of the same one.
    pub fn note(&self, wait: Wait) {
        let mut waits = lock(&self.0);
        waits.retain(|(known, _)| (known.side, &known.operation) != (wait.side, &wait.operation));
        waits.push((wait, Instant::now()));
        if waits.len() > MOST {
            waits.remove(0);
        }
    }

    /// Notes the wait that an event of a run reports.
    pub fn note_event(&self, event: &Event) {
        if let Event::Waiting {
            side,
            operation,
            elapsed,
            limit,
        } = event
        {
            self.note(Wait {
                side: *side,
                operation: (*operation).into(),
                elapsed: *elapsed,
                limit: *limit,
            });
        }
    }

    /// Forgets all waits, because what waited has ended.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The waits that last, newest last. The time is that of now, not that of the report.
    pub fn current(&self) -> Vec<Wait> {
        let mut waits = lock(&self.0);
        waits.retain(|(_, since)| since.elapsed() < LASTS);
        let now = |(wait, since): &(Wait, Instant)| Wait {
            elapsed: wait.elapsed + since.elapsed(),
            ..wait.clone()
        };
        waits.iter().map(now).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::model::Side;

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_no_longer_reported_is_over() {
        let waits = Waits::default();
        let wait = |operation: &'static str, seconds| Wait {
            side: Side::Source,
            operation: operation.into(),
            elapsed: Duration::from_secs(seconds),
            limit: None,
        };
        waits.note(wait("connect", 2));
        advance(Duration::from_secs(4)).await;
        waits.note(wait("list", 2));
        waits.note(wait("connect", 6));
        let shown = || -> Vec<(String, u64)> {
            let current = waits.current();
            let shown = current
                .iter()
                .map(|wait| (wait.operation.to_string(), wait.elapsed.as_secs()));
            shown.collect()
        };
        assert_eq!(shown(), [("list".to_owned(), 2), ("connect".to_owned(), 6)]);
        advance(Duration::from_secs(9)).await;
        waits.note(wait("connect", 16));
        advance(Duration::from_secs(5)).await;
        assert_eq!(shown(), [("connect".to_owned(), 21)]);
        waits.clear();
        assert_eq!(shown(), []);
    }
}
