//! The sink's flush, shared by all tasks of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Position, SharedCalls};
use crate::sink::Sink;

/// The sink's flush, shared by all tasks of a run. It is made before the run reads anything of the target.
///
/// A sink reports only once that acknowledged writes may be lost, to whichever task happens to flush. Flushes therefore run one at a time,
/// and the loss is remembered. Otherwise another task could take its own flush for a success and save a checkpoint that covers lost writes.
#[derive(Clone)]
pub(crate) struct SharedFlush {
    sink: Arc<dyn Sink>,
    /// Losses that the sink had found before this run. Another run may find those of this one.
    losses_before: u64,
    calls: Arc<SharedCalls>,
    /// Whether writes were lost. The run then has to resume from its checkpoint.
    is_lost: Arc<AtomicBool>,
}

impl SharedFlush {
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            losses_before: sink.losses(),
            sink,
            calls: Arc::default(),
            is_lost: Arc::default(),
        }
    }

    /// Makes every write that was acknowledged before the call durable.
    ///
    /// # Errors
    /// [`PrimaryChanged`](ErrorKind::PrimaryChanged), which every later call returns too, or another error of the sink.
    pub async fn flush(&self) -> Result<()> {
        self.calls.run(self.flush_now()).await?;
        self.check()
    }

    async fn flush_now(&self) -> Result<()> {
        self.check()?;
        let flushed = self.sink.flush().await;
        let is_told = matches!(&flushed, Err(error) if error.kind() == ErrorKind::PrimaryChanged);
        if is_told || self.sink.losses() > self.losses_before {
            self.is_lost.store(true, SeqCst);
        }
        flushed?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        if !self.is_lost.load(SeqCst) {
            return Ok(());
        }
        let message = "its primary has changed during this run";
        Err(Error::new(ErrorKind::PrimaryChanged, "flush the target", message))
    }

    /// Returns a position of the sink's own history at or after everything written before the call. Returns `None` if the sink has no
    /// history.
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

    /// The sink reports a loss once, to whichever migration happens to flush.
    #[tokio::test]
    async fn a_loss_is_told_to_every_run_that_shares_the_sink() {
        let sink = MemorySink::new();
        let runs = [(); 3].map(|()| SharedFlush::new(Arc::new(sink.clone())));
        for run in &runs {
            run.flush().await.unwrap();
        }
        sink.crash();
        for run in &runs {
            for _ in 0..2 {
                assert_eq!(run.flush().await.unwrap_err().kind(), ErrorKind::PrimaryChanged);
            }
        }
        // A run that begins afterwards has lost nothing.
        SharedFlush::new(Arc::new(sink.clone())).flush().await.unwrap();
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
        // The flush in flight may not cover what these callers wrote. One more flush is enough for all of them.
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
