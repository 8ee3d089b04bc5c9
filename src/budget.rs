//! Shares of the memory that a run may use.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// So many bytes that several tasks use in turn.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// Bytes in use. They are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
        }
    }

    /// Waits until so many bytes are free. What is larger than the whole share waits for all of it, so that it passes alone.
    ///
    /// # Errors
    /// None as long as nobody closes the share, which nobody does.
    ///
    /// # Cancellation
    /// Dropping the future takes nothing.
    pub async fn take(&self, bytes: usize) -> Result<Taken> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        match Arc::clone(&self.free).acquire_many_owned(bytes).await {
            Ok(permit) => Ok(Taken { _permit: permit }),
            Err(error) => Err(Error::stopped("wait for memory").with_source(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_larger_than_the_share_passes_alone() {
        let budget = Budget::new(100);
        let small = budget.take(1).await.unwrap();
        let mut large = Box::pin(budget.take(1000));
        assert!((&mut large).now_or_never().is_none(), "there is no room beside it");
        drop(small);
        let large = large.await.unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop(large);
        budget.take(100).await.unwrap();
    }
}
