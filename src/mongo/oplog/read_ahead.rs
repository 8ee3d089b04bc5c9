//! Requests the next batch of a cursor while the last one is processed.

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::OPERATION;
use crate::error::{Error, ErrorKind, Result};

/// A cursor that is one batch ahead. Processing a batch takes about as long as the server needs for it. Two batches of up to 16 MB each are
/// in memory.
pub(crate) struct ReadAhead<T> {
    batches: mpsc::Receiver<Result<T>>,
    reading: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> ReadAhead<T> {
    pub fn of(mut cursor: impl Stream<Item = Result<T>> + Send + Unpin + 'static) -> Self {
        let (send, batches) = mpsc::channel(1);
        let reading = async move {
            // Requests a batch only when there is room for it, and stops when the receiver is gone.
            while let Ok(room) = send.reserve().await {
                let Some(batch) = cursor.next().await else { return };
                room.send(batch);
            }
        };
        Self {
            batches,
            reading: AbortOnDropHandle::new(tokio::spawn(reading)),
        }
    }

    /// Returns the next batch. Nothing follows an error.
    pub async fn next(&mut self) -> Result<T> {
        if let Some(batch) = self.batches.recv().await {
            return batch;
        }
        // The task closed the channel when it ended, so this does not wait.
        match (&mut self.reading).await {
            Err(error) if error.is_panic() => {
                Err(Error::new(ErrorKind::Panic, OPERATION, "the task that reads ahead panicked").with_source(error))
            }
            _ => Err(Error::new(
                ErrorKind::Connection,
                OPERATION,
                "the server closed the cursor",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_panic_while_reading_ahead_is_no_closed_cursor() {
        let panicking = stream::poll_fn(|_| -> std::task::Poll<Option<Result<()>>> { panic!("a fault of the driver") });
        let error = ReadAhead::of(panicking).next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
        assert!(!error.is_retryable());

        let error = ReadAhead::<()>::of(stream::empty()).next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(error.is_retryable());
    }
}
