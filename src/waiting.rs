//! Tells the host when a server keeps the run waiting.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::event::{Event, Events, Side};

/// An answer that takes longer than this is told.
const FIRST: Duration = Duration::from_secs(3);

/// It is told again each time that so much more time has passed.
const AGAIN: Duration = Duration::from_secs(10);

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
    let (mut answer, since) = (pin!(answer), Instant::now());
    let mut pause = FIRST;
    loop {
        if let Ok(answer) = timeout(pause, &mut answer).await {
            return answer;
        }
        pause = AGAIN;
        events.send(Event::Waiting {
            side,
            operation,
            elapsed: since.elapsed(),
        });
    }
}

#[cfg(test)]
mod tests {
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
            })) = told.next().now_or_never()
            else {
                panic!("it was not told");
            };
            assert_eq!((side, operation), (Side::Target, "flush"));
            assert!(
                elapsed >= expected && elapsed < expected + Duration::from_millis(10),
                "{elapsed:?}"
            );
        }
        assert!(told.next().now_or_never().is_none());
    }
}
