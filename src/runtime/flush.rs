//! Flushes the sink for all tasks of a run.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Position;
use crate::sink::Sink;

/// The sink's flush, shared by all tasks of a run.
///
/// A sink says once that what was acknowledged may have been lost, to whichever task happens to flush. Flushes are made one at a time and
/// remember that answer, so that no other task can take its own flush for good and save a checkpoint of what is lost.
#[derive(Clone)]
pub(crate) struct SharedFlush {
    sink: Arc<dyn Sink>,
    /// How many flushes have begun.
    begun: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The number of the last flush that succeeded.
    flushed: u64,
    /// Whether something was lost. The run has to go back to its checkpoint then.
    lost: bool,
}

impl SharedFlush {
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            begun: Arc::new(AtomicU64::new(0)),
            state: Arc::default(),
        }
    }

    /// Makes everything acknowledged before the call durable.
    ///
    /// # Errors
    /// [`PrimaryChanged`](ErrorKind::PrimaryChanged), from the first time on for good, or what else the sink answers.
    pub async fn flush(&self) -> Result<()> {
        let before = self.begun.load(SeqCst);
        let mut state = self.state.lock().await;
        if state.lost {
            return Err(Error::new(
                ErrorKind::PrimaryChanged,
                "flush the target",
                "its primary has changed during this run",
            ));
        }
        if state.flushed > before {
            // One that began after this call has been made meanwhile, for somebody else.
            return Ok(());
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        match self.sink.flush().await {
            Ok(()) => state.flushed = number,
            Err(error) => {
                state.lost = error.kind() == ErrorKind::PrimaryChanged;
                return Err(error);
            }
        }
        Ok(())
    }

    /// A position of the sink's own history at or after everything written before the call; `None` where it has none.
    ///
    /// # Errors
    /// A server error.
    pub async fn position(&self) -> Result<Option<Position>> {
        self.sink.sentinel().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::sink::{JournalEntry, MemorySink, SinkCall};

    fn flushes(sink: &MemorySink) -> usize {
        sink.journal()
            .iter()
            .filter(|entry| matches!(entry, JournalEntry::Flushed))
            .count()
    }

    #[tokio::test]
    async fn a_loss_is_told_to_every_task() {
        let sink = MemorySink::new();
        let durability = SharedFlush::new(Arc::new(sink.clone()));
        durability.flush().await.unwrap();
        sink.crash();
        for _ in 0..3 {
            assert_eq!(durability.flush().await.unwrap_err().kind(), ErrorKind::PrimaryChanged);
        }
    }

    #[tokio::test]
    async fn flushes_that_wait_for_one_another_become_one() {
        let sink = MemorySink::new();
        let durability = SharedFlush::new(Arc::new(sink.clone()));
        let gate = sink.hold(SinkCall::Flush);
        let flush = || {
            let durability = durability.clone();
            tokio::spawn(async move { durability.flush().await })
        };
        let first = flush();
        timeout(Duration::from_secs(10), gate.reached()).await.unwrap();
        // What these callers wrote may have come too late for the flush under way; one more is enough for all of them.
        let later = [flush(), flush(), flush()];
        tokio::task::yield_now().await;
        gate.release();
        first.await.unwrap().unwrap();
        for flush in later {
            flush.await.unwrap().unwrap();
        }
        assert_eq!(flushes(&sink), 2);
    }
}
